//! What is known on a node, and what it comes to. No locks, no waiting: whoever calls has the lock.

use std::collections::{BTreeMap, HashMap};
use std::slice::from_ref;
use std::sync::Arc;

use super::place::is_at;
use super::retained::Retained;
use super::{Asked, Look, Refused, Rule, Rules, Shown, WaiterId};
use crate::egress::quota::{Exceeded, Place, Quota, Usage, decide};
use crate::egress::reservation::Claim;
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
    /// Bytes for which there is room that is not set aside for this node yet.
    pub(super) wish: Option<Wish>,
    /// Why they were not. Such a seat uses nothing.
    pub(super) refusal: Option<Refused>,
    /// How many stays hold it.
    pub(super) stays: usize,
}

impl Seat {
    /// Bytes that were let in or wait for the controller.
    pub(super) fn asked(&self) -> Option<u64> {
        self.bytes.or(self.wish.as_ref().map(|wish| wish.bytes))
    }
}

/// What waits for the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    bytes: u64,
    /// Name of the quota that is to set it aside.
    quota: String,
}

/// What became of all who wait for a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Somebody may have it.
    Go,
    /// Nobody yet.
    Waits,
    /// Nobody.
    Refused(Refused),
}

/// Why a volume is not let in.
enum No {
    Exceeded(Exceeded),
    /// This quota has room, and has not set it aside.
    NotYet(String),
}

impl From<Exceeded> for No {
    fn from(exceeded: Exceeded) -> Self {
        Self::Exceeded(exceeded)
    }
}

pub(super) struct State {
    /// `None` until they were read.
    pub(super) rules: Option<Rules>,
    pub(super) seats: HashMap<WaiterId, Seat>,
    pub(super) retained: Vec<Retained>,
    /// Whether that was looked at: what is here is not known before.
    pub(super) has_looked: bool,
    pub(super) look: Option<Arc<Look>>,
    /// The highest number of a report of this node that others may know of; `None` until that is known.
    pub(super) floor: Option<u64>,
    /// What was reported of namespaces. It stays as long as the service runs: numbers never come twice.
    pub(super) claims: BTreeMap<String, Claim>,
    serial: u64,
}

/// A volume that is decided about.
pub(super) struct Candidate<'a> {
    /// In the order of coming; beyond all others while it has no seat.
    serial: u64,
    namespace: &'a str,
    volume: &'a VolumeId,
    place: &'a str,
    /// Bytes that it shows, once they are known.
    bytes: Option<u64>,
}

