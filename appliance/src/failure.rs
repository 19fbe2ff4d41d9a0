//! How a command fails: one message for people, one exit code for scripts.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | refused or failed |
//! | 2 | wrong usage |
//! | 3 | service not reachable |
//! | 4 | time ran out |
//! | 128 + N | broken off by signal N, as a shell counts it: what goes on in the service was said |

use std::io;
use std::process::ExitCode;

use tidemark_common::api::client::ClientError;
use tidemark_common::api::types::ErrorKind;
use tokio::signal::unix::SignalKind;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The words make no sense together.
    #[error("{0}")]
    Usage(String),
    /// The service refused, failed, or is not there.
    #[error(transparent)]
    Service(#[from] ClientError),
    /// This process failed.
    #[error("{}", with_causes(.0))]
    Here(anyhow::Error),
    /// This process failed and its log says why.
    #[error("see the log")]
    Logged,
    /// A signal broke it off; what that means was said.
    #[error("broken off")]
    Interrupted(SignalKind),
    /// Whoever reads the output has heard enough, as in `tidemark markers g | head`.
    #[error("the output was closed")]
    OutputClosed,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Here(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Here(error.into()),
        }
    }
}

impl Failure {
    /// Says why on stderr; the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !matches!(self, Self::Logged | Self::Interrupted(_) | Self::OutputClosed) {
            crate::output::say(&format!("tidemark: {self}"));
        }
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Usage(_) => 2,
            Self::Here(_) | Self::Logged => 1,
            Self::Interrupted(signal) => u8::try_from(signal.as_raw_value()).unwrap_or(0).saturating_add(128),
            Self::Service(error) => service_code(error),
        }
    }
}

/// An error and its causes in one line. Many an error tells its cause itself, and it is said once.
pub(crate) fn with_causes(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.is_empty() {
            told = cause;
        } else if !told.contains(&cause) {
            told.push_str(": ");
            told.push_str(&cause);
        }
    }
    told
}

const fn service_code(error: &ClientError) -> u8 {
    match error {
        ClientError::Answered(body) => match body.kind {
            ErrorKind::Timeout => 4,
            ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Refused | ErrorKind::Failed => 1,
        },
        ClientError::Garbled { .. } => 1,
        ClientError::Unreachable { .. } | ClientError::BrokenOff { .. } | ClientError::Silent { .. } => 3,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemark_common::api::types::ErrorBody;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("listen on s: {source}: is its directory there?")]
    struct Listen {
        source: io::Error,
    }

    #[test]
    fn a_cause_that_is_told_already_is_not_told_again() {
        let gone = || io::Error::from_raw_os_error(2);
        let told = anyhow::Error::from(Listen { source: gone() }).context("start");
        let expected = "start: listen on s: No such file or directory (os error 2): is its directory there?";
        assert_eq!(Failure::from(told).to_string(), expected);
        let told = anyhow::Error::from(gone()).context("read a").context("start");
        assert_eq!(with_causes(&told), "start: read a: No such file or directory (os error 2)");
        assert_eq!(with_causes(&anyhow::anyhow!("alone")), "alone");
    }

    #[test]
    fn every_failure_has_the_code_of_the_contract() {
        let answered = |kind| ClientError::Answered(ErrorBody::new(kind, "why")).into();
        let gone = || io::Error::from(io::ErrorKind::ConnectionRefused);
        for (failure, code) in [
            (answered(ErrorKind::Invalid), 1),
            (answered(ErrorKind::NotFound), 1),
            (answered(ErrorKind::Refused), 1),
            (answered(ErrorKind::Failed), 1),
            (answered(ErrorKind::Timeout), 4),
            (ClientError::Unreachable { socket: "s".into(), remedy: "r".into(), source: gone() }.into(), 3),
            (ClientError::Silent { socket: "s".into(), after: Duration::from_secs(1) }.into(), 3),
            (ClientError::Garbled { socket: "s".into(), why: "x".into() }.into(), 1),
            (Failure::Usage("u".into()), 2),
            (Failure::Here(anyhow::anyhow!("h")), 1),
            (Failure::Logged, 1),
            (Failure::Interrupted(SignalKind::interrupt()), 130),
            (Failure::Interrupted(SignalKind::terminate()), 143),
            (io::Error::from(io::ErrorKind::BrokenPipe).into(), 0),
            (gone().into(), 1),
        ] {
            assert_eq!(failure.code(), code, "{failure:?}");
        }
    }
}
