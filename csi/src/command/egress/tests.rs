//! Tables beside a scripted API server.

use serde_json::json;

use super::super::cluster::scripted::{beside, documented, list, refusal};
use super::*;

/// 2026-11-27T03:44:23Z.
const NOW: i64 = 1_795_751_063;
const TIB: i64 = 1 << 40;
const GIB: i64 = 1 << 30;
const HEAD: &str = "POLICY|MODE|COST|DENIED|BUDGET|USED|LEFT|WINDOW|BYTES BACK|USED MOST";

fn policies() -> Value {
    json!([
        {
            "metadata": {"name": "research", "uid": "u-research", "annotations": {"tonnage.dev/changed-by": "ada"}},
            "spec": {
                "namespaces": {"matchLabels": {"tier": "research"}},
                "allow": [{}],
                "budgets": [
                    {"name": "daily", "bytes": "2Ti", "window": {"calendar": "Daily"}},
                    {"name": "month", "bytes": "50Ti", "window": {"rolling": "30d"}, "scope": "Shared"},
                ],
            },
            "status": {
                "budgets": [{
                    "name": "daily", "limitBytes": 1_i64 << 41, "usedBytes": 1_i64 << 40, "leftBytes": 1_i64 << 40,
                    "windowEnd": "2026-11-28T00:00:00Z",
                    "topUsers": [{"namespace": "team-a", "bytes": 1_i64 << 40}, {"namespace": "team-b", "bytes": 1024}],
                }],
                "denied": {"count": 3, "lastReason": "no"},
                // By charge, as the controller has it.
                "cost": "4711.00 EUR",
            },
        },
        {"metadata": {"name": "audit", "uid": "u-audit"}, "spec": {"namespaces": {}, "mode": "Audit"}},
        {"metadata": {"name": "newer", "uid": "u-newer"}, "spec": {"namespaces": {"names": ["team-z"]}, "mode": "Nap"}},
    ])
}

/// The same, with a price.
fn priced() -> Value {
    let mut policies = policies();
    policies[0]["spec"]["pricePerGiB"] = json!({"amount": "0.01", "currency": "EUR"});
    // Nobody knows its price.
    policies.as_array_mut().unwrap().pop();
    policies
}

fn ledger(name: &str, namespace: Option<&str>, bytes: i64) -> Value {
    let (policy, budget) = name.split_once('.').unwrap();
    let whole = namespace.map_or(name.to_owned(), |namespace| format!("{name}.{namespace}"));
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressBudget",
        "metadata": {"name": whole},
        "spec": {"policy": policy, "policyUid": format!("u-{policy}"), "budget": budget, "namespace": namespace},
        "status": {"asOf": NOW, "settled": [{"start": NOW, "bytes": bytes}]},
    })
}

fn namespaces(names: &[&str]) -> Value {
    let namespace =
        |name: &&str| json!({"metadata": {"name": name, "labels": {"tier": "research"}}});
    names.iter().map(namespace).collect()
}

fn team_a(tier: &str) -> (u16, Value) {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "team-a", "labels": {"tier": tier}},
    });
    (200, namespace)
}

async fn asked(
    namespace: Option<&str>,
    answers: Vec<(u16, Value)>,
) -> (Result<Told, Failure>, Vec<String>) {
    let question = Question {
        namespace,
        labels: None,
        now_unix: NOW,
    };
    beside(answers, async |cluster| gathered(&cluster, &question).await).await
}

fn shown(told: &Told) -> Vec<String> {
    let line = |line: Vec<String>| line.join("|");
    table::of(&told.rows).into_iter().map(line).collect()
}

