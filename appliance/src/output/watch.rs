//! `status --watch`: the picture of an appliance, drawn again each second.
//!
//! On a terminal it has the screen to itself until `q`, Escape or Ctrl-C; a service that goes away and comes back is shown
//! as that. Elsewhere it prints one block, or one JSON object in one line, each second, until the service goes away.
//! Owns the terminal's state: whatever happens, the terminal is given back as it was.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute, queue};
use jiff::Timestamp;
use tidemark_common::api::client::ClientError;
use tidemark_common::api::types::Status;
use tidemark_common::clock::{Clock, SystemClock};
use tidemark_common::plural::counted;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::status::render;
use super::text::{Line, Style, View};
use super::{bytes, colour_on, figures};
use crate::commands::Service;
use crate::failure::Failure;

/// Between two pictures.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks at whether the terminal is still wanted, while no key is pressed.
const KEY_WAIT: Duration = Duration::from_millis(250);
/// A picture that is older is said to be.
const STALE_SECONDS: f64 = 3.0;
/// Width used where there is no terminal.
const UNKNOWN_WIDTH: usize = usize::MAX;

/// One picture, as `tidemark status` prints it.
pub(crate) fn once(status: &Status) -> Result<(), Failure> {
    bytes(render(status, SystemClock::new().wall(), stdout_view()).as_bytes())
}

/// Pictures until the user has seen enough.
pub(crate) async fn watch(service: &Service) -> Result<(), Failure> {
    if io::stdout().is_terminal() && io::stdin().is_terminal() && !service.json {
        on_terminal(service).await
    } else {
        as_blocks(service).await
    }
}

fn stdout_view() -> View {
    let is_terminal = io::stdout().is_terminal();
    let columns = if is_terminal { terminal::size().ok() } else { None };
    View { width: columns.map_or(UNKNOWN_WIDTH, |(columns, _)| columns.into()), colour: colour_on(is_terminal) }
}

async fn as_blocks(service: &Service) -> Result<(), Failure> {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let status = service.client.status().await?;
        if service.json {
            let line = serde_json::to_string(&status).context("write JSON")?;
            bytes(format!("{line}\n").as_bytes())?;
        } else {
            once(&status)?;
            bytes(b"\n")?;
        }
    }
}

async fn on_terminal(service: &Service) -> Result<(), Failure> {
    let status = service.client.status().await?;
    let mut shown = Shown { status, told: SystemClock::new().wall(), gone: None, scrolled: 0 };
    let mut ends = Ends::listen()?;
    let mut screen = Screen::open()?;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks.tick().await;
    let mut key = tokio::task::spawn_blocking(next_key);
    // One at a time, beside the keys and the screen: a service that hangs answers late, or never.
    let mut looks = JoinSet::new();
    loop {
        screen.draw(&mut shown)?;
        tokio::select! {
            _ = ticks.tick() => {
                if looks.is_empty() {
                    let client = service.client.clone();
                    looks.spawn(async move { client.status().await });
                }
            }
            Some(answer) = looks.join_next() => shown.take(answer.context("ask the service")?),
            ended = ends.next() => return Err(ended),
            pressed = &mut key => {
                match pressed.context("read the keyboard")?? {
                    Some(Key::Quit) => return Ok(()),
                    Some(Key::Scroll(lines)) => shown.scrolled = shown.scrolled.saturating_add_signed(lines),
                    None => {}
                }
                key = tokio::task::spawn_blocking(next_key);
            }
        }
    }
}

/// Who ends the picture from outside: none of these ends the process before the terminal is given back.
struct Ends {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Ends {
    fn listen() -> Result<Self, Failure> {
        let of = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
            hang_up: of(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Failure {
        Failure::Interrupted(tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
        })
    }
}

/// What is on the screen.
struct Shown {
    status: Status,
    /// When that was told.
    told: Timestamp,
    /// Why the service does not answer.
    gone: Option<ClientError>,
    /// Lines above the first one shown.
    scrolled: usize,
}

impl Shown {
    fn take(&mut self, answer: Result<Status, ClientError>) {
        match answer {
            Ok(status) => (self.status, self.told, self.gone) = (status, SystemClock::new().wall(), None),
            Err(error) => self.gone = Some(error),
        }
    }

