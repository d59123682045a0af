//! Misbehaviour on demand: which requests it strikes ([`Fault`]), what happens to them ([`Effect`]), and
//! what a test holds while it lasts ([`FaultHandle`]).
//!
//! Several faults may strike one request; each counts the requests it matches by itself. Waiting is in tokio
//! time. A lifted fault lets go what it held up, so that tests need no timing.

use super::request::{Op, Request};
use crate::generate::{File, Noise};
use bytes::Bytes;
use globset::{Glob, GlobMatcher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What happens to a request. Byte counts are of the response body.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Answers with this status and S3 error code.
    Refuse(u16, String),
    /// Answers 500 with an error body of this many bytes.
    HugeError(usize),
    /// Answers with this status and a `Location`.
    Redirect(u16, String),
    /// Waits before the head.
    Delay(Duration),
    /// Never sends a head, until lifted.
    NoHead,
    /// Closes in place of an answer.
    HangUp,
    /// Resets the connection (RST) in place of an answer.
    ResetBeforeHead,
    /// Stops after this many bytes, until lifted.
    StallAfter(u64),
    /// Resets the connection (RST) after this many bytes.
    ResetAfter(u64),
    /// Closes in good order after this many bytes, short of the `Content-Length`.
    TruncateAfter(u64),
    /// Sends this many bytes only, and a `Content-Length` that says so.
    Shorten(u64),
    /// Sends this many bytes too many, and says so in `Content-Length`.
    Extra(u64),
    /// Sends this many bytes after the end that `Content-Length` gives, then closes.
    Undeclared(u64),
    /// Flips the lowest bit of the byte at this offset of the object.
    FlipBit(u64),
    /// Claims this `Content-Length`, whatever is sent.
    ClaimLength(u64),
    /// Claims this as the object's whole size in `Content-Range`, HEAD and listings.
    ClaimSize(u64),
    /// Sends this `Content-Range`.
    ContentRange(String),
    /// Answers a ranged request with 200 and the whole object.
    IgnoreRange,
    /// Answers as if there were no `If-Match` and its like.
    IgnoreConditions,
    /// Sends this entity tag (with quotes) and uses it for conditions.
    Etag(String),
    /// Puts this in the object's place, once, before the request is answered.
    Replace(File),
    /// Deletes the object before the request is answered.
    Delete,
    /// Sends the bytes as gzip with `Content-Encoding: gzip`.
    Gzip,
    /// Adds a header.
    Header(&'static str, String),
    /// Sends the body at this many bytes per second.
    Rate(u64),
    /// Lies in a listing.
    List(ListLie),
}

/// How a listing lies.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ListLie {
    /// Every page is the same, truncated, with the same token.
    SamePage,
    /// Pages without end, each with new keys.
    EndlessKeys,
    /// These keys and sizes follow the true ones, in or out of the prefix.
    Also(Vec<(Vec<u8>, u64)>),
    /// Every key appears twice.
    Duplicates,
    /// This body, verbatim, with status 200.
    Raw(Bytes),
}

#[derive(Clone, Copy, Debug)]
enum When {
    Always,
    Nth(u64),
    Every(u64),
    First(u64),
    After(u64),
    Chance { probability: f64, seed: u64 },
}

impl When {
    /// Whether the `seen`-th matching request, counted from 1, is struck.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a probability needs no more than 53 bits"
    )]
    fn strikes(self, seen: u64) -> bool {
        match self {
            When::Always => true,
            When::Nth(n) => seen == n,
            When::Every(n) => seen.is_multiple_of(n.max(1)),
            When::First(n) => seen <= n,
            When::After(n) => seen > n,
            When::Chance { probability, seed } => {
                let draw = Noise::new(seed, "fault").number(seen) as f64 / u64::MAX as f64;
                draw < probability
            }
        }
    }
}

/// An effect and the requests it strikes; every request unless narrowed.
#[derive(Clone, Debug)]
pub struct Fault {
    effect: Effect,
    op: Option<Op>,
    key: Option<GlobMatcher>,
    when: When,
}

impl Fault {
    /// Strikes every request with `effect`.
    pub fn new(effect: Effect) -> Fault {
        Fault {
            effect,
            op: None,
            key: None,
            when: When::Always,
        }
    }

