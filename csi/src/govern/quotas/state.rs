//! What is known on a node, and what it comes to. No locks, no waiting: whoever calls has the lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::slice::from_ref;
use std::sync::Arc;

use super::place::is_at;
use super::retained::Retained;
use super::{Asked, Look, Refused, Rule, Rules, Shown, Use, WaiterId};
use crate::egress::quota::{Exceeded, Place, Quota, Usage, decide};
use crate::volume::VolumeId;

/// The place of a waiter among those who use something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) load: String,
    pub(super) namespace: String,
    pub(super) place: String,
    /// In the order of coming.
    pub(super) serial: u64,
    /// Bytes that were let in; `None` while they are not known.
    pub(super) bytes: Option<u64>,
    /// Why they were not. Such a seat uses nothing.
    pub(super) refusal: Option<Exceeded>,
    /// How many stays hold it.
    pub(super) stays: usize,
}

pub(super) struct State {
    /// `None` until they were read.
    pub(super) rules: Option<Rules>,
    pub(super) seats: HashMap<WaiterId, Seat>,
    pub(super) retained: Vec<Retained>,
    pub(super) look: Option<Arc<Look>>,
    serial: u64,
}

/// A volume that is decided about.
struct Candidate<'a> {
    namespace: &'a str,
    volume: &'a VolumeId,
    place: &'a str,
}

impl State {
    pub(super) fn new(rules: Option<Rules>) -> Self {
        Self {
            rules,
            seats: HashMap::new(),
            retained: Vec::new(),
            look: None,
            serial: 0,
        }
    }

    /// Returns the serial of the waiter's seat.
    pub(super) fn enter(&mut self, asked: Asked) -> Result<u64, Refused> {
        if self.rules.is_none() {
            return Err(Refused::Unread);
        }
        let Asked {
            waiter,
            load,
            namespace,
            place,
        } = asked;
        if let Some(seat) = self.seats.get_mut(&waiter)
            && (&seat.load, &seat.namespace, &seat.refusal) == (&load, &namespace, &None)
        {
            seat.stays = seat.stays.saturating_add(1);
            return Ok(seat.serial);
        }
        self.seats.remove(&waiter);
        // Of a load that runs for others, the size is known already.
        let mut fellows = self.seats.values().filter(|seat| seat.load == load);
        let bytes = fellows.find_map(|seat| seat.bytes);
        let candidate = Candidate {
            namespace: &namespace,
            volume: &waiter.volume,
            place: &place,
        };
        self.check(&candidate, bytes.unwrap_or(0))?;
        self.serial = self.serial.saturating_add(1);
        let seat = Seat {
            load,
            namespace,
            place,
            serial: self.serial,
            bytes,
            refusal: None,
            stays: 1,
        };
        self.seats.insert(waiter, seat);
        Ok(self.serial)
    }

    /// Ends a stay; says whether that was the seat's last.
    pub(super) fn leave(&mut self, waiter: &WaiterId, serial: u64) -> bool {
        let seat = self.seats.get_mut(waiter);
        // Another seat may have taken its place.
        let Some(seat) = seat.filter(|seat| seat.serial == serial) else {
            return false;
        };
        seat.stays = seat.stays.saturating_sub(1);
        let is_last = seat.stays == 0;
        if is_last {
            self.seats.remove(waiter);
        }
        is_last
    }

    /// Decides about all who wait for a load, in the order of their coming. An error if none of them is left.
    pub(super) fn sized(&mut self, load: &str, bytes: u64) -> Result<(), Exceeded> {
        let waiting = self.seats.iter().filter(|(_, seat)| seat.load == load);
        let mut waiting: Vec<(u64, WaiterId)> = waiting
            .map(|(waiter, seat)| (seat.serial, waiter.clone()))
            .collect();
        waiting.sort_by_key(|(serial, _)| *serial);
        let outcomes: Vec<_> = waiting
            .iter()
            .map(|(_, waiter)| self.settle(waiter, bytes))
            .collect();
        if outcomes.iter().any(Result::is_ok) {
            return Ok(());
        }
        outcomes.into_iter().next().unwrap_or(Ok(()))
    }

    /// Decides about one waiter; what was decided before stays.
    fn settle(&mut self, waiter: &WaiterId, bytes: u64) -> Result<(), Exceeded> {
        let Some(seat) = self.seats.get(waiter).cloned() else {
            return Ok(());
        };
        if let Some(exceeded) = seat.refusal {
            return Err(exceeded);
        }
        if seat.bytes == Some(bytes) {
            return Ok(());
        }
        let decided = self.check(
            &Candidate {
                namespace: &seat.namespace,
                volume: &waiter.volume,
                place: &seat.place,
            },
            bytes,
        );
        if let Some(seat) = self.seats.get_mut(waiter) {
            seat.bytes = decided.is_ok().then_some(bytes);
            seat.refusal = decided.clone().err();
        }
        decided
    }

