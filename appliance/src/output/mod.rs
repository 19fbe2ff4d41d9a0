//! What people and scripts see: answers on stdout, messages on stderr.
//!
//! What comes from elsewhere is escaped here, where it is written: a message, a table's cell, a line's words.
//!
//! `figures` (numbers as people read them), `text` (lines of coloured words), `table`, `status` (the picture of an
//! appliance), `watch` (that picture again and again).

pub(crate) mod figures;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod watch;

use std::env;
use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

use crate::failure::Failure;

/// A message for people, in one line or several.
pub(crate) fn say(message: &str) {
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(io::stderr(), "{}", text::escaped_lines(message));
}

/// The answer to a question, on stdout: JSON, or what `text` makes of it.
pub(crate) fn answer<T: Serialize>(
    as_json: bool,
    value: &T,
    text: impl FnOnce(&T) -> Result<String, Failure>,
) -> Result<(), Failure> {
    if as_json {
        return json(value);
    }
    let text = text(value)?;
    let text = text::escaped_lines(&text);
    let end = if text.ends_with('\n') { "" } else { "\n" };
    bytes(format!("{text}{end}").as_bytes())
}

/// What was done: JSON on stdout for machines, a message on stderr for people.
pub(crate) fn done<T: Serialize>(as_json: bool, value: &T, message: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    if as_json {
        return json(value);
    }
    say(&message(value));
    Ok(())
}

/// A value as indented JSON on stdout.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).context("write JSON")?;
    bytes(format!("{text}\n").as_bytes())
}

/// Bytes to stdout.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(())
}

/// Whether to use colour on a stream that is a terminal or not: <https://no-color.org>.
pub(crate) fn colour_on(terminal: bool) -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    terminal && !refused && !dumb
}
