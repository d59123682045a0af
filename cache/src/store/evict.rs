//! Which thing goes next: a pure choice over what may go at all.
//!
//! The order is: downloads that are too old; then, as long as the objects without links do not suffice, the view
//! that was released longest ago (its objects may lose their last link by that); then objects without links, those
//! that lost their last link longest ago first; at last downloads that nobody is writing. Nothing that is held is in
//! the stock, so nothing held can be chosen.
//!
//! Cost: making a stock is linear in what is in it. A step costs the logarithm of that for each thing that it names; one that
//! may name more than a sixteenth of the objects sorts them, which is cheaper than taking so many one by one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::digest::Digest;

/// How much to free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub files: u64,
    /// Also downloads that are neither expired nor being written.
    pub idle_partials: bool,
}

impl Goal {
    /// Only what has expired.
    pub const EXPIRED: Self = Self {
        bytes: 0,
        files: 0,
        idle_partials: false,
    };

    /// Everything that is not held, downloads that may be resumed included.
    pub const ALL: Self = Self {
        bytes: u64::MAX,
        files: u64::MAX,
        idle_partials: true,
    };

    /// At least this many bytes, if that can be done.
    pub const fn bytes(bytes: u64) -> Self {
        Self {
            bytes,
            files: 0,
            idle_partials: true,
        }
    }

    /// What is left to free.
    #[must_use]
    pub fn minus(self, freed: &Freed) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(freed.bytes),
            files: self.files.saturating_sub(freed.files),
            ..self
        }
    }

    fn is_met(&self) -> bool {
        self.bytes == 0 && self.files == 0
    }
}

/// What was freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Freed {
    /// Bytes of disk.
    pub bytes: u64,
    /// Inodes.
    pub files: u64,
    /// Unfinished downloads removed.
    pub partials: u64,
    /// Views removed.
    pub views: u64,
    /// Objects removed.
    pub objects: u64,
}

/// A download. The order is that of going: least is the one without progress for longest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdlePartial {
    /// Last progress, milliseconds since 1970.
    pub written_millis: u64,
    /// Its directory's name.
    pub name: String,
    /// Bytes of disk.
    pub bytes: u64,
    /// It is past its time to live.
    pub expired: bool,
}

/// A view without lease. The order is that of going: least is the one released longest ago.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdleView {
    /// When its last lease ended, milliseconds since 1970.
    pub released_millis: u64,
    /// Its directory's name.
    pub name: String,
    /// Its content.
    pub manifest: Digest,
}

/// An object without links. The order is that of going: least is the one without links for longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LooseObject {
    /// When it lost its last link, milliseconds since 1970.
    pub since_millis: u64,
    /// Its name.
    pub digest: Digest,
    /// Bytes of disk.
    pub bytes: u64,
}

/// What may go.
#[derive(Debug, Clone, Default)]
pub struct Stock {
    expired: Vec<IdlePartial>,
    partials: Queue<IdlePartial>,
    views: Queue<IdleView>,
    objects: Queue<LooseObject>,
    /// Bytes of `objects`; wide, so that no sum of sizes overflows.
    loose_bytes: u128,
}

/// Gives the least first.
type Queue<T> = BinaryHeap<Reverse<T>>;

/// The next thing to do. What a step names is no longer in the stock, done or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Remove these downloads.
    Partials(Vec<IdlePartial>),
    /// Remove this view, and add those of its objects that lost their last link to the stock.
    View(IdleView),
    /// Remove these objects.
    Objects(Vec<LooseObject>),
    /// The goal is met, or nothing is left.
    Done,
}

impl Stock {
    /// Downloads that nobody is writing, views without lease, and objects without links or claims.
    pub fn new(
        partials: Vec<IdlePartial>,
        views: Vec<IdleView>,
        objects: Vec<LooseObject>,
    ) -> Self {
        let (expired, partials) = partials.into_iter().partition(|partial| partial.expired);
        Self {
            expired,
            partials: queue(partials),
            views: queue(views),
            loose_bytes: objects.iter().map(|object| u128::from(object.bytes)).sum(),
            objects: queue(objects),
        }
    }

