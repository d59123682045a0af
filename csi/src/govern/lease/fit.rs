//! What fits into the specification, so that the object's half is at most 16 KiB however long names are. Demands are always in it. The
//! more there are, the less is said of who spent shared budgets, and the shorter are the sentences of denials; where that is not enough,
//! the policies that denied longest ago wait for a later write, whose counts have what was left out.

use crate::crd::{DenialLine, EgressLeaseSpec, json_bytes};
use crate::govern::denials::Denials;

/// Most bytes of a specification as JSON. A demand takes at most 268 with the longest names and numbers, so that the 56 of a purse fit.
const MOST_BYTES: usize = 16 << 10;

/// How many namespaces are named as those that spent a shared budget, beside so many demands.
pub(super) fn most_users(demands: usize) -> usize {
    match demands {
        0..=8 => 8,
        9..=32 => 3,
        33.. => 0,
    }
}

/// Adds what was denied to a specification that has its demands, and makes the whole fit. Returns the version of the denials if all are
/// told, nothing if some of them wait.
pub(super) fn fit(spec: &mut EgressLeaseSpec, denials: &Denials) -> Option<u64> {
    (_, spec.denials) = denials.lines(0);
    leave_out_users(spec);
    let version = tell(spec, denials);
    let all = spec.denials.len();
    while json_bytes(spec) > MOST_BYTES && leave_out_oldest(&mut spec.denials) {}
    (spec.denials.len() == all).then_some(version)
}

/// Names fewer of those that spent shared budgets, for as long as that helps.
fn leave_out_users(spec: &mut EgressLeaseSpec) {
    let named = spec.demands.iter().map(|line| line.spent_by.len());
    let most = named.max().unwrap_or(0);
    for fewer in (0..most).rev() {
        if json_bytes(spec) <= MOST_BYTES {
            return;
        }
        for line in &mut spec.demands {
            line.spent_by.truncate(fewer);
        }
    }
}

/// Tells of denials in sentences as long as there is room for, or as short as they get. Returns the version that is told.
fn tell(spec: &mut EgressLeaseSpec, denials: &Denials) -> u64 {
    spec.denials.clear();
    let mut room = MOST_BYTES.saturating_sub(json_bytes(spec));
    loop {
        let (version, lines) = denials.lines(room);
        spec.denials = lines;
        let over = json_bytes(spec).saturating_sub(MOST_BYTES);
        if over == 0 || room == 0 {
            return version;
        }
        // Sentences have less room than there is: lines say more, and JSON escapes. By an eighth at least, so that this ends soon.
        room = room.saturating_sub(over).min(room / 8 * 7);
    }
}

