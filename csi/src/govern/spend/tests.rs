//! Charges, waits and debts, with a controller that is played by hand.

use std::time::SystemTime;

use futures::future::join;
use tonnage_cache::clock::ManualClock;

use super::*;
use crate::egress::lease::Grant;
use crate::egress::ledger::objects::{spec, status};
use crate::egress::terms::PolicyUid;

mod written;

const ME: Incarnation = Incarnation(7);
const PATIENCE: Duration = Duration::from_secs(20);
/// Numbers of demands begin above the seconds of the wall clock.
const FLOOR: u64 = 1_000;

/// A node's purse, and the controller's answers to it.
struct Site {
    spender: Arc<Spender>,
    clock: Arc<ManualClock>,
}

impl Site {
    fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(FLOOR);
        let clock = Arc::new(ManualClock::at(now));
        let seam: Arc<ManualClock> = Arc::clone(&clock);
        Self {
            spender: Spender::new(ME, seam),
            clock,
        }
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// What is asked now: budgets, numbers above the floor, bytes wanted and spent. It is written.
    fn asks(&self) -> Vec<(String, u64, u64, u64)> {
        let demands = self.spender.demands().unwrap_or_default();
        self.spender.written();
        let line = |it: Demand| (it.account.budget, it.seq - FLOOR, it.wanted, it.spent);
        demands.into_iter().map(line).collect()
    }

    /// The controller's status is this: budgets, numbers above the floor, bytes.
    fn says(&self, grants: &[(&str, u64, u64)], message: Option<&str>) {
        let grant = |(budget, seq, bytes): &(&str, u64, u64)| Grant {
            account: account(budget),
            incarnation: ME,
            seq: FLOOR + seq,
            bytes: *bytes,
            seconds: 900,
        };
        let grants: Vec<Grant> = grants.iter().map(grant).collect();
        self.accept(&grants, message);
    }

    fn accept(&self, grants: &[Grant], message: Option<&str>) {
        let mut object = EgressLease::new("node-1", spec(ME, &[]));
        object.status = Some(status(grants, |_| message.map(str::to_owned)));
        self.spender.accept(&object);
    }

    /// Load 1 waits for bytes of a budget.
    async fn take(&self, budget: &str, bytes: u64) -> Result<u64, Shortage> {
        let accounts = [account(budget)];
        let taken = self.spender.take(&accounts, 1, bytes, 0, PATIENCE).await;
        taken.map(|receipt| receipt.bytes())
    }
}

fn account(budget: &str) -> Account {
    Account {
        policy: PolicyUid("p".to_owned()),
        budget: budget.to_owned(),
        namespace: None,
    }
}

fn ask(budget: &str, seq: u64, wanted: u64, spent: u64) -> (String, u64, u64, u64) {
    (budget.to_owned(), seq, wanted, spent)
}

fn exhausted_in(budget: &str, message: Option<&str>) -> Shortage {
    Shortage::Exhausted {
        account: account(budget),
        message: message.map(str::to_owned),
    }
}

/// A site whose budget `a` was granted these bytes, by grant 1.
fn granted(bytes: u64) -> Site {
    let site = Site::new();
    let _missing = site.spender.charge(&[account("a")], 1, bytes, 0);
    assert_eq!(site.asks(), [ask("a", 1, bytes, 0)]);
    site.says(&[("a", 1, bytes)], None);
    assert_eq!(site.spender.left(&account("a")), bytes);
    site.spender.forget(1);
    site
}