    /// Adds objects that have lost their last link.
    pub fn add_objects(&mut self, objects: impl IntoIterator<Item = LooseObject>) {
        for object in objects {
            self.loose_bytes = self.loose_bytes.saturating_add(object.bytes.into());
            self.objects.push(Reverse(object));
        }
    }

    fn suffices(&self, goal: &Goal) -> bool {
        self.loose_bytes >= goal.bytes.into() && self.objects.len() as u64 >= goal.files
    }

    fn take_objects(&mut self, goal: &Goal) -> Vec<LooseObject> {
        if !self.is_much(goal) {
            return self.take_while_wanted(goal, |stock| stock.objects.pop());
        }
        let mut sorted = std::mem::take(&mut self.objects).into_vec();
        // From here on the least is last.
        sorted.sort_unstable();
        let taken = self.take_while_wanted(goal, |_| sorted.pop());
        self.objects = sorted.into();
        taken
    }

    fn take_while_wanted(
        &mut self,
        goal: &Goal,
        mut next: impl FnMut(&mut Self) -> Option<Reverse<LooseObject>>,
    ) -> Vec<LooseObject> {
        let mut freed = Freed::default();
        let mut taken = Vec::new();
        while !goal.minus(&freed).is_met()
            && let Some(Reverse(object)) = next(self)
        {
            freed.bytes = freed.bytes.saturating_add(object.bytes);
            freed.files = freed.files.saturating_add(1);
            self.loose_bytes = self.loose_bytes.saturating_sub(object.bytes.into());
            taken.push(object);
        }
        taken
    }

    /// Whether a goal wants more than a sixteenth of the objects or of their bytes.
    fn is_much(&self, goal: &Goal) -> bool {
        u128::from(goal.bytes) > self.loose_bytes / 16
            || goal.files > self.objects.len() as u64 / 16
    }

    /// At least one, so that missing inodes are freed, too.
    fn take_partials(&mut self, goal: &Goal) -> Vec<IdlePartial> {
        let mut bytes = 0u64;
        let mut taken = Vec::new();
        while bytes < goal.bytes.max(1)
            && let Some(Reverse(partial)) = self.partials.pop()
        {
            bytes = bytes.saturating_add(partial.bytes);
            taken.push(partial);
        }
        taken
    }
}

fn queue<T: Ord>(things: Vec<T>) -> Queue<T> {
    things.into_iter().map(Reverse).collect()
}