/// Leaves out the line of who denied longest ago; `false` if there is none.
fn leave_out_oldest(lines: &mut Vec<DenialLine>) -> bool {
    let all = lines.iter().enumerate();
    let oldest = all.min_by_key(|(_, line)| line.last_time);
    let oldest = oldest.map(|(at, _)| at);
    oldest.map(|at| lines.remove(at)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{DemandLine, LONGEST_SENTENCE, MOST_DENIALS, MOST_LINES, NamespaceUse};
    use crate::egress::lease::{Demand, Incarnation};
    use crate::egress::ledger::objects::spec;
    use crate::egress::terms::{Account, Namespace, PolicyUid};

    /// How often was denied something.
    const DENIED: u64 = 20;

    fn uid(number: u64) -> PolicyUid {
        PolicyUid(format!("3f0c6d5e-7a55-4c11-9a5c-1f7d9b1f2a{number:02}"))
    }

    /// As many policies as were ever seen on a node, one after the other, in long sentences that JSON makes longer.
    fn denials() -> Denials {
        let denials = Denials::default();
        let sentence = "not this, and a \"long\" sentence about it ".repeat(20);
        for number in 0..DENIED {
            let second = 1_795_751_063 + i64::try_from(number).unwrap();
            denials.note(&uid(number), &"n".repeat(63), &sentence, second);
        }
        denials
    }

    /// So many demands with the longest names there are, each with as many who spent as are named beside them where budgets are shared.
    fn asked(demands: usize, is_shared: bool) -> EgressLeaseSpec {
        let namespace = "n".repeat(63);
        let demand = Demand {
            account: Account {
                policy: uid(10),
                budget: "b".repeat(32),
                namespace: (!is_shared).then(|| Namespace(namespace.clone())),
            },
            seq: 1_795_751_063,
            wanted: 8 << 50,
            spent: 8 << 50,
        };
        let mut asked = spec(Incarnation(u64::MAX), &vec![demand; demands]);
        let user = NamespaceUse {
            namespace,
            bytes: 8 << 50,
        };
        for line in asked.demands.iter_mut().filter(|_| is_shared) {
            line.spent_by = vec![user.clone(); most_users(demands)];
        }
        asked
    }

    /// The specification, and which denials are told in full.
    fn fitted(demands: usize, is_shared: bool) -> (EgressLeaseSpec, Option<u64>) {
        let mut spec = asked(demands, is_shared);
        let told = fit(&mut spec, &denials());
        (spec, told)
    }

    fn users(spec: &EgressLeaseSpec) -> Vec<usize> {
        let mut users: Vec<usize> = spec.demands.iter().map(|it| it.spent_by.len()).collect();
        users.dedup();
        users
    }

    #[test]
    fn the_largest_specification_is_at_most_sixteen_kib_and_has_every_demand() {
        let without_users = |spec: &EgressLeaseSpec| -> Vec<DemandLine> {
            let lines = spec.demands.iter().cloned();
            let lines = lines.map(|line| DemandLine {
                spent_by: Vec::new(),
                ..line
            });
            lines.collect()
        };
        for demands in 0..=MOST_LINES {
            for is_shared in [false, true] {
                let (spec, _) = fitted(demands, is_shared);
                let length = serde_json::to_vec(&spec).unwrap().len();
                assert!(length <= 16 << 10, "{demands} {is_shared}: {length}");
                let asked = asked(demands, is_shared);
                assert_eq!(without_users(&spec), without_users(&asked));
            }
        }
    }

    #[test]
    fn a_purse_of_the_largest_numbers_fits() {
        let mut spec = asked(56, false);
        for line in &mut spec.demands {
            line.seq = i64::MAX;
            line.wanted_bytes = i64::MAX;
            line.spent_bytes = i64::MAX;
        }
        fit(&mut spec, &denials());
        let length = serde_json::to_vec(&spec).unwrap().len();
        assert!(length <= 16 << 10, "{length}");
        assert_eq!(spec.demands.len(), 56);
    }

    #[test]
    fn nothing_is_left_out_beside_few_demands() {
        let (spec, told) = fitted(1, true);
        assert_eq!((users(&spec), told), (vec![8], Some(DENIED)));
        assert_eq!(spec.denials.len(), MOST_DENIALS);
        let mut sentences = spec.denials.iter().map(|line| &line.last_reason);
        assert!(sentences.all(|it| it.chars().count() == LONGEST_SENTENCE));
    }

    #[test]
    fn sentences_get_shorter_before_a_line_is_left_out_and_use_the_room_that_there_is() {
        let (spec, told) = fitted(8, true);
        assert_eq!((users(&spec), told), (vec![8], Some(DENIED)));
        assert_eq!(spec.denials.len(), MOST_DENIALS);
        for line in &spec.denials {
            let length = line.last_reason.len();
            assert!((100..LONGEST_SENTENCE).contains(&length), "{length}");
        }
        let length = serde_json::to_vec(&spec).unwrap().len();
        assert!(length > 14 << 10, "{length}");
    }

    #[test]
    fn fewer_of_those_who_spent_are_named_before_a_denial_waits() {
        let (spec, told) = fitted(32, true);
        assert_eq!((users(&spec), told), (vec![1], Some(DENIED)));
        assert_eq!(spec.denials.len(), MOST_DENIALS);
    }

    #[test]
    fn who_denied_longest_ago_waits_where_demands_leave_no_room() {
        let (spec, told) = fitted(60, false);
        assert_eq!(told, None);
        let uids: Vec<&str> = spec
            .denials
            .iter()
            .map(|it| it.policy_uid.as_str())
            .collect();
        assert!((1..MOST_DENIALS).contains(&uids.len()), "{}", uids.len());
        let last = (0..DENIED).map(|number| uid(number).0);
        let last: Vec<String> = last.rev().take(uids.len()).collect();
        assert!(uids.iter().rev().eq(last.iter()), "{uids:?}");
        let (spec, told) = fitted(MOST_LINES, false);
        assert_eq!((spec.denials.len(), told), (0, None));
    }
}
