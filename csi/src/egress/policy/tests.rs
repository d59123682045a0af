//! The rules of combination as properties; the examples are those of `docs/governance.md`.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;

/// 2026-11-27T03:44:23Z.
const NOW: i64 = 1_795_751_063;
const NAMES: &[&str] = &["a", "b", "c"];
const HOSTS: &[&str] = &["a.example", "b.example", "b.a.example"];
const PATHS: &[&str] = &["", "x", "x/y", "x/../z", "z"];

fn policy(name: &str, spec: &Value) -> Compiled {
    Compiled::from_json(&json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": 3},
        "spec": spec,
    }))
}

fn some(names: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(select(names), 0..=most)
}

fn entry() -> impl Strategy<Value = Value> {
    const PATTERNS: &[&str] = &["a.example", "*.example", "*.a.example"];
    const PREFIXES: &[&str] = &["x", "x/y", "z"];
    (some(NAMES, 1), some(PATTERNS, 1), some(NAMES, 1), some(PREFIXES, 2)).prop_map(
        |(sources, hosts, buckets, prefixes)| {
            json!({"sources": sources, "hosts": hosts, "buckets": buckets, "prefixes": prefixes})
        },
    )
}

fn spec() -> impl Strategy<Value = Value> {
    let selector = (some(NAMES, 2), any::<bool>()).prop_map(|(names, gold)| {
        let labels = if gold {
            json!({"tier": "gold"})
        } else {
            json!({})
        };
        json!({"names": names, "matchLabels": labels})
    });
    let who = (selector, some(NAMES, 1));
    let allow = proptest::collection::vec(entry(), 0..3);
    // One in six is malformed: a rate of 0.
    let rate = proptest::option::of(0u64..6);
    let away = select(&["Allow", "SpendLease", "Deny"][..]);
    let modes = (
        any::<bool>(),
        proptest::bool::weighted(0.2),
        60i64..100,
        away,
    );
    (who, allow, rate, modes).prop_map(
        |((namespaces, accounts), allow, rate, (audit, digest, staleness, away))| {
            json!({
                "namespaces": namespaces,
                "serviceAccounts": accounts,
                "allow": allow,
                "budgets": [{"name": "daily", "bytes": "1Gi", "window": {"calendar": "Daily"}}],
                "rate": {"connectionsPerNode": rate},
                "mode": if audit { "Audit" } else { "Enforce" },
                "whenControllerUnreachable": away,
                "maxStalenessSeconds": staleness,
                "requireDigest": digest,
            })
        },
    )
}

fn specs() -> impl Strategy<Value = Vec<Value>> {
    proptest::collection::vec(spec(), 0..4)
}

/// Who asks for what, under which default.
#[derive(Debug, Clone)]
struct Case {
    namespace: &'static str,
    account: &'static str,
    gold: bool,
    source: &'static str,
    host: &'static str,
    bucket: &'static str,
    path: &'static str,
    has_digest: bool,
    denies: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let who = (select(NAMES), select(NAMES), any::<bool>());
    let what = (
        select(NAMES),
        select(HOSTS),
        select(NAMES),
        select(PATHS),
        any::<bool>(),
    );
    (who, what, any::<bool>()).prop_map(
        |((namespace, account, gold), (source, host, bucket, path, has_digest), denies)| Case {
            namespace,
            account,
            gold,
            source,
            host,
            bucket,
            path,
            has_digest,
            denies,
        },
    )
}

impl Case {
    fn labels(&self) -> BTreeMap<String, String> {
        let tier = if self.gold { "gold" } else { "silver" };
        BTreeMap::from([("tier".to_owned(), tier.to_owned())])
    }

