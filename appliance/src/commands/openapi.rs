//! `tidemark openapi`: the control API's description, for generators of clients.

use tidemark_common::api;

use crate::failure::Failure;
use crate::output;

/// Prints it. Needs no running service.
pub(super) fn run() -> Result<(), Failure> {
    output::json(&api::openapi())
}
