//! Questions to the rules of egress on the command line, without a cluster: what is printed where, and with which code the
//! program ends. Beside an API server they are asked in the program's own tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that meets what it does not expect fails"
)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const POLICIES: &str = "\
apiVersion: tonnage.dev/v1alpha1
kind: EgressPolicy
metadata:
  name: research
spec:
  namespaces: {matchLabels: {tier: research}}
  allow: [{sources: [models], prefixes: [prod/llama]}]
  budgets: [{name: daily, bytes: 10Gi, window: {calendar: Daily}}]
  rate: {bytesPerSecondPerNode: 500M}
  pricePerGiB: {amount: \"0.09\", currency: EUR}
";

const SOURCE: &str = "\
apiVersion: tonnage.dev/v1alpha1
kind: Source
metadata: {name: models}
spec:
  url: s3://weights/prod
  endpoint: https://s3.example.com
  consumers: [{namespaces: {}}]
---
apiVersion: v1
kind: Namespace
metadata: {name: team-a, labels: {tier: research}}
";

struct Site {
    directory: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Site {
    fn new() -> Self {
        let site = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        std::fs::write(site.path("policies.yaml"), POLICIES).unwrap();
        std::fs::write(site.path("source.yaml"), SOURCE).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs in the site's directory, as the words stand between blanks.
    fn run(&self, words: &str, input: &str) -> Ran {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tonnage"))
            .args(words.split_whitespace())
            .current_dir(self.directory.path())
            .env_clear()
            .env("HOME", self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that does not read hangs up.
        drop(
            child
                .stdin
                .take()
                .expect("it is piped")
                .write_all(input.as_bytes()),
        );
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code().expect("ended by a signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// One sentence on standard error, nothing on standard output, and the code.
#[track_caller]
fn refused(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{}", ran.err);
    assert_eq!(ran.out, "");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "{word:?} is not in {}", ran.err);
    }
}

const EXPLAIN: &str = "policy explain --offline --namespace team-a --source models";

#[test]
fn what_files_allow_is_explained_with_budget_speed_and_price() {
    let site = Site::new();
    let words =
        format!("{EXPLAIN} --path llama/8b --file policies.yaml --file source.yaml --bytes 1GiB");
    let ran = site.run(&words, "");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0], "allowed  EgressPolicy research, spec.allow[0]");
    assert!(
        lines[1].starts_with("budget   research/daily: 10.0 GiB of 10.0 GiB left in Daily until "),
        "{}",
        ran.out
    );
    assert_eq!(
        lines[2..],
        [
            "rate     at most 500.0 MB/s on a node (research)",
            "download 1.0 GiB",
            "cost     0.09 EUR at 0.09 EUR/GiB",
            "ledgers  none is asked, so that budgets are shown as unspent",
            "asked    models: \"s3.example.com/weights/prod/llama/8b\"",
        ]
    );
}

#[test]
fn what_is_denied_is_a_result_and_ends_with_its_own_code() {
    let site = Site::new();
    let files = "--file policies.yaml --file source.yaml";
    let ran = site.run(&format!("{EXPLAIN} --path qwen {files}"), "");
    assert_eq!((ran.code, ran.err.as_str()), (77, ""));
    assert!(
        ran.out.starts_with(
            "denied   service account team-a/default may not load this from source \"models\": no entry of spec.allow of \
             EgressPolicy research names it (allow[0] of research comes closest and does not name path \"prod/qwen\")"
        ),
        "{}",
        ran.out
    );
    let large = format!("{EXPLAIN} --path llama {files} --bytes 11GiB -o json");
    let ran = site.run(&large, "");
    assert_eq!(ran.code, 77, "{}", ran.err);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json["allowed"], false);
    assert_eq!(json["budgets"][0]["suffices"], false);
    assert_eq!(json["path"], "prod/llama");
    let other = format!("{EXPLAIN} --path qwen {files} --labels tier=production");
    let ran = site.run(&other, "");
    // Allowed, if the installation is as most are: no yes for a script.
    assert_eq!(ran.code, 65);
    assert!(
        ran.out.contains(
            "\ndefault  Allow, which is assumed: nothing of a cluster is read; name the installation's with --default-egress\n"
        ),
        "{}",
        ran.out
    );
    assert_eq!(
        ran.err,
        "EgressPolicy research does not select namespace team-a, and says nothing here\n"
    );
    let ran = site.run(&format!("{other} -o json"), "");
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &json["defaultAssumed"]), (65, &true.into()));
    let ran = site.run(&format!("{other} --default-egress allow"), "");
    assert_eq!(ran.code, 0, "{}", ran.out);
    let strict = format!("{other} --default-egress deny");
    let ran = site.run(&strict, "");
    assert_eq!(ran.code, 77);
    assert!(
        ran.out.contains("\ndefault  Deny, by --default-egress\n"),
        "{}",
        ran.out
    );
}

