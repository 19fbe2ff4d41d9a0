//! What follows what. Whatever is not in the picture is refused.
//!
//! ```text
//!  simplex ─create─▶ copy ─all copied─▶ pair ─split─▶ split ─resync─▶ resync ─all copied─▶ pair
//!                     └──────── split ───────────────▶  ▲ └─reverse─▶ reverse ─restored─▶ pair
//!                                    resync ─split──────┘
//!  from any but reverse: ─cannot go on─▶ error ─resync─▶ resync;  from any but reverse: ─delete─▶ simplex
//!  reverse ─given up: the source is another side's copy now─▶ error
//! ```

use crate::catalog::LocalPairStateRecord as State;

/// What happens to a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// By the operator.
    Split,
    /// By the operator.
    Resync,
    /// By the operator.
    Reverse,
    /// All that differed when the copy or resync began is copied.
    AllCopied,
    /// The source holds what the target does.
    Restored,
    /// It cannot go on.
    Fail,
    /// The source is a copy now, and holds what another side has.
    GiveUp,
}

/// The state after an event; `None`: refused.
#[must_use]
pub const fn next(state: State, event: Event) -> Option<State> {
    match (state, event) {
        (State::Copy | State::Pair | State::Resync, Event::Split) => Some(State::Split),
        (State::Split | State::Error, Event::Resync) => Some(State::Resync),
        (State::Split, Event::Reverse) => Some(State::Reverse),
        (State::Copy | State::Resync, Event::AllCopied) | (State::Reverse, Event::Restored) => Some(State::Pair),
        // A source that is half restored stays closed until it is whole.
        (State::Copy | State::Pair | State::Split | State::Resync, Event::Fail) | (State::Reverse, Event::GiveUp) => {
            Some(State::Error)
        }
        _ => None,
    }
}

/// Whether the target is made equal to the source, and is no image.
#[must_use]
pub const fn follows(state: State) -> bool {
    matches!(state, State::Copy | State::Pair | State::Resync)
}

/// Whether the target stands at its split.
#[must_use]
pub const fn stands(state: State) -> bool {
    matches!(state, State::Split | State::Reverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_the_picture_is_allowed() {
        let states = [State::Copy, State::Pair, State::Split, State::Resync, State::Reverse, State::Error];
        let events = [
            Event::Split,
            Event::Resync,
            Event::Reverse,
            Event::AllCopied,
            Event::Restored,
            Event::Fail,
            Event::GiveUp,
        ];
        let allowed = states.iter().flat_map(|state| events.iter().filter_map(move |event| next(*state, *event)));
        assert_eq!(allowed.count(), 14);
        for event in [Event::Split, Event::Resync, Event::Reverse, Event::AllCopied, Event::Fail] {
            assert_eq!(next(State::Reverse, event), None, "{event:?}: a source half restored is not served");
        }
        assert_eq!(next(State::Pair, Event::Reverse), None, "what follows is no image to restore");
        assert_eq!(next(State::Error, Event::Split), None);
    }
}
