//! What people are told about a budget: what is used and left, and when bytes come back.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::egress::compiled::Allowance;
use crate::egress::ledger::Ledger;
use crate::egress::terms::Account;
use crate::egress::window::Window;
use crate::size::ByteSize;

/// Why less is granted than is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Short<'a> {
    /// Name of the policy.
    pub(super) policy: &'a str,
    /// Whose bytes.
    pub(super) account: &'a Account,
    /// What is left of them.
    pub(super) ledger: &'a Ledger,
    /// What the policy says.
    pub(super) allowance: &'a Allowance,
}

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            policy,
            account,
            ledger,
            allowance,
        } = *self;
        let Allowance {
            name,
            limit_bytes,
            window,
            ..
        } = allowance;
        let now = ledger.as_of;
        let used = ledger.used(window, now);
        write!(f, "budget {name} of EgressPolicy {policy} ")?;
        match &account.namespace {
            Some(namespace) => write!(f, "for namespace {namespace}")?,
            None => f.write_str("for all its namespaces together")?,
        }
        write!(
            f,
            " has {} of {} left: {} are spent and {} are granted to nodes; ",
            ByteSize(limit_bytes.saturating_sub(used)),
            ByteSize(*limit_bytes),
            ByteSize(ledger.settled(window, now)),
            ByteSize(ledger.held()),
        )?;
        match comes_back(ledger, window, now).and_then(moment) {
            Some(at) => write!(f, "bytes come back at {at}")?,
            None => f.write_str("bytes come back as nodes report what they did not spend")?,
        }
        f.write_str(", or when an administrator raises the budget")
    }
}

/// When bytes come back: when the period of a calendar ends, or the oldest bytes leave a rolling window.
pub(crate) fn comes_back(ledger: &Ledger, window: &Window, now: i64) -> Option<i64> {
    let counted = ledger.booked(window).filter(|(_, bytes)| *bytes > 0);
    let ends = counted.map(|(key, _)| window.ends(key));
    window
        .period_end(now)
        .or_else(|| ends.filter(|end| *end > now).min())
}

/// A second as an object has it.
pub(crate) fn time(second: i64) -> Option<Time> {
    moment(second).map(Time)
}

fn moment(second: i64) -> Option<Timestamp> {
    Timestamp::from_second(second).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::crd::CalendarPeriod;
    use crate::egress::lease::Incarnation;
    use crate::egress::ledger::Row;
    use crate::egress::terms::{Namespace, PolicyUid, WindowKey};

    const GIB: u64 = 1 << 30;

    fn said(window: Window, namespace: Option<&str>, settled: u64) -> String {
        let now = 1_795_751_063;
        let row = Row {
            incarnation: Incarnation(1),
            seq: 1,
            held: GIB,
            seconds: 900,
            until: now + 900,
        };
        Short {
            policy: "research",
            account: &Account {
                policy: PolicyUid("u".to_owned()),
                budget: "daily".to_owned(),
                namespace: namespace.map(|name| Namespace(name.to_owned())),
            },
            ledger: &Ledger {
                limit: 8 * GIB,
                as_of: now,
                window: Some(window),
                settled: BTreeMap::from([(window.key(now), settled)]),
                rows: BTreeMap::from([("n".to_owned(), row)]),
                crowd: Vec::new(),
            },
            allowance: &Allowance {
                name: "daily".to_owned(),
                limit_bytes: 8 * GIB,
                window,
                shared: namespace.is_none(),
            },
        }
        .to_string()
    }

    #[test]
    fn a_short_grant_says_what_is_used_and_when_bytes_come_back() {
        let daily = Window::Calendar {
            period: CalendarPeriod::Daily,
            offset_seconds: 0,
        };
        assert_eq!(
            said(daily, Some("team-a"), 7 * GIB),
            "budget daily of EgressPolicy research for namespace team-a has 0 B of 8.0 GiB left: 7.0 GiB are spent and 1.0 GiB are granted to nodes; bytes come back at 2026-11-28T00:00:00Z, or when an administrator raises the budget"
        );
        let rolling = Window::Rolling { seconds: 86_400 };
        assert_eq!(
            said(rolling, None, 7 * GIB),
            "budget daily of EgressPolicy research for all its namespaces together has 0 B of 8.0 GiB left: 7.0 GiB are spent and 1.0 GiB are granted to nodes; bytes come back at 2026-11-28T03:45:00Z, or when an administrator raises the budget"
        );
        let nothing = said(rolling, None, 0);
        assert!(
            nothing.ends_with("bytes come back as nodes report what they did not spend, or when an administrator raises the budget"),
            "{nothing}"
        );
    }

    #[test]
    fn bytes_come_back_when_the_oldest_that_count_do() {
        let rolling = Window::Rolling { seconds: 3_200 };
        let key = |start_unix| WindowKey { start_unix };
        let ledger = Ledger {
            settled: BTreeMap::from([(key(0), 1), (key(100), 0), (key(200), 1)]),
            ..Ledger::default()
        };
        assert_eq!(comes_back(&ledger, &rolling, 0), Some(3_300));
        assert_eq!(comes_back(&ledger, &rolling, 3_300), Some(3_500));
        assert_eq!(comes_back(&ledger, &rolling, 3_500), None);
    }
}
