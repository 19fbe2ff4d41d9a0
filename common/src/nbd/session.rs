//! The transmission phase of one connection.
//!
//! ```text
//! socket ─▶ Input ─▶ request ─▶ export, polled at once ──ready──▶ Output ─▶ socket
//!                                     └─pending─▶ slow requests ─────▲
//! ```
//!
//! One task does it all, so a request that the export can answer at once costs no hand-over: many requests come with one
//! read and many replies leave with one write. A request that is not ready waits aside and does not hold those behind it.
//! Owns the socket, the requests under way and the connection's limits; keeps the memory of a connection bounded whatever
//! its client does, and gives it back when the client is quiet.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::Export;
use super::buffers::{Buffer, Spares};
use super::connection::ConnectionOptions;
use super::execute::{Finished, Job, execute};
use super::haggle::Entered;
use super::input::{Arrived, Input, InputError};
use super::left::{Left, One};
use super::observe::{Answered, RequestKind, SessionObserver};
use super::output::Output;
use super::protocol::Errno;
use super::quiet::{Quiet, Watch};
use super::reply::ReplyTo;
use super::request::{Refusal, Request, RequestHeader, Terms};
use super::socket::HostStream;
use crate::clock::Clock;
use crate::limits::{NBD_BYTES_IN_FLIGHT_MAX, NBD_REPLY_BACKLOG_BYTES, NBD_REQUESTS_IN_FLIGHT_MAX};

/// Why a connection ended otherwise than by the client's wish or the server's stop.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// What the client sends is not the protocol.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The client broke off in the middle of a request.
    #[error("the client broke off in the middle of a request")]
    BrokenOff,
    /// The socket failed.
    #[error("the connection failed")]
    Socket(#[source] io::Error),
    /// The client neither sends the rest of a request nor takes its replies.
    #[error("the client stalled in the middle of a request or reply for {seconds} s")]
    Stalled {
        /// How long.
        seconds: u64,
    },
    /// The server stops and the client does not take its last replies, or an export does not answer.
    #[error("requests were still under way {seconds} s after the stop")]
    StopTimeout {
        /// How long.
        seconds: u64,
    },
}

/// How long a session waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a client in the middle of a request or reply to go on.
    pub stall: Duration,
    /// For requests under way when the server stops.
    pub stop: Duration,
}

type Slow = Pin<Box<dyn Future<Output = Finished> + Send>>;

/// One connection in transmission.
pub(super) struct Session<S> {
    stream: S,
    export: Arc<dyn Export>,
    terms: Terms,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn SessionObserver>,
    input: Input,
    output: Output,
    /// The stream may hold replies that the socket has not taken: under TLS, which takes more than it can pass on.
    unflushed: bool,
    spares: Spares,
    slow: FuturesUnordered<Slow>,
    /// Bytes of the buffers of `slow`.
    slow_bytes: usize,
    /// Set when no more requests are taken: what the session ends with when all is answered.
    ending: Option<Result<(), SessionError>>,
    watch: Watch,
    /// The export, as its client called it.
    name: String,
    left: Arc<Left>,
    /// Its client has gone, and requests are under way.
    waits: Option<One>,
}

impl<S: HostStream> Session<S> {
    pub(super) fn new(
        stream: S,
        entered: &Entered,
        observer: Arc<dyn SessionObserver>,
        options: &ConnectionOptions,
    ) -> Self {
        Self {
            stream,
            export: Arc::clone(&entered.export),
            terms: entered.terms,
            clock: Arc::clone(&options.clock),
            observer,
            input: Input::new(entered.terms),
            output: Output::default(),
            unflushed: false,
            spares: Spares::new(&options.budget),
            slow: FuturesUnordered::new(),
            slow_bytes: 0,
            ending: None,
            watch: Watch::new(options.patience.stall),
            name: entered.name.clone(),
            left: Arc::clone(&options.left),
            waits: None,
        }
    }

    /// Serves until the client leaves or breaks the protocol, or `stop`.
    pub(super) async fn run(mut self, stop: &CancellationToken, patience: Patience) -> Result<(), SessionError> {
        let ended = tokio::select! {
            biased;
            ended = self.serve() => Some(ended),
            () = stop.cancelled() => None,
        };
        let result = match ended {
            Some(result) => result,
            None => self.stop(patience.stop).await,
        };
        // The last bytes are with the socket; a client that has gone does not matter any more.
        let _ = tokio::time::timeout(patience.stop, self.stream.shutdown()).await;
        result
    }

