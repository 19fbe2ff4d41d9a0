//! Lines of words with a style each, so that width is known before colour is added.

use std::borrow::Cow;
use std::fmt::Write;

/// Text as it may be written into one line: what would move the cursor, colour, begin a line, or turn what follows around is
/// written as its escape. Tags, reasons of peers, paths come from elsewhere, and must not draw what is not there.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    escaped_where(text, is_unprintable)
}

/// The same of a text of several lines.
pub(crate) fn escaped_lines(text: &str) -> Cow<'_, str> {
    escaped_where(text, |c| is_unprintable(c) && c != '\n' && c != '\t')
}

fn escaped_where(text: &str, escapes: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&escapes) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if escapes(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// Control characters, and those that separate lines or set the direction of writing.
fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What a word means to the eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// As it is.
    Plain,
    /// A name to find.
    Strong,
    /// A label, or what matters less.
    Faint,
    /// As it should be.
    Good,
    /// Under way.
    Busy,
    /// Worth a look.
    Warning,
    /// Needs a person.
    Bad,
}

impl Style {
    /// Its select-graphic-rendition parameters; plain text has none.
    const fn codes(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Strong => "1",
            Self::Faint => "2",
            Self::Good => "32",
            Self::Busy => "36",
            Self::Warning => "33",
            Self::Bad => "1;31",
        }
    }
}

/// How text is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// Columns; longer lines are cut.
    pub(crate) width: usize,
    /// Whether styles are shown.
    pub(crate) colour: bool,
}

/// One line being put together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line(Vec<(Style, String)>);

impl Line {
    /// Words at the given indentation.
    pub(crate) fn indented(columns: usize) -> Self {
        Self(vec![(Style::Plain, " ".repeat(columns))])
    }

    /// Adds words.
    #[must_use]
    pub(crate) fn with(mut self, style: Style, words: impl Into<String>) -> Self {
        let words: String = words.into();
        self.0.push((style, escaped(&words).into_owned()));
        self
    }

    /// Adds plain words.
    #[must_use]
    pub(crate) fn plain(self, words: impl Into<String>) -> Self {
        self.with(Style::Plain, words)
    }

    /// Adds spaces up to a column.
    #[must_use]
    pub(crate) fn to(self, column: usize) -> Self {
        let missing = column.saturating_sub(self.width());
        self.plain(" ".repeat(missing))
    }

    /// Columns taken. Names are ASCII; other text comes in messages, where a column more or less does no harm.
    pub(crate) fn width(&self) -> usize {
        self.0.iter().map(|(_, words)| words.chars().count()).sum()
    }

    /// The line as it is written, without a line break.
    pub(crate) fn shown(&self, view: View) -> String {
        let fits = self.width() <= view.width;
        let mut left = if fits { view.width } else { view.width.saturating_sub(1) };
        let mut shown = String::new();
        for (style, words) in &self.0 {
            let words: String = words.chars().take(left).collect();
            left = left.saturating_sub(words.chars().count());
            paint(&mut shown, *style, &words, view.colour);
        }
        if !fits {
            shown.push('…');
        }
        if view.colour { shown } else { shown.trim_end().to_owned() }
    }
}

fn paint(shown: &mut String, style: Style, words: &str, colour: bool) {
    let codes = style.codes();
    let _ = if colour && !codes.is_empty() && !words.trim().is_empty() {
        write!(shown, "\x1b[{codes}m{words}\x1b[0m")
    } else {
        write!(shown, "{words}")
    };
}

/// Breaks text into lines of at most so many columns, between words where there are any.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word = word.to_owned();
        loop {
            let line = lines.last_mut().map_or(0, |line| line.chars().count());
            let gap = usize::from(line > 0);
            if line + gap + word.chars().count() <= columns {
                append(&mut lines, &word, gap);
                break;
            }
            if line > 0 {
                lines.push(String::new());
                continue;
            }
            let rest: String = word.chars().skip(columns).collect();
            append(&mut lines, &word.chars().take(columns).collect::<String>(), 0);
            lines.push(String::new());
            word = rest;
        }
    }
    lines
}

fn append(lines: &mut [String], word: &str, gap: usize) {
    if let Some(line) = lines.last_mut() {
        line.push_str(" ".get(..gap).unwrap_or_default());
        line.push_str(word);
    }
}

/// A bar of so many columns, filled in eighths.
pub(crate) fn bar(share: f64, columns: u32) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let mut left = share.clamp(0.0, 1.0) * f64::from(columns);
    let mut shown = String::new();
    while left >= 1.0 {
        shown.push('█');
        left -= 1.0;
    }
    let eighth = EIGHTHS.iter().zip(0_u8..).filter(|(_, eighth)| left * 8.0 >= f64::from(*eighth)).last();
    shown.push_str(eighth.map_or("", |(part, _)| part));
    let missing = usize::try_from(columns).unwrap_or(0).saturating_sub(shown.chars().count());
    shown + &" ".repeat(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: View = View { width: 12, colour: false };

    #[test]
    fn a_line_is_cut_where_the_screen_ends() {
        let line = Line::default().with(Style::Strong, "east").plain("  ").with(Style::Good, "paired");
        assert_eq!(line.shown(PLAIN), "east  paired");
        assert_eq!(line.shown(View { width: 11, ..PLAIN }), "east  pair…");
        assert_eq!(line.shown(View { width: 3, ..PLAIN }), "ea…");
        assert_eq!(line.shown(View { width: 80, colour: true }), "\x1b[1meast\x1b[0m  \x1b[32mpaired\x1b[0m");
        assert_eq!(line.shown(View { width: 6, colour: true }), "\x1b[1meast\x1b[0m …");
    }

    #[test]
    fn nothing_from_elsewhere_moves_the_cursor_or_begins_a_line() {
        assert_eq!(escaped("größer, 日本 …"), "größer, 日本 …");
        assert_eq!(escaped("a\nb\t\u{1b}[2J\u{9b}\u{7f}\u{202e}"), r"a\nb\t\u{1b}[2J\u{9b}\u{7f}\u{202e}");
        assert_eq!(escaped_lines("a\n\tb\r\u{1b}]0;x\u{7}"), "a\n\tb\\r\\u{1b}]0;x\\u{7}");
        let line = Line::default().plain("reason: \u{1b}[31mgone\nEAST");
        assert_eq!(line.shown(View { width: 80, colour: false }), r"reason: \u{1b}[31mgone\nEAST");
    }

    #[test]
    fn words_are_kept_whole_where_they_fit() {
        assert_eq!(wrapped("the link is down", 8), ["the link", "is down"]);
        assert_eq!(wrapped("abcdefghij kl", 4), ["abcd", "efgh", "ij", "kl"]);
        assert_eq!(wrapped("", 4), [""]);
        assert_eq!(wrapped("a b", 0), ["a", "b"]);
    }

    #[test]
    fn a_bar_is_as_full_as_its_share() {
        for (share, shown) in
            [(0.0, "    "), (0.03, "    "), (0.04, "▏   "), (0.5, "██  "), (0.99, "███▉"), (1.0, "████"), (7.0, "████")]
        {
            assert_eq!(bar(share, 4), shown, "{share}");
        }
    }
}
