//! The program as a person and a script meet it: what it prints where, what it says when something is wrong, and
//! with which code it ends. Sources are local directories; stores over the network are in `e2e/tests/cli_errors.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that meets what it does not expect fails"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

struct Site {
    directory: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("ended by a signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Site {
    fn new() -> Self {
        let site = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir_all(site.path("model/sub")).unwrap();
        std::fs::write(
            site.path("model/weights.safetensors"),
            bytes(1, (3 << 20) + 17),
        )
        .unwrap();
        std::fs::write(site.path("model/sub/config.json"), bytes(2, 900)).unwrap();
        std::fs::write(site.path("model/empty"), b"").unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory.path())
            .env("TONNAGE_CACHE_DIR", self.path("cache"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.command(env!("CARGO_BIN_EXE_tonnage"), arguments)
            .output()
            .unwrap()
            .into()
    }

    fn pull(&self, more: &[&str]) -> Ran {
        let model = self.text("model");
        let mut arguments = vec!["pull", model.as_str()];
        arguments.extend(more);
        self.run(&arguments)
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{}", ran.err);
        serde_json::from_str(&ran.out).unwrap()
    }
}

fn bytes(seed: u8, length: usize) -> Vec<u8> {
    let mut out = vec![0u8; length];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut out);
    out
}

/// One sentence on standard error, nothing on standard output, and the code.
#[track_caller]
fn refused(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{}", ran.err);
    assert_eq!(ran.out, "");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert!(ran.err.starts_with("tonnage: "), "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "{word:?} is not in {}", ran.err);
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn pull_prints_the_view_and_nothing_else_on_standard_output() {
    let site = Site::new();
    let ran = site.pull(&[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.out.lines().count(), 1);
    let view = PathBuf::from(ran.out.trim_end());
    assert!(view.starts_with(site.path("cache/views")));
    assert_eq!(
        std::fs::read(view.join("weights.safetensors")).unwrap(),
        bytes(1, (3 << 20) + 17)
    );
    assert_eq!(
        std::fs::read(view.join("sub/config.json")).unwrap(),
        bytes(2, 900)
    );
    assert_eq!(std::fs::read(view.join("empty")).unwrap(), b"");
    assert!(
        ran.err.contains("3 files") && ran.err.contains("3.0 MiB fetched"),
        "{}",
        ran.err
    );
    assert!(
        !ran.err.contains('\u{1b}'),
        "a pipe got escape codes: {}",
        ran.err
    );
    let again = site.pull(&["--quiet"]);
    assert_eq!(
        (again.code, again.out, again.err.as_str()),
        (0, ran.out, "")
    );
}

#[test]
fn pull_as_json_is_one_document_with_the_report() {
    let site = Site::new();
    let json = site.json(&["pull", &site.text("model"), "--json"]);
    assert_eq!(json["report"]["files"], 3);
    assert_eq!(json["report"]["origins"]["source"], (3 << 20) + 17 + 900);
    let digest = json["digest"].as_str().unwrap();
    assert!(json["view"].as_str().unwrap().contains(digest));
    let resolved = site.run(&["resolve", &site.text("model")]);
    assert_eq!(json["revision"].as_str().unwrap(), resolved.out.trim_end());
}

#[test]
fn resolve_prints_the_pin_and_stores_nothing() {
    let site = Site::new();
    let ran = site.run(&["resolve", &site.text("model")]);
    assert_eq!((ran.code, ran.out.len()), (0, 65), "{}", ran.err);
    assert!(!site.path("cache").exists());
    let json = site.json(&[
        "resolve",
        &site.text("model"),
        "--include",
        "*.json",
        "--json",
    ]);
    assert_eq!(
        (json["files"].as_u64(), json["bytes"].as_u64()),
        (Some(1), Some(900))
    );
    assert_ne!(json["revision"].as_str().unwrap(), ran.out.trim_end());
}

#[test]
fn a_selection_leaves_out_what_is_not_wanted() {
    let site = Site::new();
    let ran = site.pull(&[
        "--include",
        "*.json",
        "--include",
        "empty",
        "--exclude",
        "empty",
    ]);
    let view = PathBuf::from(ran.out.trim_end());
    assert_eq!(files_below(&view), [view.join("sub/config.json")]);
}

#[test]
fn a_configured_source_is_called_by_name() {
    let site = Site::new();
    let config = format!(
        "cache_dir = {:?}\n[[source]]\nname = \"models\"\nurl = \"file://{}\"\n",
        site.text("other-cache"),
        site.directory.path().display()
    );
    std::fs::write(site.path("config.toml"), config).unwrap();
    let config = site.text("config.toml");
    let mut command = site.command(
        env!("CARGO_BIN_EXE_tonnage"),
        &["pull", "models/model", "--config", &config],
    );
    let ran = Ran::from(command.env_remove("TONNAGE_CACHE_DIR").output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.out.starts_with(&site.text("other-cache")),
        "{}",
        ran.out
    );
    let ran = site.run(&["pull", "models/model", "--config", &config]);
    assert!(
        ran.out.starts_with(&site.text("cache/views")),
        "the environment wins over the file: {}",
        ran.out
    );
}

#[test]
fn a_wrong_url_is_a_wrong_command_line() {
    let site = Site::new();
    refused(
        &site.run(&["pull", "ftp://host/x"]),
        64,
        &["ftp://host/x", "use s3://bucket/path"],
    );
    refused(&site.run(&["pull", "s3:///key"]), 64, &["names no bucket"]);
    refused(
        &site.run(&["pull", "https://ann:canary@host/x?sig=canary"]),
        64,
        &["credentials"],
    );
    refused(
        &site.run(&["pull", "models/x"]),
        66,
        &["no source is called", "none is configured"],
    );
    assert!(
        !site.path("cache").exists(),
        "nothing is made for a request that cannot be understood"
    );
}

#[test]
fn a_proxy_that_cannot_be_one_is_a_wrong_command_line() {
    let site = Site::new();
    let arguments = ["pull", "s3://bucket/x", "--anonymous"];
    let proxy = "https://proxy.example:3128";
    let mut flagged = arguments.to_vec();
    flagged.extend(["--proxy", proxy]);
    refused(&site.run(&flagged), 64, &["proxy.example"]);
    let mut command = site.command(env!("CARGO_BIN_EXE_tonnage"), &arguments);
    let ran = Ran::from(command.env("TONNAGE_PROXY", proxy).output().unwrap());
    refused(&ran, 64, &["proxy.example"]);
    assert!(
        !site.path("cache").exists(),
        "nothing is made for a request that cannot be understood"
    );
}

#[test]
fn secrets_of_a_url_are_not_repeated() {
    let site = Site::new();
    let ran = site.run(&["pull", "https://ann:canary@host/x?sig=canary"]);
    assert!(!ran.err.contains("canary"), "{}", ran.err);
}

#[test]
fn an_unknown_flag_ends_with_the_same_code_as_a_wrong_url() {
    let site = Site::new();
    let ran = site.run(&["pull", "/x", "--no-such-flag"]);
    assert_eq!((ran.code, ran.out.as_str()), (64, ""));
    assert!(ran.err.contains("--no-such-flag"), "{}", ran.err);
    assert_eq!(site.run(&["--version"]).code, 0);
}

#[test]
fn a_missing_source_and_an_empty_selection_do_not_exist() {
    let site = Site::new();
    refused(&site.run(&["pull", &site.text("none")]), 66, &["none"]);
    refused(&site.pull(&["--include", "*.onnx"]), 66, &["include"]);
}

#[test]
fn a_bad_key_is_named_and_escaped() {
    let site = Site::new();
    std::fs::write(site.path("model/a\nb"), b"x").unwrap();
    refused(&site.pull(&[]), 64, &["a\\nb"]);
}

#[test]
fn a_bad_glob_and_a_bad_pin_are_named() {
    let site = Site::new();
    refused(&site.pull(&["--include", "["]), 64, &["["]);
    let ran = site.pull(&["--revision", "abc"]);
    assert_eq!(ran.code, 64);
    assert!(ran.err.contains("64 hexadecimal digits"), "{}", ran.err);
}

#[test]
fn another_revision_than_the_pinned_one_is_refused() {
    let site = Site::new();
    let pin = site.run(&["resolve", &site.text("model")]).out;
    let pin = pin.trim_end();
    std::fs::write(site.path("model/sub/config.json"), bytes(3, 901)).unwrap();
    refused(&site.pull(&["--revision", pin]), 76, &[pin, "pin that one"]);
}

#[test]
fn a_pinned_revision_that_was_loaded_is_served_after_the_source_changed() {
    let site = Site::new();
    let first = site.json(&["pull", &site.text("model"), "--json"]);
    std::fs::remove_dir_all(site.path("model")).unwrap();
    let again = site.pull(&["--revision", first["revision"].as_str().unwrap()]);
    assert_eq!(
        (again.code, again.out.trim_end()),
        (0, first["view"].as_str().unwrap()),
        "{}",
        again.err
    );
}

#[test]
fn content_other_than_the_pinned_digest_is_not_published() {
    let site = Site::new();
    let wrong = blake3::hash(b"other").to_hex().to_string();
    refused(
        &site.pull(&["--digest", &wrong]),
        65,
        &[&wrong, "nothing was published"],
    );
    assert_eq!(
        files_below(&site.path("cache/views")),
        Vec::<PathBuf>::new()
    );
}

#[test]
fn a_cache_that_is_too_small_is_said_to_be() {
    let site = Site::new();
    refused(
        &site.pull(&["--cache-size", "1MiB"]),
        73,
        &["3.0 MiB are needed"],
    );
    assert_eq!(site.pull(&["--cache-size", "64MiB"]).code, 0);
}

#[test]
fn a_cache_in_use_is_busy() {
    let site = Site::new();
    assert_eq!(site.pull(&[]).code, 0);
    let lock = std::fs::File::open(site.path("cache/lock")).unwrap();
    lock.lock().unwrap();
    refused(&site.pull(&[]), 75, &["in use", "--cache-dir"]);
    assert_eq!(site.run(&["cache", "ls"]).code, 0, "looking needs no lock");
    assert_eq!(site.run(&["cache", "du"]).code, 0);
    assert_eq!(site.run(&["loads"]).code, 0);
    refused(&site.run(&["cache", "gc"]), 75, &["in use"]);
    drop(lock);
    assert_eq!(site.pull(&[]).code, 0);
}

#[test]
fn an_unknown_feature_of_the_format_is_refused_and_nothing_is_touched() {
    let site = Site::new();
    assert_eq!(site.pull(&[]).code, 0);
    let meta = site.path("cache/meta.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&meta).unwrap()).unwrap();
    json["incompat"] = serde_json::json!(["teleport"]);
    let text = serde_json::to_vec(&json).unwrap();
    std::fs::write(&meta, &text).unwrap();
    refused(&site.pull(&[]), 64, &["teleport", "upgrade"]);
    assert_eq!(std::fs::read(&meta).unwrap(), text);
}

#[test]
fn an_unwritable_directory_is_denied() {
    let site = Site::new();
    refused(
        &site.pull(&["--cache-dir", "/sys/tonnage"]),
        77,
        &["/sys/tonnage", "--cache-dir"],
    );
}

#[test]
fn a_misspelt_configuration_is_named_with_its_line() {
    let site = Site::new();
    std::fs::write(site.path("config.toml"), "\ncache_dri = \"/x\"\n").unwrap();
    let ran = site.run(&["cache", "ls", "--config", &site.text("config.toml")]);
    refused(&ran, 64, &["config.toml", "line 2", "cache_dri"]);
    refused(
        &site.run(&["cache", "ls", "--config", "/no/such"]),
        66,
        &["/no/such"],
    );
}

#[test]
fn mounting_without_the_right_to_is_denied_before_anything_is_fetched() {
    let site = Site::new();
    // A user namespace without a mapped user has no capabilities after exec.
    let program = env!("CARGO_BIN_EXE_tonnage");
    let arguments = [
        "--user",
        program,
        "mount",
        &site.text("model"),
        &site.text("target"),
    ];
    let ran = Ran::from(site.command("unshare", &arguments).output().unwrap());
    refused(&ran, 77, &["may not mount", "root"]);
    assert!(!site.path("cache").exists());
}

#[test]
fn a_mount_is_read_only_keeps_its_content_and_is_taken_off_again() {
    let site = Site::new();
    let script = "\"$1\" -q mount \"$2\" \"$3\" && \
        grep \" $3 \" /proc/self/mountinfo && cat \"$3/sub/config.json\" >\"$4\" && ! touch \"$3/new\" 2>/dev/null && \
        \"$1\" cache gc --all && ls \"$3/weights.safetensors\" && \"$1\" unmount \"$3\" && \
        ! grep \" $3 \" /proc/self/mountinfo && \"$1\" cache gc --all && \"$1\" cache ls";
    let program = env!("CARGO_BIN_EXE_tonnage");
    let (model, target, copy) = (site.text("model"), site.text("target"), site.text("copy"));
    let arguments = [
        "-Urm", "sh", "-ec", script, "sh", program, &model, &target, &copy,
    ];
    let ran = Ran::from(site.command("unshare", &arguments).output().unwrap());
    assert_eq!(ran.code, 0, "{} {}", ran.out, ran.err);
    let mount = ran.out.lines().find(|line| line.contains("views")).unwrap();
    assert!(mount.contains(" ro,nosuid,nodev"), "{mount}");
    assert_eq!(std::fs::read(site.path("copy")).unwrap(), bytes(2, 900));
    assert_eq!(
        files_below(&site.path("cache/objects")),
        Vec::<PathBuf>::new(),
        "the last gc had nothing to keep"
    );
}

#[test]
fn gc_frees_what_nobody_keeps_and_pins_keep() {
    let site = Site::new();
    let json = site.json(&["pull", &site.text("model"), "--pin", "base", "--json"]);
    let digest = json["digest"].as_str().unwrap();
    assert_eq!(
        site.json(&["cache", "gc", "--all", "--json"])["freed"]["objects"],
        0
    );
    let listed = site.json(&["cache", "ls", "--json"]);
    assert_eq!(listed[0]["digest"], digest);
    assert_eq!(listed[0]["kept_by"], serde_json::json!(["pin:base"]));
    refused(
        &site.run(&["cache", "pin", "base", &"0".repeat(64)]),
        66,
        &["no content"],
    );
    assert_eq!(site.run(&["cache", "pin", "again", &digest[..8]]).code, 0);
    assert_eq!(site.run(&["cache", "unpin", "base"]).code, 0);
    refused(&site.run(&["cache", "unpin", "base"]), 66, &["base"]);
    assert_eq!(
        site.json(&["cache", "gc", "--all", "--json"])["freed"]["objects"],
        0
    );
    assert_eq!(site.run(&["cache", "unpin", "again"]).code, 0);
    assert_eq!(
        site.json(&["cache", "gc", "--all", "--json"])["freed"]["objects"],
        3
    );
    assert_eq!(site.run(&["cache", "ls"]).out, "");
}

#[test]
fn verify_finds_a_flipped_bit_and_the_next_pull_mends_it() {
    let site = Site::new();
    assert_eq!(site.pull(&[]).code, 0);
    assert_eq!(site.run(&["cache", "verify"]).code, 0);
    let hex = blake3::hash(&bytes(1, (3 << 20) + 17)).to_hex().to_string();
    let object = site.path("cache/objects").join(&hex[..2]).join(&hex);
    let mut content = std::fs::read(&object).unwrap();
    content[1 << 20] ^= 1;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&object, mode).unwrap();
    std::fs::write(&object, content).unwrap();
    let ran = site.run(&["cache", "verify"]);
    assert_eq!(ran.code, 65, "{}", ran.err);
    assert!(ran.out.contains(&format!("damaged: {hex}")), "{}", ran.out);
    let mended = site.pull(&["--quiet"]);
    assert_eq!(mended.code, 0, "{}", mended.err);
    let view = PathBuf::from(mended.out.trim_end());
    assert_eq!(
        std::fs::read(view.join("weights.safetensors")).unwrap(),
        bytes(1, (3 << 20) + 17)
    );
    assert_eq!(site.run(&["cache", "verify"]).code, 0);
}

#[test]
fn a_node_service_that_owns_the_cache_does_the_upkeep() {
    use std::io::BufRead as _;
    let site = Site::new();
    let json = site.json(&["pull", &site.text("model"), "--json"]);
    let digest = json["digest"].as_str().unwrap();
    std::fs::create_dir(site.path("kubelet")).unwrap();
    std::fs::write(site.path("s.toml"), "").unwrap();
    let endpoint = format!("unix://{}", site.text("node.sock"));
    let (sources, kubelet) = (site.text("s.toml"), site.text("kubelet"));
    let arguments = [
        "node",
        "--endpoint",
        &endpoint,
        "--sources",
        &sources,
        "--kubelet-dir",
        &kubelet,
    ];
    let mut node = site
        .command(env!("CARGO_BIN_EXE_tonnage"), &arguments)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::new(node.stderr.take().unwrap()).lines();
    assert!(
        log.any(|line| line.unwrap().contains("\"ready\"")),
        "the service never got ready"
    );
    refused(&site.pull(&[]), 75, &[&format!("process {}", node.id())]);
    assert_eq!(site.run(&["cache", "pin", "base", &digest[..8]]).code, 0);
    assert_eq!(
        site.json(&["cache", "gc", "--all", "--json"])["freed"]["objects"],
        0
    );
    refused(&site.run(&["cache", "unpin", "other"]), 66, &["other"]);
    assert_eq!(site.run(&["cache", "unpin", "base"]).code, 0);
    assert_eq!(
        site.json(&["cache", "verify", "--json"])["verified"]["objects"],
        3
    );
    assert_eq!(
        site.json(&["cache", "gc", "--all", "--json"])["freed"]["objects"],
        3
    );
    let pid = rustix::process::Pid::from_child(&node);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(node.wait().unwrap().code(), Some(0));
    assert!(!site.path("cache/control.sock").exists());
    assert_eq!(site.pull(&[]).code, 0);
}

#[test]
fn loads_show_the_newest_first() {
    let site = Site::new();
    assert_eq!(site.pull(&[]).code, 0);
    assert_eq!(site.pull(&["--include", "*.json"]).code, 0);
    let loads = site.json(&["loads", "--json"]);
    assert_eq!(loads.as_array().unwrap().len(), 2);
    assert_eq!(
        (&loads[0]["files"], &loads[1]["files"]),
        (&1.into(), &3.into())
    );
    let ran = site.run(&["loads", "--last", "1"]);
    assert_eq!(ran.out.lines().count(), 1);
    assert!(ran.out.contains("1 files in"), "{}", ran.out);
}

#[test]
fn a_bundle_carries_content_and_its_pin_behind_an_air_gap() {
    let site = Site::new();
    let json = site.json(&["pull", &site.text("model"), "--json"]);
    let digest = json["digest"].as_str().unwrap();
    let bundle = site.text("bundle");
    let exported = site.run(&["export", &digest[..12], &bundle]);
    assert_eq!(
        (exported.code, exported.out.trim_end()),
        (0, bundle.as_str()),
        "{}",
        exported.err
    );
    std::fs::remove_dir_all(site.path("model")).unwrap();
    let elsewhere = site.text("elsewhere");
    let imported = site.run(&["import", &bundle, "--cache-dir", &elsewhere, "--pin", "m"]);
    assert_eq!(imported.code, 0, "{}", imported.err);
    let view = PathBuf::from(imported.out.trim_end());
    assert!(view.starts_with(&elsewhere));
    assert_eq!(
        std::fs::read(view.join("weights.safetensors")).unwrap(),
        bytes(1, (3 << 20) + 17)
    );
    let revision = json["revision"].as_str().unwrap();
    let pulled = site.pull(&["--revision", revision, "--cache-dir", &elsewhere]);
    assert_eq!(
        (pulled.code, pulled.out),
        (0, imported.out),
        "{}",
        pulled.err
    );
}

#[test]
fn a_damaged_bundle_brings_nothing_in() {
    let site = Site::new();
    let json = site.json(&["pull", &site.text("model"), "--json"]);
    let bundle = site.text("bundle");
    assert_eq!(
        site.run(&["export", json["digest"].as_str().unwrap(), &bundle])
            .code,
        0
    );
    let hex = blake3::hash(&bytes(2, 900)).to_hex().to_string();
    let object = site.path("bundle/objects").join(&hex[..2]).join(&hex);
    std::fs::write(&object, bytes(9, 900)).unwrap();
    let elsewhere = site.text("elsewhere");
    let ran = site.run(&["import", &bundle, "--cache-dir", &elsewhere]);
    let last = ran.err.lines().last().unwrap();
    assert_eq!((ran.code, ran.out.as_str()), (65, ""), "{}", ran.err);
    assert!(last.contains("config.json"), "{last}");
    assert_eq!(
        files_below(&Path::new(&elsewhere).join("views")),
        Vec::<PathBuf>::new()
    );
    refused(
        &site.run(&["import", &site.text("model")]),
        64,
        &["is not a bundle"],
    );
}

#[test]
fn looking_into_a_cache_that_is_not_there_says_so_and_makes_none() {
    let site = Site::new();
    for arguments in [
        vec!["cache", "ls"],
        vec!["cache", "du"],
        vec!["loads"],
        vec!["cache", "gc"],
    ] {
        refused(
            &site.run(&arguments),
            66,
            &["there is no cache", "--cache-dir"],
        );
    }
    assert!(!site.path("cache").exists());
}

#[test]
fn doctor_judges_each_thing_on_a_line_and_leaves_nothing() {
    let site = Site::new();
    let ran = site.run(&["doctor"]);
    assert!(
        ran.out.lines().all(|line| ["ok ", "warn", "FAIL"]
            .iter()
            .any(|word| line.starts_with(word))),
        "{}",
        ran.out
    );
    for word in ["kernel", "file system", "hard links", "space", "privileges"] {
        assert!(ran.out.contains(word), "{word} is not in {}", ran.out);
    }
    assert!(!site.path("cache").exists());
    std::fs::write(
        site.path("s.toml"),
        "[[source]]\nname = \"gone\"\nurl = \"file:///no/such/directory\"\n",
    )
    .unwrap();
    let ran = site.run(&["doctor", "--sources", &site.text("s.toml"), "--json"]);
    assert_eq!(ran.code, 1);
    let checks: Vec<serde_json::Value> = serde_json::from_str(&ran.out).unwrap();
    let gone = checks
        .iter()
        .find(|check| check["name"] == "source gone")
        .unwrap();
    assert_eq!(gone["verdict"], "fail");
}

#[test]
fn the_chart_carries_the_custom_resources_that_the_program_prints() {
    let chart = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/chart/crds-generated/crds.yaml"
    );
    let ran = Site::new().run(&["crds"]);
    assert_eq!(ran.code, 0);
    // Not side by side: they are three thousand lines.
    assert!(
        std::fs::read_to_string(chart).unwrap() == ran.out,
        "write it anew: tonnage crds > deploy/chart/crds-generated/crds.yaml"
    );
}

#[test]
fn completions_know_the_commands() {
    let site = Site::new();
    for shell in ["bash", "zsh", "fish"] {
        let ran = site.run(&["completions", shell]);
        assert_eq!(ran.code, 0);
        assert!(
            ran.out.contains("resolve") && ran.out.contains("cache-dir"),
            "{shell}"
        );
    }
}

#[test]
fn help_has_examples_codes_and_variables() {
    let site = Site::new();
    let ran = site.run(&["pull", "--help"]);
    for word in [
        "Examples:",
        "Exit codes:",
        "AWS_ACCESS_KEY_ID",
        "TONNAGE_CACHE_DIR",
    ] {
        assert!(ran.out.contains(word), "{word} is not in {}", ran.out);
    }
}

#[test]
fn a_reader_that_hangs_up_ends_the_program_quietly() {
    let site = Site::new();
    let script = "\"$1\" completions bash | head -n 1";
    let program = env!("CARGO_BIN_EXE_tonnage");
    let ran = Ran::from(
        site.command("sh", &["-c", script, "sh", program])
            .output()
            .unwrap(),
    );
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}