    /// Answers what is here: requests under way with their result, others with ESHUTDOWN.
    async fn stop(&mut self, grace: Duration) -> Result<(), SessionError> {
        self.refuse_rest();
        self.end(Ok(()));
        let seconds = grace.as_secs();
        let ended = tokio::time::timeout(grace, self.serve()).await;
        ended.unwrap_or(Err(SessionError::StopTimeout { seconds }))
    }

    fn refuse_rest(&mut self) {
        let bounds = self.export.bounds();
        while self.ending.is_none() {
            // A buffer is for a request that is begun: it goes at once.
            match self.input.next(|| bounds, |bytes| self.spares.take(bytes, true)) {
                Ok(Arrived::Request { header, .. } | Arrived::Refused { header, .. }) => {
                    self.refuse(&header, &Refusal::new(Errno::Shutdown, "the service is stopping"));
                }
                Ok(Arrived::Disconnect | Arrived::Incomplete | Arrived::Held) | Err(_) => return,
            }
        }
    }

    /// Cancel safe: all state is in `self`.
    async fn serve(&mut self) -> Result<(), SessionError> {
        poll_fn(|context| self.poll_serve(context)).await
    }

    fn poll_serve(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        loop {
            let mut moved = self.collect(context);
            let held = self.begin(context);
            moved |= self.send(context);
            if self.ending.is_some() {
                if self.slow.is_empty() && self.output.is_empty() {
                    return Poll::Ready(self.ending.take().unwrap_or(Ok(())));
                }
                self.count_as_left();
            } else if !held {
                moved |= self.receive(context);
            } else if !self.is_sending() && self.watch.is_quiet() && self.stream.poll_ended(context).is_ready() {
                // What it has still sent is begun all the same, when there is room: it may wait for the answers.
                self.count_as_left();
            }
            if moved {
                self.watch.moved();
            } else if let Poll::Ready(quiet) = self.watch.poll(context, self.is_waiting_for_client(held)) {
                self.on_quiet(quiet, held);
            } else {
                return Poll::Pending;
            }
        }
    }

    /// The client has gone: as long as requests of it are under way.
    fn count_as_left(&mut self) {
        if !self.slow.is_empty() && self.waits.is_none() {
            self.waits = Some(self.left.one(&self.name));
        }
    }

    /// Queues the replies of slow requests that are done.
    fn collect(&mut self, context: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Poll::Ready(Some(finished)) = Pin::new(&mut self.slow).poll_next(context) {
            self.slow_bytes -= finished.job.buffer.len();
            self.answer(finished);
            moved = true;
        }
        moved
    }

    /// Begins the requests that have come, as far as limits allow; says whether one of them is held.
    fn begin(&mut self, context: &mut Context<'_>) -> bool {
        while self.ending.is_none() {
            let Self { input, spares, export, .. } = self;
            let room = Room {
                requests: self.slow.len() + self.output.replies(),
                bytes: self.slow_bytes + self.output.bytes(),
                backlog: self.output.bytes(),
            };
            let admit = |bytes| if room.admits(bytes) { spares.take(bytes, room.requests == 0) } else { None };
            match input.next(|| export.bounds(), admit) {
                Ok(Arrived::Request { header, request, buffer }) => self.start(header, request, buffer, context),
                Ok(Arrived::Refused { header, refusal }) => self.refuse(&header, &refusal),
                Ok(Arrived::Disconnect) => self.end(Ok(())),
                Ok(Arrived::Incomplete) => return false,
                Ok(Arrived::Held) => {
                    // What is held by replies goes on as soon as the socket has taken some.
                    if self.output.is_empty() || !self.send(context) {
                        return true;
                    }
                }
                Err(error) => self.end(Err(error.into())),
            }
        }
        false
    }

