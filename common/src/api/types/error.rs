//! Error answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of an error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What happened, where, and what to do.
    pub message: String,
    /// `refused`, `not-found`, `timeout`, `failed`.
    pub kind: ErrorKind,
}

/// Kinds of error answers; each has an HTTP status and an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request makes no sense (400, exit 1).
    Invalid,
    /// No such thing (404, exit 1).
    NotFound,
    /// Not in this state (409, exit 1).
    Refused,
    /// Time ran out (408, exit 4).
    Timeout,
    /// It was tried and failed (500, exit 1).
    Failed,
}