    /// Answers with `status` and S3 error `code`.
    pub fn status(status: u16, code: &str) -> Fault {
        Fault::new(Effect::Refuse(status, code.to_owned()))
    }

    /// Only requests of this operation.
    #[must_use]
    pub fn on(mut self, op: Op) -> Fault {
        self.op = Some(op);
        self
    }

    /// Only keys (for listings: prefixes) that match `glob`; `*` crosses slashes. Panics on a glob that
    /// does not parse.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that scripts nonsense must stop")]
    pub fn key(mut self, glob: &str) -> Fault {
        self.key = Some(Glob::new(glob).expect("the glob parses").compile_matcher());
        self
    }

    /// Only the `n`-th matching request, from 1.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Fault {
        self.when = When::Nth(n);
        self
    }

    /// Every `n`-th matching request.
    #[must_use]
    pub fn every(mut self, n: u64) -> Fault {
        self.when = When::Every(n);
        self
    }

    /// The first `n` matching requests.
    #[must_use]
    pub fn first(mut self, n: u64) -> Fault {
        self.when = When::First(n);
        self
    }

    /// All matching requests but the first `n`.
    #[must_use]
    pub fn after(mut self, n: u64) -> Fault {
        self.when = When::After(n);
        self
    }

    /// Each matching request with this probability; which ones follows from `seed`.
    #[must_use]
    pub fn chance(mut self, probability: f64, seed: u64) -> Fault {
        self.when = When::Chance { probability, seed };
        self
    }

    fn matches(&self, request: &Request) -> bool {
        let name = match request.op {
            Op::List => request.param("prefix").unwrap_or_default(),
            Op::Get | Op::Head | Op::Put | Op::Delete | Op::Other => &request.key,
        };
        let name = String::from_utf8_lossy(name);
        let key = self
            .key
            .as_ref()
            .is_none_or(|glob| glob.is_match(name.as_ref()));
        key && self.op.is_none_or(|op| op == request.op)
    }
}

#[derive(Debug)]
struct Active {
    fault: Fault,
    seen: Mutex<u64>,
    hits: watch::Sender<u64>,
    lifted: watch::Sender<bool>,
}

/// A fault in force. It stays in force when the handle is dropped.
#[derive(Clone, Debug)]
pub struct FaultHandle(Arc<Active>);

impl FaultHandle {
    /// Requests struck so far.
    pub fn hits(&self) -> u64 {
        *self.0.hits.borrow()
    }

    /// Returns once `n` requests have been struck.
    pub async fn wait_hits(&self, n: u64) {
        let mut hits = self.0.hits.subscribe();
        // Cannot fail while `self` keeps the sender.
        drop(hits.wait_for(|hits| *hits >= n).await);
    }

    /// Ends the fault and lets go what it holds up.
    pub fn lift(&self) {
        self.0.lifted.send_replace(true);
    }
}

/// The faults in force on a server.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Vec<Arc<Active>>>);

impl Faults {
    fn active(&self) -> MutexGuard<'_, Vec<Arc<Active>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, fault: Fault) -> FaultHandle {
        let active = Arc::new(Active {
            fault,
            seen: Mutex::new(0),
            hits: watch::Sender::new(0),
            lifted: watch::Sender::new(false),
        });
        self.active().push(Arc::clone(&active));
        FaultHandle(active)
    }

    pub(super) fn clear(&self) {
        for active in self.active().drain(..) {
            active.lifted.send_replace(true);
        }
    }

    /// What strikes this request.
    pub(super) fn strike(&self, request: &Request) -> Plan {
        let mut plan = Plan::default();
        let mut active = self.active();
        active.retain(|a| !*a.lifted.borrow());
        for active in active.iter().filter(|a| a.fault.matches(request)) {
            let seen = {
                let mut seen = active.seen.lock().unwrap_or_else(PoisonError::into_inner);
                *seen += 1;
                *seen
            };
            if active.fault.when.strikes(seen) {
                plan.add(&active.fault.effect, &active.lifted);
                active.hits.send_modify(|hits| *hits += 1);
            }
        }
        plan
    }
}

/// Where a body is cut, and how.
#[derive(Clone, Debug)]
pub(super) enum Cut {
    Stall(Lifted),
    Reset,
    Close,
}

/// Tells when a fault was lifted.
#[derive(Clone, Debug)]
pub(super) struct Lifted(watch::Receiver<bool>);