impl State {
    pub(super) fn new(rules: Option<Rules>) -> Self {
        Self {
            rules,
            seats: HashMap::new(),
            retained: Vec::new(),
            has_looked: false,
            look: None,
            floor: None,
            claims: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Returns the serial of the waiter's seat, and whether it waits for the controller.
    pub(super) fn enter(&mut self, asked: Asked) -> Result<(u64, bool), Refused> {
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
            return Ok((seat.serial, seat.wish.is_some()));
        }
        self.seats.remove(&waiter);
        // Of a load that runs for others, the size is known already.
        let mut fellows = self.seats.values().filter(|seat| seat.load == load);
        let bytes = fellows.find_map(Seat::asked);
        let candidate = Candidate {
            serial: u64::MAX,
            namespace: &namespace,
            volume: &waiter.volume,
            place: &place,
            bytes,
        };
        let (bytes, wish) = match self.check(&candidate) {
            Ok(()) => (bytes, None),
            Err(No::Exceeded(exceeded)) => return Err(exceeded.into()),
            Err(No::NotYet(quota)) => (None, bytes.map(|bytes| Wish { bytes, quota })),
        };
        self.serial = self.serial.saturating_add(1);
        let waits = wish.is_some();
        let seat = Seat {
            load,
            namespace,
            place,
            serial: self.serial,
            bytes,
            wish,
            refusal: None,
            stays: 1,
        };
        self.seats.insert(waiter, seat);
        Ok((self.serial, waits))
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

    /// Decides about all who wait for a load, in the order of their coming.
    pub(super) fn sized(&mut self, load: &str, bytes: u64) -> Outcome {
        let waiting = self.waiting(|seat| seat.load == load);
        let outcomes: Vec<Outcome> = waiting
            .iter()
            .map(|waiter| self.settle(waiter, bytes))
            .collect();
        for happy in [Outcome::Go, Outcome::Waits] {
            if outcomes.contains(&happy) {
                return happy;
            }
        }
        outcomes.into_iter().next().unwrap_or(Outcome::Go)
    }

    /// Decides again about all for whom nothing was set aside yet.
    pub(super) fn reconsider(&mut self) {
        for waiter in self.waiting(|seat| seat.wish.is_some()) {
            let wish = self.seats.get(&waiter).and_then(|seat| seat.wish.as_ref());
            if let Some(bytes) = wish.map(|wish| wish.bytes) {
                self.settle(&waiter, bytes);
            }
        }
    }

    /// Lets some who wait for the controller wait no longer.
    pub(super) fn give_up(&mut self, is_it: impl Fn(&WaiterId, &Seat) -> bool) {
        for (waiter, seat) in &mut self.seats {
            if is_it(waiter, seat)
                && let Some(Wish { bytes: _, quota }) = seat.wish.take()
            {
                seat.refusal = Some(Refused::NotSetAside { quota });
            }
        }
    }

    /// Those who wait, in the order of their coming.
    fn waiting(&self, is_it: impl Fn(&Seat) -> bool) -> Vec<WaiterId> {
        let waiting = self.seats.iter().filter(|(_, seat)| is_it(seat));
        let mut waiting: Vec<(u64, &WaiterId)> = waiting
            .map(|(waiter, seat)| (seat.serial, waiter))
            .collect();
        waiting.sort_by_key(|(serial, _)| *serial);
        waiting
            .into_iter()
            .map(|(_, waiter)| waiter.clone())
            .collect()
    }

    /// Decides about one waiter; what was decided before stays.
    pub(super) fn settle(&mut self, waiter: &WaiterId, bytes: u64) -> Outcome {
        let Some(seat) = self.seats.get(waiter).cloned() else {
            return Outcome::Go;
        };
        if let Some(refused) = seat.refusal {
            return Outcome::Refused(refused);
        }
        if seat.bytes == Some(bytes) {
            return Outcome::Go;
        }
        let decided = self.check(&Candidate {
            serial: seat.serial,
            namespace: &seat.namespace,
            volume: &waiter.volume,
            place: &seat.place,
            bytes: Some(bytes),
        });
        let (bytes, wish, outcome) = match decided {
            Ok(()) => (Some(bytes), None, Outcome::Go),
            Err(No::NotYet(quota)) => (None, Some(Wish { bytes, quota }), Outcome::Waits),
            Err(No::Exceeded(exceeded)) => (None, None, Outcome::Refused(exceeded.into())),
        };
        if let Some(seat) = self.seats.get_mut(waiter) {
            seat.bytes = bytes;
            seat.wish = wish;
            if let Outcome::Refused(refused) = &outcome {
                seat.refusal = Some(refused.clone());
            }
        }
        outcome
    }

    /// The quotas of a namespace, if it has some.
    pub(super) fn rules_of(&self, namespace: &str) -> Option<&BTreeMap<String, Rule>> {
        self.rules.as_ref()?.get(namespace)
    }

    pub(super) fn refusal(&self, waiter: &WaiterId) -> Option<Refused> {
        self.seats.get(waiter)?.refusal.clone()
    }

    /// Whether a namespace may have this volume beside all others that it has.
    fn check(&self, candidate: &Candidate<'_>) -> Result<(), No> {
        let bytes = candidate.bytes;
        let Some(rules) = self.rules_of(candidate.namespace) else {
            return Ok(());
        };
        let shown = self.shown();
        let is_it =
            |it: &Shown| it.namespace == candidate.namespace && it.volume == *candidate.volume;
        if shown.iter().any(is_it) {
            return Ok(());
        }
        let used = |of: &dyn Fn(&Seat) -> Option<u64>| {
            self.usage(&shown, candidate.namespace, of, Some(candidate))
        };
        // A volume whose bytes are not known yet is one, too.
        let all = used(&|seat| Some(seat.bytes.unwrap_or(0)));
        let quotas: Vec<Quota> = rules.values().map(|rule| rule.quota.clone()).collect();
        decide(&quotas, Place::Node, all, bytes.unwrap_or(0))?;
        if !rules.values().any(Rule::counts_the_cluster) {
            return Ok(());
        }
        // Who came earlier and waits comes first: of two for which there is room for one, one is refused.
        let ahead = used(&|seat| {
            if seat.serial < candidate.serial {
                seat.asked().or(Some(0))
            } else {
                seat.bytes
            }
        });
        let wants = bytes.map(|bytes| used(&|seat| seat.bytes).plus(Usage::volume(bytes)));
        let claim = self.claims.get(candidate.namespace);
        let mut not_yet = None;
        for rule in rules.values() {
            let Some(most) = rule.cluster() else {
                continue;
            };
            let quota = from_ref(&rule.quota);
            let everywhere = ahead.plus(rule.elsewhere);
            decide(quota, Place::Cluster, everywhere, bytes.unwrap_or(0))?;
            let usable = claim.map_or(Usage::NONE, |claim| claim.usable(rule.row));
            if wants.is_some_and(|wants| !most.limited(wants).fits(usable)) {
                not_yet.get_or_insert_with(|| rule.quota.name.clone());
            }
        }
        not_yet.map_or(Ok(()), |quota| Err(No::NotYet(quota)))
    }

    /// What a namespace uses here, a candidate aside, whose place is then taken as shown. Seats have bytes as `of` says, and those of which
    /// it says nothing use nothing. Of a place at which more is retained than shown, the larger number counts: it is what is left when the volume goes.
    pub(super) fn usage(
        &self,
        shown: &[Shown],
        namespace: &str,
        of: impl Fn(&Seat) -> Option<u64>,
        aside: Option<&Candidate<'_>>,
    ) -> Usage {
        let mut volumes: BTreeMap<&VolumeId, u64> = BTreeMap::new();
        let mut places: BTreeMap<&str, BTreeMap<&VolumeId, u64>> = BTreeMap::new();
        let at_least = |known: &mut u64, bytes: u64| *known = bytes.max(*known);
        let mut add = |volume, place, bytes| {
            at_least(volumes.entry(volume).or_default(), bytes);
            let shown = places.entry(place).or_default();
            at_least(shown.entry(volume).or_default(), bytes);
        };
        for it in shown.iter().filter(|it| it.namespace == namespace) {
            add(&it.volume, it.place.as_str(), it.bytes);
        }
        for (waiter, seat) in &self.seats {
            if seat.namespace == namespace
                && seat.refusal.is_none()
                && let Some(bytes) = of(seat)
            {
                add(&waiter.volume, seat.place.as_str(), bytes);
            }
        }
        if let Some(aside) = aside {
            volumes.remove(aside.volume);
            let shown = places.entry(aside.place).or_default();
            at_least(
                shown.entry(aside.volume).or_default(),
                aside.bytes.unwrap_or(u64::MAX),
            );
        }
        let mut used = Usage::default();
        let mut add = |bytes: u64, volumes: u64| {
            used.logical_bytes = used.logical_bytes.saturating_add(bytes);
            used.volumes = used.volumes.saturating_add(volumes);
        };
        for bytes in volumes.into_values() {
            add(bytes, 1);
        }
        // Of what is shown of a place, what hides no retained content yet.
        let mut hiding: BTreeMap<&str, u64> = places
            .into_iter()
            .map(|(place, shown)| (place, shown.into_values().fold(0, u64::saturating_add)))
            .collect();
        let own = |it: &&Retained| it.namespaces.contains(namespace);
        for it in self.retained.iter().filter(own) {
            let (mut rest, mut is_shown) = (it.bytes, false);
            for (_, left) in hiding
                .iter_mut()
                .filter(|(at, _)| is_at(&it.place, namespace, at))
            {
                let hidden = rest.min(*left);
                rest = rest.saturating_sub(hidden);
                *left = left.saturating_sub(hidden);
                is_shown = true;
            }
            add(rest, u64::from(!is_shown));
        }
        used
    }

    pub(super) fn shown(&self) -> Vec<Shown> {
        self.look.as_ref().map_or_else(Vec::new, |look| look())
    }
}
