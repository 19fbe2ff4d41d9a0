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
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use tidemark_common::api::backup::types::RestoreRequest;

use crate::failure::Failure;

/// A message for people, in one line or several.
pub(crate) fn say(message: &str) {
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(io::stderr(), "{}", text::escaped_lines(message));
}

/// A path as a shell takes it for one word.
pub(crate) fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What ends a restore onto volumes.
pub(crate) fn cancel_command(restore: &RestoreRequest) -> String {
    let set = restore.set.as_ref().map_or_else(String::new, |set| format!(" --set {set}"));
    let onto = restore.onto.as_ref().map_or_else(|| " --onto-volumes".into(), |volume| format!(" --onto {volume}"));
    format!("tidemark backup restore {}{set}{onto} --cancel", shell_word(Path::new(&restore.from)))
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

/// What has come to its end: as [`done`] when that is a good one, else what is said of it, and that it is not.
pub(crate) fn ended<T: Serialize>(
    as_json: bool,
    value: &T,
    message: impl FnOnce(&T) -> String,
    well: bool,
) -> Result<(), Failure> {
    if well { done(as_json, value, message) } else { Err(not_well(as_json, value, message, Failure::Logged)) }
}

/// What was done and did not end well: people are told beside the JSON too, because the exit code says no. It says so whoever still reads.
pub(crate) fn not_well<T: Serialize>(
    as_json: bool,
    value: &T,
    message: impl FnOnce(&T) -> String,
    failure: Failure,
) -> Failure {
    say(&message(value));
    let written = if as_json { json(value) } else { Ok(()) };
    match written {
        Ok(()) | Err(Failure::OutputClosed) => failure,
        Err(unwritten) => unwritten,
    }
}

/// A value as indented JSON on stdout.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).context("write JSON")?;
    bytes(format!("{text}\n").as_bytes())
}

/// Bytes to stdout.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => anyhow::Error::new(error).context("the answer could not be written to the standard output").into(),
    })
}

/// Whether to use colour on a stream that is a terminal or not: <https://no-color.org>.
pub(crate) fn colour_on(terminal: bool) -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    terminal && !refused && !dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        for (path, word) in [
            ("/srv/east-1", "/srv/east-1"),
            ("/srv/my disk", "'/srv/my disk'"),
            ("/srv/it's", r"'/srv/it'\''s'"),
            ("/srv/$HOME", "'/srv/$HOME'"),
            ("/srv/größe", "'/srv/größe'"),
        ] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }
}