impl Lifted {
    pub(super) async fn wait(&mut self) {
        // The server that holds the sender is gone: nothing holds this request any more.
        drop(self.0.wait_for(|lifted| *lifted).await);
    }
}

/// All effects on one request together; of two of a kind the later counts.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one effect, and any of them may go together"
)]
pub(super) struct Plan {
    pub(super) refuse: Option<(u16, String)>,
    pub(super) huge_error: Option<usize>,
    pub(super) redirect: Option<(u16, String)>,
    pub(super) delay: Duration,
    pub(super) no_head: Option<Lifted>,
    /// In place of an answer.
    pub(super) hang_up: Option<Cut>,
    /// Body bytes after which it is cut.
    pub(super) cut: Option<(u64, Cut)>,
    pub(super) shorten: Option<u64>,
    pub(super) extra: u64,
    pub(super) undeclared: u64,
    pub(super) flips: Vec<u64>,
    pub(super) claim_length: Option<u64>,
    pub(super) claim_size: Option<u64>,
    pub(super) content_range: Option<String>,
    pub(super) ignore_range: bool,
    pub(super) ignore_conditions: bool,
    pub(super) etag: Option<String>,
    pub(super) replace: Option<File>,
    pub(super) delete: bool,
    pub(super) gzip: bool,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) rate: Option<u64>,
    pub(super) lies: Vec<ListLie>,
}

impl Plan {
    /// Whether the answer is as long as it says, so that another may follow it.
    pub(super) fn keeps_framing(&self) -> bool {
        self.claim_length.is_none() && self.claim_size.is_none() && self.undeclared == 0
    }

    fn add(&mut self, effect: &Effect, lifted: &watch::Sender<bool>) {
        let lifted = || Lifted(lifted.subscribe());
        match effect.clone() {
            Effect::Refuse(status, code) => self.refuse = Some((status, code)),
            Effect::HugeError(len) => self.huge_error = Some(len),
            Effect::Redirect(status, url) => self.redirect = Some((status, url)),
            Effect::Delay(delay) => self.delay += delay,
            Effect::NoHead => self.no_head = Some(lifted()),
            Effect::HangUp => self.hang_up = Some(Cut::Close),
            Effect::ResetBeforeHead => self.hang_up = Some(Cut::Reset),
            Effect::StallAfter(n) => self.cut = Some((n, Cut::Stall(lifted()))),
            Effect::ResetAfter(n) => self.cut = Some((n, Cut::Reset)),
            Effect::TruncateAfter(n) => self.cut = Some((n, Cut::Close)),
            Effect::Shorten(n) => self.shorten = Some(n),
            Effect::Extra(n) => self.extra = n,
            Effect::Undeclared(n) => self.undeclared = n,
            Effect::FlipBit(offset) => self.flips.push(offset),
            Effect::ClaimLength(n) => self.claim_length = Some(n),
            Effect::ClaimSize(n) => self.claim_size = Some(n),
            Effect::ContentRange(text) => self.content_range = Some(text),
            Effect::IgnoreRange => self.ignore_range = true,
            Effect::IgnoreConditions => self.ignore_conditions = true,
            Effect::Etag(etag) => self.etag = Some(etag),
            Effect::Replace(file) => self.replace = Some(file),
            Effect::Delete => self.delete = true,
            Effect::Gzip => self.gzip = true,
            Effect::Header(name, value) => self.headers.push((name, value)),
            Effect::Rate(rate) => self.rate = Some(rate),
            Effect::List(lie) => self.lies.push(lie),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn struck(when: When) -> Vec<u64> {
        (1..=9).filter(|n| when.strikes(*n)).collect()
    }

    #[test]
    fn schedules_strike_the_requests_they_name() {
        assert_eq!(struck(When::Nth(3)), [3]);
        assert_eq!(struck(When::Every(4)), [4, 8]);
        assert_eq!(struck(When::First(2)), [1, 2]);
        assert_eq!(struck(When::After(7)), [8, 9]);
        let half = When::Chance {
            probability: 0.5,
            seed: 1,
        };
        assert_eq!(struck(half), struck(half));
        let many = (0..1000).filter(|n| half.strikes(*n)).count();
        assert!((400..600).contains(&many), "{many}");
    }
}
