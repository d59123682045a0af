//! Ledgers and leases as the API server keeps them. Reading is total: the schemas refuse what cannot be, and what is nonsense
//! nevertheless is read so that it frees nothing and is granted nothing.

use std::collections::BTreeMap;

use super::{Crowd, Ledger, Row};
use crate::crd::{
    CrowdLine, DemandLine, EgressBudgetStatus, EgressLease, EgressLeaseSpec, EgressLeaseStatus,
    GrantLine, OutstandingLine, SettledLine,
};
use crate::egress::lease::{Demand, Grant, Incarnation, Lease};
use crate::egress::terms::{Account, Namespace, PolicyUid, WindowKey};
use crate::egress::window::Window;
use crate::size::ByteSize;

/// Bytes and numbers in an object: never negative there.
fn read(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

fn written(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn read_seconds(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

/// An incarnation that cannot be read is nobody's: what it holds is settled in full.
fn read_incarnation(text: &str) -> Incarnation {
    Incarnation(u64::from_str_radix(text, 16).unwrap_or_default())
}

fn account(policy_uid: &str, budget: &str, namespace: Option<&String>) -> Account {
    Account {
        policy: PolicyUid(policy_uid.to_owned()),
        budget: budget.to_owned(),
        namespace: namespace.cloned().map(Namespace),
    }
}

/// Reads a node's object.
pub fn read_lease(object: &EgressLease) -> Lease {
    let EgressLeaseSpec {
        incarnation,
        demands,
        denials: _,
    } = &object.spec;
    let grants = object.status.as_ref().map(|status| &status.grants);
    Lease {
        node: object.metadata.name.clone().unwrap_or_default(),
        incarnation: read_incarnation(incarnation),
        demands: demands.iter().map(read_demand).collect(),
        grants: grants.into_iter().flatten().map(read_grant).collect(),
    }
}

fn read_demand(line: &DemandLine) -> Demand {
    Demand {
        account: account(&line.policy_uid, &line.budget, line.namespace.as_ref()),
        seq: read(line.seq),
        wanted: read(line.wanted_bytes),
        spent: read(line.spent_bytes),
    }
}

fn read_grant(line: &GrantLine) -> Grant {
    Grant {
        account: account(&line.policy_uid, &line.budget, line.namespace.as_ref()),
        incarnation: read_incarnation(&line.incarnation),
        seq: read(line.seq),
        bytes: read(line.bytes),
        seconds: read_seconds(line.duration_seconds),
    }
}

/// The half of the object that the node writes, without what it has denied.
pub fn spec(incarnation: Incarnation, demands: &[Demand]) -> EgressLeaseSpec {
    let line = |demand: &Demand| DemandLine {
        policy_uid: demand.account.policy.0.clone(),
        budget: demand.account.budget.clone(),
        namespace: demand.account.namespace.clone().map(|it| it.0),
        seq: written(demand.seq),
        wanted_bytes: written(demand.wanted),
        spent_bytes: written(demand.spent),
        spent_by: Vec::new(),
    };
    EgressLeaseSpec {
        incarnation: incarnation.to_string(),
        demands: demands.iter().map(line).collect(),
        denials: Vec::new(),
    }
}

/// The half that the controller writes. `message` says of a grant that is less than was wanted why; sixty-four long ones would
/// make the object too large.
pub fn status(grants: &[Grant], message: impl Fn(&Grant) -> Option<String>) -> EgressLeaseStatus {
    let line = |grant: &Grant| GrantLine {
        policy_uid: grant.account.policy.0.clone(),
        budget: grant.account.budget.clone(),
        namespace: grant.account.namespace.clone().map(|it| it.0),
        incarnation: grant.incarnation.to_string(),
        seq: written(grant.seq),
        bytes: written(grant.bytes),
        duration_seconds: i64::from(grant.seconds),
        message: message(grant),
    };
    EgressLeaseStatus {
        grants: grants.iter().map(line).collect(),
    }
}

/// Reads a ledger.
pub fn read_ledger(status: &EgressBudgetStatus) -> Ledger {
    let mut settled: BTreeMap<WindowKey, u64> = BTreeMap::new();
    for SettledLine { start, bytes } in &status.settled {
        let key = WindowKey { start_unix: *start };
        let sum = settled.entry(key).or_default();
        *sum = sum.saturating_add(read(*bytes));
    }
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for line in &status.outstanding {
        let row = Row {
            incarnation: read_incarnation(&line.incarnation),
            seq: read(line.seq),
            held: read(line.bytes),
            seconds: read_seconds(line.duration_seconds),
            until: line.until,
        };
        // No node has two; if one had, both would be held.
        let other = rows.get(&line.node).map_or(0, |other| other.held);
        let held = row.held.saturating_add(other);
        rows.insert(line.node.clone(), Row { held, ..row });
    }
    let crowd = status.crowds.iter().map(|line| Crowd {
        id: line.id,
        bytes: read(line.bytes),
        seconds: read_seconds(line.duration_seconds),
    });
    Ledger {
        limit: read(status.limit_bytes),
        as_of: status.as_of,
        window: Window::read(&status.window),
        settled,
        rows,
        crowd: crowd.collect(),
    }
}

/// Writes a ledger, and in words what of a window is used and left.
pub fn write_ledger(ledger: &Ledger, window: &Window) -> EgressBudgetStatus {
    let settled = ledger.settled.iter().map(|(key, bytes)| SettledLine {
        start: key.start_unix,
        bytes: written(*bytes),
    });
    let outstanding = ledger.rows.iter().map(|(node, row)| OutstandingLine {
        node: node.clone(),
        incarnation: row.incarnation.to_string(),
        seq: written(row.seq),
        bytes: written(row.held),
        duration_seconds: i64::from(row.seconds),
        until: row.until,
    });
    let crowds = ledger.crowd.iter().map(|crowd| CrowdLine {
        id: crowd.id,
        bytes: written(crowd.bytes),
        duration_seconds: i64::from(crowd.seconds),
    });
    let booked = ledger.window.map(|booked| booked.to_string());
    let used = ByteSize(ledger.used(window, ledger.as_of));
    let left = ByteSize(ledger.room(window, ledger.as_of));
    EgressBudgetStatus {
        limit_bytes: written(ledger.limit),
        window: booked.unwrap_or_default(),
        as_of: ledger.as_of,
        settled: settled.collect(),
        outstanding: outstanding.collect(),
        crowds: crowds.collect(),
        outstanding_bytes: written(ledger.held()),
        used: Some(format!("{used} of {}", ByteSize(ledger.limit))),
        left: Some(left.to_string()),
        users: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAILY: Window = Window::Calendar {
        period: crate::crd::CalendarPeriod::Daily,
        offset_seconds: 0,
    };

    fn who() -> Account {
        account("3f0c6d5e", "daily", Some(&"team-a".to_owned()))
    }

    #[test]
    fn a_ledger_reads_back_as_it_was_written() {
        let row = Row {
            incarnation: Incarnation(0xfeed),
            seq: 7,
            held: 3 << 30,
            seconds: 900,
            until: 90_900,
        };
        let ledger = Ledger {
            limit: 8 << 30,
            as_of: 90_000,
            window: Some(DAILY),
            settled: BTreeMap::from([(WindowKey { start_unix: 86_400 }, 1 << 30)]),
            rows: BTreeMap::from([("a".to_owned(), row)]),
            crowd: vec![Crowd {
                id: 89_000,
                bytes: 1 << 30,
                seconds: 900,
            }],
        };
        let status = write_ledger(&ledger, &DAILY);
        assert_eq!(read_ledger(&status), ledger);
        assert_eq!(status.window, "Daily");
        assert_eq!(status.used.as_deref(), Some("5.0 GiB of 8.0 GiB"));
        assert_eq!(status.left.as_deref(), Some("3.0 GiB"));
        assert_eq!(status.outstanding_bytes, 4 << 30);
        assert_eq!(status.outstanding[0].incarnation, "000000000000feed");
    }

    #[test]
    fn a_lease_reads_back_as_it_was_written() {
        let demand = Demand {
            account: who(),
            seq: 7,
            wanted: 5,
            spent: 3,
        };
        let grant = Grant {
            account: who(),
            incarnation: Incarnation(u64::MAX),
            seq: 7,
            bytes: 5,
            seconds: 900,
        };
        let mut object = EgressLease::new(
            "n",
            spec(Incarnation(u64::MAX), std::slice::from_ref(&demand)),
        );
        object.status = Some(status(std::slice::from_ref(&grant), |_| None));
        let expected = Lease {
            node: "n".to_owned(),
            incarnation: Incarnation(u64::MAX),
            demands: vec![demand],
            grants: vec![grant],
        };
        assert_eq!(read_lease(&object), expected);
    }

    #[test]
    fn each_half_of_the_largest_lease_stays_below_sixteen_kib() {
        let account = account(
            "3f0c6d5e-7a55-4c11-9a5c-1f7d9b1f2a10",
            "daily-all",
            Some(&"research-team-a".to_owned()),
        );
        let demand = Demand {
            account: account.clone(),
            seq: 1_795_751_063,
            wanted: 8 << 40,
            spent: 8 << 40,
        };
        let grant = Grant {
            account,
            incarnation: Incarnation(u64::MAX),
            seq: 1_795_751_063,
            bytes: 8 << 40,
            seconds: 900,
        };
        let most = crate::crd::MOST_LINES;
        let spec = spec(Incarnation(u64::MAX), &vec![demand; most]);
        let status = status(&vec![grant; most], |_| None);
        let length = serde_json::to_vec(&spec).unwrap().len();
        assert!(length < 16 << 10, "{length}");
        let length = serde_json::to_vec(&status).unwrap().len();
        assert!(length < 16 << 10, "{length}");
    }

    #[test]
    fn nonsense_frees_nothing() {
        let line = |node: &str, bytes| OutstandingLine {
            node: node.to_owned(),
            incarnation: "?".to_owned(),
            seq: -1,
            bytes,
            duration_seconds: -1,
            until: 0,
        };
        let status = EgressBudgetStatus {
            limit_bytes: -1,
            settled: vec![SettledLine { start: 5, bytes: 2 }; 2],
            outstanding: vec![line("a", 3), line("a", 4), line("b", -7)],
            ..EgressBudgetStatus::default()
        };
        let ledger = read_ledger(&status);
        assert_eq!((ledger.limit, ledger.held()), (0, 7));
        assert_eq!(ledger.settled[&WindowKey { start_unix: 5 }], 4);
    }
}