#[test]
fn a_charge_that_fails_is_asked_for_with_all_that_its_load_will_need() {
    let site = Site::new();
    let accounts = [account("a"), account("b"), account("a")];
    let missing = site.spender.charge(&accounts, 1, 10, 100).unwrap_err();
    assert_eq!(missing.account, account("a"));
    assert!(!missing.is_exhausted);
    assert_eq!(site.asks(), [ask("a", 1, 100, 0), ask("b", 2, 100, 0)]);
    site.says(&[("a", 1, 100), ("b", 2, 50)], None);
    // An account that is named twice is charged once.
    let receipt = site.spender.charge(&accounts, 1, 10, 100).unwrap();
    assert_eq!(site.spender.left(&account("a")), 90);
    assert_eq!(site.spender.left(&account("b")), 40);
    site.spender.refund(&receipt, 4);
    assert_eq!(site.spender.left(&account("a")), 94);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_woken_by_the_grant_and_not_by_time() {
    let site = Site::new();
    let begun = Instant::now();
    let (taken, ()) = join(site.take("a", 10), async {
        assert_eq!(site.asks(), [ask("a", 1, 10, 0)]);
        site.says(&[("a", 1, 10)], None);
    })
    .await;
    assert_eq!(taken, Ok(10));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn many_who_wait_share_a_grant_and_the_rest_is_asked_for_again() {
    let site = Site::new();
    let takes: Vec<_> = (1..=3)
        .map(|load| {
            let spender = &site.spender;
            async move {
                let accounts = [account("a")];
                let taken = spender.take(&accounts, load, 10, 0, PATIENCE).await;
                taken.map(|receipt| receipt.bytes())
            }
        })
        .collect();
    let controller = async {
        assert_eq!(site.asks(), [ask("a", 1, 30, 0)]);
        site.says(&[("a", 1, 20)], None);
        tokio::task::yield_now().await;
        site.pass(5);
        assert_eq!(site.asks(), [ask("a", 2, 10, 20)]);
        site.says(&[("a", 2, 10)], None);
    };
    let (outcomes, ()) = join(futures::future::join_all(takes), controller).await;
    assert_eq!(outcomes, [Ok(10), Ok(10), Ok(10)]);
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_budget_ends_the_wait_with_the_controller_s_sentence() {
    let site = Site::new();
    let sentence = "budget daily has 2.0 TiB of 2.0 TiB used; bytes come back at midnight";
    let (taken, ()) = join(site.take("a", 10), async {
        assert_eq!(site.asks(), [ask("a", 1, 10, 0)]);
        site.says(&[("a", 1, 0)], Some(sentence));
    })
    .await;
    let shortage = exhausted_in("a", Some(sentence));
    assert_eq!(taken, Err(shortage.clone()));
    assert_eq!(shortage.to_string(), sentence);
    // The next to come need not wait, and without a sentence there is one of our own.
    site.says(&[("a", 1, 0)], None);
    let begun = Instant::now();
    assert_eq!(site.take("a", 1).await, Err(exhausted_in("a", None)));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(
        exhausted_in("a", None).to_string(),
        "budget a of the EgressPolicy with uid p is used up: wait until its window ends, or ask an administrator to raise it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_controller_ends_the_wait_when_patience_is_over() {
    let site = Site::new();
    let shortage = Shortage::Unanswered {
        account: account("a"),
        waited: PATIENCE,
    };
    assert_eq!(site.take("a", 10).await, Err(shortage.clone()));
    assert_eq!(
        shortage.to_string(),
        "the controller has granted no bytes of budget a within 20 s: see whether tonnage-controller runs and reaches the API server"
    );
}

#[tokio::test(start_paused = true)]
async fn patience_counts_from_the_last_answer_about_the_account_that_is_missing() {
    let site = Site::new();
    let (taken, ()) = join(site.take("a", 10), async {
        assert_eq!(site.asks(), [ask("a", 1, 10, 0)]);
        tokio::time::sleep(Duration::from_secs(15)).await;
        // Too little, and nothing more afterwards.
        site.says(&[("a", 1, 3)], None);
    })
    .await;
    let shortage = Shortage::Unanswered {
        account: account("a"),
        waited: Duration::from_secs(35),
    };
    assert_eq!(taken, Err(shortage));
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_a_sibling_of_the_same_load_took_back_is_made_again() {
    let site = granted(10);
    let (taken, ()) = join(site.take("a", 64), async {
        // The large run waits; a small one of the same load has enough.
        assert!(site.spender.charge(&[account("a")], 1, 1, 0).is_ok());
        site.pass(5);
        assert!(site.asks().is_empty());
        tokio::time::sleep(RETRY).await;
        tokio::task::yield_now().await;
        assert_eq!(site.asks(), [ask("a", 2, 64, 1)]);
        site.says(&[("a", 2, 64)], None);
    })
    .await;
    assert_eq!(taken, Ok(64));
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_wakes_who_waits() {
    let site = granted(10);
    let receipt = site.spender.charge(&[account("a")], 2, 10, 0).unwrap();
    let begun = Instant::now();
    let (taken, ()) = join(site.take("a", 6), async {
        site.spender.refund(&receipt, 6);
    })
    .await;
    assert_eq!(taken, Ok(6));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[test]
fn a_debt_is_asked_for_and_charged_from_grants_before_loads_are() {
    let site = Site::new();
    site.spender.owe(&[account("a"), account("a")], 10);
    assert_eq!(site.spender.owed(&account("a")), 10);
    assert!(site.spender.charge(&[account("a")], 1, 5, 0).is_err());
    assert_eq!(site.asks(), [ask("a", 1, 15, 0)]);
    site.says(&[("a", 1, 4)], None);
    assert_eq!(site.spender.owed(&account("a")), 6);
    assert!(site.spender.charge(&[account("a")], 1, 5, 0).is_err());
    site.pass(5);
    assert_eq!(site.asks(), [ask("a", 2, 11, 4)]);
    site.says(&[("a", 2, 11)], None);
    assert_eq!(site.spender.owed(&account("a")), 0);
    assert!(site.spender.charge(&[account("a")], 1, 5, 0).is_ok());
    assert_eq!(site.spender.left(&account("a")), 0);
}

#[test]
fn a_debt_is_charged_at_once_from_what_is_held() {
    let site = granted(10);
    site.spender.owe(&[account("a"), account("b")], 8);
    assert_eq!(site.spender.left(&account("a")), 2);
    assert_eq!(site.spender.owed(&account("a")), 0);
    assert_eq!(site.spender.owed(&account("b")), 8);
    site.pass(5);
    assert_eq!(site.asks(), [ask("b", 2, 8, 0)]);
}

#[test]
fn bytes_beyond_a_budget_that_is_used_up_are_not_carried_into_the_next_window() {
    let site = Site::new();
    site.spender.owe(&[account("a")], 10);
    assert_eq!(site.asks(), [ask("a", 1, 10, 0)]);
    site.says(&[("a", 1, 0)], None);
    site.spender.owe(&[account("a")], 1_000);
    assert_eq!(site.spender.owed(&account("a")), 10);
    // The demand stands, silently.
    site.pass(500);
    assert!(site.asks().is_empty());
    site.says(&[("a", 1, 10)], None);
    assert_eq!(site.spender.owed(&account("a")), 0);
}

#[test]
fn only_those_who_owe_are_said_to_and_what_is_forgiven_is_not_asked_for() {
    let site = Site::new();
    assert_eq!(site.spender.owe(&[account("a")], 10), [account("a")]);
    site.spender.forgive(&[account("a")], 10);
    assert!(site.asks().is_empty());
    site.spender.owe(&[account("a")], 10);
    assert_eq!(site.asks(), [ask("a", 1, 10, 0)]);
    site.says(&[("a", 1, 0)], None);
    let owing = site.spender.owe(&[account("a"), account("b")], 10);
    assert_eq!(owing, [account("b")]);
    site.spender.forgive(&[account("a")], 10);
    // The demand is taken back, because nobody waits for it.
    site.pass(60);
    assert_eq!(site.asks(), [ask("b", 3, 10, 0), ask("a", 2, 0, 0)]);
}

#[test]
fn debts_to_policies_that_are_gone_are_forgotten_and_the_others_stay() {
    let site = Site::new();
    let other = Account {
        policy: PolicyUid("q".to_owned()),
        ..account("b")
    };
    site.spender.owe(&[account("a"), other.clone()], 10);
    site.spender.forgive_all_but(|policy| policy.0 == "q");
    assert_eq!(site.spender.owed(&account("a")), 0);
    assert_eq!(site.spender.owed(&other), 10);
    assert_eq!(site.asks(), [ask("b", 1, 10, 0)]);
}

#[test]
fn numbers_go_on_above_an_earlier_start_s_and_only_before_the_first_demand() {
    let site = Site::new();
    let before = |seq| Lease {
        node: "node-1".to_owned(),
        incarnation: Incarnation(6),
        demands: vec![Demand {
            account: account("a"),
            seq,
            wanted: 1,
            spent: 0,
        }],
        grants: Vec::new(),
    };
    site.spender.resume(&before(FLOOR + 41));
    site.spender.owe(&[account("a")], 10);
    assert_eq!(site.asks(), [ask("a", 42, 10, 0)]);
    site.spender.resume(&before(FLOOR + 99));
    site.says(&[("a", 42, 10)], None);
    assert_eq!(site.spender.owed(&account("a")), 0);
}

#[test]
fn what_was_granted_to_an_earlier_start_is_not_spent() {
    let site = Site::new();
    assert!(site.spender.charge(&[account("a")], 1, 10, 0).is_err());
    assert_eq!(site.asks(), [ask("a", 1, 10, 0)]);
    let grant = Grant {
        account: account("a"),
        incarnation: Incarnation(6),
        seq: FLOOR + 1,
        bytes: 10,
        seconds: 900,
    };
    site.accept(&[grant], None);
    assert_eq!(site.spender.left(&account("a")), 0);
}

#[test]
fn a_service_that_stops_charges_debts_as_far_as_it_can_and_gives_the_rest_back() {
    let site = granted(10);
    assert!(site.spender.charge(&[account("b")], 2, 7, 0).is_err());
    site.spender.owe(&[account("a")], 3);
    site.spender.owe(&[account("c")], 5);
    let last = site.spender.close().unwrap();
    let told: Vec<_> = last
        .iter()
        .map(|it| (it.account.budget.as_str(), it.wanted, it.spent))
        .collect();
    assert_eq!(told, [("a", 0, 3)]);
    assert_eq!(site.spender.owed(&account("c")), 0);
    assert!(site.spender.charge(&[account("a")], 1, 1, 0).is_err());
}
