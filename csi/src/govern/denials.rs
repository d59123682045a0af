//! What policies have denied on this node since its service began: how often, and the last time in words. It travels in the node's
//! `EgressLease`, which the controller reads; nothing is decided by it.
//!
//! Bounded: the object tells of at most [`MOST_DENIALS`] policies, those that denied last, and counts are remembered here for
//! some more. A policy that is forgotten begins to count from nothing again, as it does when the service begins anew.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::crd::{DenialLine, LONGEST_SENTENCE, MOST_DENIALS};
use crate::egress::terms::PolicyUid;

/// Most policies that are remembered.
const MOST_KNOWN: usize = 256;
/// Least bytes of a sentence, however little room there is.
const LEAST_SENTENCE: usize = 64;

/// Remembers what was denied.
#[derive(Debug, Default)]
pub struct Denials {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    policies: BTreeMap<PolicyUid, Told>,
    /// How many denials there were in all: the number of the last one.
    last: u64,
}

/// What one policy has denied.
#[derive(Debug, Default)]
struct Told {
    count: u64,
    namespace: String,
    sentence: String,
    at_unix: i64,
    /// Number of its last denial.
    number: u64,
}

impl Denials {
    /// A pod of a namespace was denied something by a policy, in this sentence.
    pub fn note(&self, policy_uid: &PolicyUid, namespace: &str, sentence: &str, now_unix: i64) {
        let mut state = self.lock();
        state.last = state.last.saturating_add(1);
        let number = state.last;
        if !state.policies.contains_key(policy_uid) && state.policies.len() >= MOST_KNOWN {
            state.forget_oldest();
        }
        let told = state.policies.entry(policy_uid.clone()).or_default();
        *told = Told {
            count: told.count.saturating_add(1),
            namespace: namespace.to_owned(),
            sentence: shortened(sentence, LONGEST_SENTENCE, usize::MAX),
            at_unix: now_unix,
            number,
        };
    }

    /// Grows with every denial.
    pub(super) fn version(&self) -> u64 {
        self.lock().last
    }

    /// The lines for the object, by uid, whose sentences take about `room` bytes in all; and the version that they are of.
    pub(super) fn lines(&self, room: usize) -> (u64, Vec<DenialLine>) {
        let state = self.lock();
        let mut latest: Vec<_> = state.policies.iter().collect();
        latest.sort_by_key(|(_, told)| std::cmp::Reverse(told.number));
        latest.truncate(MOST_DENIALS);
        latest.sort_by_key(|(uid, _)| *uid);
        let share = room.checked_div(latest.len()).unwrap_or(room);
        let line = |(uid, told): (&PolicyUid, &Told)| DenialLine {
            policy_uid: uid.0.clone(),
            count: i64::try_from(told.count).unwrap_or(i64::MAX),
            last_namespace: told.namespace.clone(),
            last_reason: shortened(&told.sentence, LONGEST_SENTENCE, share.max(LEAST_SENTENCE)),
            last_time: told.at_unix,
        };
        (state.last, latest.into_iter().map(line).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_oldest(&mut self) {
        let oldest = self.policies.iter().min_by_key(|(_, told)| told.number);
        if let Some(uid) = oldest.map(|(uid, _)| uid.clone()) {
            self.policies.remove(&uid);
        }
    }
}

/// The text, or its beginning and three dots, within so many characters and bytes.
fn shortened(text: &str, most_chars: usize, most_bytes: usize) -> String {
    const DOTS: &str = "...";
    if text.len() <= most_bytes && text.chars().count() <= most_chars {
        return text.to_owned();
    }
    let (chars, bytes) = (
        most_chars.saturating_sub(DOTS.len()),
        most_bytes.saturating_sub(DOTS.len()),
    );
    let mut short = String::new();
    for char in text.chars().take(chars) {
        if short.len().saturating_add(char.len_utf8()) > bytes {
            break;
        }
        short.push(char);
    }
    short.push_str(DOTS);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(number: usize) -> PolicyUid {
        PolicyUid(format!("uid-{number:03}"))
    }

    #[test]
    fn each_policy_has_a_count_and_its_last_sentence() {
        let denials = Denials::default();
        assert_eq!(denials.lines(1 << 10), (0, Vec::new()));
        denials.note(&uid(1), "team-a", "no", 100);
        denials.note(&uid(2), "team-b", "never", 101);
        denials.note(&uid(1), "team-c", "not now", 102);
        let line = |number, count, namespace: &str, reason: &str, time| DenialLine {
            policy_uid: uid(number).0,
            count,
            last_namespace: namespace.to_owned(),
            last_reason: reason.to_owned(),
            last_time: time,
        };
        let expected = vec![
            line(1, 2, "team-c", "not now", 102),
            line(2, 1, "team-b", "never", 101),
        ];
        assert_eq!(denials.lines(1 << 10), (3, expected));
        assert_eq!(denials.version(), 3);
    }

    #[test]
    fn the_object_tells_of_the_sixteen_policies_that_denied_last_and_no_count_is_lost_by_that() {
        let denials = Denials::default();
        for number in 0..20 {
            denials.note(&uid(number), "team-a", "no", 0);
        }
        let named = |denials: &Denials| -> Vec<String> {
            let (_, lines) = denials.lines(1 << 10);
            lines.into_iter().map(|line| line.policy_uid).collect()
        };
        let expected: Vec<_> = (4..20).map(|number| uid(number).0).collect();
        assert_eq!(named(&denials), expected);
        denials.note(&uid(0), "team-a", "no", 0);
        let (_, lines) = denials.lines(1 << 10);
        assert_eq!((&lines[0].policy_uid, lines[0].count), (&uid(0).0, 2));
        assert_eq!(lines[1].policy_uid, uid(5).0);
    }

    #[test]
    fn memory_is_bounded_and_the_policy_that_denied_longest_ago_is_forgotten() {
        let denials = Denials::default();
        for number in 0..MOST_KNOWN {
            denials.note(&uid(number), "team-a", "no", 0);
        }
        denials.note(&uid(0), "team-a", "no", 0);
        denials.note(&uid(900), "team-a", "no", 0);
        assert_eq!(denials.lock().policies.len(), MOST_KNOWN);
        assert!(!denials.lock().policies.contains_key(&uid(1)));
        assert_eq!(denials.lock().policies[&uid(0)].count, 2);
    }

    #[test]
    fn long_sentences_are_cut_between_characters() {
        assert_eq!(shortened("abcdef", 6, 6), "abcdef");
        assert_eq!(shortened("abcdefg", 6, usize::MAX), "abc...");
        assert_eq!(shortened("äöüß", 512, 7), "äö...");
        let denials = Denials::default();
        denials.note(&uid(1), "team-a", &"ä".repeat(600), 0);
        let (_, lines) = denials.lines(usize::MAX);
        assert_eq!(lines[0].last_reason.chars().count(), LONGEST_SENTENCE);
        // Sentences share the room that there is.
        denials.note(&uid(2), "team-a", &"b".repeat(600), 0);
        let (_, lines) = denials.lines(400);
        assert!(lines.iter().all(|line| line.last_reason.len() <= 200));
        assert_eq!(lines[1].last_reason.len(), 200);
        let (_, lines) = denials.lines(0);
        assert_eq!(lines[1].last_reason.len(), LEAST_SENTENCE);
    }
}
