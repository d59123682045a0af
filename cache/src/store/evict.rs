//! Which thing goes next: a pure choice over what may go at all.
//!
//! The order is: downloads that are too old; then, as long as the objects without links do not suffice, the view
//! that was released longest ago (its objects may lose their last link by that); then objects without links, those
//! that lost their last link longest ago first; at last downloads that nobody is writing. Nothing that is held is in
//! the stock, so nothing held can be chosen.

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

/// A download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdlePartial {
    /// Its directory's name.
    pub name: String,
    /// Bytes of disk.
    pub bytes: u64,
    /// Last progress, milliseconds since 1970.
    pub written_millis: u64,
    /// It is past its time to live.
    pub expired: bool,
}

/// A view without lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdleView {
    /// Its directory's name.
    pub name: String,
    /// Its content.
    pub manifest: Digest,
    /// When its last lease ended, milliseconds since 1970.
    pub released_millis: u64,
}

/// An object without links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LooseObject {
    /// Its name.
    pub digest: Digest,
    /// Bytes of disk.
    pub bytes: u64,
    /// When it lost its last link, milliseconds since 1970.
    pub since_millis: u64,
}

/// What may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stock {
    /// Downloads that nobody is writing.
    pub partials: Vec<IdlePartial>,
    /// Views without lease.
    pub views: Vec<IdleView>,
    /// Objects without links or claims.
    pub objects: Vec<LooseObject>,
}

/// The next thing to do. What a step names is to be taken out of the stock, done or not.
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

/// Takes the next step's things out of the stock.
pub fn choose(stock: &mut Stock, goal: &Goal) -> Step {
    let expired: Vec<IdlePartial> = stock
        .partials
        .extract_if(.., |partial| partial.expired)
        .collect();
    if !expired.is_empty() {
        return Step::Partials(expired);
    }
    if goal.is_met() {
        return Step::Done;
    }
    let loose = stock
        .objects
        .iter()
        .fold(0u64, |sum, object| sum.saturating_add(object.bytes));
    let suffices = loose >= goal.bytes && stock.objects.len() as u64 >= goal.files;
    if !suffices && let Some(view) = take_oldest_view(stock) {
        return Step::View(view);
    }
    if !stock.objects.is_empty() {
        return Step::Objects(take_objects(stock, goal));
    }
    if goal.idle_partials && !stock.partials.is_empty() {
        return Step::Partials(take_partials(stock, goal));
    }
    Step::Done
}

fn take_oldest_view(stock: &mut Stock) -> Option<IdleView> {
    let oldest = stock
        .views
        .iter()
        .enumerate()
        .min_by(|(_, one), (_, two)| {
            (one.released_millis, &one.name).cmp(&(two.released_millis, &two.name))
        })
        .map(|(index, _)| index)?;
    Some(stock.views.swap_remove(oldest))
}

fn take_objects(stock: &mut Stock, goal: &Goal) -> Vec<LooseObject> {
    stock
        .objects
        .sort_unstable_by_key(|object| (object.since_millis, object.digest));
    let mut freed = Freed::default();
    let enough = stock
        .objects
        .iter()
        .take_while(|object| {
            let wanted = !goal.minus(&freed).is_met();
            freed.bytes = freed.bytes.saturating_add(object.bytes);
            freed.files = freed.files.saturating_add(1);
            wanted
        })
        .count();
    stock.objects.drain(..enough).collect()
}

fn take_partials(stock: &mut Stock, goal: &Goal) -> Vec<IdlePartial> {
    stock
        .partials
        .sort_by(|one, two| (one.written_millis, &one.name).cmp(&(two.written_millis, &two.name)));
    let mut bytes = 0u64;
    let enough = stock
        .partials
        .iter()
        .take_while(|partial| {
            let wanted = bytes < goal.bytes.max(1);
            bytes = bytes.saturating_add(partial.bytes);
            wanted
        })
        .count();
    stock.partials.drain(..enough).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let mut stock = Stock {
            partials: vec![partial("old", 5, true), partial("new", 7, false)],
            views: vec![view("b", 20), view("a", 10)],
            objects: vec![object(2, 3), object(1, 3)],
        };
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
        let mut stock = Stock {
            views: vec![view("a", 1)],
            objects: (0..10).map(|n| object(n, 10)).collect(),
            ..Stock::default()
        };
        let step = choose(&mut stock, &Goal::bytes(25));
        assert_eq!(step, Step::Objects((0..3).map(|n| object(n, 10)).collect()));
        assert_eq!(stock.views.len(), 1);
        assert_eq!(choose(&mut stock, &Goal::bytes(0)), Step::Done);
    }

    #[test]
    fn missing_inodes_are_freed_too() {
        let mut stock = Stock {
            objects: (0..10).map(|n| object(n, 0)).collect(),
            ..Stock::default()
        };
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
    fn a_million_objects_are_chosen_from_in_one_pass() {
        let mut stock = Stock {
            objects: (0..1_000_000u64)
                .map(|n| LooseObject {
                    digest: Digest::from_bytes([n.to_le_bytes(); 4].concat().try_into().unwrap()),
                    bytes: 4096,
                    since_millis: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20,
                })
                .collect(),
            ..Stock::default()
        };
        let Step::Objects(gone) = choose(&mut stock, &Goal::bytes(4096 * 400_000)) else {
            panic!("objects suffice");
        };
        assert_eq!((gone.len(), stock.objects.len()), (400_000, 600_000));
        let newest_gone = gone.iter().map(|o| o.since_millis).max().unwrap();
        assert!(stock.objects.iter().all(|o| o.since_millis >= newest_gone));
    }

    proptest! {
        #[test]
        fn every_choice_shrinks_the_stock_and_the_end_meets_the_goal_or_empties_it(
            partials in proptest::collection::vec((0u64..50, any::<bool>()), 0..6),
            views in 0u64..6,
            objects in proptest::collection::vec(0u64..50, 0..20),
            bytes in 0u64..800,
        ) {
            let mut stock = Stock {
                partials: partials.iter().map(|(bytes, expired)| partial(&bytes.to_string(), *bytes, *expired)).collect(),
                views: (0..views).map(|n| view(&n.to_string(), n)).collect(),
                objects: (0u64..).zip(&objects).map(|(n, bytes)| object(n, *bytes)).collect(),
            };
            let goal = Goal::bytes(bytes);
            let mut freed = Freed::default();
            loop {
                let before = stock.partials.len() + stock.views.len() + stock.objects.len();
                match choose(&mut stock, &goal.minus(&freed)) {
                    Step::Partials(gone) => freed.bytes += gone.iter().map(|p| p.bytes).sum::<u64>(),
                    Step::View(_) => {}
                    Step::Objects(gone) => freed.bytes += gone.iter().map(|o| o.bytes).sum::<u64>(),
                    Step::Done => break,
                }
                prop_assert!(stock.partials.len() + stock.views.len() + stock.objects.len() < before);
            }
            let empty = stock.partials.is_empty() && stock.views.is_empty() && stock.objects.is_empty();
            prop_assert!(freed.bytes >= bytes || empty);
        }
    }
}