#[test]
fn what_is_asked_about_may_come_on_standard_input_among_other_kinds() {
    let site = Site::new();
    let words = format!("{EXPLAIN} --path llama/8b --file - --file source.yaml");
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\n---\n";
    let ran = site.run(&words, &format!("{pod}{POLICIES}"));
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert_eq!(ran.err, "passed over: Pod p\n");
    refused(
        &site.run(
            &words,
            &POLICIES.replace("name: research", "name: research\n  namespace: team-b"),
        ),
        64,
        &["read standard input: EgressPolicy \"research\" has metadata.namespace \"team-b\""],
    );
}

#[test]
fn without_a_cluster_what_is_missing_must_be_given() {
    let site = Site::new();
    refused(
        &site.run(&format!("{EXPLAIN} --file policies.yaml"), ""),
        64,
        &["find source \"models\"", "--file", "--host and --bucket"],
    );
    let place = "--host s3.example.com --bucket weights --path prod/llama";
    refused(
        &site.run(&format!("{EXPLAIN} --file policies.yaml {place}"), ""),
        64,
        &["labels of namespace \"team-a\"", "--labels"],
    );
    let whole = format!("{EXPLAIN} --file policies.yaml {place} --labels tier=research");
    let ran = site.run(&whole, "");
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    refused(
        &site.run(&format!("{EXPLAIN} --file none.yaml"), ""),
        66,
        &["none.yaml"],
    );
    let ran = site.run(
        "policy explain --namespace team-a --source models --host h",
        "",
    );
    assert_eq!(ran.code, 64);
    assert!(ran.err.contains("--offline"), "{}", ran.err);
}

/// 2026-11-27T00:00:00Z.
const DAY: u64 = 1_795_737_600_000;

fn line(event: &str, millis: u64, path: &str, bytes: u64) -> String {
    let line = serde_json::json!({
        "audit": "v1",
        "event": event,
        "timeUnixMillis": millis,
        "who": {"namespace": "team-a", "labels": {"tier": "research"}, "serviceAccount": "default", "podUid": path},
        "what": {"source": "models", "host": "s3.example.com", "bucket": "weights", "path": path, "hasDigest": false},
        "bytes": bytes,
    });
    format!("{line}\n")
}

fn audit() -> String {
    [
        line("Allow", DAY, "prod/llama", 0),
        line("Settle", DAY + 2, "prod/llama", 12 << 30),
        "{\"level\":\"INFO\",\"message\":\"volume published\"}\n".to_owned(),
        line("Allow", DAY + 1, "prod/qwen", 0),
        line("Settle", DAY + 3, "prod/qwen", 5 << 30),
        line("Deny", DAY + 86_400_000, "prod/llama/8b", 1 << 30),
    ]
    .concat()
}

