//! One request: asks the gate, opens the range, and hands each part to the store as soon as it is there.
//!
//! A request holds one buffer while it receives and at most two more while they are written; it never waits
//! for a buffer without moving its own writes on, so a pool of any size makes progress. Cancelling stops the
//! receiving at once; writes that were begun are waited for. Nothing is retried here.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::Buffer;
use crate::digest::{Digest, PartHash, PartHasher, part_length};
use crate::gate::{Demand, Purpose, Refusal};
use crate::source::{self, Entry};
use crate::store::{self, Part, Stored, Writing};

use super::body::{Reader, stalled};
use super::context::Context;
use super::grant::Grant;
use super::hedge::Race;
use super::lane::Seat;
use super::plan::Run;

mod writes;

pub(super) use writes::Destination;
use writes::{Writes, Written};

/// Writes of one request that may be under way while the next part is received.
const WRITES: usize = 2;

/// What is to be asked for.
#[derive(Debug)]
pub(super) struct Ask {
    /// Number of the run, shared by its two requests if it is hedged.
    pub(super) id: u64,
    /// Parts and file.
    pub(super) run: Run,
    /// Why.
    pub(super) purpose: Purpose,
    /// Where the parts go.
    pub(super) to: Destination,
    /// Who keeps which part.
    pub(super) race: Arc<Race>,
}

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Ran {
    /// Number of the run.
    pub(super) id: u64,
    /// Why it was asked for; hedges may fail without harm.
    pub(super) hedge: bool,
    /// Body bytes received.
    pub(super) received: u64,
    /// Bytes of parts that this request claimed, verified and wrote.
    pub(super) kept: u64,
    /// Number of those parts.
    pub(super) parts: u64,
    /// From the request to its answer's header.
    pub(super) waited: Duration,
    /// Waiting for and receiving bytes.
    pub(super) receiving: Duration,
    /// Hashing.
    pub(super) hashing: Duration,
    /// Writing, waits for a thread included.
    pub(super) writing: Duration,
    /// Processor times of whole-part writes to memory, and of others as if they were.
    pub(super) writes: Vec<Duration>,
    /// The file's digest and whether it was stored already, if it is a small file that is complete.
    pub(super) small: Option<(Digest, bool)>,
    /// Why the request ended early.
    pub(super) failure: Option<Failure>,
}

/// Why a request ended early.
#[derive(Debug)]
pub(super) enum Failure {
    /// The source failed.
    Source(source::Error),
    /// The gate said no.
    Refused(Refusal),
    /// The store failed.
    Store(store::Error),
    /// The content is not what was expected.
    Mismatch { expected: Digest, found: Digest },
    /// The job, or the other request of this run, ended it.
    Stopped,
}

impl From<source::Error> for Failure {
    fn from(error: source::Error) -> Self {
        Self::Source(error)
    }
}

/// Runs one request to its end. The seat of a large file's request is given back with the last byte, so that its connection
/// carries the next one while the last parts are written; a small file's is held until it is written. The connection is
/// given back, too, while the gate makes the request wait.
pub(super) async fn run(context: Arc<Context>, ask: Ask, seat: Seat) -> Ran {
    let parts = ask.run.parts.end.saturating_sub(ask.run.parts.start);
    let mut request = Request {
        ran: Ran {
            id: ask.id,
            hedge: ask.purpose == Purpose::Hedge,
            writes: Vec::with_capacity(usize::try_from(parts).unwrap_or_default()),
            ..Ran::default()
        },
        seat: Some(seat),
        reader: None,
        writes: Writes::new(Arc::clone(&context), ask.to.clone(), WRITES),
        context,
        ask,
    };
    let stop = request.ask.race.stop.clone();
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => Err(Failure::Stopped),
        ended = request.receive() => ended,
    };
    // The job must hear of a failure before it asks for more.
    if ended.is_ok() && matches!(request.ask.to, Destination::Large(_)) {
        request.seat = None;
    }
    request.ran.failure = ended.err();
    while let Some(written) = request.writes.next().await {
        if let Err(failure) = request.ran.settle(written) {
            request.ran.failure = Some(failure);
        }
    }
    request.finish()
}

struct Request {
    context: Arc<Context>,
    ask: Ask,
    ran: Ran,
    seat: Option<Seat>,
    reader: Option<Reader>,
    writes: Writes,
}

impl Request {
    async fn receive(&mut self) -> Result<(), Failure> {
        let context = Arc::clone(&self.context);
        let Some(entry) = context.entry(self.ask.run.entry) else {
            return Ok(());
        };
        let range = self.ask.run.bytes(entry.size);
        let demand = self.demand(entry, &range);
        let grant = self.admit(&demand).await?;
        let grant = self.open(entry, range, grant).await?;
        self.read_parts(entry).await?;
        grant.complete();
        Ok(())
    }

    /// Asks the gate. Who has to wait for a budget or a rate keeps nobody else from a connection meanwhile, and is asked about again
    /// if the permission has passed when there is a connection.
    async fn admit(&mut self, demand: &Demand) -> Result<Grant, Failure> {
        let Some(seat) = &mut self.seat else {
            return Err(Failure::Stopped);
        };
        while let Some(slot) = seat.slot.take() {
            let asked = Grant::ask(&*self.context.gate, demand);
            let (mut grant, slot) = slot.unless_waiting(asked).await.map_err(Failure::Refused)?;
            seat.slot = slot;
            if grant.begin() {
                return Ok(grant);
            }
        }
        Err(Failure::Stopped)
    }