    fn decide(&self, policies: &[Compiled]) -> Decision {
        let labels = self.labels();
        let who = Who {
            namespace: self.namespace,
            labels: &labels,
            service_account: self.account,
        };
        let what = What {
            source: self.source,
            host: self.host,
            bucket: self.bucket,
            path: self.path,
            has_digest: self.has_digest,
        };
        let default_egress = if self.denies {
            DefaultEgress::Deny
        } else {
            DefaultEgress::Allow
        };
        let setting = Setting {
            default_egress,
            now_unix: NOW,
        };
        decide(policies, &setting, &who, &what)
    }

    fn decide_specs(&self, specs: &[Value]) -> Decision {
        self.decide(&compiled(specs))
    }

    /// The rules in other words, on the objects as they were written.
    fn expected(&self, specs: &[Value]) -> bool {
        let holds = |list: &Value, name: &str| {
            let list = list.as_array().unwrap();
            list.is_empty() || list.iter().any(|it| it == name)
        };
        let mut closed = false;
        let mut broken = false;
        let mut named = false;
        let mut digest = false;
        for spec in specs.iter().filter(|spec| spec["mode"] == "Enforce") {
            let labelled = spec["namespaces"]["matchLabels"] == json!({}) || self.gold;
            if !holds(&spec["namespaces"]["names"], self.namespace) || !labelled {
                continue;
            }
            closed = true;
            broken |= spec["rate"]["connectionsPerNode"] == 0;
            if !holds(&spec["serviceAccounts"], self.account) {
                continue;
            }
            digest |= spec["requireDigest"] == true;
            for entry in spec["allow"].as_array().unwrap() {
                let hosts = entry["hosts"].as_array().unwrap();
                let host = |pattern: &Value| match pattern.as_str().unwrap().strip_prefix('*') {
                    Some(suffix) => self.host.ends_with(suffix),
                    None => pattern == self.host,
                };
                let prefixes = entry["prefixes"].as_array().unwrap();
                let components: Vec<&str> = self.path.split('/').collect();
                let below = |prefix: &Value| {
                    let prefix: Vec<&str> = prefix.as_str().unwrap().split('/').collect();
                    components.starts_with(&prefix) && !components.contains(&"..")
                };
                named |= holds(&entry["sources"], self.source)
                    && holds(&entry["buckets"], self.bucket)
                    && (hosts.is_empty() || hosts.iter().any(host))
                    && (prefixes.is_empty() || prefixes.iter().any(below));
            }
        }
        if closed {
            named && !broken && (!digest || self.has_digest)
        } else {
            !self.denies
        }
    }
}

fn compiled(specs: &[Value]) -> Vec<Compiled> {
    let one = |(index, spec): (usize, &Value)| policy(&format!("p{index}"), spec);
    specs.iter().enumerate().map(one).collect()
}

fn is_at_most(after: Option<&Limit>, before: Option<&Limit>) -> bool {
    before.is_none_or(|before| after.is_some_and(|after| after.value <= before.value))
}

fn has_all(after: Option<&Limits>, before: Option<&Limits>) -> bool {
    let mut before = before.into_iter().flat_map(Limits::all);
    before.all(|limit| after.is_some_and(|after| after.all().any(|other| other == limit)))
}

fn with_mode(spec: &Value, mode: &str) -> Value {
    let mut spec = spec.clone();
    spec["mode"] = json!(mode);
    spec
}

