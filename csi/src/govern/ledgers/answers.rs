//! What nodes are told: grants of ledgers that the API server has, and why there are none.

use super::standing::Standing;
use super::words;
use super::world::{GRACE, Moment, World};
use crate::crd::{CalendarPeriod, EgressLeaseStatus, json_bytes};
use crate::egress::lease::{Grant, Lease};
use crate::egress::ledger::objects::status;
use crate::egress::ledger::{Book, grants};
use crate::egress::terms::Account;
use crate::egress::window::Window;

/// Most bytes of a status as JSON that sentences may fill up: grants are always told, sentences as far as 16 KiB have room.
const MOST_BYTES: usize = 15 << 10;
/// Most bytes of sentences in one object, as JSON.
const SENTENCES: usize = 3_000;
/// What a sentence takes besides itself: `,"message":`.
const MESSAGE: usize = 11;
/// Longest sentence, in characters.
const LONGEST: usize = 500;

/// The window of what does not exist.
static NEVER: Window = Window::Calendar {
    period: CalendarPeriod::Hourly,
    offset_seconds: 0,
};

/// Grants to be written into a node's object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseWrite {
    /// The node, and the object's name.
    pub node: String,
    /// The version that it was read at: a precondition.
    pub version: String,
    /// The grants.
    pub grants: Vec<Grant>,
    /// The same as the object has them.
    pub status: EgressLeaseStatus,
}

impl World {
    /// Answers to nodes that something is new about.
    pub fn answers(&mut self, now: Moment) -> Vec<LeaseWrite> {
        let nodes = std::mem::take(&mut self.nodes);
        let answers = nodes.into_iter().map(|node| self.answer(node, now));
        answers.flatten().collect()
    }

    fn answer(&self, node: String, now: Moment) -> Option<LeaseWrite> {
        let object = self.leases.get(&node)?;
        let lease = &object.lease;
        let grants = grants(lease, |account| self.book(account, lease, now))?;
        let status = self.status(lease, &grants);
        Some(LeaseWrite {
            node,
            version: object.version.clone(),
            grants,
            status,
        })
    }

    /// A node was answered: it is what the API server has at this version.
    pub fn answered(&mut self, write: LeaseWrite, version: String) {
        let Some(object) = self.leases.get_mut(&write.node) else {
            return;
        };
        if object.version == write.version {
            object.version = version;
            object.lease.grants = write.grants;
            self.accounts.extend(self.asks.update(&object.lease));
        }
    }

    /// What an account's demands are answered by. Where there is none to be had, an empty ledger says so, but not at once: the
    /// node may have read a policy before us.
    fn book(&self, account: &Account, lease: &Lease, now: Moment) -> Option<Book<'_>> {
        let ledger = self.budget_of(account).map(|budget| &budget.ledger);
        let standing = self.standing(account);
        let window = standing.allowance().map_or(&NEVER, |it| &it.window);
        let demand = lease.demands.iter().find(|it| it.account == *account)?;
        let is_held = || {
            let row = ledger.and_then(|ledger| ledger.rows.get(&lease.node));
            row.is_some_and(|row| {
                row.held > 0 && row.incarnation == lease.incarnation && row.seq == demand.seq
            })
        };
        let ledger = match standing {
            Standing::Open(_) => ledger?,
            // What was granted before is told.
            Standing::Closed(_) | Standing::Malformed | Standing::Removed | Standing::Gone
                if is_held() =>
            {
                ledger?
            }
            Standing::Closed(_) | Standing::Malformed | Standing::Removed | Standing::Gone => {
                let since = *self.absent.get(account)?;
                let is_sure = now.monotonic.saturating_sub(since) >= GRACE;
                is_sure.then_some(&self.nothing)?
            }
        };
        Some(Book {
            ledger,
            window,
            rules: &self.rules,
        })
    }

    fn status(&self, lease: &Lease, grants: &[Grant]) -> EgressLeaseStatus {
        let mut sentences: Vec<(&Grant, String)> = grants
            .iter()
            .filter_map(|grant| Some((grant, self.sentence(lease, grant)?)))
            .collect();
        // Those who got nothing are told first.
        sentences.sort_by_key(|(grant, _)| grant.bytes > 0);
        let silent = json_bytes(&status(grants, |_| None));
        let mut left = SENTENCES.min(MOST_BYTES.saturating_sub(silent));
        sentences.retain(|(_, sentence)| {
            let rest = left.checked_sub(json_bytes(sentence).saturating_add(MESSAGE));
            left = rest.unwrap_or(left);
            rest.is_some()
        });
        status(grants, |grant| {
            let own = sentences.iter().find(|(of, _)| of.account == grant.account);
            own.map(|(_, sentence)| sentence.clone())
        })
    }

    /// Why a grant is less than was wanted; nothing if it is not.
    fn sentence(&self, lease: &Lease, grant: &Grant) -> Option<String> {
        let account = &grant.account;
        let is_it = |seq: u64, of: &Account| seq == grant.seq && of == account;
        let demand = lease.demands.iter().find(|it| is_it(it.seq, &it.account))?;
        let policy = self.policy_name(account);
        let standing = self.standing(account);
        if grant.bytes == 0
            && let Some(refusal) = standing.refusal(account, policy)
        {
            return Some(refusal.chars().take(LONGEST).collect());
        }
        let allowance = standing.allowance()?;
        let whole = self
            .rules
            .portion(demand.wanted, allowance.limit_bytes, u64::MAX);
        if grant.bytes >= whole {
            return None;
        }
        let short = words::Short {
            policy: policy?,
            account,
            ledger: &self.budget_of(account)?.ledger,
            allowance,
        };
        let sentence = short.to_string();
        Some(sentence.chars().take(LONGEST).collect())
    }
}