/// Takes the next step's things out of the stock.
pub fn choose(stock: &mut Stock, goal: &Goal) -> Step {
    if !stock.expired.is_empty() {
        return Step::Partials(std::mem::take(&mut stock.expired));
    }
    if goal.is_met() {
        return Step::Done;
    }
    if !stock.suffices(goal)
        && let Some(Reverse(view)) = stock.views.pop()
    {
        return Step::View(view);
    }
    if !stock.objects.is_empty() {
        return Step::Objects(stock.take_objects(goal));
    }
    if goal.idle_partials && !stock.partials.is_empty() {
        return Step::Partials(stock.take_partials(goal));
    }
    Step::Done
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn partial(name: &str, bytes: u64, expired: bool) -> IdlePartial {
        IdlePartial {
            name: name.to_owned(),
            bytes,
            written_millis: bytes,
            expired,
        }
    }

    fn view(name: &str, released_millis: u64) -> IdleView {
        IdleView {
            name: name.to_owned(),
            manifest: Digest::of(name.as_bytes()),
            released_millis,
        }
    }

    fn object(n: u64, bytes: u64) -> LooseObject {
        LooseObject {
            digest: Digest::of(&n.to_le_bytes()),
            bytes,
            since_millis: n,
        }
    }

    #[test]
    fn the_order_is_expired_then_view_then_objects_then_idle_downloads() {
        let mut stock = Stock::new(
            vec![partial("old", 5, true), partial("new", 7, false)],
            vec![view("b", 20), view("a", 10)],
            vec![object(2, 3), object(1, 3)],
        );
        let goal = Goal::bytes(100);
        let expected = [
            Step::Partials(vec![partial("old", 5, true)]),
            Step::View(view("a", 10)),
            Step::View(view("b", 20)),
            Step::Objects(vec![object(1, 3), object(2, 3)]),
            Step::Partials(vec![partial("new", 7, false)]),
            Step::Done,
        ];
        for step in expected {
            assert_eq!(choose(&mut stock, &goal), step);
        }
    }

    #[test]
    fn no_view_goes_while_loose_objects_suffice() {
        let objects = (0..10).map(|n| object(n, 10)).collect();
        let mut stock = Stock::new(Vec::new(), vec![view("a", 1)], objects);
        let step = choose(&mut stock, &Goal::bytes(25));
        assert_eq!(step, Step::Objects((0..3).map(|n| object(n, 10)).collect()));
        assert_eq!(choose(&mut stock, &Goal::bytes(0)), Step::Done);
        let step = choose(&mut stock, &Goal::bytes(71));
        assert_eq!(step, Step::View(view("a", 1)));
    }

    #[test]
    fn objects_that_a_view_lets_go_are_counted_and_take_their_turn() {
        let mut stock = Stock::new(Vec::new(), vec![view("a", 1)], vec![object(2, 10)]);
        let goal = Goal::bytes(20);
        assert_eq!(choose(&mut stock, &goal), Step::View(view("a", 1)));
        stock.add_objects([object(3, 10), object(1, 10)]);
        let step = choose(&mut stock, &goal);
        assert_eq!(step, Step::Objects(vec![object(1, 10), object(2, 10)]));
    }

    #[test]
    fn missing_inodes_are_freed_too() {
        let objects = (0..10).map(|n| object(n, 0)).collect();
        let mut stock = Stock::new(Vec::new(), Vec::new(), objects);
        let goal = Goal {
            bytes: 0,
            files: 4,
            idle_partials: false,
        };
        assert_eq!(
            choose(&mut stock, &goal),
            Step::Objects((0..4).map(|n| object(n, 0)).collect())
        );
    }

    #[test]
    fn of_a_million_objects_the_oldest_go() {
        let since = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let objects = (0..1_000_000u64).map(|n| LooseObject {
            since_millis: since(n),
            digest: Digest::from_bytes([n.to_le_bytes(); 4].concat().try_into().unwrap()),
            bytes: 4096,
        });
        let mut stock = Stock::new(Vec::new(), Vec::new(), objects.collect());
        let Step::Objects(gone) = choose(&mut stock, &Goal::bytes(4096 * 400_000)) else {
            panic!("objects suffice");
        };
        let mut times: Vec<u64> = (0..1_000_000).map(since).collect();
        times.sort_unstable();
        times.truncate(400_000);
        assert_eq!(
            gone.iter().map(|o| o.since_millis).collect::<Vec<_>>(),
            times
        );
        assert_eq!(stock.objects.len(), 600_000);
    }

    /// The order of eviction as it is written in `docs/layout.md`: looks at everything for every step.
    #[derive(Debug, Default)]
    struct Plain {
        partials: Vec<IdlePartial>,
        views: Vec<IdleView>,
        objects: Vec<LooseObject>,
    }

    impl Plain {
        fn choose(&mut self, goal: &Goal) -> Step {
            let expired: Vec<_> = self.partials.extract_if(.., |it| it.expired).collect();
            if !expired.is_empty() {
                return Step::Partials(expired);
            }
            if goal.bytes == 0 && goal.files == 0 {
                return Step::Done;
            }
            let loose: u64 = self.objects.iter().map(|object| object.bytes).sum();
            let suffices = loose >= goal.bytes && self.objects.len() as u64 >= goal.files;
            self.views
                .sort_by_key(|it| (it.released_millis, it.name.clone()));
            if !suffices && !self.views.is_empty() {
                return Step::View(self.views.remove(0));
            }
            self.objects.sort_by_key(|it| (it.since_millis, it.digest));
            if !self.objects.is_empty() {
                let (mut bytes, mut files) = (0, 0);
                let gone = self.objects.extract_if(.., |object| {
                    let wanted = bytes < goal.bytes || files < goal.files;
                    bytes += object.bytes;
                    files += 1;
                    wanted
                });
                return Step::Objects(gone.collect());
            }
            self.partials
                .sort_by_key(|it| (it.written_millis, it.name.clone()));
            if goal.idle_partials && !self.partials.is_empty() {
                let mut bytes = 0;
                let gone = self.partials.extract_if(.., |partial| {
                    let wanted = bytes < goal.bytes.max(1);
                    bytes += partial.bytes;
                    wanted
                });
                return Step::Partials(gone.collect());
            }
            Step::Done
        }
    }

    /// What is chosen from: downloads, views, and objects with those that each view lets go.
    fn plains() -> impl Strategy<Value = (Plain, Vec<Vec<LooseObject>>)> {
        let partials = vec((0u64..50, 0u64..4, any::<bool>()), 0..6);
        let views = vec((0u64..4, vec((0u64..50, 0u64..9), 0..4)), 0..8);
        let objects = vec((0u64..50, 0u64..9), 0..60);
        (partials, views, objects).prop_map(|(partials, views, objects)| {
            let mut serial = 0u64;
            let mut loose = |objects: &[(u64, u64)]| -> Vec<LooseObject> {
                let one = |&(bytes, since_millis): &(u64, u64)| {
                    serial += 1;
                    let digest = Digest::of(&serial.to_le_bytes());
                    LooseObject {
                        since_millis,
                        digest,
                        bytes,
                    }
                };
                objects.iter().map(one).collect()
            };
            let plain = Plain {
                partials: (0..)
                    .zip(&partials)
                    .map(|(n, &(bytes, written_millis, expired))| IdlePartial {
                        written_millis,
                        ..partial(&u32::to_string(&n), bytes, expired)
                    })
                    .collect(),
                views: (0..)
                    .zip(&views)
                    .map(|(n, (released, _))| view(&u32::to_string(&n), *released))
                    .collect(),
                objects: loose(&objects),
            };
            (
                plain,
                views.iter().map(|(_, objects)| loose(objects)).collect(),
            )
        })
    }

    proptest! {
        /// Whatever share of a step could really be freed.
        #[test]
        fn every_choice_is_the_plain_one_until_the_goal_is_met_or_nothing_is_left(
            (mut plain, lets_go) in plains(),
            bytes in prop_oneof![0u64..60, 0u64..800, Just(u64::MAX)],
            files in prop_oneof![Just(0u64), 0u64..30],
            idle_partials in any::<bool>(),
            share in 0u64..=2,
        ) {
            let Plain { partials, views, objects } = &plain;
            let mut stock = Stock::new(partials.clone(), views.clone(), objects.clone());
            let goal = Goal { bytes, files, idle_partials };
            let mut freed = Freed::default();
            loop {
                let left = goal.minus(&freed);
                let step = choose(&mut stock, &left);
                prop_assert_eq!(&step, &plain.choose(&left));
                let (bytes, files): (u64, usize) = match &step {
                    Step::Partials(gone) => (gone.iter().map(|it| it.bytes).sum(), 3 * gone.len()),
                    Step::Objects(gone) => (gone.iter().map(|it| it.bytes).sum(), gone.len()),
                    Step::View(view) => {
                        let loosened = &lets_go[view.name.parse::<usize>().unwrap()];
                        stock.add_objects(loosened.iter().copied());
                        plain.objects.extend(loosened);
                        (0, 0)
                    }
                    Step::Done => break,
                };
                freed.bytes += bytes * share / 2;
                freed.files += files as u64 * share / 2;
            }
            let left = goal.minus(&freed);
            let kept = if idle_partials { 0 } else { stock.partials.len() };
            let empty = stock.partials.len() == kept && stock.views.is_empty() && stock.objects.is_empty();
            prop_assert!(left.is_met() || empty);
        }
    }
}