    /// The last line: what is wrong, or how to get out.
    fn footer(&self, now: Timestamp, hidden: usize) -> Line {
        match stale(self.told, now, self.gone.as_ref()) {
            Some(said) => Line::default().with(Style::Bad, said),
            None if hidden > 0 => {
                let below = counted(hidden as u64, "line");
                Line::default().with(Style::Faint, format!("q: quit   ↑ ↓: scroll, {below} below"))
            }
            None => Line::default().with(Style::Faint, "q: quit"),
        }
    }
}

/// What is to be said of a picture that is not of now.
fn stale(told: Timestamp, now: Timestamp, gone: Option<&ClientError>) -> Option<String> {
    let age = figures::age(told, now);
    match gone {
        Some(error) => Some(format!("stale for {age}: {error}")),
        None if now.duration_since(told).as_secs_f64() > STALE_SECONDS => {
            Some(format!("stale for {age}: the service has not answered since"))
        }
        None => None,
    }
}

enum Key {
    Quit,
    Scroll(isize),
}

/// Waits a moment for a key that means something; anything else, a resize above all, asks for a new picture.
fn next_key() -> io::Result<Option<Key>> {
    if !event::poll(KEY_WAIT)? {
        return Ok(None);
    }
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event::read()? else {
        return Ok(None);
    };
    Ok(match code {
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char('c' | 'd') if modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
        KeyCode::Down | KeyCode::Char('j') => Some(Key::Scroll(1)),
        KeyCode::Up | KeyCode::Char('k') => Some(Key::Scroll(-1)),
        KeyCode::PageDown | KeyCode::Char(' ') => Some(Key::Scroll(20)),
        KeyCode::PageUp => Some(Key::Scroll(-20)),
        KeyCode::Home => Some(Key::Scroll(isize::MIN)),
        _ => None,
    })
}

/// The terminal, taken over until this is dropped.
struct Screen(io::Stdout);

impl Screen {
    fn open() -> Result<Self, Failure> {
        terminal::enable_raw_mode().context("take over the terminal")?;
        let mut screen = Self(io::stdout());
        execute!(screen.0, EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    /// Draws over what is there, so that nothing flickers.
    fn draw(&mut self, shown: &mut Shown) -> Result<(), Failure> {
        let (columns, rows) = terminal::size()?;
        let view = View { width: columns.into(), colour: colour_on(true) };
        let now = SystemClock::new().wall();
        let picture = render(&shown.status, now, view);
        let room = usize::from(rows).saturating_sub(1);
        shown.scrolled = shown.scrolled.min(picture.lines().count().saturating_sub(room));
        let visible = picture.lines().skip(shown.scrolled).take(room);
        queue!(self.0, terminal::BeginSynchronizedUpdate, cursor::MoveTo(0, 0))?;
        for line in visible {
            queue!(self.0, crossterm::style::Print(line), Clear(ClearType::UntilNewLine), cursor::MoveToNextLine(1))?;
        }
        let hidden = picture.lines().count().saturating_sub(shown.scrolled + room);
        let footer = shown.footer(now, hidden).shown(view);
        queue!(self.0, Clear(ClearType::FromCursorDown), cursor::MoveTo(0, rows.saturating_sub(1)))?;
        queue!(self.0, crossterm::style::Print(footer), Clear(ClearType::UntilNewLine))?;
        queue!(self.0, terminal::EndSynchronizedUpdate)?;
        self.0.flush()?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nothing better to do when even this fails.
        let _ = execute!(self.0, LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    /// One that ended the process at once left a terminal without a cursor that shows nothing of what is typed.
    #[tokio::test]
    async fn a_picture_that_is_ended_from_outside_says_by_which_signal() {
        let mut ends = Ends::listen().unwrap();
        for (raised, kind) in [
            (Signal::INT, SignalKind::interrupt()),
            (Signal::TERM, SignalKind::terminate()),
            (Signal::HUP, SignalKind::hangup()),
        ] {
            kill_process(getpid(), raised).unwrap();
            let ended = ends.next().await;
            assert!(matches!(ended, Failure::Interrupted(by) if by == kind), "{ended:?}");
        }
    }

    /// A service that hangs answers nothing, which is no error for as long as it is waited for.
    #[test]
    fn a_picture_of_a_service_that_hangs_is_called_stale() {
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        assert_eq!(stale(at(0), at(1), None), None);
        assert_eq!(stale(at(0), at(7), None).as_deref(), Some("stale for 7.0 s: the service has not answered since"));
        let gone = ClientError::Garbled { socket: "api.sock".into(), why: "words".into() };
        assert!(stale(at(0), at(1), Some(&gone)).is_some_and(|said| said.starts_with("stale for 1.0 s: api.sock")));
    }
}
