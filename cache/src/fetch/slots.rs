//! Who may use the next connection: one limit for all jobs of a node, shared out fairly.
//!
//! A free slot goes to the payer that holds the fewest, among its jobs to the one that holds the fewest, and
//! among equals to who asked first: many small volumes beside one huge each get their turn. The last eighth is for payers that
//! hold none, so that one whose sources send slowly, or not at all, never has everything. Slots for parts
//! of large files are bound by the buffers; those for small files only by the total, because they need a
//! buffer just while their body arrives. A request that its payer's budget or rate makes wait gives its slot back until
//! it may go on: one payer's wait is not another's.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::oneshot;

use crate::buffer::without_reserve;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// Runs of large files.
    Large,
    /// Small files.
    Small,
}

/// Who asks: the share is divided by payer, then by job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Party {
    /// Who pays.
    pub(super) payer: Arc<str>,
    /// Number of the job.
    pub(super) job: u64,
}

#[derive(Debug)]
struct Waiter {
    party: Party,
    class: Class,
    turn: oneshot::Sender<Slot>,
}

#[derive(Debug, Default)]
struct State {
    large_limit: usize,
    total_limit: usize,
    large: usize,
    total: usize,
    payers: HashMap<Arc<str>, usize>,
    jobs: HashMap<u64, usize>,
    waiters: Vec<Waiter>,
}

/// The node's connections.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    state: Arc<Mutex<State>>,
}

/// One connection in use; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    party: Party,
    class: Class,
}

impl Slots {
    /// At most `total` connections, of which at most `large` for large files.
    pub(super) fn new(large: usize, total: usize) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                large_limit: large.max(1),
                total_limit: total.max(1),
                ..State::default()
            })),
        }
    }

    /// Queues for a slot; dropping the receiver leaves the queue.
    pub(super) fn request(&self, party: Party, class: Class) -> oneshot::Receiver<Slot> {
        let (turn, receiver) = oneshot::channel();
        self.lock().waiters.push(Waiter { party, class, turn });
        self.hand_out();
        receiver
    }

    /// Takes a slot if one is free and nobody waits for it.
    pub(super) fn try_take(&self, party: Party, class: Class) -> Option<Slot> {
        self.request(party, class).try_recv().ok()
    }

    /// Raises the limit for large files.
    pub(super) fn grow_large(&self, large: usize) {
        {
            let mut state = self.lock();
            state.large_limit = state.large_limit.max(large);
        }
        self.hand_out();
    }

    /// Most connections for large files that one payer may have now.
    pub(super) fn large_share(&self) -> usize {
        without_reserve(self.lock().large_limit)
    }

    /// How many a job has.
    pub(super) fn held_by(&self, job: u64) -> usize {
        self.lock().jobs.get(&job).copied().unwrap_or_default()
    }

    #[cfg(test)]
    fn in_use(&self) -> usize {
        self.lock().total
    }

    fn hand_out(&self) {
        loop {
            let next = self.lock().take_next();
            let Some(waiter) = next else { return };
            let slot = Slot {
                slots: self.clone(),
                party: waiter.party,
                class: waiter.class,
            };
            // Who went away gives the slot back by dropping it, outside the lock.
            drop(waiter.turn.send(slot));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Waits for a permission. If it is not there at once, the slot is given back meanwhile, and queued for again when the
    /// permission has come; of what is refused, no slot is left.
    pub(super) async fn unless_waiting<T, E>(
        self,
        permission: impl Future<Output = Result<T, E>>,
    ) -> Result<(T, Option<Self>), E> {
        let mut permission = pin!(permission);
        if let Poll::Ready(answer) = futures::poll!(permission.as_mut()) {
            return answer.map(|granted| (granted, Some(self)));
        }
        let (slots, party, class) = (self.slots.clone(), self.party.clone(), self.class);
        drop(self);
        let granted = permission.await?;
        let slot = slots.request(party, class).await.ok();
        Ok((granted, slot))
    }
}

impl State {
    fn take_next(&mut self) -> Option<Waiter> {
        self.waiters.retain(|waiter| !waiter.turn.is_closed());
        let index = self.choose()?;
        let waiter = self.waiters.remove(index);
        self.total = self.total.saturating_add(1);
        if waiter.class == Class::Large {
            self.large = self.large.saturating_add(1);
        }
        add(self
            .payers
            .entry(Arc::clone(&waiter.party.payer))
            .or_default());
        add(self.jobs.entry(waiter.party.job).or_default());
        Some(waiter)
    }

    /// Index of the waiter whose turn it is.
    fn choose(&self) -> Option<usize> {
        self.waiters
            .iter()
            .enumerate()
            .filter(|(_, waiter)| self.has_room_for(waiter))
            .min_by_key(|(order, waiter)| (self.held_by(&waiter.party), *order))
            .map(|(index, _)| index)
    }

    fn has_room_for(&self, waiter: &Waiter) -> bool {
        let is_newcomer = !self.payers.contains_key(&waiter.party.payer);
        let is_below = |held: usize, limit: usize| {
            held < if is_newcomer {
                limit
            } else {
                without_reserve(limit)
            }
        };
        is_below(self.total, self.total_limit)
            && (waiter.class == Class::Small || is_below(self.large, self.large_limit))
    }

    fn held_by(&self, party: &Party) -> (usize, usize) {
        let payer = self.payers.get(&party.payer).copied().unwrap_or(0);
        let job = self.jobs.get(&party.job).copied().unwrap_or(0);
        (payer, job)
    }

    fn give_back(&mut self, party: &Party, class: Class) {
        self.total = self.total.saturating_sub(1);
        if class == Class::Large {
            self.large = self.large.saturating_sub(1);
        }
        if let Some(held) = self.payers.get_mut(&party.payer) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.payers.remove(&party.payer);
            }
        }
        if let Some(held) = self.jobs.get_mut(&party.job) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.jobs.remove(&party.job);
            }
        }
    }
}