/// The column of costs, line by line.
fn costs(told: &Told) -> Vec<String> {
    let rows = told.rows.iter();
    rows.map(|row| table::of(std::slice::from_ref(row))[1][2].clone())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn every_policy_is_shown_with_what_the_controller_said_of_it() {
    let answers = vec![list(&policies()), list(&json!([]))];
    let (told, questions) = asked(None, answers).await;
    // A policy that cannot be read may have a price.
    assert_eq!(questions.len(), 2);
    let told = told.unwrap();
    assert_eq!(
        shown(&told),
        [
            HEAD,
            "audit|Audit|-|0|-",
            "newer|Malformed|-|0|-",
            "research|Enforce|-|3|daily|1.0 TiB of 2.0 TiB|1.0 TiB|Daily|2026-11-28T00:00:00Z|team-a 1.0 TiB, team-b 1.0 KiB",
            "||||month (shared)|- of 50.0 TiB|-|30d|-|-",
        ]
    );
    assert!(
        told.remarks[0].starts_with("EgressPolicy newer is malformed: it cannot be read"),
        "{:?}",
        told.remarks
    );
    let json = serde_json::to_value(&told.rows).unwrap();
    documented(&json);
    assert_eq!(json[2]["budgets"][0]["usedBytes"], 1_i64 << 40);
    assert_eq!(json[2]["budgets"][0]["usedMost"][1]["namespace"], "team-b");
    assert_eq!(json[2]["changedBy"], "ada");
    assert_eq!(json[2]["lastDenied"], "no");
    assert_eq!(json[2]["budgets"][1].get("usedBytes"), None);
    assert!(
        json[1]["problem"]
            .as_str()
            .unwrap()
            .starts_with("it cannot be read")
    );
}

#[tokio::test(start_paused = true)]
async fn a_cost_is_what_the_ledgers_say_at_the_policy_s_own_price() {
    let budgets = json!([
        ledger("research.daily", Some("team-a"), 100 * GIB),
        ledger("research.daily", Some("team-b"), 50 * GIB),
        ledger("research.month", None, 1000 * GIB),
    ]);
    let (told, questions) = asked(None, vec![list(&priced()), list(&budgets)]).await;
    assert_eq!(questions.len(), 2);
    let told = told.unwrap();
    assert_eq!(costs(&told), ["-", "10.00 EUR (month)"]);
    let json = serde_json::to_value(&told.rows).unwrap();
    documented(&json);
    assert_eq!(json[1]["cost"], "10.00 EUR");
    assert_eq!(json[1]["costBudget"], "month");
    assert_eq!(json[1]["costIsPartial"], false);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_two_policies_are_charged_have_one_cost_or_are_left_out() {
    let roof = |allow: Value, amount: &str| {
        let mut policies = priced();
        policies[1]["spec"] = json!({
            "namespaces": {},
            "allow": allow,
            "budgets": [{"name": "all", "bytes": "50Ti", "window": {"rolling": "30d"}, "scope": "Shared"}],
            "pricePerGiB": {"amount": amount, "currency": "EUR"},
        });
        list(&policies)
    };
    let budgets = json!([
        ledger("research.daily", Some("team-a"), 100 * GIB),
        ledger("audit.all", None, 100 * GIB),
    ]);
    let answers = |roof| vec![roof, list(&budgets), list(&namespaces(&["team-a"]))];
    let (told, questions) = asked(None, answers(roof(json!([]), "0.09"))).await;
    assert_eq!(questions[2], "GET /api/v1/namespaces?&limit=500");
    // It allows nothing, so that its price never holds.
    assert_eq!(costs(&told.unwrap()), ["-", "1.00 EUR (daily)"]);

    let (told, _) = asked(None, answers(roof(json!([{}]), "0.01"))).await;
    assert_eq!(costs(&told.unwrap()), ["1.00 EUR (all)", "-"]);

    let (told, _) = asked(None, answers(roof(json!([{}]), "0.09"))).await;
    assert_eq!(costs(&told.unwrap()), ["not known", "not known"]);
}

#[tokio::test(start_paused = true)]
async fn of_a_shared_ledger_the_namespaces_with_one_price_have_a_cost() {
    let mut policies = priced();
    policies[1]["spec"] = json!({
        "namespaces": {"names": ["team-b"]},
        "allow": [{}],
        "pricePerGiB": {"amount": "0.09", "currency": "EUR"},
    });
    let mut shared = ledger("research.month", None, 100 * GIB);
    shared["status"]["users"] = json!([{"namespace": "team-a", "bytes": 70 * GIB}, {"namespace": "team-b", "bytes": 30 * GIB}]);
    let answers = vec![
        list(&policies),
        list(&json!([shared])),
        list(&namespaces(&["team-a", "team-b"])),
    ];
    let (told, _) = asked(None, answers).await;
    assert_eq!(costs(&told.unwrap())[1], "at least 0.70 EUR (month)");
}

#[tokio::test(start_paused = true)]
async fn who_may_not_read_ledgers_or_namespaces_sees_the_rest() {
    let answers = vec![list(&priced()), refusal(403, "Forbidden")];
    let (told, _) = asked(None, answers).await;
    let told = told.unwrap();
    assert_eq!(costs(&told), ["-", "not known"]);
    assert_eq!(
        told.remarks,
        [
            "not all of what was spent has a cost here: list egressbudgets of the cluster: so it is; ask an administrator for the verb list on egressbudgets"
        ]
    );
    assert_eq!(told.problems, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_s_budgets_are_read_from_its_ledgers_at_this_moment() {
    let mut own = ledger("research.daily", Some("team-a"), TIB);
    // The day is over, so that only the grant counts.
    own["status"]["asOf"] = json!(NOW - 86_400);
    own["status"]["settled"][0]["start"] = json!(NOW - 86_400 - NOW.rem_euclid(86_400));
    own["status"]["outstanding"] = json!([{"node": "n", "incarnation": "1", "seq": 1, "bytes": GIB, "durationSeconds": 900, "until": 0}]);
    let mut shared = ledger("research.month", None, 3 * GIB);
    // Of which a half has left the window since.
    shared["status"]["users"] = json!([{"namespace": "team-b", "bytes": 2 * GIB}, {"namespace": "team-a", "bytes": 4 * GIB}]);
    let budgets = json!([own, ledger("research.daily", Some("team-b"), TIB), shared]);
    let answers = vec![list(&priced()), team_a("research"), list(&budgets)];
    let (told, questions) = asked(Some("team-a"), answers).await;
    assert_eq!(
        questions,
        [
            "GET /apis/tonnage.dev/v1alpha1/egresspolicies?&limit=500",
            "GET /api/v1/namespaces/team-a",
            "GET /apis/tonnage.dev/v1alpha1/egressbudgets?&limit=500",
        ]
    );
    assert_eq!(
        shown(&told.unwrap()),
        [
            HEAD,
            "audit|Audit|-|0|-",
            "research|Enforce|0.02 EUR (month)|3|daily|1.0 GiB of 2.0 TiB|1.9 TiB|Daily|2026-11-28T00:00:00Z|-",
            "||||month (shared)|3.0 GiB of 50.0 TiB|49.9 TiB|30d|2026-12-27T09:00:00Z|team-a 2.0 GiB, team-b 1.0 GiB",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_namespace_sees_the_policies_that_select_it_spent_from_or_not() {
    // Both ledgers are there; the first policy selects another tier.
    let budgets = json!([ledger("research.month", None, TIB)]);
    let answers = vec![list(&priced()), team_a("production"), list(&budgets)];
    let (told, _) = asked(Some("team-a"), answers).await;
    assert_eq!(shown(&told.unwrap()), [HEAD, "audit|Audit|-|0|-"]);

    let answers = vec![list(&priced()), team_a("research"), list(&json!([]))];
    let (told, _) = asked(Some("team-a"), answers).await;
    assert_eq!(
        shown(&told.unwrap())[2..],
        [
            "research|Enforce|0.00 EUR (daily)|3|daily|0 B of 2.0 TiB|2.0 TiB|Daily|2026-11-28T00:00:00Z|-",
            "||||month (shared)|0 B of 50.0 TiB|50.0 TiB|30d|-|-",
        ]
    );

    let answers = vec![list(&json!([])), team_a("research"), list(&json!([]))];
    let (told, _) = asked(Some("team-a"), answers).await;
    assert_eq!(
        told.unwrap().remarks,
        [
            "no EgressPolicy selects namespace team-a: it follows defaultEgress, and is charged nothing"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_cannot_be_read_has_not_all_left() {
    let budgets = json!([
        {"metadata": {"name": "research.daily.team-a"}, "spec": 7},
        {"metadata": {"name": "research.daily.team-b"}, "spec": 7},
    ]);
    let answers = vec![list(&priced()), team_a("research"), list(&budgets)];
    let (told, _) = asked(Some("team-a"), answers).await;
    let told = told.unwrap();
    assert_eq!(
        shown(&told)[2],
        "research|Enforce|not known|3|daily|- of 2.0 TiB|not known|Daily|-|-"
    );
    documented(&serde_json::to_value(&told.rows).unwrap());
    assert_eq!(told.problems.len(), 1);
    let failure = books::unreadable(&told.problems[0]);
    assert_eq!(failure.code, Code::Data);
    assert!(
        failure.to_string().starts_with(
            "tonnage: read the ledgers: EgressBudget research.daily.team-a cannot be read: "
        ),
        "{failure}"
    );
}

#[tokio::test(start_paused = true)]
async fn labels_that_rules_need_are_found_or_given() {
    let answers = vec![list(&policies()), refusal(404, "NotFound")];
    let (told, _) = asked(Some("team-a"), answers).await;
    assert_eq!(
        told.unwrap_err().to_string(),
        "tonnage: find Namespace \"team-a\": the cluster has none of that name; name its labels with --labels"
    );
    let answers = vec![list(&policies()), refusal(403, "Forbidden")];
    let (told, _) = asked(Some("team-a"), answers).await;
    assert_eq!(told.unwrap_err().code, Code::Denied);

    let labels = BTreeMap::from([("tier".to_owned(), "research".to_owned())]);
    let question = Question {
        namespace: Some("team-a"),
        labels: Some(&labels),
        now_unix: NOW,
    };
    let answers = vec![list(&policies()), list(&json!([]))];
    let (told, _) = beside(answers, async |cluster| gathered(&cluster, &question).await).await;
    assert_eq!(told.unwrap().rows.len(), 2);
}

#[test]
fn an_overruled_policy_says_so() {
    let mut policy = policies()[0].clone();
    policy["metadata"]["annotations"] = json!({
        "tonnage.dev/override-until": "2026-11-27T06:00:00Z",
        "tonnage.dev/override-reason": "incident",
    });
    let policy = Compiled::from_json(&policy);
    assert_eq!(mode(&policy, NOW), "Overruled");
    assert_eq!(mode(&policy, NOW + 86_400), "Enforce");
}
