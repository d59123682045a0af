//! Which source is to be examined when. Pure: time and facts are handed in.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tonnage_cache::digest::Digest;

use crate::crd::SourceCondition;

/// How often a source is examined.
const PERIOD: Duration = Duration::from_mins(1);
/// How soon a status that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How long a source must be unusable before that is said: its Secret may be on its way.
const GRACE: Duration = Duration::from_secs(6);

/// What makes a source another one than before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) uid: Option<String>,
    pub(super) generation: Option<i64>,
    /// Why it cannot be used, if so.
    pub(super) unusable: Option<String>,
}

/// A source that is to be examined now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Task {
    pub(super) name: String,
    pub(super) facts: Facts,
    /// What this replica has written last.
    pub(super) written: Option<SourceCondition>,
}

/// What came of examining one.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    /// Its status says what was found; what was written, if anything.
    Said(Option<Box<SourceCondition>>),
    /// It became another one meanwhile.
    Outdated,
    /// Its status could not be written.
    Failed,
}

/// All sources, and when each is due.
#[derive(Debug)]
pub(super) struct Agenda {
    identity: String,
    items: BTreeMap<String, Item>,
}

#[derive(Debug)]
struct Item {
    facts: Facts,
    due: Instant,
    /// What it was when its examination began, while that runs.
    examined: Option<Facts>,
    rounds: u64,
    written: Option<SourceCondition>,
}

impl Agenda {
    /// Nothing yet; replicas with other identities look at other times.
    pub(super) fn new(identity: &str) -> Self {
        Self {
            identity: identity.to_owned(),
            items: BTreeMap::new(),
        }
    }

    /// Takes in which sources there are: what is new or has changed is due at once.
    pub(super) fn look(&mut self, all: BTreeMap<String, Facts>, now: Instant) {
        self.items.retain(|name, _| all.contains_key(name));
        for (name, facts) in all {
            let due = match facts.unusable {
                Some(_) => now + GRACE,
                None => now,
            };
            match self.items.get_mut(&name) {
                Some(item) if item.facts == facts => {}
                Some(item) => {
                    item.facts = facts;
                    item.due = due;
                }
                None => {
                    let item = Item {
                        facts,
                        due,
                        examined: None,
                        rounds: 0,
                        written: None,
                    };
                    self.items.insert(name, item);
                }
            }
        }
    }

    /// The source that has been due for longest, unless it is being examined.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Task> {
        let items = self.items.iter_mut();
        let (name, item) = items
            .filter(|(_, item)| item.examined.is_none() && item.due <= now)
            .min_by_key(|(_, item)| item.due)?;
        item.examined = Some(item.facts.clone());
        Some(Task {
            name: name.clone(),
            facts: item.facts.clone(),
            written: item.written.clone(),
        })
    }

    /// Decides when a source is due again.
    pub(super) fn ended(&mut self, name: &str, outcome: Outcome, now: Instant) {
        let period = self.period(name);
        let Some(item) = self.items.get_mut(name) else {
            return;
        };
        item.rounds = item.rounds.wrapping_add(1);
        let has_changed = item.examined.take().as_ref() != Some(&item.facts);
        let pause = match outcome {
            Outcome::Said(written) => {
                if let Some(written) = written {
                    item.written = Some(*written);
                }
                period
            }
            // The next look sees what it became.
            Outcome::Outdated | Outcome::Failed => RETRY,
        };
        if !has_changed {
            item.due = now + pause;
        }
    }

    /// About a minute: sources, rounds and replicas are spread over a fifth of it.
    fn period(&self, name: &str) -> Duration {
        let rounds = self.items.get(name).map_or(0, |item| item.rounds);
        let digest = Digest::of(format!("{} {name} {rounds}", self.identity).as_bytes());
        let byte = digest.as_bytes().first().copied().unwrap_or_default();
        PERIOD * 9 / 10 + PERIOD / 5 * u32::from(byte) / 255
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(generation: i64) -> Facts {
        Facts {
            uid: Some("u".to_owned()),
            generation: Some(generation),
            unusable: None,
        }
    }

    fn all(generations: &[(&str, i64)]) -> BTreeMap<String, Facts> {
        let named = generations.iter();
        named
            .map(|(name, generation)| ((*name).to_owned(), facts(*generation)))
            .collect()
    }

    fn take(agenda: &mut Agenda, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| agenda.take_due(now))
            .map(|task| task.name)
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn new_and_changed_sources_are_due_at_once_and_the_others_after_about_a_minute() {
        let now = Instant::now();
        let mut agenda = Agenda::new("one");
        agenda.look(all(&[("a", 1), ("b", 1)]), now);
        assert_eq!(take(&mut agenda, now), ["a", "b"]);
        // Not while it is being examined.
        assert!(take(&mut agenda, now + PERIOD).is_empty());
        agenda.ended("a", Outcome::Said(None), now);
        agenda.ended("b", Outcome::Said(None), now);
        agenda.look(all(&[("a", 1), ("b", 2), ("c", 1)]), now);
        assert_eq!(take(&mut agenda, now), ["b", "c"]);
        assert!(take(&mut agenda, now + Duration::from_secs(53)).is_empty());
        assert_eq!(take(&mut agenda, now + Duration::from_secs(67)), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_while_it_is_examined_is_examined_again() {
        let now = Instant::now();
        let mut agenda = Agenda::new("one");
        agenda.look(all(&[("a", 1)]), now);
        take(&mut agenda, now);
        agenda.look(all(&[("a", 2)]), now);
        agenda.ended("a", Outcome::Said(None), now);
        assert_eq!(take(&mut agenda, now), ["a"]);
        for outcome in [Outcome::Outdated, Outcome::Failed] {
            agenda.ended("a", outcome, now);
            assert!(take(&mut agenda, now + Duration::from_secs(9)).is_empty());
            assert_eq!(take(&mut agenda, now + RETRY), ["a"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unusable_source_has_a_moment_to_become_usable() {
        let now = Instant::now();
        let mut agenda = Agenda::new("one");
        let mut waiting = all(&[("a", 1)]);
        if let Some(facts) = waiting.get_mut("a") {
            facts.unusable = Some("its Secret is being read".to_owned());
        }
        agenda.look(waiting, now);
        assert!(take(&mut agenda, now + Duration::from_secs(5)).is_empty());
        agenda.look(all(&[("a", 1)]), now);
        assert_eq!(take(&mut agenda, now), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_is_gone_is_forgotten() {
        let now = Instant::now();
        let mut agenda = Agenda::new("one");
        agenda.look(all(&[("a", 1)]), now);
        take(&mut agenda, now);
        agenda.look(all(&[]), now);
        agenda.ended("a", Outcome::Said(None), now);
        assert!(take(&mut agenda, now + PERIOD * 2).is_empty());
    }
}
