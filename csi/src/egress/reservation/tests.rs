//! Two controllers and some nodes, each of which sees late what the others have written: whatever the order, no node has more than its
//! row, and all rows together are within the limit.

use proptest::prelude::*;

use super::*;

const LIMIT: Usage = some(20, 5);

const fn some(logical_bytes: u64, volumes: u64) -> Usage {
    Usage {
        logical_bytes,
        volumes,
    }
}

fn node(number: usize) -> String {
    format!("gpu-{number}")
}

/// A node's service, what it has, and how far it has read the ledger.
#[derive(Debug, Default)]
struct Node {
    claim: Claim,
    has: Usage,
    /// All that it wrote.
    written: Vec<Report>,
    read: usize,
}

#[derive(Debug, Default)]
struct Controller {
    /// How many of a node's reports it has read.
    reports: [usize; 3],
    ledger: usize,
}

/// What happens next; numbers are taken as far as they make sense.
#[derive(Debug, Clone, Copy)]
enum Step {
    Says {
        node: usize,
        wants: Usage,
        is_lost: bool,
    },
    LetsIn {
        node: usize,
        bytes: u64,
    },
    Releases {
        node: usize,
        what: Usage,
    },
    Reads {
        node: usize,
        far: usize,
    },
    Restarts {
        node: usize,
    },
    /// A write that nobody has heard of any more arrives after later ones.
    Overwrites {
        node: usize,
        back: usize,
    },
    Hears {
        controller: usize,
        node: usize,
        far: usize,
    },
    Acts {
        controller: usize,
        reads_first: bool,
    },
}

#[derive(Debug)]
struct World {
    ledger: Vec<Ledger>,
    nodes: [Node; 3],
    controllers: [Controller; 2],
}

impl World {
    fn new() -> Self {
        Self {
            ledger: vec![Ledger::default()],
            nodes: Default::default(),
            controllers: Default::default(),
        }
    }

