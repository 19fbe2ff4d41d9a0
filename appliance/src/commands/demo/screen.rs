//! What the demo prints: one line for each act, and one that lives while the load runs.
//!
//! On a terminal the living line is written over itself; elsewhere it is printed again each second.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crossterm::terminal;

use crate::output::colour_on;
use crate::output::text::{Line, Style, View, wrapped};

/// Where what is said of an act begins.
const COLUMN: usize = 14;
/// Longer lines are broken, for reading.
const TEXT_WIDTH: usize = 110;
/// Between two living lines where there is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(1);

/// Standard output.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    silent: bool,
    /// A living line is there, without a line break.
    living: bool,
    lived_at: Option<Duration>,
}

impl Screen {
    /// Standard output; silent when a machine reads it.
    pub(super) fn new(silent: bool) -> Self {
        Self { terminal: io::stdout().is_terminal(), silent, living: false, lived_at: None }
    }

    /// A title, with room around it.
    pub(super) fn title(&mut self, name: &str, words: &str) {
        self.put(&Line::default().with(Style::Strong, name).plain("  ").plain(words), "\n\n");
    }

    /// How it ends.
    pub(super) fn end(&mut self, name: &str, words: &str) {
        self.space();
        self.put(&Line::default().with(Style::Good, name).plain("  ").plain(words), "\n");
    }

    /// An act: what it is, and what came of it.
    pub(super) fn act(&mut self, name: &str, words: &str) {
        self.told(Style::Strong, name, words);
    }

    /// An act that is bad news.
    pub(super) fn blow(&mut self, name: &str, words: &str) {
        self.told(Style::Bad, name, words);
    }

    fn told(&mut self, style: Style, name: &str, words: &str) {
        let columns = self.view().width.min(TEXT_WIDTH).saturating_sub(COLUMN);
        for (index, part) in wrapped(words, columns).into_iter().enumerate() {
            let name = if index == 0 { name } else { "" };
            self.put(&act(style, name).plain(part), "\n");
        }
    }

    /// Something that was proven, and by what.
    pub(super) fn proven(&mut self, name: &str, what: &str, by: &str) {
        self.put(
            &act(Style::Strong, name).with(Style::Good, "✓ ").plain(what).to(COLUMN + 44).with(Style::Faint, by),
            "\n",
        );
    }

    /// Room between acts.
    pub(super) fn space(&mut self) {
        self.put(&Line::default(), "\n");
    }

    /// The living line; `at` is the time since the load began.
    pub(super) fn live(&mut self, name: &str, words: &str, at: Duration) {
        if !self.terminal && self.lived_at.is_some_and(|last| at < last + PLAIN_INTERVAL) {
            return;
        }
        self.lived_at = Some(at);
        let line = act(Style::Busy, name).plain(words);
        self.put(&line, if self.terminal { "" } else { "\n" });
        self.living = self.terminal;
    }

    /// The living line stays as it is.
    pub(super) fn settle(&mut self) {
        if self.living {
            self.living = false;
            self.write("\n");
        }
        self.lived_at = None;
    }

    fn put(&mut self, line: &Line, end: &str) {
        let begin = if self.living { "\r\x1b[K" } else { "" };
        self.living = false;
        let shown = line.shown(self.view());
        self.write(&format!("{begin}{shown}{end}"));
    }

    fn view(&self) -> View {
        let columns = if self.terminal { terminal::size().ok() } else { None };
        // The last column stays free, so that the cursor does not wrap.
        let width = columns.map_or(usize::MAX, |(columns, _)| usize::from(columns).saturating_sub(1));
        View { width, colour: colour_on(self.terminal) }
    }

    fn write(&self, text: &str) {
        if self.silent {
            return;
        }
        // What is proven is proven, whether or not somebody is still watching.
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn act(style: Style, name: &str) -> Line {
    Line::indented(2).with(style, name).to(COLUMN)
}