    fn demand(&self, entry: &Entry, range: &Range<u64>) -> Demand {
        Demand {
            source: self.context.source.name().to_owned(),
            payer: self.context.payer.clone(),
            load: self.context.load.clone(),
            key: entry.key.clone(),
            bytes: range.end.saturating_sub(range.start),
            purpose: self.ask.purpose,
        }
    }

    async fn open(
        &mut self,
        entry: &Entry,
        range: Range<u64>,
        grant: Grant,
    ) -> Result<Grant, Failure> {
        let context = &self.context;
        let stall_after = context.settings.stall_after;
        let start = context.clock.monotonic();
        let opened = tokio::time::timeout(stall_after, context.source.open(entry, range)).await;
        self.ran.waited = context.clock.monotonic().saturating_sub(start);
        match opened {
            Ok(Ok(body)) => {
                self.reader = Some(Reader::new(body, Arc::clone(context), self.ask.run.entry));
                Ok(grant)
            }
            Ok(Err(error)) => {
                grant.refused(&error);
                Err(error.into())
            }
            // Dropping the grant counts it in full: an answer may be on its way.
            Err(_elapsed) => Err(stalled(&entry.key, stall_after).into()),
        }
    }

    async fn read_parts(&mut self, entry: &Entry) -> Result<(), Failure> {
        let parts = self.ask.run.parts.clone();
        let last = parts.end.saturating_sub(1);
        for part in parts {
            let buffer = self.take_buffer().await?;
            let received = self.read_part(entry.size, part, buffer).await?;
            if part == last
                && let Some(reader) = &mut self.reader
            {
                // A body that goes on is not the one that was asked for.
                reader.finish().await?;
            }
            self.keep(entry, received)?;
            self.drain(WRITES.saturating_sub(1)).await?;
        }
        Ok(())
    }

    /// Waits for a buffer while this request's own writes go on.
    async fn take_buffer(&mut self) -> Result<Buffer, Failure> {
        let Self {
            context,
            ran,
            writes,
            ..
        } = self;
        let mut take = pin!(context.buffers.take());
        loop {
            tokio::select! {
                biased;
                Some(written) = writes.next() => ran.settle(written)?,
                buffer = &mut take => return Ok(buffer),
            }
        }
    }

    async fn read_part(
        &mut self,
        size: u64,
        part: u64,
        mut buffer: Buffer,
    ) -> Result<Part, Failure> {
        let Self {
            ran,
            writes,
            reader,
            ..
        } = self;
        let Some(reader) = reader else {
            return Err(Failure::Stopped);
        };
        let length = usize::try_from(part_length(size, part)).unwrap_or(usize::MAX);
        let mut hasher = PartHasher::new(size, part);
        {
            let target = buffer.bytes_mut().get_mut(..length).unwrap_or_default();
            let mut fill = pin!(reader.fill(target, &mut hasher));
            loop {
                tokio::select! {
                    biased;
                    Some(written) = writes.next() => ran.settle(written)?,
                    filled = &mut fill => break filled?,
                }
            }
        }
        Ok(Part {
            index: part,
            buffer,
            length,
            hash: hasher.finish(),
        })
    }

    /// Hands a part to the store, unless the other request of this run was quicker.
    fn keep(&mut self, entry: &Entry, part: Part) -> Result<(), Failure> {
        if let (PartHash::Whole(found), Some(expected)) = (part.hash, self.context.expected(entry))
            && found != expected
        {
            return Err(Failure::Mismatch { expected, found });
        }
        if self.ask.race.claim(part.index) {
            self.writes.begin(part);
        }
        Ok(())
    }

    /// Waits until at most `most` writes are under way.
    async fn drain(&mut self, most: usize) -> Result<(), Failure> {
        while self.writes.count() > most {
            if let Some(written) = self.writes.next().await {
                self.ran.settle(written)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Ran {
        let mut ran = self.ran;
        ran.receiving = ran.waited;
        if let Some(reader) = self.reader {
            ran.received = reader.received;
            ran.receiving = ran.receiving.saturating_add(reader.receiving);
            ran.hashing = reader.hashing;
        }
        ran
    }
}

impl Ran {
    fn settle(&mut self, written: Written) -> Result<(), Failure> {
        self.writing = self.writing.saturating_add(written.time);
        written.result.map_err(Failure::Store)?;
        self.kept = self.kept.saturating_add(written.length);
        self.parts = self.parts.saturating_add(1);
        if let Some((digest, stored)) = written.small {
            self.small = Some((digest, stored.deduplicated));
        }
        self.writes.extend(written.memory_time);
        Ok(())
    }
}

/// Stores a file of at most one part and notes it in the stage log.
pub(super) async fn put_small(
    context: &Context,
    (index, writing): (usize, Writing),
    (buffer, length, hash): (Buffer, usize, PartHash),
) -> Result<(Digest, Stored), store::Error> {
    let digest = Digest::from_bytes(*hash.as_bytes());
    let store = &context.store;
    let (stored, buffer) = store.put_small_as(writing, buffer, length, digest).await?;
    drop(buffer);
    if let Some(entry) = context.entry(index) {
        context.note(entry, digest)?;
        context.progress.add_bytes(entry.size);
        context.progress.add_file();
    }
    Ok((digest, stored))
}
