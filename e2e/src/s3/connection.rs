//! One client connection: reads requests, and writes answers byte by byte as the faults on them demand.
//!
//! HTTP/1.1 is written here by hand, because what a test server must be able to do (lie about lengths, stop
//! between two bytes, count what the kernel took) is what a good HTTP library prevents.

use super::Shared;
use super::answer::{Answer, Body};
use super::fault::{Cut, Plan};
use super::operation;
use super::request::Request;
use super::wire::Entry;
use crate::generate::File;
use crate::pace::Pace;
use bytes::BytesMut;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const FRAME: usize = 256 << 10;
/// Frames up to this many bytes are copied behind their head, to leave in one write.
const ONE_WRITE: usize = 64 << 10;

/// A byte stream over TCP, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Serves `tcp` until either side closes it. An error means a connection that broke, which is a client's or
/// a fault's doing and nothing to report.
pub(super) async fn serve(
    shared: Arc<Shared>,
    tcp: TcpStream,
    tls: Option<TlsAcceptor>,
) -> io::Result<()> {
    let _open = shared.wire.connect();
    tcp.set_nodelay(true)?;
    let stream: Box<dyn Stream> = match tls {
        Some(tls) => Box::new(tls.accept(tcp).await?),
        None => Box::new(tcp),
    };
    let mut connection = Connection {
        pace: shared.connection_rate.map(|rate| Arc::new(Pace::new(rate))),
        shared,
        stream,
        input: BytesMut::new(),
        scratch: Vec::new(),
    };
    while connection.exchange().await? {}
    connection.stream.shutdown().await
}

struct Connection {
    shared: Arc<Shared>,
    stream: Box<dyn Stream>,
    input: BytesMut,
    /// Frames of content that is not in memory; grows to one frame and a head.
    scratch: Vec<u8>,
    pace: Option<Arc<Pace>>,
}

impl Connection {
    /// Answers one request; false when the connection is to be closed.
    async fn exchange(&mut self) -> io::Result<bool> {
        let domains = &self.shared.domains;
        let Some(request) = Request::read(&mut self.stream, &mut self.input, domains).await? else {
            return Ok(false);
        };
        let entry = self.shared.wire.begin(&request);
        let plan = self.shared.faults.strike(&request);
        self.wait_to_begin(&plan).await?;
        if let Some(cut) = &plan.hang_up {
            return self.cut(cut.clone()).await;
        }
        let answer = operation::answer(&self.shared, &request, &plan);
        let range = match &answer.body {
            Body::Object(_, range) => Some(range.clone()),
            Body::Empty | Body::Bytes(_) => None,
        };
        self.shared.wire.answered(entry, answer.status, range);
        let keep_alive = request.keep_alive && plan.keeps_framing();
        let went_on = self.send(&answer, &plan, keep_alive, entry).await?;
        self.stream.flush().await?;
        Ok(went_on && keep_alive)
    }

    async fn wait_to_begin(&mut self, plan: &Plan) -> io::Result<()> {
        if !plan.delay.is_zero() {
            tokio::time::sleep(plan.delay).await;
        }
        if let Some(lifted) = plan.no_head.clone() {
            self.cut(Cut::Stall(lifted)).await?;
        }
        Ok(())
    }

    /// Sends head and body; false where the body was cut short.
    async fn send(
        &mut self,
        answer: &Answer,
        plan: &Plan,
        keep_alive: bool,
        entry: Entry,
    ) -> io::Result<bool> {
        let mut sending = Sending {
            pending: answer.head(keep_alive),
            entry,
            counts: matches!(answer.body, Body::Object(..)),
            paces: self.paces(plan),
        };
        let went_on = match &answer.body {
            Body::Empty => true,
            Body::Bytes(bytes) => {
                let file = File::memory("", bytes.clone());
                self.send_file(&file, 0..file.size(), plan, &mut sending)
                    .await?
            }
            Body::Object(object, range) => {
                let end = plan
                    .shorten
                    .map_or(range.end, |n| range.end.min(range.start + n));
                self.send_file(&object.content, range.start..end, plan, &mut sending)
                    .await?
            }
        };
        let surplus = plan.extra + plan.undeclared;
        if went_on && surplus > 0 && sending.counts {
            let surplus = usize::try_from(surplus).unwrap_or(FRAME);
            sending
                .pending
                .resize(sending.pending.len() + surplus, b'+');
        }
        self.write(&sending.pending, None).await?;
        Ok(went_on)
    }

