//! Connections: how many runs are under way in each lane. A run has a place in all of its lanes, or waits with none.
//!
//! **Who waits is not overtaken for ever**: whoever is first in turn and lacks a place of the node keeps one in each of its other
//! lanes free, so that two who need one lane each do not go on and on past one who needs both. A namespace that fills a lane
//! it waits for by itself keeps nothing, be it its own limit or one of the node: what it waits for is nobody else's matter.

use std::collections::BTreeMap;

use super::Lane;
use super::line::{Line, Waiter};

/// How many runs may be under way in a lane.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) lane: Lane,
    pub(super) most: u64,
}

/// Runs under way, and those that wait.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By who runs.
    running: BTreeMap<Lane, BTreeMap<String, u64>>,
    line: Line<Vec<Room>>,
}

impl Places {
    /// Whether no place is free in a lane.
    pub(super) fn is_full(&self, room: &Room) -> bool {
        self.running(&room.lane) >= room.most
    }

    /// Whether somebody has no place yet.
    pub(super) fn waits(&self, namespace: &str, number: u64) -> bool {
        self.line.has(namespace, number)
    }

    /// Puts somebody in line, who may have a place at once.
    pub(super) fn join(&mut self, namespace: &str, waiter: Waiter<Vec<Room>>) {
        self.line.join(namespace, waiter);
        self.move_on();
    }

    /// Somebody waits no more, or is done.
    pub(super) fn leave(&mut self, namespace: &str, number: u64, lanes: &[Lane]) {
        if !self.line.leave(namespace, number) {
            for lane in lanes {
                self.end(lane, namespace);
            }
        }
        self.move_on();
    }

    /// Gives places to those who are next, as long as there are any.
    fn move_on(&mut self) {
        while let Some(namespace) = self.ready() {
            let Some(waiter) = self.line.take(&namespace) else {
                return;
            };
            for Room { lane, .. } in waiter.wants {
                let running = self.running.entry(lane).or_default();
                let own = running.entry(namespace.clone()).or_default();
                *own = own.saturating_add(1);
            }
            waiter.wake.notify_one();
        }
    }

    /// The namespace whose first may begin.
    fn ready(&self) -> Option<String> {
        let mut kept: BTreeMap<&Lane, u64> = BTreeMap::new();
        for (namespace, waiter) in self.line.order() {
            let lacks = |room: &&Room| {
                let kept = kept.get(&room.lane).copied().unwrap_or_default();
                self.running(&room.lane).saturating_add(kept) >= room.most
            };
            let lacking: Vec<&Room> = waiter.wants.iter().filter(lacks).collect();
            if lacking.is_empty() {
                return Some(namespace.to_owned());
            }
            let fills = |room: &&Room| self.running_of(&room.lane, namespace) >= room.most;
            if !lacking.iter().any(fills) {
                for room in &waiter.wants {
                    let kept = kept.entry(&room.lane).or_default();
                    *kept = kept.saturating_add(1);
                }
            }
        }
        None
    }

    fn running(&self, lane: &Lane) -> u64 {
        let running = self.running.get(lane);
        running.map_or(0, |running| running.values().sum())
    }

    /// How many of them are a namespace's.
    fn running_of(&self, lane: &Lane, namespace: &str) -> u64 {
        let running = self.running.get(lane);
        let own = running.and_then(|running| running.get(namespace));
        own.copied().unwrap_or_default()
    }

    fn end(&mut self, lane: &Lane, namespace: &str) {
        let Some(running) = self.running.get_mut(lane) else {
            return;
        };
        if let Some(own) = running.get_mut(namespace) {
            *own = own.saturating_sub(1);
        }
        running.retain(|_, own| *own > 0);
        if running.is_empty() {
            self.running.remove(lane);
        }
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.line.is_empty()
    }
}
