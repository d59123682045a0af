//! The writes of one request, some at a time. Parts of a large file are written on desks that are used again, so that
//! a further part asks for no memory.
//!
//! Invariants: a write that was begun runs to its end even if this is dropped; a part waits for its turn under the
//! write-rate cap without being waited for.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, Sleep, sleep_until};

use super::put_small;
use crate::digest::{Digest, PART_SIZE};
use crate::disk::{Desk, Running};
use crate::fetch::context::Context;
use crate::store::{self, Part, PartWrite, Partial, Stored, Writing};

/// Where a request's parts go.
#[derive(Debug, Clone)]
pub(in crate::fetch) enum Destination {
    /// Into a large file.
    Large(Arc<Partial>),
    /// They are a file of one part: its entry, and how it is written.
    Small(usize, Writing),
}

/// A write that has ended.
#[derive(Debug)]
pub(super) struct Written {
    /// Bytes.
    pub(super) length: u64,
    /// From the part's turn to the end.
    pub(super) time: Duration,
    /// Processor time of writing a whole part to memory; `None` past the page cache, and for what is too small to tell.
    pub(super) memory_time: Option<Duration>,
    /// What became of a small file.
    pub(super) small: Option<(Digest, Stored)>,
    /// Whether it went well.
    pub(super) result: Result<(), store::Error>,
}

/// The writes of one request.
pub(super) struct Writes {
    context: Arc<Context>,
    to: Destination,
    all: Vec<Write>,
}

/// One write at a time.
#[derive(Default)]
struct Write {
    state: State,
    /// `None` while a write is on it, and before the first.
    desk: Option<Desk<PartWrite>>,
    /// Made when a part first has to wait for its turn.
    turn: Option<Pin<Box<Sleep>>>,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// Its turn has not come.
    Held(Part),
    /// Under way: bytes, and since when.
    Running(Running<PartWrite>, u64, Duration),
    /// A small file.
    Small(BoxFuture<'static, Written>),
}

impl Writes {
    /// No write yet; there is room for `most` at a time.
    pub(super) fn new(context: Arc<Context>, to: Destination, most: usize) -> Self {
        Self {
            context,
            to,
            all: Vec::with_capacity(most),
        }
    }

    /// How many are under way.
    pub(super) fn count(&self) -> usize {
        self.all.iter().filter(|write| !write.is_idle()).count()
    }

    /// Begins a write as soon as its turn comes.
    pub(super) fn begin(&mut self, part: Part) {
        let mut write = match self.all.iter().position(Write::is_idle) {
            Some(at) => self.all.swap_remove(at),
            None => Write::default(),
        };
        match &self.to {
            Destination::Large(partial) => match self.context.book(part.length) {
                Some(turn) => write.hold(part, turn),
                None => write.begin(&self.context, partial, part),
            },
            Destination::Small(entry, writing) => {
                let file = (*entry, *writing);
                let small = write_small(Arc::clone(&self.context), file, part);
                write.state = State::Small(Box::pin(small));
            }
        }
        self.all.push(write);
    }

    /// Waits for the next write that ends; `None` if none is under way. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Written> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut task::Context<'_>) -> Poll<Option<Written>> {
        let mut any = false;
        for write in &mut self.all {
            if let Poll::Ready(written) = write.poll(cx, &self.context, &self.to) {
                return Poll::Ready(Some(written));
            }
            any |= !write.is_idle();
        }
        if any {
            Poll::Pending
        } else {
            Poll::Ready(None)
        }
    }
}

impl Write {
    fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    fn hold(&mut self, part: Part, until: Instant) {
        match &mut self.turn {
            Some(turn) => turn.as_mut().reset(until),
            None => self.turn = Some(Box::pin(sleep_until(until))),
        }
        self.state = State::Held(part);
    }

    fn begin(&mut self, context: &Context, partial: &Partial, part: Part) {
        let start = context.clock.monotonic();
        let length = u64::try_from(part.length).unwrap_or(u64::MAX);
        let running = partial.begin_write(self.desk.take().unwrap_or_default(), part);
        self.state = State::Running(running, length, start);
    }

    /// Pending while it is idle.
    fn poll(
        &mut self,
        cx: &mut task::Context<'_>,
        context: &Context,
        to: &Destination,
    ) -> Poll<Written> {
        if let (State::Held(_), Some(turn)) = (&self.state, &mut self.turn) {
            ready!(turn.as_mut().poll(cx));
            if let (State::Held(part), Destination::Large(partial)) =
                (std::mem::take(&mut self.state), to)
            {
                self.begin(context, partial, part);
            }
        }
        let written = match &mut self.state {
            State::Idle | State::Held(_) => return Poll::Pending,
            State::Running(running, length, start) => {
                let (desk, written) = ready!(Pin::new(running).poll(cx));
                self.desk = Some(desk);
                let written = written.map_err(store::Error::from).flatten();
                let memory_time = written.as_ref().ok().and_then(|wrote| wrote.memory_time);
                Written {
                    length: *length,
                    time: context.clock.monotonic().saturating_sub(*start),
                    memory_time: memory_time.filter(|_| *length == PART_SIZE),
                    small: None,
                    result: written.map(|_buffer| context.progress.add_bytes(*length)),
                }
            }
            State::Small(small) => ready!(small.as_mut().poll(cx)),
        };
        self.state = State::Idle;
        Poll::Ready(written)
    }
}

async fn write_small(context: Arc<Context>, file: (usize, Writing), part: Part) -> Written {
    let Part {
        buffer,
        length,
        hash,
        ..
    } = part;
    context.turn(length).await;
    let start = context.clock.monotonic();
    let result = put_small(&context, file, (buffer, length, hash)).await;
    let time = context.clock.monotonic().saturating_sub(start);
    let (small, result) = match result {
        Ok(stored) => (Some(stored), Ok(())),
        Err(error) => (None, Err(error)),
    };
    Written {
        length: u64::try_from(length).unwrap_or(u64::MAX),
        time,
        memory_time: small.and_then(|(_, stored)| stored.memory_time),
        small,
        result,
    }
}
