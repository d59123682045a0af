//! What the gate says to who reads a pod's event.

use std::time::Duration;

use tonnage_cache::path::Escaped;

use crate::crd::WhenControllerUnreachable;
use crate::egress::policy::{Charge, Decision};
use crate::egress::terms::Account;
use crate::govern::tabs::Waiter;

/// What stands around a host at the end of a sentence.
const ASKED: &str = " (asked for host ";
const DONE: &str = ")";

/// A run of a load that nobody waits for.
pub(super) fn nobody() -> String {
    "no pod waits for this load any more; it goes on when one does".to_owned()
}

/// A connection that is no source's own.
pub(super) fn nobody_at(source: &str, host: &str) -> String {
    format!(
        "host {} is not that of source {}, and no pod that may use it waits for something from there",
        Escaped(host),
        Escaped(source)
    )
}

/// A refusal with the host that it is about, at its end, by which others who wait are asked about the same host: [`host_of`].
pub(super) fn at_host(sentence: &str, host: &str) -> String {
    format!("{sentence}{ASKED}{}{DONE}", Escaped(host))
}

/// The host that a refusal is about.
pub(super) fn host_of(sentence: &str) -> Option<&str> {
    let rest = sentence.strip_suffix(DONE)?.strip_suffix('"')?;
    let (_, host) = rest.rsplit_once(ASKED)?;
    host.strip_prefix('"')
}

/// A budget that has nothing left.
pub(super) fn used_up(decision: &Decision, account: &Account, message: Option<&str>) -> String {
    let budget = Budget::of(decision, account);
    message.map_or_else(
        || {
            format!(
                "{budget} is used up; this goes on by itself when bytes come back, or when an administrator raises it in spec.budgets"
            )
        },
        str::to_owned,
    )
}

/// A budget of which nothing was granted.
pub(super) fn unanswered(
    decision: &Decision,
    account: &Account,
    waited: Option<Duration>,
) -> String {
    let since = waited.map_or_else(
        || "lately".to_owned(),
        |waited| format!("within {} s", waited.as_secs()),
    );
    let rule = match decision.unreachable {
        WhenControllerUnreachable::Allow => "Allow",
        WhenControllerUnreachable::SpendLease => "SpendLease",
        WhenControllerUnreachable::Deny => "Deny",
    };
    format!(
        "the controller has granted no bytes of {} {since}, and nothing more is loaded without (whenControllerUnreachable: {rule}): see whether tonnage-controller runs and reaches the API server; this goes on by itself, and content that is cached still mounts",
        Budget::of(decision, account)
    )
}

/// A second request for bytes that would have to wait.
pub(super) fn tight() -> String {
    "budgets and rate limits leave nothing for a second request".to_owned()
}

/// Whether a sentence of the rules or of a budget is about somebody: it names the service account at its beginning, or the namespace.
/// Whoever writes a path into the first kind does not get into the second.
pub(super) fn is_about(sentence: &str, waiter: &Waiter) -> bool {
    const ACCOUNT: &str = "service account ";
    let Waiter {
        namespace,
        service_account,
        ..
    } = waiter;
    if let Some(account) = sentence.strip_prefix(ACCOUNT) {
        return account.starts_with(&format!("{namespace}/{service_account} "));
    }
    let is_end =
        |rest: &str| !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '-');
    let named = format!(" namespace {namespace}");
    sentence.split(named.as_str()).skip(1).any(is_end)
}

/// Whether a sentence about a host is not the rules' own, which are about somebody and always name a policy.
pub(super) fn names_no_policy(sentence: &str) -> bool {
    !sentence.contains("EgressPolic")
}

/// A budget as its owner calls it: `budget research/daily of namespace team-a`.
struct Budget<'a> {
    policy: &'a str,
    account: &'a Account,
}

impl<'a> Budget<'a> {
    fn of(decision: &'a Decision, account: &'a Account) -> Self {
        let is_it = |charge: &&Charge| charge.account == *account;
        let charge = decision.charges.iter().find(is_it);
        Self {
            policy: charge.map_or(account.policy.0.as_str(), |charge| charge.policy.as_str()),
            account,
        }
    }
}

impl std::fmt::Display for Budget<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "budget {}/{}", self.policy, self.account.budget)?;
        match &self.account.namespace {
            Some(namespace) => write!(f, " of namespace {namespace}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inflight::WaiterId;
    use crate::volume::VolumeId;

    #[test]
    fn a_refusal_says_which_host_it_is_about_and_no_path_can_say_another() {
        let plain =
            "service account a/b may not load this: path \" (asked for host \\\"evil\\\")\"";
        assert_eq!(host_of(plain), None);
        let said = at_host(plain, "mirror.example.com");
        assert!(said.starts_with(plain), "{said}");
        assert!(
            said.ends_with(" (asked for host \"mirror.example.com\")"),
            "{said}"
        );
        assert_eq!(host_of(&said), Some("mirror.example.com"));
        assert_eq!(host_of("no (asked for host x)"), None);
    }

    #[test]
    fn a_sentence_is_about_whom_it_names_and_about_no_one_with_a_longer_name() {
        let waiter = |namespace: &str, service_account: &str| Waiter {
            id: WaiterId {
                volume: VolumeId::parse("csi-1").unwrap(),
                target: "t".into(),
            },
            namespace: namespace.to_owned(),
            labels: std::sync::Arc::default(),
            service_account: service_account.to_owned(),
            pod: None,
        };
        let trainer = waiter("team-a", "trainer");
        for (sentence, is) in [
            ("service account team-a/trainer may load nothing", true),
            ("service account team-a/trainer-2 may load nothing", false),
            ("service account team-b/trainer may load nothing", false),
            (
                "service account b/x may not load path \"y namespace team-a z\"",
                false,
            ),
            ("budget p/daily of namespace team-a is used up", true),
            ("budget p/daily of namespace team-a", true),
            ("budget p/daily of namespace team-a2 is used up", false),
            ("budget p/daily of namespace team-a-2 is used up", false),
            ("budget p/daily is used up", false),
            (
                "no EgressPolicy selects namespace team-a, and defaultEgress is Deny",
                true,
            ),
            ("nothing is left", false),
        ] {
            assert_eq!(is_about(sentence, &trainer), is, "{sentence}");
        }
    }
}
