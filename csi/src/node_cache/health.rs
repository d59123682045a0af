//! Whether the cache is sound: the conditions of its status. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::collect::Facts;
use super::status::Seen;
use crate::crd::{NodeCacheCondition, NodeCacheStatus};

const READY: &str = "Ready";
const DISK_PRESSURE: &str = "DiskPressure";
const DAMAGED: &str = "Damaged";

/// All conditions; those whose status is as `before` keep their time.
pub(super) fn conditions(
    seen: &Seen<'_>,
    before: Option<&NodeCacheStatus>,
) -> Vec<NodeCacheCondition> {
    [ready(seen.flaw), pressure(seen.facts), damage(seen.facts)]
        .map(|it| it.since(before, seen.now))
        .to_vec()
}

/// What is to be said about one condition.
struct Verdict {
    kind: &'static str,
    /// `None`: it is not known.
    holds: Option<bool>,
    reason: &'static str,
    message: String,
}

impl Verdict {
    /// The condition; its time stays while its status does.
    fn since(self, before: Option<&NodeCacheStatus>, now: Timestamp) -> NodeCacheCondition {
        let status = match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let conditions = before.map(|before| before.conditions.as_slice());
        let same = conditions
            .unwrap_or_default()
            .iter()
            .find(|it| it.kind == self.kind && it.status == status);
        NodeCacheCondition {
            kind: self.kind.to_owned(),
            status: status.to_owned(),
            reason: self.reason.to_owned(),
            message: self.message,
            last_transition_time: same.map_or(Time(now), |same| same.last_transition_time.clone()),
        }
    }
}

fn ready(flaw: Option<&str>) -> Verdict {
    let (reason, message) = match flaw {
        None => (
            "Serving",
            "The cache can be read and takes volumes.".to_owned(),
        ),
        Some(flaw) => (
            "Unreadable",
            format!(
                "The cache cannot be read ({flaw}); look at the node's disk, and at the log of the driver's pod on the node."
            ),
        ),
    };
    Verdict {
        kind: READY,
        holds: Some(flaw.is_none()),
        reason,
        message,
    }
}

/// The sentences carry no figures, so that they change only when their condition does.
fn pressure(facts: Option<&Facts>) -> Verdict {
    let (holds, reason, message) = match facts {
        None => (None, "NotMeasured", "The disk could not be looked at yet."),
        Some(facts) if facts.free < facts.reserved => (
            Some(true),
            "BelowFloor",
            "Less is free than reservedBytes: a load evicts what no pod uses, and is refused once nothing of that is left. Find out what else fills the file system, or delete pods that use large volumes.",
        ),
        Some(_) => (
            Some(false),
            "EnoughFree",
            "At least reservedBytes are free.",
        ),
    };
    Verdict {
        kind: DISK_PRESSURE,
        holds,
        reason,
        message: message.to_owned(),
    }
}

fn damage(facts: Option<&Facts>) -> Verdict {
    const NAMED: usize = 3;
    let (holds, reason, message) = match facts {
        None => (
            None,
            "NotMeasured",
            "The store could not be looked at yet.".to_owned(),
        ),
        Some(facts) if facts.damaged.is_empty() => (
            Some(false),
            "Sound",
            "No stored file is known to be damaged.".to_owned(),
        ),
        Some(facts) => {
            let names = facts.damaged.iter().take(NAMED).map(|damage| {
                let hex = damage.digest.to_hex();
                hex.get(..16).unwrap_or(&hex).to_owned()
            });
            let names: Vec<String> = names.collect();
            let count = facts.damaged.len();
            let message = format!(
                "Stored files that turned out to be damaged: {count} ({}{}). A new pod gets them anew; a pod that runs may still read the damage: delete it, and have the disk looked at.",
                names.join(", "),
                if count > NAMED { ", …" } else { "" }
            );
            (Some(true), "FilesDamaged", message)
        }
    };
    Verdict {
        kind: DAMAGED,
        holds,
        reason,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonnage_cache::digest::Digest;
    use tonnage_cache::store::{Cause, Damage};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn told(facts: &Facts, second: i64, before: Option<&NodeCacheStatus>) -> NodeCacheStatus {
        let seen = Seen {
            facts: Some(facts),
            flaw: None,
            loads: &[],
            published: 0,
            now: at(second),
        };
        NodeCacheStatus {
            conditions: conditions(&seen, before),
            ..NodeCacheStatus::default()
        }
    }

    #[test]
    fn conditions_keep_their_time_while_their_status_stays() {
        let mut facts = Facts {
            free: 2_000,
            reserved: 1_000,
            ..Facts::default()
        };
        let first = told(&facts, 100, None);
        facts.free = facts.reserved - 1;
        facts.damaged = (0..5u8)
            .map(|n| Damage {
                digest: Digest::of(&[n]),
                size: 1,
                cause: Cause::Content,
                bad_parts: Vec::new(),
                inode: 1,
                found_millis: 0,
                repaired: false,
                quarantined: None,
                keys: Vec::new(),
            })
            .collect();
        let second = told(&facts, 200, Some(&first));
        let entry = |status: &str, reason: &str, second| {
            (status.to_owned(), reason.to_owned(), Time(at(second)))
        };
        let summary = |status: &NodeCacheStatus| -> Vec<(String, String, Time)> {
            let conditions = status.conditions.iter().cloned();
            conditions
                .map(|it| (it.status, it.reason, it.last_transition_time))
                .collect()
        };
        assert_eq!(
            summary(&first),
            [
                entry("True", "Serving", 100),
                entry("False", "EnoughFree", 100),
                entry("False", "Sound", 100),
            ]
        );
        assert_eq!(
            summary(&second),
            [
                entry("True", "Serving", 100),
                entry("True", "BelowFloor", 200),
                entry("True", "FilesDamaged", 200),
            ]
        );
        let message = &second.conditions[2].message;
        assert!(message.contains("damaged: 5 ("), "{message}");
        assert!(message.contains(", …). A new pod"), "{message}");
    }
}