#[test]
fn a_log_is_decided_again_by_other_policies() {
    let site = Site::new();
    std::fs::write(site.path("audit.log"), audit()).unwrap();
    let words = "policy simulate --audit audit.log --file policies.yaml";
    let ran = site.run(words, "");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert_eq!(
        ran.out,
        "\
CHANGE       NAMESPACE  SOURCE  BY                     DECISIONS  PODS  BYTES
would deny   team-a     models  research               1          1     5.0 GiB
would deny   team-a     models  budget research/daily  1          1     2.0 GiB
would allow  team-a     models  research allow[0]      1          1     1.0 GiB
of 2 allowed, 1 denied and 17.0 GiB spent: 2 would be denied (7.0 GiB), 1 would be allowed
"
    );
    let from_input = "policy simulate --audit - --file policies.yaml -o json";
    let ran = site.run(from_input, &audit());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json["spentBytes"], 17_u64 << 30);
    assert_eq!(json["changes"][0]["by"], "research");
    assert_eq!(json["changes"][0]["bytes"], 5_u64 << 30);
    assert_eq!(json["defaultEgress"], "Allow");
    assert_eq!(json["replayed"], 5);
    assert_eq!(json["malformed"], 0);
}

#[test]
fn a_decision_that_cannot_be_read_is_named_and_the_others_are_made_again() {
    let site = Site::new();
    let words = "policy simulate --audit - --file policies.yaml";
    let log = format!(
        "panicked at main\n{}{{\"audit\":\"v1\",\"event\":\"Sing\"}}\n",
        audit()
    );
    let ran = site.run(words, &log);
    assert_eq!(ran.code, 65);
    assert!(
        ran.out
            .contains("of 2 allowed, 1 denied and 17.0 GiB spent"),
        "{}",
        ran.out
    );
    let said: Vec<&str> = ran.err.lines().collect();
    assert!(
        said[0].starts_with(
            "tonnage: read the audit log standard input: line 8 is malformed: it is no decision"
        ),
        "{}",
        ran.err
    );
    assert_eq!(
        said[1..],
        [
            "passed over, because they are none of an audit log: 1 lines, of which line 1 is the first"
        ]
    );
}

#[test]
fn without_a_log_or_policies_there_is_nothing_to_replay() {
    let site = Site::new();
    let words = "policy simulate --audit - --file policies.yaml";
    refused(
        &site.run(words, ""),
        66,
        &[
            "tonnage: nothing to replay: standard input has no decision",
            "grep '^{\"audit\":'",
        ],
    );
    std::fs::write(site.path("audit.log.gz"), [0x1f, 0x8b, 8, 0, 0]).unwrap();
    refused(
        &site.run(
            "policy simulate --audit audit.log.gz --file policies.yaml",
            "",
        ),
        64,
        &["read the audit log audit.log.gz: it is compressed", "zcat"],
    );
    refused(
        &site.run("policy simulate --audit none.log --file policies.yaml", ""),
        66,
        &["open the audit log none.log"],
    );
    refused(
        &site.run("policy simulate --audit . --file policies.yaml", ""),
        70,
        &["read the audit log ."],
    );
    refused(
        &site.run("policy simulate --audit - --file -", POLICIES),
        64,
        &["it cannot be both the audit log and the policies"],
    );
    let ran = site.run("policy simulate --audit -", "");
    assert_eq!(ran.code, 64);
    assert!(ran.err.contains("--file"), "{}", ran.err);
}

#[test]
fn policies_that_nobody_in_the_log_is_asked_by_are_named() {
    let site = Site::new();
    let elsewhere = POLICIES.replace("tier: research", "tier: production");
    std::fs::write(site.path("policies.yaml"), elsewhere).unwrap();
    let words = "policy simulate --audit - --file policies.yaml";
    let ran = site.run(words, &audit());
    assert_eq!(ran.code, 0);
    assert_eq!(
        ran.err,
        "EgressPolicy research selects no namespace of the log, and changes nothing\n\
         no policy selects the namespace of 3 decisions, and defaultEgress is taken to be Allow; name the installation's with --default-egress\n"
    );
    let ran = site.run(&format!("{words} --default-egress allow"), &audit());
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
}

#[test]
fn as_a_plugin_of_kubectl_the_program_is_the_same() {
    let site = Site::new();
    let plugin = site.path("kubectl-tonnage");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tonnage"), &plugin).unwrap();
    let help = Command::new(&plugin)
        .args(["policy", "explain", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for words in [
        "Usage: kubectl tonnage policy explain",
        "\n  kubectl tonnage policy explain --namespace team-a --source models",
    ] {
        assert!(help.contains(words), "{help}");
    }
    assert!(!help.contains("\n  tonnage "), "{help}");
}