    fn row(&self, number: usize, at: usize) -> Row {
        self.ledger[at].row(&node(number)).0
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Says {
                node,
                wants,
                is_lost,
            } => {
                let row = self.row(node, self.nodes[node].read);
                let it = &mut self.nodes[node];
                // What it finds in its own object.
                let floor = it.written.last().and_then(|report| report.seq);
                let wants = it.has.plus(wants);
                let report = it.claim.report(it.has, wants, floor.unwrap_or(0), &[row]);
                if !is_lost {
                    it.written.push(report);
                }
            }
            Step::LetsIn { node, bytes } => {
                let row = self.row(node, self.nodes[node].read);
                let it = &mut self.nodes[node];
                let wants = it.has.plus(Usage::volume(bytes));
                if wants.fits(it.claim.usable(row)) {
                    it.has = wants;
                }
            }
            Step::Releases { node, what } => {
                let it = &mut self.nodes[node];
                it.has = it.has.minus(what);
            }
            Step::Reads { node, far } => {
                let last = self.ledger.len() - 1;
                let it = &mut self.nodes[node];
                it.read = (it.read + far).min(last);
            }
            Step::Restarts { node } => self.nodes[node].claim = Claim::default(),
            Step::Overwrites { node, back } => {
                let written = &mut self.nodes[node].written;
                if let Some(old) = written.len().checked_sub(1 + back) {
                    let old = written[old];
                    written.push(old);
                }
            }
            Step::Hears {
                controller,
                node,
                far,
            } => {
                let last = self.nodes[node].written.len();
                let heard = &mut self.controllers[controller].reports[node];
                *heard = (*heard + far).min(last);
            }
            Step::Acts {
                controller,
                reads_first,
            } => self.act(controller, reads_first),
        }
    }

    fn act(&mut self, controller: usize, reads_first: bool) {
        let newest = self.ledger.len() - 1;
        let it = &mut self.controllers[controller];
        if reads_first {
            it.ledger = newest;
        }
        // The version that was read is not there any more.
        if it.ledger != newest {
            return;
        }
        let heard = it
            .reports
            .iter()
            .enumerate()
            .filter(|(_, heard)| **heard > 0);
        let reports =
            heard.map(|(number, heard)| (node(number), self.nodes[number].written[heard - 1]));
        let rows = set_aside(
            LIMIT,
            &self.ledger[newest],
            &reports.collect(),
            |_| false,
            |_| true,
        );
        self.ledger.push(rows);
        it.ledger = newest + 1;
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let newest = self.ledger.len() - 1;
        for (number, it) in self.nodes.iter().enumerate() {
            prop_assert!(
                it.has.fits(self.row(number, newest).room),
                "{number}: {self:#?}"
            );
        }
        let held: Usage = self.ledger[newest].rows.values().map(|row| row.room).sum();
        prop_assert!(held.fits(LIMIT), "{self:#?}");
        Ok(())
    }

    /// Everybody hears everything, until nothing changes.
    fn settle(&mut self) {
        for _ in 0..4 {
            for number in 0..3 {
                self.step(Step::Reads {
                    node: number,
                    far: usize::MAX / 2,
                });
                let wants = self.nodes[number].claim.wants.minus(self.nodes[number].has);
                self.step(Step::Says {
                    node: number,
                    wants,
                    is_lost: false,
                });
                self.step(Step::Hears {
                    controller: 0,
                    node: number,
                    far: usize::MAX / 2,
                });
            }
            self.step(Step::Acts {
                controller: 0,
                reads_first: true,
            });
        }
        for number in 0..3 {
            self.step(Step::Reads {
                node: number,
                far: usize::MAX / 2,
            });
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let (node, controller) = (0usize..3, 0usize..2);
    prop_oneof![
        4 => (node.clone(), 0u64..15, 0u64..4, prop::bool::weighted(0.15))
            .prop_map(|(node, bytes, volumes, is_lost)| Step::Says { node, wants: some(bytes, volumes), is_lost }),
        4 => (node.clone(), 1u64..12).prop_map(|(node, bytes)| Step::LetsIn { node, bytes }),
        3 => (node.clone(), 0u64..15, 0u64..3)
            .prop_map(|(node, bytes, volumes)| Step::Releases { node, what: some(bytes, volumes) }),
        4 => (node.clone(), 1usize..4).prop_map(|(node, far)| Step::Reads { node, far }),
        2 => node.clone().prop_map(|node| Step::Releases { node, what: LIMIT }),
        2 => node.clone().prop_map(|node| Step::Says { node, wants: Usage::NONE, is_lost: false }),
        1 => (node.clone(), 1usize..4).prop_map(|(node, back)| Step::Overwrites { node, back }),
        1 => node.clone().prop_map(|node| Step::Restarts { node }),
        6 => (controller.clone(), node, 1usize..4)
            .prop_map(|(controller, node, far)| Step::Hears { controller, node, far }),
        6 => (controller, prop::bool::weighted(0.8))
            .prop_map(|(controller, reads_first)| Step::Acts { controller, reads_first }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_schedule_gives_the_same_to_two_nodes(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check()?;
        }
        // And nothing is lost: what nobody has or wants is free.
        for number in 0..3 {
            world.nodes[number].has = Usage::NONE;
            world.nodes[number].claim.wants = Usage::NONE;
            world.step(Step::Says { node: number, wants: Usage::NONE, is_lost: false });
        }
        world.settle();
        world.step(Step::Says { node: 1, wants: LIMIT, is_lost: false });
        world.settle();
        for volume in 0..LIMIT.volumes {
            let bytes = if volume == 0 { LIMIT.logical_bytes } else { 0 };
            world.step(Step::LetsIn { node: 1, bytes });
        }
        prop_assert_eq!(world.nodes[1].has, LIMIT);
        world.check()?;
    }
}

/// Of bytes, and of volumes any number.
const TEN: Usage = some(10, u64::MAX);

fn rows(of: &[(&str, u64, u64)], above: u64) -> Ledger {
    let row = |(node, bytes, seq): &(&str, u64, u64)| {
        let row = Row {
            room: some(*bytes, 0),
            seq: *seq,
        };
        ((*node).to_owned(), row)
    };
    let rows = of.iter().map(row).collect();
    Ledger { rows, above }
}

fn reports(of: &[(&str, u64, u64, u64)]) -> BTreeMap<String, Report> {
    let report = |(node, has, wants, seq): &(&str, u64, u64, u64)| {
        let report = Report {
            has: some(*has, 0),
            wants: some(*wants, 0),
            seq: Some(*seq),
        };
        ((*node).to_owned(), report)
    };
    of.iter().map(report).collect()
}

#[test]
fn the_smallest_wishes_come_first_and_none_is_given_in_part() {
    let asked = reports(&[("a", 0, 9, 1), ("b", 0, 5, 1), ("c", 0, 4, 1)]);
    let next = set_aside(TEN, &Ledger::default(), &asked, |_| false, |_| true);
    assert_eq!(next, rows(&[("a", 0, 1), ("b", 5, 1), ("c", 4, 1)], 0));
    // The same again changes nothing.
    assert_eq!(set_aside(TEN, &next, &asked, |_| false, |_| true), next);
    let given_back = reports(&[("a", 0, 9, 1), ("b", 0, 0, 2), ("c", 0, 0, 2)]);
    let next = set_aside(TEN, &next, &given_back, |_| false, |_| true);
    assert_eq!(next, rows(&[("a", 9, 1)], 2));
    // What was said before comes late: it brings nothing back.
    let late = reports(&[("b", 0, 5, 1), ("c", 4, 4, 1)]);
    let next = set_aside(TEN, &next, &late, |_| false, |_| true);
    assert_eq!(next, rows(&[("a", 9, 1)], 2));
    let new = reports(&[("b", 0, 1, 2)]);
    let next = set_aside(TEN, &next, &new, |_| false, |_| true);
    assert_eq!(next, rows(&[("a", 9, 1), ("b", 1, 2)], 2));
}

#[test]
fn what_nodes_have_already_counts_also_beyond_the_limit() {
    let mut asked = reports(&[("a", 30, 30, 1), ("b", 0, 1, 1)]);
    asked.insert(
        "older".to_owned(),
        Report {
            has: some(3, 0),
            wants: some(3, 0),
            seq: None,
        },
    );
    let next = set_aside(TEN, &Ledger::default(), &asked, |_| false, |_| true);
    let all = rows(&[("a", 30, 1), ("b", 0, 1), ("older", 3, 0)], 0);
    assert_eq!(next, all);
    // Who has had a number shrinks by numbers only: it may know of its row.
    let without = |has| Report {
        has: some(has, 0),
        wants: some(has, 0),
        seq: None,
    };
    let said = [("a", without(5)), ("older", without(2))];
    let said = said.map(|(node, report)| (node.to_owned(), report));
    let next = set_aside(TEN, &all, &said.into(), |_| false, |_| true);
    let expected = rows(&[("a", 30, 1), ("b", 0, 1), ("older", 2, 0)], 0);
    assert_eq!(next, expected);
}

#[test]
fn what_nodes_have_for_which_there_is_no_row_counts() {
    let asked = reports(&[
        ("a", 0, 5, 1),
        ("b", 0, 3, 1),
        ("c", 7, 7, 1),
        ("d", 6, 6, 1),
    ]);
    let mut room = 3;
    let fits = |_: &str| {
        room -= 1;
        room >= 0
    };
    let next = set_aside(LIMIT, &Ledger::default(), &asked, |_| false, fits);
    let expected = rows(&[("a", 5, 1), ("c", 7, 1), ("d", 6, 1)], 0);
    assert_eq!(next, expected, "rows go first to those that have something");
    let fits = |node: &str| node != "d";
    let next = set_aside(LIMIT, &Ledger::default(), &asked, |_| false, fits);
    let expected = rows(&[("a", 0, 1), ("b", 3, 1), ("c", 7, 1)], 0);
    assert_eq!(next, expected, "13 are taken, of which 6 have no row");
}

#[test]
fn a_node_that_is_gone_has_nothing_and_one_that_is_silent_keeps_its_row() {
    let before = rows(&[("gone", 4, 3), ("silent", 5, 3)], 0);
    let next = set_aside(TEN, &before, &BTreeMap::new(), |it| it == "gone", |_| true);
    assert_eq!(next, rows(&[("silent", 5, 3)], 3));
}

#[test]
fn a_report_is_new_only_if_something_is() {
    let mut claim = Claim::default();
    let row = |bytes, seq| Row {
        room: some(bytes, 0),
        seq,
    };
    let bytes = |bytes| some(bytes, 0);
    let seq = |report: Report| report.seq.unwrap();
    assert_eq!(claim.usable(row(9, 9)), bytes(0), "nothing was said");
    assert_eq!(seq(claim.report(bytes(0), bytes(5), 7, &[])), 8);
    assert_eq!(seq(claim.report(bytes(0), bytes(5), 7, &[])), 8);
    assert_eq!(
        claim.usable(row(9, 7)),
        bytes(0),
        "an answer to its predecessor"
    );
    assert_eq!(claim.usable(row(5, 8)), bytes(5));
    assert_eq!(seq(claim.report(bytes(2), bytes(3), 7, &[row(5, 8)])), 9);
    assert_eq!(claim.usable(row(5, 8)), bytes(3), "it has said so");
    assert_eq!(seq(claim.report(bytes(2), bytes(6), 7, &[row(5, 8)])), 10);
    assert_eq!(claim.usable(row(5, 8)), bytes(3), "until it is answered");
    assert_eq!(claim.usable(row(5, 9)), bytes(5));
    assert_eq!(claim.usable(row(6, 10)), bytes(6));
    // Another quota's row may answer a later one, after the object was made again.
    assert_eq!(
        seq(claim.report(bytes(2), bytes(6), 7, &[row(6, 10), row(1, 30)])),
        31
    );
}

#[test]
fn volumes_are_set_aside_as_bytes_are_and_none_without_the_other() {
    let asks = |has, wants, seq| Report {
        has,
        wants,
        seq: Some(seq),
    };
    let named = |a, b| BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
    let asked = named(
        asks(some(4, 1), some(9, 3), 1),
        asks(Usage::NONE, some(6, 3), 1),
    );
    let aside = |before: &Ledger, asked| set_aside(LIMIT, before, asked, |_| false, |_| true);
    let next = aside(&Ledger::default(), &asked);
    let room = |ledger: &Ledger, node| ledger.rows[node].room;
    // Of five volumes one is there, and the smaller wish is for two more.
    assert_eq!(room(&next, "a"), some(9, 3));
    assert_eq!(
        room(&next, "b"),
        Usage::NONE,
        "there are bytes, and two volumes"
    );
    let next = aside(&next, &named(asks(some(4, 1), some(4, 1), 2), asked["b"]));
    assert_eq!(
        (room(&next, "a"), room(&next, "b")),
        (some(4, 1), some(6, 3))
    );
    // Whoever wants less of one and more of the other is bound by the least of each until it is answered.
    let mut claim = Claim::default();
    claim.report(Usage::NONE, some(9, 1), 0, &[]);
    claim.report(Usage::NONE, some(3, 4), 0, &[]);
    let row = |seq| Row {
        room: some(9, 4),
        seq,
    };
    assert_eq!(claim.usable(row(1)), some(3, 4));
    assert_eq!(claim.usable(row(2)), some(9, 4));
    claim.report(Usage::NONE, some(5, 2), 0, &[]);
    assert_eq!(claim.usable(row(1)), some(3, 2));
    assert_eq!(claim.usable(row(2)), some(5, 2));
}
