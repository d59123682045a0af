//! What fits into the specification, so that the object's half stays below 16 KiB: the more demands there are, the less is said of who
//! spent shared budgets, and the shorter are the sentences of denials.

use crate::crd::MOST_DENIALS;

/// How many bytes a specification should take at most.
const ROOM: usize = 15 << 10;
/// What a line takes of that, without a denial's sentence.
const LINE: usize = 192;
/// What a namespace takes that is named as one who spent.
const USER: usize = 56;

/// How many namespaces are named as those that spent a shared budget, beside so many demands.
pub(super) fn most_users(demands: usize) -> usize {
    match demands {
        0..=8 => 8,
        9..=32 => 3,
        33.. => 0,
    }
}

/// How many bytes the sentences of denials may take beside so many demands.
pub(super) fn room(demands: usize) -> usize {
    let lines = demands.saturating_add(MOST_DENIALS).saturating_mul(LINE);
    let users = demands.saturating_mul(most_users(demands));
    ROOM.saturating_sub(lines)
        .saturating_sub(users.saturating_mul(USER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{EgressLeaseSpec, MOST_LINES, NamespaceUse};
    use crate::egress::lease::{Demand, Incarnation};
    use crate::egress::ledger::objects::spec;
    use crate::egress::terms::{Account, Namespace, PolicyUid};
    use crate::govern::denials::Denials;

    #[test]
    fn the_largest_specification_stays_below_sixteen_kib() {
        let denials = Denials::default();
        for number in 0..20 {
            let policy = PolicyUid(format!("3f0c6d5e-7a55-4c11-9a5c-1f7d9b1f2a{number:02}"));
            let sentence = "not this, and a long sentence about it ".repeat(20);
            denials.note(&policy, "research-team-a", &sentence, 1_795_751_063);
        }
        let demand = Demand {
            account: Account {
                policy: PolicyUid("3f0c6d5e-7a55-4c11-9a5c-1f7d9b1f2a10".to_owned()),
                budget: "daily-all".to_owned(),
                namespace: Some(Namespace("research-team-a".to_owned())),
            },
            seq: 1_795_751_063,
            wanted: 8 << 40,
            spent: 8 << 40,
        };
        for demands in [0, 1, 8, 9, 32, 33, MOST_LINES] {
            let mut whole = EgressLeaseSpec {
                denials: denials.lines(room(demands)).1,
                ..spec(Incarnation(u64::MAX), &vec![demand.clone(); demands])
            };
            let user = NamespaceUse {
                namespace: "research-team-a".to_owned(),
                bytes: 8 << 40,
            };
            for line in &mut whole.demands {
                line.spent_by = vec![user.clone(); most_users(demands)];
            }
            let length = serde_json::to_vec(&whole).unwrap().len();
            assert!(length < 16 << 10, "{demands} {length}");
        }
    }
}