proptest! {
    #[test]
    fn decisions_are_those_of_the_rules_in_other_words(specs in specs(), case in case()) {
        prop_assert_eq!(case.decide_specs(&specs).verdict.is_ok(), case.expected(&specs));
    }

    #[test]
    fn the_order_of_policies_changes_nothing(specs in specs(), case in case()) {
        let mut policies = compiled(&specs);
        let forwards = case.decide(&policies);
        policies.reverse();
        prop_assert_eq!(case.decide(&policies), forwards);
    }

    #[test]
    fn another_entry_never_denies_what_was_allowed(specs in specs(), entry in entry(), at: prop::sample::Index, case in case()) {
        prop_assume!(!specs.is_empty());
        let before = case.decide_specs(&specs);
        let mut wider = specs.clone();
        let allow = wider[at.index(specs.len())]["allow"].as_array_mut().unwrap();
        allow.push(entry);
        let after = case.decide_specs(&wider);
        prop_assert!(after.verdict.is_ok() || before.verdict.is_err());
        prop_assert_eq!(after.rates, before.rates);
        if before.verdict.is_ok() {
            prop_assert_eq!(after.charges, before.charges);
        }
    }

    #[test]
    fn another_policy_that_enforces_loosens_nothing_but_what_it_names(specs in specs(), spec in spec(), case in case()) {
        let spec = with_mode(&spec, "Enforce");
        let before = case.decide_specs(&specs);
        let mut more = specs.clone();
        more.push(spec.clone());
        let after = case.decide_specs(&more);
        if before.verdict.is_err() && after.verdict.is_ok() {
            let alone = with_mode(&spec, "Enforce");
            let alone = case.decide_specs(&[alone]);
            let names = matches!(alone.verdict, Ok(Rule::Entry { .. }));
            prop_assert!(names);
        }
        prop_assert!(is_at_most(after.rates.connections_per_node.as_deref(), before.rates.connections_per_node.as_deref()));
        prop_assert!(has_all(after.rates.connections_per_node.as_ref(), before.rates.connections_per_node.as_ref()));
        prop_assert!(is_at_most(after.max_staleness.as_ref(), before.max_staleness.as_ref()));
        prop_assert!(before.mode != Some(Mode::Enforce) || after.mode == Some(Mode::Enforce));
        prop_assert!(after.unreachable >= before.unreachable);
        if before.verdict.is_ok() && after.verdict.is_ok() {
            prop_assert!(before.charges.iter().all(|charge| after.charges.contains(charge)));
        }
    }

    #[test]
    fn a_policy_that_audits_changes_nothing_but_what_is_counted(specs in specs(), spec in spec(), case in case()) {
        let before = case.decide_specs(&specs);
        let mut more = specs.clone();
        more.push(with_mode(&spec, "Audit"));
        let after = case.decide_specs(&more);
        prop_assert_eq!(&after.verdict, &before.verdict);
        prop_assert_eq!(after.rates, before.rates);
        prop_assert_eq!(after.max_staleness, before.max_staleness);
        prop_assert_eq!(after.unreachable, before.unreachable);
        let enforced = |charges: Vec<Charge>| charges.into_iter().filter(|it| it.mode == Mode::Enforce).collect::<Vec<_>>();
        prop_assert_eq!(enforced(after.charges), enforced(before.charges));
    }

    #[test]
    fn what_an_audit_tells_is_what_enforcing_would_do(specs in specs(), case in case()) {
        let told = case.decide_specs(&specs);
        let enforced: Vec<Value> = specs.iter().map(|spec| with_mode(spec, "Enforce")).collect();
        let done = case.decide_specs(&enforced);
        if told.verdict.is_ok() {
            let expected = if told.mode.is_some() { done.verdict.err() } else { None };
            prop_assert_eq!(told.audited, expected);
        } else {
            prop_assert_eq!(told.audited, None);
        }
    }

    #[test]
    fn hostile_strings_never_panic_and_never_show_control_characters(
        texts in proptest::collection::vec("\\PC{0,30}|[\\x00-\\x20./*]{0,12}", 5),
        prefix in "\\PC{0,20}|[./]{0,6}",
        host in "\\PC{0,20}|[*.:]{0,6}",
    ) {
        let policy = policy("p", &json!({
            "namespaces": {},
            "allow": [{"prefixes": [prefix], "hosts": [host]}],
            "budgets": [{"name": "n", "bytes": texts[4], "window": {"rolling": texts[4]}}],
        }));
        let labels = BTreeMap::new();
        let who = Who { namespace: "team-a", labels: &labels, service_account: "default" };
        let what = What { source: &texts[0], host: &texts[1], bucket: &texts[2], path: &texts[3], has_digest: false };
        let decision = decide(&[policy], &Setting::default(), &who, &what);
        if let Err(denial) = decision.verdict {
            prop_assert!(!denial.message.chars().any(char::is_control), "{:?}", denial.message);
        }
    }
}