    fn start(&mut self, header: RequestHeader, request: Request, buffer: Buffer, context: &mut Context<'_>) {
        let bytes = buffer.len();
        let alone = self.slow.is_empty() && self.output.is_empty() && !self.input.is_mid_request();
        let job = Job { header, request, buffer, started: self.clock.monotonic(), alone };
        let mut running: Slow = Box::pin(execute(Arc::clone(&self.export), job));
        match running.as_mut().poll(context) {
            Poll::Ready(finished) => self.answer(finished),
            Poll::Pending => {
                self.slow_bytes += bytes;
                self.slow.push(running);
            }
        }
    }

    fn answer(&mut self, finished: Finished) {
        let result = finished.result.as_ref().map(|_| ()).map_err(|refusal| refusal.errno);
        self.observe(&finished.job.header, self.clock.monotonic().saturating_sub(finished.job.started), result);
        if let Some(buffer) = finished.reply(self.terms.style, &mut self.output) {
            self.spares.put(buffer);
        }
    }

    fn refuse(&mut self, header: &RequestHeader, refusal: &Refusal) {
        self.observe(header, Duration::ZERO, Err(refusal.errno));
        let to = ReplyTo::new(header, self.terms.style);
        self.output.push(|out| to.refused(out, refusal), Buffer::default());
    }

    fn observe(&self, header: &RequestHeader, duration: Duration, result: Result<(), Errno>) {
        if let Some(kind) = RequestKind::of(header.command) {
            self.observer.on_request(&Answered { kind, bytes: header.length, duration, result });
        }
    }

    /// Hands replies to the socket until it takes no more.
    fn send(&mut self, context: &mut Context<'_>) -> bool {
        let mut moved = false;
        while !self.output.is_empty() {
            match self.output.poll_write(&mut self.stream, context, &mut self.spares) {
                Poll::Ready(Ok(())) => (moved, self.unflushed) = (true, true),
                Poll::Ready(Err(error)) => self.lose(error),
                Poll::Pending => return moved,
            }
        }
        // Also when there was nothing to send: the client may wait for what was held back, and ask nothing before it has that.
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Ready(Ok(())) => (moved, self.unflushed) = (true, false),
                Poll::Ready(Err(error)) => self.lose(error),
                Poll::Pending => {}
            }
        }
        moved
    }

    fn receive(&mut self, context: &mut Context<'_>) -> bool {
        match self.input.poll_read(&mut self.stream, context) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) if self.input.is_mid_request() => self.end(Err(SessionError::BrokenOff)),
            Poll::Ready(Ok(0)) => self.end(Ok(())),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => self.lose(error),
        }
        true
    }

    /// The socket is gone: nothing can be answered any more, what is under way still ends.
    fn lose(&mut self, error: io::Error) {
        self.output.abandon();
        self.unflushed = false;
        self.end(Err(SessionError::Socket(error)));
    }

    fn end(&mut self, result: Result<(), SessionError>) {
        self.ending.get_or_insert(result);
    }

    /// Whether nothing moves because the client does not.
    fn is_waiting_for_client(&self, held: bool) -> bool {
        self.is_sending() || (self.ending.is_none() && !held && self.input.is_mid_request())
    }

    /// Whether the client has not taken all that it is answered.
    fn is_sending(&self) -> bool {
        !self.output.is_empty() || self.unflushed
    }

    fn on_quiet(&mut self, quiet: Quiet, held: bool) {
        match quiet {
            Quiet::Idle => {
                self.input.release();
                self.output.release();
                self.spares.release();
                if held {
                    // Nobody is woken by memory that another connection gives back.
                    self.watch.look_again();
                }
            }
            Quiet::Stalled { seconds } => {
                self.output.abandon();
                self.ending = Some(Err(SessionError::Stalled { seconds }));
            }
        }
    }
}

/// What is under way on a connection.
#[derive(Debug, Clone, Copy)]
struct Room {
    requests: usize,
    bytes: usize,
    backlog: usize,
}

impl Room {
    /// Whether a request with so many bytes of data may be begun. When nothing is under way, every request may.
    fn admits(self, bytes: usize) -> bool {
        self.requests == 0
            || (self.requests < NBD_REQUESTS_IN_FLIGHT_MAX
                && self.backlog < NBD_REPLY_BACKLOG_BYTES
                && self.bytes + bytes <= NBD_BYTES_IN_FLIGHT_MAX)
    }
}
