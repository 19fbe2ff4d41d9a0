//! What is wrong with a `config.toml`: file, line, and what to do about it.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::check::Problem;

/// Why an appliance's settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is none.
    #[error("{file} is not there: `tidemark init DIR` makes an appliance, and DIR is then given to all other commands", file = .file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// The file cannot be read.
    #[error("read {file}: {source}: check who owns it and the disk it is on", file = .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What is there is something else.
    #[error("{file} is not a config.toml: {why}; restore it from a backup", file = .file.display())]
    NotAConfig {
        /// The file.
        file: PathBuf,
        /// What was found.
        why: &'static str,
    },
    /// A line that is not understood, or a value that cannot be.
    #[error("{file}:{line}: {message}", file = .file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there and what to do.
        message: String,
    },
}

impl ConfigError {
    /// An error of the TOML reader.
    pub(super) fn from_toml(error: &toml::de::Error, text: &str, file: &Path) -> Self {
        let span = error.span().unwrap_or(text.len()..text.len());
        let said = error.message().trim().replace('\n', ", ");
        let message = format!("{said}: {}", remedy(&said, &span, text));
        Self::Line { file: file.into(), line: line_at(text, span.start), message }
    }

    /// A value that was read and cannot be used.
    pub(super) fn from_problem(problem: Problem, text: &str, file: &Path) -> Self {
        let line = offset_of(text, problem.table, problem.key).map_or(1, |offset| line_at(text, offset));
        Self::Line { file: file.into(), line, message: problem.message }
    }
}

fn remedy(said: &str, span: &Range<usize>, text: &str) -> &'static str {
    let at_end = text.get(span.start..).is_none_or(|rest| rest.trim().is_empty());
    if said.starts_with("missing field") || at_end {
        "the file may have been cut short; restore it from a backup, or put back what is missing \
         (`tidemark init` on a new directory writes a complete one to compare with)"
    } else if said.starts_with("unknown field") {
        "correct the spelling or remove the line"
    } else {
        "correct that line (`tidemark init` on a new directory writes a complete file to compare with)"
    }
}

/// The line, from 1, on which the byte at `offset` lies.
fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|byte| **byte == b'\n').count().saturating_add(1)
}

/// Where a key of a table is set; an empty table name is the top of the file.
fn offset_of(text: &str, table: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let of = |entries: &DeTable<'_>, name: &str| {
        entries.iter().find(|(found, _)| found.get_ref() == name).map(|(found, _)| found.span().start)
    };
    if table.is_empty() {
        return of(document.get_ref(), key);
    }
    let (_, value) = document.get_ref().iter().find(|(found, _)| found.get_ref() == table)?;
    match value.get_ref() {
        DeValue::Table(entries) => of(entries, key).or_else(|| of(document.get_ref(), table)),
        _ => of(document.get_ref(), table),
    }
}