fn asked(policies: &[Compiled]) -> Decision {
    asked_at(NOW, policies)
}

fn asked_at(now_unix: i64, policies: &[Compiled]) -> Decision {
    let labels = BTreeMap::new();
    let who = Who {
        namespace: "team-a",
        labels: &labels,
        service_account: "default",
    };
    let what = What {
        source: "models",
        host: "s3.example.com",
        bucket: "weights",
        path: "llama",
        has_digest: false,
    };
    let setting = Setting {
        default_egress: DefaultEgress::Allow,
        now_unix,
    };
    decide(policies, &setting, &who, &what)
}

#[test]
fn a_malformed_policy_says_where() {
    for (spec, why) in [
        (
            json!({"namespaces": {}, "allow": [{}, {"hosts": ["https://x"]}]}),
            r#"allow[1]: "https://x" is not a host: write a name such as s3.example.com, *.example.com or an address, without scheme and port"#,
        ),
        (
            json!({"namespaces": {}, "allow": [{"prefixes": ["/llama"]}]}),
            r#"allow[0]: prefix "/llama" must be a path without a leading slash, empty components, "." and "..""#,
        ),
        (
            json!({"namespaces": {}, "budgets": [{"name": "d", "bytes": "1GiB", "window": {"calendar": "Daily"}}]}),
            r#"budgets[0].bytes: "1GiB" is not a number of bytes: write 500Gi, 1.5T or 1000000"#,
        ),
        (
            json!({"namespaces": {}, "budgets": [{"name": "d", "bytes": 1, "window": {}}]}),
            "budgets[0].window must have either rolling, such as 24h, or calendar, such as Daily",
        ),
        (
            json!({"namespaces": {}, "budgets": [
                {"name": "d", "bytes": 1, "window": {"rolling": "1h"}},
                {"name": "d", "bytes": 1, "window": {"rolling": "1h"}},
            ]}),
            r#"budgets: two are named "d""#,
        ),
        (
            json!({"namespaces": {}, "rate": {"bytesPerSecondPerNode": 0}}),
            "rate.bytesPerSecondPerNode must be above 0",
        ),
        (
            json!({"namespaces": {}, "rate": {"connectionsPerNamespace": -1}}),
            "rate.connectionsPerNamespace must be above 0",
        ),
        (
            json!({"namespaces": {}, "pricePerGiB": {"amount": "1,5", "currency": "EUR"}}),
            r#"pricePerGiB.amount: "1,5" is not a decimal number such as 0.09"#,
        ),
    ] {
        let policy = policy("research", &spec);
        assert_eq!(policy.rules(), Err(why));
        let denial = asked(&[policy]).verdict.unwrap_err();
        assert_eq!(denial.cause, Cause::Malformed);
        assert_eq!(
            denial.message,
            format!(
                "EgressPolicy research selects namespace team-a and denies everything there until an administrator mends it: {why}"
            )
        );
    }
}

#[test]
fn what_a_newer_version_wrote_is_taken_strictly() {
    let unreadable = policy(
        "p",
        &json!({"namespaces": {"names": ["team-b"]}, "mode": "Audit", "allow": 7}),
    );
    assert_eq!(unreadable.mode(NOW), Mode::Audit);
    assert!(!unreadable.selects("team-a", &BTreeMap::new()));
    let unreadable = policy("p", &json!({"namespaces": 7, "mode": "Suspend"}));
    assert_eq!(unreadable.mode(NOW), Mode::Enforce);
    assert_eq!(unreadable.generation, Some(3));
    let denial = asked(&[unreadable]).verdict.unwrap_err();
    assert_eq!(denial.cause, Cause::Malformed);
    assert_eq!(denial.policies, ["p"]);
}

