//! The command line against a store that refuses, changes, disappears or is slow: one sentence on standard error,
//! an exact exit code, nothing published, no secret repeated, and a download that an interrupt leaves resumable.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets what it does not expect fails"
)]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tonnage_e2e::generate::File;
use tonnage_e2e::node::{Build, binary};
use tonnage_e2e::s3::{Credentials, Effect, Fault, Op, S3Server};

const BUCKET: &str = "models";
const SIZE: u64 = (4 << 20) + 5;

struct Site {
    server: S3Server,
    directory: tempfile::TempDir,
    program: PathBuf,
    key: (&'static str, &'static str),
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Site {
    async fn new() -> Self {
        let server = S3Server::builder()
            .credentials(Credentials::new("reader", "canary-secret"))
            .start()
            .await
            .unwrap();
        server.create_bucket(BUCKET);
        server.put_file(
            BUCKET,
            "llama/model.safetensors",
            File::random("model.safetensors", SIZE, 1),
        );
        server.put_file(
            BUCKET,
            "llama/config.json",
            File::random("config.json", 900, 2),
        );
        Self {
            server,
            directory: tempfile::tempdir().unwrap(),
            program: binary(Build::Plain).unwrap(),
            key: ("reader", "canary-secret"),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .args(["--endpoint", &self.server.endpoint()])
            .env_clear()
            .env("HOME", self.directory.path())
            .env("TONNAGE_CACHE_DIR", self.directory.path().join("cache"))
            .env("AWS_ACCESS_KEY_ID", self.key.0)
            .env("AWS_SECRET_ACCESS_KEY", self.key.1)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments);
        ran(
            tokio::task::spawn_blocking(move || command.output().unwrap())
                .await
                .unwrap(),
        )
    }

    fn published(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("cache/views"))
            .into_iter()
            .flatten()
            .count()
    }
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().expect("ended by a signal"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[track_caller]
fn refused(site: &Site, ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{}", ran.err);
    assert_eq!(ran.out, "");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert!(ran.err.starts_with("tonnage: "), "{}", ran.err);
    assert!(!ran.err.contains("canary"), "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "{word:?} is not in {}", ran.err);
    }
    assert_eq!(site.published(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_and_a_missing_prefix_do_not_exist() {
    let site = Site::new().await;
    refused(
        &site,
        &site.run(&["pull", "s3://nowhere/x"]).await,
        66,
        &["nowhere", "check the bucket"],
    );
    refused(
        &site,
        &site.run(&["pull", "s3://models/lama"]).await,
        66,
        &["lama"],
    );
    refused(
        &site,
        &site.run(&["resolve", "s3://nowhere/x"]).await,
        66,
        &["nowhere"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forbids_is_denied() {
    let site = Site::new().await;
    site.server.deny(BUCKET, "llama/");
    refused(
        &site,
        &site.run(&["pull", "s3://models/llama"]).await,
        77,
        &["AccessDenied"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_forbidden_file_of_many_publishes_nothing() {
    let site = Site::new().await;
    site.server.deny(BUCKET, "llama/config.json");
    refused(
        &site,
        &site.run(&["pull", "s3://models/llama"]).await,
        77,
        &["config.json"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_missing_keys_are_told_apart_from_forbidden() {
    let mut site = Site::new().await;
    site.key = ("reader", "canary-of-another");
    refused(
        &site,
        &site.run(&["pull", "s3://models/llama"]).await,
        67,
        &["keys"],
    );
    site.key = ("stranger", "canary");
    refused(
        &site,
        &site.run(&["pull", "s3://models/llama"]).await,
        67,
        &["keys"],
    );
    let anonymous = site
        .run(&["pull", "s3://models/llama", "--anonymous"])
        .await;
    refused(&site, &anonymous, 77, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_can_be_tried_again() {
    let site = Site::new().await;
    site.server.go_down().await.unwrap();
    refused(
        &site,
        &site.run(&["pull", "s3://models/llama"]).await,
        69,
        &["try again"],
    );
    site.server.come_up().await.unwrap();
    assert_eq!(site.run(&["pull", "s3://models/llama"]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_source_that_changes_under_the_download_is_another_revision() {
    let site = Site::new().await;
    let pin = site.run(&["resolve", "s3://models/llama"]).await.out;
    let other = File::random("config.json", 901, 9);
    site.server.fault(
        Fault::new(Effect::Replace(other))
            .on(Op::Get)
            .key("llama/config.json")
            .nth(1),
    );
    let ran = site
        .run(&["pull", "s3://models/llama", "--revision", pin.trim_end()])
        .await;
    refused(&site, &ran, 76, &[pin.trim_end(), "pin that one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpinned_source_that_changes_under_the_download_is_read_again_and_never_mixed() {
    let site = Site::new().await;
    let other = File::random("config.json", 901, 9);
    site.server.fault(
        Fault::new(Effect::Replace(other.clone()))
            .on(Op::Get)
            .key("llama/config.json")
            .nth(1),
    );
    let ran = site.run(&["pull", "s3://models/llama"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let view = PathBuf::from(ran.out.trim_end());
    assert_eq!(
        std::fs::read(view.join("config.json")).unwrap(),
        other.read_all().unwrap()
    );
    assert_eq!(site.published(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_key_is_named_escaped() {
    let site = Site::new().await;
    site.server.put(BUCKET, "llama/\u{1b}[31m/x", &b"x"[..]);
    refused(
        &site,
        &site.run(&["pull", "s3://models/llama"]).await,
        64,
        &["\\u{1b}[31m"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_under_a_pinned_digest_are_never_published() {
    let site = Site::new().await;
    let ran = site.run(&["pull", "s3://models/llama", "--json"]).await;
    let good: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    std::fs::remove_dir_all(site.directory.path().join("cache")).unwrap();
    site.server.fault(
        Fault::new(Effect::FlipBit(77))
            .on(Op::Get)
            .key("llama/model.safetensors"),
    );
    let digest = good["digest"].as_str().unwrap();
    refused(
        &site,
        &site
            .run(&["pull", "s3://models/llama", "--digest", digest])
            .await,
        65,
        &["nothing was published"],
    );
}

async fn interrupted(signal: rustix::process::Signal, code: i32) {
    let site = Site::new().await;
    let length: u64 = 24 << 20;
    site.server.put_file(
        BUCKET,
        "big/model.safetensors",
        File::random("model.safetensors", length, 3),
    );
    site.server.set_total_rate(Some(12 << 20));
    let child = site.command(&["pull", "s3://models/big"]).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let mut look = tokio::time::interval(Duration::from_millis(10));
    while site.server.wire().bytes(BUCKET, "big/model.safetensors") < 12 << 20 {
        look.tick().await;
    }
    rustix::process::kill_process(pid, signal).unwrap();
    let stopped = ran(
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
            .await
            .unwrap(),
    );
    assert_eq!(
        (stopped.code, stopped.out.as_str()),
        (code, ""),
        "{}",
        stopped.err
    );
    let last = stopped.err.lines().last().unwrap();
    assert_eq!(last, "tonnage: stopped; run the same command to resume");
    assert_eq!(site.published(), 0);

    site.server.set_total_rate(None);
    let resumed = site.run(&["pull", "s3://models/big", "--json"]).await;
    assert_eq!(resumed.code, 0, "{}", resumed.err);
    let json: serde_json::Value = serde_json::from_str(&resumed.out).unwrap();
    let kept = json["report"]["origins"]["resumed"].as_u64().unwrap();
    assert!(kept >= 2 << 20, "only {kept} bytes were kept");
    assert_eq!(
        json["report"]["origins"]["source"].as_u64().unwrap(),
        length - kept
    );
    let view = PathBuf::from(json["view"].as_str().unwrap());
    let digest = blake3::hash(&std::fs::read(view.join("model.safetensors")).unwrap());
    assert_eq!(
        digest,
        File::random("model.safetensors", length, 3)
            .digest()
            .unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_what_has_arrived() {
    interrupted(rustix::process::Signal::INT, 130).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_leaves_what_has_arrived() {
    interrupted(rustix::process::Signal::TERM, 143).await;
}
