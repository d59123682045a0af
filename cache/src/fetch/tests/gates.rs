//! A gate with a byte budget that remembers what it granted, and one that makes a payer wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::gate::{Connection, Demand, Gate, Permit, Purpose, Redirection, Refusal};

#[derive(Debug, Default)]
struct Ledger {
    left: u64,
    open: u64,
    charged: u64,
    hedged: u64,
    refuse_hedges: bool,
}

/// Grants bytes until the budget ends.
#[derive(Debug, Clone)]
pub(super) struct BudgetGate(Arc<Mutex<Ledger>>);

#[derive(Debug)]
struct Charge {
    ledger: Arc<Mutex<Ledger>>,
    bytes: u64,
}

impl BudgetGate {
    pub(super) fn new(left: u64) -> Self {
        Self(Arc::new(Mutex::new(Ledger {
            left,
            ..Ledger::default()
        })))
    }

    pub(super) fn raise(&self, bytes: u64) {
        self.0.lock().unwrap().left += bytes;
    }

    pub(super) fn charged(&self) -> u64 {
        let ledger = self.0.lock().unwrap();
        assert_eq!(ledger.open, 0, "a permit was not settled");
        ledger.charged
    }

    /// Permits that are not settled yet.
    pub(super) fn open(&self) -> u64 {
        self.0.lock().unwrap().open
    }

    pub(super) fn hedged(&self) -> u64 {
        self.0.lock().unwrap().hedged
    }

    pub(super) fn refuse_hedges(&self) {
        self.0.lock().unwrap().refuse_hedges = true;
    }
}

impl Gate for BudgetGate {
    fn connect(&self, _: &Connection) -> Result<(), Refusal> {
        Ok(())
    }

    fn redirect(&self, _: &Redirection<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn admit<'a>(&'a self, demand: &'a Demand) -> BoxFuture<'a, Result<Box<dyn Permit>, Refusal>> {
        let mut ledger = self.0.lock().unwrap();
        let hedge = demand.purpose == Purpose::Hedge;
        let refused = ledger.left < demand.bytes || (hedge && ledger.refuse_hedges);
        let result: Result<Box<dyn Permit>, Refusal> = if refused {
            Err(Refusal::Exhausted(
                "the byte budget of team-a is used up".to_owned(),
            ))
        } else {
            ledger.left -= demand.bytes;
            ledger.charged += demand.bytes;
            ledger.open += 1;
            ledger.hedged += if hedge { demand.bytes } else { 0 };
            Ok(Box::new(Charge {
                ledger: Arc::clone(&self.0),
                bytes: demand.bytes,
            }))
        };
        Box::pin(std::future::ready(result))
    }
}

impl Permit for Charge {
    fn begin(&mut self) -> bool {
        true
    }

    fn settle(self: Box<Self>, received: u64, answered: bool) {
        assert!(received <= self.bytes);
        assert!(answered || received == 0);
        let mut ledger = self.ledger.lock().unwrap();
        ledger.open -= 1;
        ledger.charged -= self.bytes - received;
        ledger.left += self.bytes - received;
    }
}

/// Lets runs of one payer wait until it is opened, and everybody else through.
#[derive(Debug, Clone)]
pub(super) struct SlowGate {
    payer: &'static str,
    turns: Arc<Semaphore>,
    asked: Arc<AtomicUsize>,
    pub(super) budget: BudgetGate,
}

impl SlowGate {
    pub(super) fn of(payer: &'static str) -> Self {
        Self {
            payer,
            turns: Arc::new(Semaphore::new(0)),
            asked: Arc::default(),
            budget: BudgetGate::new(u64::MAX),
        }
    }

    /// How often the payer that waits has asked.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn open(&self) {
        self.turns.add_permits(Semaphore::MAX_PERMITS);
    }
}

impl Gate for SlowGate {
    fn connect(&self, _: &Connection) -> Result<(), Refusal> {
        Ok(())
    }

    fn redirect(&self, _: &Redirection<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn admit<'a>(&'a self, demand: &'a Demand) -> BoxFuture<'a, Result<Box<dyn Permit>, Refusal>> {
        Box::pin(async move {
            if demand.payer == self.payer {
                self.asked.fetch_add(1, Ordering::Relaxed);
                self.turns.acquire().await.unwrap().forget();
            }
            self.budget.admit(demand).await
        })
    }
}