    fn paces(&self, plan: &Plan) -> Vec<Arc<Pace>> {
        let own = plan.rate.map(|rate| Arc::new(Pace::new(rate)));
        [own, self.pace.clone(), self.shared.total_pace()]
            .into_iter()
            .flatten()
            .collect()
    }

    async fn send_file(
        &mut self,
        file: &File,
        range: Range<u64>,
        plan: &Plan,
        sending: &mut Sending,
    ) -> io::Result<bool> {
        let limit = sending
            .paces
            .iter()
            .fold(FRAME, |limit, pace| pace.frame(limit)) as u64;
        let mut cut = plan
            .cut
            .clone()
            .map(|(after, kind)| (range.start.saturating_add(after), kind));
        let mut at = range.start;
        loop {
            if let Some((_, kind)) = cut.take_if(|(place, _)| *place == at) {
                let head = std::mem::take(&mut sending.pending);
                self.write(&head, None).await?;
                if !self.cut(kind).await? {
                    return Ok(false);
                }
            }
            if at >= range.end {
                return Ok(true);
            }
            let place = cut.as_ref().map_or(u64::MAX, |(place, _)| *place);
            let end = range
                .end
                .min(at + limit)
                .min(if place > at { place } else { u64::MAX });
            self.send_frame(file, at..end, &plan.flips, sending).await?;
            at = end;
        }
    }

    async fn send_frame(
        &mut self,
        file: &File,
        range: Range<u64>,
        flips: &[u64],
        sending: &mut Sending,
    ) -> io::Result<()> {
        let len = usize::try_from(range.end - range.start).unwrap_or(FRAME);
        for pace in &sending.paces {
            pace.take(len).await;
        }
        let count = sending.counts.then_some(range.start);
        let head = std::mem::take(&mut sending.pending);
        let flips = flips.iter().filter(|at| range.contains(at));
        if file.in_memory().is_some() && flips.clone().next().is_none() && len > ONE_WRITE {
            self.write(&head, None).await?;
            let bytes = file.read(range)?;
            return self
                .write(&bytes, count.map(|offset| (&mut sending.entry, offset, 0)))
                .await;
        }
        let (skip, total) = (head.len(), head.len() + len);
        let mut scratch = std::mem::take(&mut self.scratch);
        if scratch.len() < total {
            scratch.resize(total, 0);
        }
        scratch[..skip].copy_from_slice(&head);
        file.read_at(range.start, &mut scratch[skip..total])?;
        for at in flips {
            let at = usize::try_from(at - range.start).unwrap_or_default();
            scratch[skip + at] ^= 1;
        }
        let object = count.map(|offset| (&mut sending.entry, offset, skip));
        self.write(&scratch[..total], object).await?;
        self.scratch = scratch;
        Ok(())
    }

    /// Writes `bytes`, counting what the kernel takes: as bytes of an object from `offset`, but for the first
    /// `skip`.
    async fn write(
        &mut self,
        bytes: &[u8],
        mut object: Option<(&mut Entry, u64, usize)>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let taken = self.stream.write(&bytes[done..]).await?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.shared.wire.sent(taken);
            if let Some((entry, offset, skip)) = &mut object {
                let (before, after) = (
                    done.saturating_sub(*skip),
                    (done + taken).saturating_sub(*skip),
                );
                self.shared.wire.sent_object(
                    entry,
                    *offset + before as u64,
                    (after - before) as u64,
                );
            }
            done += taken;
        }
        Ok(())
    }

    /// Does to the connection what the fault says; true where the response goes on afterwards.
    async fn cut(&mut self, cut: Cut) -> io::Result<bool> {
        self.stream.flush().await?;
        match cut {
            Cut::Close => Ok(false),
            Cut::Reset => {
                self.stream.tcp().set_zero_linger()?;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Cut::Stall(mut lifted) => loop {
                tokio::select! {
                    () = lifted.wait() => return Ok(true),
                    read = self.stream.read_buf(&mut self.input) => if read? == 0 {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    },
                }
            },
        }
    }
}

/// One response on its way out.
struct Sending {
    /// The head until the first frame takes it along.
    pending: Vec<u8>,
    entry: Entry,
    /// Whether the body is an object's.
    counts: bool,
    paces: Vec<Arc<Pace>>,
}