fn add(count: &mut usize) {
    *count = count.saturating_add(1);
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().give_back(&self.party, self.class);
        self.slots.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(payer: &str, job: u64) -> Party {
        Party {
            payer: payer.into(),
            job,
        }
    }

    #[test]
    fn a_newcomer_gets_the_next_free_slot() {
        let slots = Slots::new(4, 8);
        let mut held: Vec<Slot> = (0..4)
            .map(|_| slots.try_take(party("a", 1), Class::Large).unwrap())
            .collect();
        let mut greedy = slots.request(party("a", 1), Class::Large);
        let mut newcomer = slots.request(party("b", 2), Class::Large);
        held.pop();
        let granted = newcomer.try_recv().unwrap();
        assert!(greedy.try_recv().is_err());
        drop(granted);
        assert!(greedy.try_recv().is_ok());
    }

    #[test]
    fn shares_are_even_between_payers_and_then_between_jobs() {
        // One of nine is kept for who has none.
        let slots = Slots::new(9, 9);
        let blocker: Vec<Slot> = (0..8)
            .map(|_| slots.try_take(party("z", 9), Class::Large).unwrap())
            .collect();
        let parties = [("a", 1), ("a", 2), ("a", 3), ("b", 4)];
        let mut requests: Vec<(u64, oneshot::Receiver<Slot>)> = Vec::new();
        for _ in 0..8 {
            for (payer, job) in parties {
                requests.push((job, slots.request(party(payer, job), Class::Large)));
            }
        }
        drop(blocker);
        let mut counts: HashMap<u64, usize> = HashMap::new();
        let granted: Vec<Slot> = requests
            .iter_mut()
            .filter_map(|(job, request)| {
                let slot = request.try_recv().ok()?;
                *counts.entry(*job).or_default() += 1;
                Some(slot)
            })
            .collect();
        assert_eq!(granted.len(), 8);
        assert_eq!(counts[&4], 4);
        assert_eq!(counts[&1] + counts[&2] + counts[&3], 4);
        assert!(counts.values().all(|held| *held >= 1));
    }

    #[test]
    fn the_last_slots_are_for_payers_that_hold_none() {
        let slots = Slots::new(16, 32);
        let take = |payer, class| slots.try_take(party(payer, 1), class);
        let large: Vec<Slot> = (0..16).map_while(|_| take("a", Class::Large)).collect();
        assert_eq!((large.len(), slots.large_share()), (14, 14));
        let small: Vec<Slot> = (0..32).map_while(|_| take("a", Class::Small)).collect();
        assert_eq!(small.len(), 14);
        let newcomer = take("b", Class::Large).unwrap();
        assert!(take("b", Class::Large).is_none(), "it has one");
        let other = take("c", Class::Large).unwrap();
        assert!(take("d", Class::Large).is_none(), "there is none");
        let _small = (take("d", Class::Small).unwrap(), take("e", Class::Small));
        drop((newcomer, other));
        assert!(take("a", Class::Large).is_none());
    }

    #[test]
    fn small_files_pass_a_full_house_of_large_ones() {
        let slots = Slots::new(1, 3);
        let _large = slots.try_take(party("a", 1), Class::Large).unwrap();
        assert!(slots.try_take(party("a", 1), Class::Large).is_none());
        let _one = slots.try_take(party("a", 1), Class::Small).unwrap();
        let _two = slots.try_take(party("a", 1), Class::Small).unwrap();
        assert!(slots.try_take(party("a", 1), Class::Small).is_none());
        assert_eq!(slots.in_use(), 3);
    }

    #[test]
    fn who_leaves_the_queue_keeps_nothing() {
        let slots = Slots::new(1, 1);
        let held = slots.try_take(party("a", 1), Class::Large).unwrap();
        drop(slots.request(party("a", 2), Class::Large));
        let mut waiting = slots.request(party("a", 3), Class::Large);
        drop(held);
        drop(waiting.try_recv().unwrap());
        drop(slots.request(party("a", 4), Class::Large));
        assert_eq!(slots.in_use(), 0);
    }

    #[tokio::test]
    async fn who_waits_for_a_permission_gives_the_slot_back_until_it_is_there() {
        let slots = Slots::new(1, 1);
        let slot = slots.try_take(party("a", 1), Class::Large).unwrap();
        let (grant, permission) = oneshot::channel::<&str>();
        let mut waiting = Box::pin(slot.unless_waiting(permission));
        assert!(futures::poll!(&mut waiting).is_pending());
        let other = slots.try_take(party("b", 2), Class::Large).unwrap();
        grant.send("granted").unwrap();
        assert!(futures::poll!(&mut waiting).is_pending(), "b has the slot");
        drop(other);
        let (granted, slot) = waiting.await.unwrap();
        assert_eq!((granted, slots.in_use()), ("granted", 1));
        let at_once = std::future::ready(Ok::<_, ()>(1));
        let (one, slot) = slot.unwrap().unless_waiting(at_once).await.unwrap();
        assert_eq!((one, slots.in_use()), (1, 1));
        let refused = std::future::ready(Err::<(), _>("no"));
        assert_eq!(
            slot.unwrap().unless_waiting(refused).await.unwrap_err(),
            "no"
        );
        assert_eq!(slots.in_use(), 0);
    }

    #[test]
    fn growing_lets_waiters_in() {
        let slots = Slots::new(1, 4);
        let _held = slots.try_take(party("a", 1), Class::Large).unwrap();
        let mut waiting = slots.request(party("a", 1), Class::Large);
        slots.grow_large(2);
        assert!(waiting.try_recv().is_ok());
    }
}
