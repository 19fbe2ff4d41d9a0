//! One request on its way through the export: begun once, run to its end, answered.
//!
//! Owns the request's buffer while the export works on it. A request that was begun is not dropped before it resolves, also
//! when its client has gone; only a stop that has waited long enough for it does that.

use std::sync::Arc;
use std::time::Duration;

use super::buffers::Buffer;
use super::output::Output;
use super::protocol::Errno;
use super::reply::{ReplyTo, tidy_runs};
use super::request::{Refusal, Request, RequestHeader, Style};
use super::{Allocation, Export, IoError, ZeroMode};
use crate::limits::NBD_STATUS_RUNS_MAX;

/// A request with all it needs.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) header: RequestHeader,
    pub(super) request: Request,
    /// The data to write, or room for the data to read.
    pub(super) buffer: Buffer,
    /// When it was all here, on the session's clock.
    pub(super) started: Duration,
    /// The client has nothing else under way.
    pub(super) alone: bool,
}

/// A request the export is done with.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) job: Job,
    pub(super) result: Result<Answer, Refusal>,
}

/// What a request gave.
#[derive(Debug)]
pub(super) enum Answer {
    /// Nothing but success.
    Done,
    /// The buffer holds what was read.
    Data,
    /// What is allocated.
    Runs(Vec<Allocation>),
}

/// Runs a request to its end.
pub(super) async fn execute(export: Arc<dyn Export>, mut job: Job) -> Finished {
    let result = match job.request {
        Request::Read { offset, .. } => export.read(offset, &mut job.buffer).await.map(|()| Answer::Data),
        Request::Write { offset, fua: true, .. } if job.alone => done(export.write_alone(offset, &job.buffer).await),
        Request::Write { offset, fua, .. } => done(export.write(offset, &job.buffer, fua).await),
        Request::Flush if job.alone => done(export.flush_alone().await),
        Request::Flush => done(export.flush().await),
        Request::Trim { offset, length, fua } => done(export.trim(offset, length, fua).await),
        Request::Zero { offset, length, mode } => done(export.write_zeroes(offset, length, mode).await),
        Request::Cache { offset, length } => done(export.cache(offset, length).await),
        Request::Status { offset, length, one } => {
            let limit = if one { 1 } else { NBD_STATUS_RUNS_MAX };
            match export.block_status(offset, length).await {
                Ok(runs) => Some(tidy_runs(&runs, length, limit)).filter(|runs| !runs.is_empty()).ok_or(IoError::Io),
                Err(error) => Err(error),
            }
            .map(Answer::Runs)
        }
        Request::Nothing => Ok(Answer::Done),
    };
    let result = result.map_err(|error| refusal(error, &job.request));
    Finished { job, result }
}

fn done(result: Result<(), IoError>) -> Result<Answer, IoError> {
    result.map(|()| Answer::Done)
}

/// The protocol allows ENOTSUP for a fast zero request and for nothing else.
fn refusal(error: IoError, request: &Request) -> Refusal {
    let fast = matches!(request, Request::Zero { mode: ZeroMode { fast: true, .. }, .. });
    let errno = match error.into() {
        Errno::NotSupported if !fast => Errno::Invalid,
        errno => errno,
    };
    Refusal { errno, message: error.to_string().into() }
}

impl Finished {
    /// Queues the reply. The buffer goes with it when it holds what was read, and comes back otherwise.
    pub(super) fn reply(self, style: Style, output: &mut Output) -> Option<Buffer> {
        let to = ReplyTo::new(&self.job.header, style);
        let buffer = self.job.buffer;
        match self.result {
            Ok(Answer::Done) => output.push(|out| to.done(out), Buffer::default()),
            Ok(Answer::Runs(runs)) => output.push(|out| to.status(out, &runs), Buffer::default()),
            Ok(Answer::Data) => {
                // No larger than the largest request.
                let bytes = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
                if !(to.can_say_zeroes() && is_zero(&buffer)) {
                    output.push(|out| to.data_follow(out, bytes), buffer);
                    return None;
                }
                output.push(|out| to.zeroes(out, bytes), Buffer::default());
            }
            Err(refusal) => output.push(|out| to.refused(out, &refusal), Buffer::default()),
        }
        Some(buffer)
    }
}

/// Whether all bytes are zero; gives up at the first that is not.
fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| block.iter().fold(0, |any, byte| any | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_seen_at_every_length_and_position() {
        for length in [0, 1, 63, 64, 65, 4096, 5000] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes), "{length}");
            for at in [0, length / 2, length.saturating_sub(1)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = 1;
                    assert!(!is_zero(&bytes), "{length} at {at}");
                    bytes[at] = 0;
                }
            }
        }
    }

    #[test]
    fn enotsup_is_for_fast_zero_only() {
        let zero = |fast| Request::Zero { offset: 0, length: 1, mode: ZeroMode { fast, ..ZeroMode::default() } };
        assert_eq!(refusal(IoError::NotSupported, &zero(true)).errno, Errno::NotSupported);
        assert_eq!(refusal(IoError::NotSupported, &zero(false)).errno, Errno::Invalid);
        assert_eq!(refusal(IoError::NotSupported, &Request::Flush).errno, Errno::Invalid);
        assert_eq!(refusal(IoError::ShuttingDown, &Request::Flush).errno, Errno::Shutdown);
    }
}
