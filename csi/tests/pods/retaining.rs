//! Content that stays when its volumes are gone.

use tonnage_cache::digest::Digest;
use tonnage_csi::pin::{self, Pin};

use crate::world::{World, content, of_namespace, with};

fn pins(world: &World) -> Vec<Pin> {
    pin::list(world.cache().store().records()).unwrap()
}

/// A pod comes and goes.
async fn pass(world: &World, (name, namespace): (&str, &str), attributes: &[(&str, &str)]) {
    let pod = of_namespace(world.pod(name, "llama"), namespace);
    let pod = with(with(pod, &[("retain", "true")]), attributes);
    world.publish(&pod).await.unwrap();
    world.unpublish(&pod).await.unwrap();
    world.assert_nothing_is_left(&[&pod]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_content_is_held_when_its_volumes_are_gone_and_the_newest_of_a_path_only() {
    let mut world = World::start().await;
    for seed in [2, 9] {
        world
            .source
            .put("llama/tokenizer/vocab.json", content(seed, 900));
        pass(&world, ("a", "team-a"), &[]).await;
        assert_eq!(world.holders(), 1);
    }
    world.restart().await;
    assert_eq!(world.holders(), 1);
    let pins = pins(&world);
    assert_eq!(pins.len(), 1);
    let name = &pins[0].name;
    assert!(name.starts_with("retain:models/llama@team-a."), "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_namespaces_and_selections_retain_of_one_path_stands_side_by_side() {
    let world = World::start().await;
    pass(&world, ("a", "team-a"), &[]).await;
    pass(&world, ("b", "team-b"), &[]).await;
    pass(&world, ("c", "team-a"), &[("include", "*.safetensors")]).await;
    let before = pins(&world);
    assert_eq!(before.len(), 3);
    // One namespace follows a new upload, and takes nothing from the other.
    world
        .source
        .put("llama/tokenizer/vocab.json", content(9, 900));
    pass(&world, ("d", "team-a"), &[]).await;
    let after = pins(&world);
    let names = |pins: &[Pin]| -> Vec<String> { pins.iter().map(|pin| pin.name.clone()).collect() };
    assert_eq!(names(&after), names(&before));
    let changed: Vec<&Pin> = after.iter().filter(|pin| !before.contains(pin)).collect();
    assert_eq!(changed.len(), 1);
    assert!(changed[0].name.contains("@team-a."), "{}", changed[0].name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_retain_different_content_at_once_keep_all_of_it() {
    let world = World::start().await;
    let globs = ["*.safetensors", "**/*.json", "*"];
    let passing = globs.iter().enumerate().map(|(number, glob)| {
        let name = format!("p{number}");
        let world = &world;
        async move {
            let pod = with(
                world.pod(&name, "llama"),
                &[("retain", "true"), ("include", *glob)],
            );
            world.publish(&pod).await.unwrap();
        }
    });
    futures::future::join_all(passing).await;
    let notes = world.cache().store().records().list("retained").unwrap();
    assert_eq!((pins(&world).len(), notes.len()), (3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_to_another_digest_takes_the_place_of_what_was_retained() {
    let world = World::start().await;
    // What there is to load, as others see it.
    let mut digests = Vec::new();
    for seed in [2, 9] {
        let vocabulary = content(seed, 900);
        world.source.put("llama/tokenizer/vocab.json", vocabulary);
        pass(&world, ("o", "others"), &[]).await;
        let digest = pins(&world)
            .iter()
            .find(|pin| pin.name.contains("@others."))
            .map(|pin| pin.digest)
            .unwrap();
        pass(&world, ("a", "team-a"), &[("digest", &digest.to_string())]).await;
        digests.push(digest);
    }
    assert_ne!(digests[0], digests[1]);
    let pins = pins(&world);
    let own: Vec<&Pin> = pins
        .iter()
        .filter(|pin| pin.name.contains("@team-a."))
        .collect();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0].digest, digests[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_has_64_pins_and_takes_none_of_another_s() {
    let world = World::start().await;
    pass(&world, ("a", "team-b"), &[]).await;
    let digest = pins(&world)[0].digest;
    let store = world.cache().store();
    let name = |number: u64| format!("retain:models/m{number}@team-a.{number:016x}");
    for number in 0..64 {
        drop(pin::add(store, &name(number), digest).await.unwrap());
    }
    pass(&world, ("b", "team-a"), &[]).await;
    assert_eq!(pins(&world).len(), 65);
    pass(&world, ("c", "team-c"), &[]).await;
    assert_eq!(pins(&world).len(), 66);
    pin::remove(store, &name(63)).unwrap();
    pass(&world, ("d", "team-a"), &[]).await;
    assert_eq!(pins(&world).len(), 66);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_else_is_retained_is_remembered_and_its_manifest_not_read_again() {
    let world = World::start().await;
    pass(&world, ("a", "team-a"), &[]).await;
    let digest = pins(&world)[0].digest;
    let manifest = world.path(&format!("cache/manifests/{}", digest.to_hex()));
    std::fs::remove_file(&manifest).unwrap();
    // Nobody can read this.
    std::fs::create_dir(&manifest).unwrap();
    pass(&world, ("b", "team-a"), &[("include", "*.safetensors")]).await;
    assert_eq!(pins(&world).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pin_of_a_version_before_keeps_for_others_takes_room() {
    let mut world = World::start().await;
    // Half of it may be retained: room for one version of 2 MiB, and not for two.
    world.max_bytes = Some(6 << 20);
    world.restart().await;
    pass(&world, ("a", "team-b"), &[]).await;
    let older = pins(&world)[0].clone();
    let store = world.cache().store();
    let _lease = pin::add(store, "retain:models/llama", older.digest)
        .await
        .unwrap();
    pin::remove(store, &older.name).unwrap();
    let note = |namespaces: &[&str]| {
        let note = serde_json::json!({"place": "models/llama", "namespaces": namespaces});
        let name = Digest::of(b"models/llama").to_hex();
        store.records().write("retained", &name, &note).unwrap();
    };
    let vocabulary = content(9, 900);
    world.source.put("llama/tokenizer/vocab.json", vocabulary);
    note(&["team-a", "team-b"]);
    pass(&world, ("b", "team-a"), &[]).await;
    let names = || -> Vec<String> { pins(&world).into_iter().map(|pin| pin.name).collect() };
    assert_eq!(names(), ["retain:models/llama"]);
    note(&["team-a"]);
    pass(&world, ("c", "team-a"), &[]).await;
    let names = names();
    assert_eq!(names.len(), 1);
    assert!(names[0].contains("@team-a."), "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_of_a_version_before_goes_when_its_namespace_has_its_own_and_one_without_a_note_stays()
 {
    let world = World::start().await;
    pass(&world, ("a", "team-a"), &[]).await;
    let own = pins(&world);
    let older: Digest = own[0].digest;
    let store = world.cache().store();
    let place = "models/llama";
    let shared = format!("retain:{place}");
    let _lease = pin::add(store, &shared, older).await.unwrap();
    pass(&world, ("b", "team-a"), &[]).await;
    assert_eq!(pins(&world).len(), 2, "it may be somebody's");
    let note = serde_json::json!({"place": place, "namespaces": ["team-a", "team-b"]});
    let name = Digest::of(place.as_bytes()).to_hex();
    store.records().write("retained", &name, &note).unwrap();
    pass(&world, ("c", "team-a"), &[]).await;
    assert_eq!(pins(&world).len(), 2, "it is team-b's, too");
    pass(&world, ("d", "team-b"), &[]).await;
    let names: Vec<String> = pins(&world).into_iter().map(|pin| pin.name).collect();
    assert_eq!(names.len(), 2);
    assert!(!names.contains(&shared), "{names:?}");
}
