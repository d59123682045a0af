//! Tables beside a scripted API server.

use serde_json::json;

use super::super::cluster::scripted::{beside, list};
use super::*;

/// 2026-11-27T03:44:23Z.
const NOW: i64 = 1_795_751_063;

fn policies() -> Value {
    json!([
        {
            "metadata": {"name": "research", "uid": "u-research", "annotations": {"tonnage.dev/changed-by": "ada"}},
            "spec": {
                "namespaces": {},
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
                "cost": "41.20 EUR",
            },
        },
        {"metadata": {"name": "audit", "uid": "u-audit"}, "spec": {"namespaces": {}, "mode": "Audit"}},
        {"metadata": {"name": "newer", "uid": "u-newer"}, "spec": {"namespaces": {}, "mode": "Nap"}},
    ])
}

fn shown(rows: &[Row]) -> Vec<String> {
    let line = |line: Vec<String>| line.join("|");
    table(rows).into_iter().map(line).collect()
}

#[tokio::test(start_paused = true)]
async fn every_policy_is_shown_with_what_the_controller_said_of_it() {
    let (told, questions) = beside(vec![list(&policies())], async |cluster| {
        gathered(&cluster, None, NOW).await
    })
    .await;
    assert_eq!(questions.len(), 1);
    let told = told.unwrap();
    assert_eq!(
        shown(&told),
        [
            "POLICY|MODE|COST|DENIED|BUDGET|USED|LEFT|WINDOW|BYTES BACK|USED MOST",
            "audit|Audit|-|0|-",
            "newer|Malformed|-|0|-",
            "research|Enforce|41.20 EUR|3|daily|1.0 TiB of 2.0 TiB|1.0 TiB|Daily|2026-11-28T00:00:00Z|team-a 1.0 TiB, team-b 1.0 KiB",
            "||||month (shared)|- of 50.0 TiB|-|30d|-|-",
        ]
    );
    let json = serde_json::to_value(&told).unwrap();
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
async fn a_namespace_s_budgets_are_read_from_its_ledgers_at_this_moment() {
    let ledger = |name: &str, namespace: Option<&str>, start: i64| {
        json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressBudget",
            "metadata": {"name": name},
            "spec": {"policy": "research", "policyUid": "u-research", "budget": name, "namespace": namespace},
            "status": {
                "asOf": start,
                "settled": [{"start": start, "bytes": 1_i64 << 40}],
                "outstanding": [{"node": "n", "incarnation": "1", "seq": 1, "bytes": 1_i64 << 30, "durationSeconds": 900, "until": 0}],
                "users": [{"namespace": "team-b", "bytes": 1}, {"namespace": "team-a", "bytes": 1024}],
            },
        })
    };
    // The day of the first is over, so that only its grant counts.
    let budgets = json!([
        ledger("daily", Some("team-a"), NOW - 86_400 - NOW.rem_euclid(86_400)),
        ledger("daily", Some("team-b"), NOW),
        ledger("month", None, NOW),
        {"metadata": {"name": "broken"}, "spec": {}},
    ]);
    let answers = vec![list(&policies()), list(&budgets)];
    let (told, questions) = beside(answers, async |cluster| {
        gathered(&cluster, Some("team-a"), NOW).await
    })
    .await;
    assert_eq!(questions.len(), 2);
    assert_eq!(
        shown(&told.unwrap()),
        [
            "POLICY|MODE|COST|DENIED|BUDGET|USED|LEFT|WINDOW|BYTES BACK|USED MOST",
            "research|Enforce|41.20 EUR|3|daily|1.0 GiB of 2.0 TiB|1.9 TiB|Daily|2026-11-28T00:00:00Z|team-a 1.0 KiB, team-b 1 B",
            "||||month (shared)|1.0 TiB of 50.0 TiB|48.9 TiB|30d|-|team-a 1.0 KiB, team-b 1 B",
        ]
    );
}

#[test]
fn an_overruled_policy_says_so() {
    let mut policy = policies()[0].clone();
    policy["metadata"]["annotations"] = json!({
        "tonnage.dev/override-until": "2026-11-27T06:00:00Z",
        "tonnage.dev/override-reason": "incident",
    });
    assert_eq!(compiled(&policy, NOW).mode, "Overruled");
    assert_eq!(compiled(&policy, NOW + 86_400).mode, "Enforce");
}