    pub(super) fn refusal(&self, waiter: &WaiterId) -> Option<Exceeded> {
        self.seats.get(waiter)?.refusal.clone()
    }

    /// Whether a namespace may have this volume with so many bytes, beside all others that it has.
    fn check(&self, candidate: &Candidate<'_>, bytes: u64) -> Result<(), Exceeded> {
        let rules = self.rules.as_ref();
        let Some(rules) = rules.and_then(|rules| rules.get(candidate.namespace)) else {
            return Ok(());
        };
        let shown = self.shown();
        let is_it =
            |it: &Shown| it.namespace == candidate.namespace && it.volume == *candidate.volume;
        if shown.iter().any(is_it) {
            return Ok(());
        }
        let used = self.usage(&shown, candidate.namespace, Some(candidate));
        let quotas: Vec<Quota> = rules.values().map(|rule| rule.quota.clone()).collect();
        decide(&quotas, Place::Node, used, bytes)?;
        for Rule { quota, elsewhere } in rules.values() {
            let logical_bytes = used.logical_bytes.saturating_add(*elsewhere);
            let everywhere = Usage {
                logical_bytes,
                ..used
            };
            decide(from_ref(quota), Place::Cluster, everywhere, bytes)?;
        }
        Ok(())
    }

    /// What a namespace uses here, a candidate aside, whose place is then taken as shown.
    fn usage(&self, shown: &[Shown], namespace: &str, aside: Option<&Candidate<'_>>) -> Usage {
        let mut volumes: BTreeMap<&VolumeId, u64> = BTreeMap::new();
        let mut places: BTreeSet<&str> = BTreeSet::new();
        let mut add = |volume, place, bytes: u64| {
            let known = volumes.entry(volume).or_default();
            *known = bytes.max(*known);
            places.insert(place);
        };
        for it in shown.iter().filter(|it| it.namespace == namespace) {
            add(&it.volume, it.place.as_str(), it.bytes);
        }
        for (waiter, seat) in &self.seats {
            if seat.namespace == namespace && seat.refusal.is_none() {
                add(&waiter.volume, seat.place.as_str(), seat.bytes.unwrap_or(0));
            }
        }
        if let Some(aside) = aside {
            volumes.remove(aside.volume);
            places.insert(aside.place);
        }
        let is_shown = |it: &Retained| places.iter().any(|at| is_at(&it.place, namespace, at));
        let retained = self
            .retained
            .iter()
            .filter(|it| it.namespaces.contains(namespace) && !is_shown(it));
        let retained = retained.map(|it| it.bytes);
        let (mut logical_bytes, mut count) = (0u64, 0u64);
        for bytes in volumes.into_values().chain(retained) {
            logical_bytes = logical_bytes.saturating_add(bytes);
            count = count.saturating_add(1);
        }
        Usage {
            logical_bytes,
            volumes: count,
        }
    }

    pub(super) fn uses(&self) -> Vec<Use> {
        let shown = self.shown();
        let mut contents: BTreeMap<&str, BTreeSet<_>> = BTreeMap::new();
        for it in &shown {
            contents
                .entry(&it.namespace)
                .or_default()
                .insert(it.manifest);
        }
        for it in &self.retained {
            for namespace in &it.namespaces {
                contents.entry(namespace).or_default().insert(it.manifest);
            }
        }
        for seat in self.seats.values().filter(|seat| seat.refusal.is_none()) {
            contents.entry(&seat.namespace).or_default();
        }
        let is_governed = |namespace: &str| {
            let rules = self.rules.as_ref().and_then(|rules| rules.get(namespace));
            rules.is_some_and(|rules| !rules.is_empty())
        };
        let uses = contents.into_iter().map(|(namespace, contents)| Use {
            namespace: namespace.to_owned(),
            usage: self.usage(&shown, namespace, None),
            contents,
            is_governed: is_governed(namespace),
        });
        uses.collect()
    }

    pub(super) fn counts_the_cluster(&self) -> bool {
        let Some(rules) = &self.rules else {
            return false;
        };
        let counts = |namespace: &String| {
            let rules = rules.get(namespace);
            rules.is_some_and(|rules| rules.values().any(Rule::counts_the_cluster))
        };
        let mut seated = self.seats.values().map(|seat| &seat.namespace);
        seated.any(counts) || self.shown().iter().map(|it| &it.namespace).any(counts)
    }

    fn shown(&self) -> Vec<Shown> {
        self.look.as_ref().map_or_else(Vec::new, |look| look())
    }
}
