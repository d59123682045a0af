//! Who is next: namespaces take turns, and within a namespace who came first is first. Nobody who leaves is missed.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::sync::Arc;

use tokio::sync::Notify;

/// Somebody in a line.
#[derive(Debug)]
pub(super) struct Waiter<T> {
    /// A number that nobody else has.
    pub(super) number: u64,
    /// Is told when it is time to look.
    pub(super) wake: Arc<Notify>,
    /// What they wait for.
    pub(super) wants: T,
}

/// Those who wait.
#[derive(Debug)]
pub(super) struct Line<T> {
    /// None is empty.
    queues: BTreeMap<String, VecDeque<Waiter<T>>>,
    /// Who had the last turn.
    last: Option<String>,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            queues: BTreeMap::new(),
            last: None,
        }
    }
}

impl<T> Line<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Puts somebody at the end of a namespace's queue.
    pub(super) fn join(&mut self, namespace: &str, waiter: Waiter<T>) {
        let queue = self.queues.entry(namespace.to_owned()).or_default();
        queue.push_back(waiter);
    }

    /// The first of each namespace, beginning with the one that is next.
    pub(super) fn order(&self) -> impl Iterator<Item = (&str, &Waiter<T>)> {
        let last = self.last.as_deref();
        let behind: (Bound<&str>, Bound<&str>) = (last.map_or(Unbounded, Excluded), Unbounded);
        let until = last.map(|last| {
            let until: (Bound<&str>, Bound<&str>) = (Unbounded, Included(last));
            self.queues.range::<str, _>(until)
        });
        let behind = self.queues.range::<str, _>(behind);
        behind
            .chain(until.into_iter().flatten())
            .filter_map(|(namespace, queue)| Some((namespace.as_str(), queue.front()?)))
    }

    /// Who is next.
    pub(super) fn next(&self) -> Option<(&str, &Waiter<T>)> {
        self.order().next()
    }

    /// Whether somebody stands in it.
    pub(super) fn has(&self, namespace: &str, number: u64) -> bool {
        let queue = self.queues.get(namespace);
        queue.is_some_and(|queue| queue.iter().any(|waiter| waiter.number == number))
    }

    /// It is a namespace's turn: takes its first out.
    pub(super) fn take(&mut self, namespace: &str) -> Option<Waiter<T>> {
        let queue = self.queues.get_mut(namespace)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(namespace);
        }
        self.served(namespace);
        first
    }

    /// A namespace has had its turn.
    pub(super) fn served(&mut self, namespace: &str) {
        if self.last.as_deref() != Some(namespace) {
            self.last = Some(namespace.to_owned());
        }
    }

    /// Somebody waits no more; `false` if they stood no more in it.
    pub(super) fn leave(&mut self, namespace: &str, number: u64) -> bool {
        let Some(queue) = self.queues.get_mut(namespace) else {
            return false;
        };
        let before = queue.len();
        queue.retain(|waiter| waiter.number != number);
        let has_left = queue.len() < before;
        if queue.is_empty() {
            self.queues.remove(namespace);
        }
        has_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(waiting: &[(&str, u64)]) -> Line<()> {
        let mut line = Line::default();
        for (namespace, number) in waiting {
            let waiter = Waiter {
                number: *number,
                wake: Arc::default(),
                wants: (),
            };
            line.join(namespace, waiter);
        }
        line
    }

    fn served(line: &mut Line<()>) -> Vec<u64> {
        let mut served = Vec::new();
        while let Some(namespace) = line.next().map(|(namespace, _)| namespace.to_owned()) {
            served.extend(line.take(&namespace).map(|waiter| waiter.number));
        }
        served
    }

    #[test]
    fn namespaces_take_turns_and_the_first_of_each_is_its_first() {
        let waiting = [("a", 1), ("a", 2), ("a", 3), ("c", 4), ("b", 5), ("c", 6)];
        assert_eq!(served(&mut line(&waiting)), [1, 5, 4, 2, 6, 3]);
    }

    #[test]
    fn a_turn_is_not_forgotten_by_those_who_come_later() {
        let mut line = line(&[("b", 1)]);
        assert_eq!(line.take("b").unwrap().number, 1);
        for number in [2, 3] {
            let waiter = Waiter {
                number,
                wake: Arc::default(),
                wants: (),
            };
            line.join(if number == 2 { "b" } else { "a" }, waiter);
        }
        assert_eq!(served(&mut line), [3, 2]);
    }

    #[test]
    fn who_leaves_is_not_waited_for() {
        let mut line = line(&[("a", 1), ("a", 2), ("b", 3)]);
        assert!(line.leave("a", 1));
        assert!(line.leave("b", 3) && !line.leave("b", 3));
        assert!(line.has("a", 2) && !line.has("a", 1));
        assert_eq!(served(&mut line), [2]);
        assert!(line.is_empty());
    }
}
