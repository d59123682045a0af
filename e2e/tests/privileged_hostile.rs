//! Class E of the fault matrix, as far as one node without a cluster can show it: keys, listings, paths, attributes
//! and bytes made to do harm.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that meets what it does not expect fails"
)]

use std::io::Write;
use std::os::unix::net::UnixStream;

use tonic::Code;
use tonnage_e2e::generate::{File, Tree};
use tonnage_e2e::kubelet::{Pod, Timing, publish, unpublish};
use tonnage_e2e::world::{BOUND, BUCKET, Expect, Setup, World};

async fn quick() -> Option<World> {
    Setup {
        timing: Timing::scaled(10),
        ..Setup::default()
    }
    .start()
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_hostile_keys_are_refused_by_name_and_escaped() {
    let Some(world) = quick().await else { return };
    let long = "x".repeat(300);
    let deep = "d/".repeat(200) + "f";
    let keys: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        ("dots", vec![b"../../etc/passwd".to_vec()], ".."),
        ("dot", vec![b"a/./b".to_vec()], "."),
        ("double-slash", vec![b"a//b".to_vec()], "a//b"),
        (
            "leading-slash",
            vec![b"/etc/passwd".to_vec()],
            "/etc/passwd",
        ),
        ("newline", vec![b"a\nb".to_vec()], "\\n"),
        ("escape", vec![b"a\x1b[31mb".to_vec()], "\\u{1b}"),
        ("long", vec![long.into_bytes()], "255"),
        ("deep", vec![deep.into_bytes()], "components"),
        ("both", vec![b"a".to_vec(), b"a/b".to_vec()], "directory"),
        ("not-utf8", vec![b"a\xff\xfe".to_vec()], "UTF-8"),
    ];
    let mut pods = Vec::new();
    for (name, keys, word) in &keys {
        world.server.put(BUCKET, format!("{name}/good"), "fine");
        for key in keys {
            let mut full = format!("{name}/").into_bytes();
            full.extend_from_slice(key);
            world.server.put(BUCKET, full, "bad");
        }
        let pod = world.kubelet.add(world.pod(name, name));
        let (code, text) = pod
            .event(BOUND)
            .await
            .unwrap_or_else(|stuck| panic!("{name}: {stuck}"));
        assert_eq!(code, Code::InvalidArgument, "{name}: {text}");
        assert!(text.contains(word), "{name}: {text}");
        assert!(!text.chars().any(char::is_control), "{name}: {text:?}");
        pod.deleted(BOUND).await.unwrap();
        pods.push(pod);
    }
    world
        .check(&Expect {
            partials: true,
            kept: Some(0),
            wire: Some(0),
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_attributes_that_only_an_admin_may_set_are_refused_by_name() {
    let Some(world) = quick().await else { return };
    world.server.put(BUCKET, "m/f", "x");
    for (key, value) in [
        ("endpoint", "http://169.254.169.254"),
        ("auth", "node"),
        ("caBundle", "/etc/shadow"),
        ("region", "x"),
        ("accessKey", "y"),
        ("path", "/etc"),
        ("path", "m/../../x"),
        ("path", "m//f"),
        ("include", "[z-a"),
        ("revision", "abc"),
        ("digest", "xyz"),
        ("pageCache", "sometimes"),
        ("source", ""),
    ] {
        let mut pod = world.pod(&format!("{key}-{value}"), "m");
        pod.attributes.insert(key.to_owned(), value.to_owned());
        let pod = world.kubelet.add(pod);
        let (code, text) = pod.event(BOUND).await.unwrap();
        assert_eq!(code, Code::InvalidArgument, "{key}={value}: {text}");
        assert!(text.contains(key), "{key}={value}: {text}");
        pod.deleted(BOUND).await.unwrap();
    }
    world
        .check(&Expect {
            kept: Some(0),
            wire: Some(0),
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_volume_ids_and_targets_that_climb_reach_nothing_outside() {
    let Some(world) = quick().await else { return };
    let files = world.upload("m", &Tree::new([File::random("f", 1000, 1)]));
    // Any id of at most 128 bytes is the admin's own; it only ever becomes a hash.
    let mut odd = world.pod("odd", "m");
    odd.volume_id = "../../../../etc/cron.d/x\n".to_owned();
    let odd = world.kubelet.add(odd);
    odd.running(BOUND).await.unwrap();
    world
        .check(&Expect {
            running: vec![(&odd, &files)],
            ..Expect::default()
        })
        .await;
    odd.deleted(BOUND).await.unwrap();
    let dir = world.site.path("kubelet");
    let socket = world.site.node_socket();
    let outside = world.site.path("outside");
    std::fs::create_dir_all(&outside).unwrap();
    for target in [
        outside.join("mount"),
        dir.join("pods/../../outside/mount"),
        dir.join("pods/link/mount"),
        "relative/mount".into(),
        "/".into(),
        dir.clone(),
    ] {
        drop(std::fs::create_dir_all(dir.join("pods")));
        drop(std::os::unix::fs::symlink(&outside, dir.join("pods/link")));
        let mut request = world.pod("climb", "m").publish_request(&dir);
        request.target_path = target.display().to_string();
        let error = publish(&socket, request, BOUND).await.unwrap_err();
        assert_eq!(
            error.code(),
            Code::InvalidArgument,
            "{}: {error}",
            target.display()
        );
        world.note_error(error.message());
        assert!(
            std::fs::read_dir(&outside).unwrap().next().is_none(),
            "{}",
            target.display()
        );
        // Nor may an Unpublish remove what is there.
        std::fs::create_dir_all(outside.join("mount")).unwrap();
        drop(unpublish(&socket, "climb", &target, BOUND).await);
        assert!(outside.join("mount").is_dir(), "{}", target.display());
        std::fs::remove_dir(outside.join("mount")).unwrap();
    }
    std::fs::remove_file(dir.join("pods/link")).unwrap();
    let mut long = world.pod("long", "m");
    long.volume_id = "v".repeat(129);
    let long = world.kubelet.add(long);
    assert_eq!(long.event(BOUND).await.unwrap().0, Code::InvalidArgument);
    long.deleted(BOUND).await.unwrap();
    world.check(&Expect::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_modes_and_flags_that_ask_for_more_are_refused() {
    let Some(world) = quick().await else { return };
    let files = world.upload("m", &Tree::new([File::random("f", 1000, 1)]));
    for flag in ["rw", "suid", "dev", "exec", "bind", "lazytime"] {
        let mut pod = world.pod(flag, "m");
        pod.mount_flags = vec![flag.to_owned()];
        let pod = world.kubelet.add(pod);
        let (code, text) = pod.event(BOUND).await.unwrap();
        assert_eq!(code, Code::InvalidArgument, "{text}");
        assert!(text.contains(flag), "{text}");
        pod.deleted(BOUND).await.unwrap();
    }
    let mut pod = world.pod("allowed", "m");
    pod.mount_flags = ["ro", "nosuid", "nodev", "noexec", "noatime"]
        .map(str::to_owned)
        .to_vec();
    pod.fs_type = "ext4".to_owned();
    let pod = world.kubelet.add(pod);
    pod.running(BOUND).await.unwrap();
    let mounts = world.site.namespace().mounts().unwrap();
    let mount = mounts
        .iter()
        .find(|mount| mount.point == pod.target())
        .unwrap();
    assert!(
        mount.has_options(&["ro", "nosuid", "nodev", "noexec", "noatime"]),
        "{}",
        mount.options
    );
    world
        .check(&Expect {
            running: vec![(&pod, &files)],
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_source_on_an_address_that_nobody_allowed_is_never_contacted() {
    let Some(world) = quick().await else { return };
    let endpoint = world.server.endpoint();
    let port = world.server.address().port();
    world
        .site
        .add_source(&format!(
            "name = \"loop\"\nurl = \"s3://{BUCKET}\"\nendpoint = \"{endpoint}\"\nallow_http = true\naddressing = \"path\""
        ))
        .unwrap();
    for (name, host) in [
        ("meta", "169.254.169.254"),
        ("mapped", "[::ffff:169.254.169.254]"),
        ("short", "127.1"),
        ("hex", "0x7f000001"),
        ("any", "0.0.0.0"),
    ] {
        world
            .site
            .add_source(&format!(
                "name = \"{name}\"\nurl = \"s3://{BUCKET}\"\nendpoint = \"http://{host}:{port}\"\nallow_http = true\naddressing = \"path\""
            ))
            .unwrap();
    }
    world.server.put(BUCKET, "m/f", "x");
    world.kill_node().unwrap();
    world.start_node().await.unwrap();
    world.server.reset_wire();
    for source in ["loop", "meta", "mapped", "short", "hex", "any"] {
        let pod = world
            .kubelet
            .add(Pod::inline(source, &[("source", source), ("path", "m")]));
        let (code, text) = pod.event(BOUND).await.unwrap();
        assert_eq!(code, Code::PermissionDenied, "{source}: {text}");
        pod.deleted(BOUND).await.unwrap();
    }
    assert_eq!(world.server.wire().accepted(), 0);
    world
        .check(&Expect {
            kept: Some(0),
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_noise_on_the_socket_and_huge_messages_do_not_end_the_driver() {
    let Some(world) = quick().await else { return };
    let files = world.upload("m", &Tree::new([File::random("f", 1000, 1)]));
    let socket = world.site.node_socket();
    for noise in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096][..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\xff\x09",
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // The driver may hang up in the middle.
        drop(stream.write_all(noise));
    }
    let mut huge = world.pod("huge", "m");
    huge.attributes
        .insert("path".to_owned(), "x".repeat(32 << 20));
    let dir = world.site.path("kubelet");
    let error = publish(&socket, huge.publish_request(&dir), BOUND)
        .await
        .unwrap_err();
    assert!(
        error.message().len() < 10_000,
        "{} characters",
        error.message().len()
    );
    let idle: Vec<UnixStream> = (0..200)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    let pod = world.run_pod("a", "m").await;
    drop(idle);
    world
        .check(&Expect {
            running: vec![(&pod, &files)],
            ..Expect::default()
        })
        .await;
}