#[test]
fn rules_that_are_too_old_let_nothing_more_be_loaded() {
    let spec =
        |seconds: i64| json!({"namespaces": {}, "allow": [{}], "maxStalenessSeconds": seconds});
    let decision = asked(&[policy("long", &spec(600)), policy("short", &spec(60))]);
    assert_eq!(decision.stale(60), None);
    assert_eq!(
        decision.stale(61).unwrap(),
        "the policies are 61 s old, because nothing newer can be read from the API server, and EgressPolicy short lets nothing be loaded by policies older than 60 s (spec.maxStalenessSeconds); content that is cached still mounts"
    );
    let audit = with_mode(&spec(60), "Audit");
    assert_eq!(asked(&[policy("audit", &audit)]).stale(u64::MAX), None);
    assert_eq!(asked(&[]).stale(u64::MAX), None);
}

#[test]
fn every_rate_of_every_policy_holds_and_the_lowest_is_told() {
    let spec = |node: u64| json!({"namespaces": {}, "allow": [{}], "rate": {"bytesPerSecondPerNode": node}});
    let watches = with_mode(&spec(1), "Audit");
    let decision = asked(&[
        policy("p", &spec(100)),
        policy("q", &spec(50)),
        policy("r", &spec(50)),
        policy("audit", &watches),
    ]);
    let limits = decision.rates.bytes_per_second_per_node.clone().unwrap();
    let all: Vec<(&str, u64)> = limits
        .all()
        .map(|limit| (limit.policy.as_str(), limit.value))
        .collect();
    assert_eq!(all, [("q", 50), ("r", 50), ("p", 100)]);
    assert_eq!((limits.policy.as_str(), limits.value), ("q", 50));
    assert!(!decision.rates.is_free());
    assert!(asked(&[policy("audit", &watches)]).rates.is_free());
}

#[test]
fn a_sentence_names_few_of_many_policies() {
    let spec = json!({"namespaces": {}, "serviceAccounts": ["trainer"], "allow": [{}]});
    let policies: Vec<Compiled> = (0..7).map(|n| policy(&format!("p{n}"), &spec)).collect();
    assert_eq!(
        asked(&policies).verdict.unwrap_err().message,
        "service account team-a/default may load nothing: EgressPolicy p0, p1, p2, p3 and 3 others are for other service accounts of its namespace; ask an administrator to add it to spec.serviceAccounts"
    );
}

#[test]
fn a_policy_that_is_overruled_watches_until_the_time_has_come() {
    let overruled = |until: &str, mode: &str| {
        Compiled::from_json(&json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressPolicy",
            "metadata": {"name": "p", "annotations": {
                "tonnage.dev/override-until": until,
                "tonnage.dev/override-reason": "incident 4711",
            }},
            "spec": {
                "namespaces": {},
                "mode": mode,
                "budgets": [{"name": "daily", "bytes": 1, "window": {"calendar": "Daily"}}],
            },
        }))
    };
    let policies = [overruled("2026-11-27T06:00:00Z", "Enforce")];
    let until = 1_795_759_200;
    let during = asked_at(until - 1, &policies);
    assert_eq!(during.verdict, Ok(Rule::Default));
    assert_eq!(during.audited.unwrap().cause, Cause::Unnamed);
    assert_eq!(during.charges[0].mode, Mode::Audit);
    assert_eq!(during.overruled[0].overrule.reason, "incident 4711");
    let after = asked_at(until, &policies);
    assert!(after.verdict.is_err());
    assert!(after.overruled.is_empty());
    let audit = [overruled("2026-11-27T06:00:00Z", "Audit")];
    assert!(asked_at(until - 1, &audit).overruled.is_empty());
    let unclear = overruled("soon", "Enforce");
    assert!(unclear.overrule_problem().is_some());
    assert!(asked(&[unclear]).verdict.is_err());
}
