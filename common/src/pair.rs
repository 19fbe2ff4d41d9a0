//! The states of a pair and which may follow which. Pure.
//!
//! ```text
//! initial-copy ─▶ paired ⇄ catching-up        any ─▶ suspended ─▶ where the pair's record says it stands
//!      ▲            │  ▲        │             any ─▶ error ─▶ the same
//!      │            ▼  │        ▼             any ─▶ fenced, failed-over
//!      └──── differential ─▶ resync
//! ```
//!
//! An operator who gives up the image over there brings whatever differs back to initial-copy. What an operator has suspended goes on only when
//! one asks for it; by itself it can be fenced.

use crate::api::types::PairState;

/// Whether a pair may go from one state to another. Everything not named is refused.
#[must_use]
pub const fn is_transition_valid(from: PairState, to: PairState) -> bool {
    use PairState as S;
    matches!(
        (from, to),
        (S::InitialCopy | S::Resync, S::Paired | S::CatchingUp | S::Differential)
            | (S::Paired, S::CatchingUp | S::Differential | S::Resync)
            | (S::CatchingUp, S::Paired | S::Differential | S::Resync)
            | (S::Differential, S::Resync | S::InitialCopy)
            // The operator gives up the image over there.
            | (S::Resync | S::Paired | S::CatchingUp, S::InitialCopy)
            | (S::Suspended | S::Error, S::InitialCopy | S::Paired | S::CatchingUp | S::Differential | S::Resync)
            | (S::Error, S::Suspended)
            | (S::FailedOver, S::Resync | S::Error)
            | (S::Fenced, S::Resync)
    ) || !matches!(from, S::FailedOver | S::Fenced)
        && matches!(to, S::Suspended | S::Error | S::Fenced | S::FailedOver)
        && !same(from, to)
}

/// Whether it may do so though nobody asks for it: what was found before it was suspended says nothing any more.
#[must_use]
pub const fn goes_by_itself(from: PairState, to: PairState) -> bool {
    !matches!(from, PairState::Suspended) || matches!(to, PairState::Fenced)
}

const fn same(one: PairState, other: PairState) -> bool {
    one as u8 == other as u8
}

/// Whether a pair that has all it needs follows or lags, by the age of its copy: lag is what outlasts two intervals and
/// what a round trip and a sync may take.
#[must_use]
pub fn paired_or_behind(connected: bool, age_seconds: f64, interval_seconds: f64) -> PairState {
    if connected && age_seconds <= 2.0 * interval_seconds + 3.0 { PairState::Paired } else { PairState::CatchingUp }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_picture_is_refused() {
        use PairState as S;
        assert!(is_transition_valid(S::InitialCopy, S::Paired));
        assert!(is_transition_valid(S::Paired, S::Suspended));
        assert!(is_transition_valid(S::Suspended, S::CatchingUp));
        assert!(is_transition_valid(S::CatchingUp, S::InitialCopy));
        for (from, to) in [
            (S::Differential, S::Paired),
            (S::Differential, S::CatchingUp),
            (S::Fenced, S::Paired),
            (S::FailedOver, S::Paired),
            (S::Paired, S::Paired),
            (S::Fenced, S::Error),
            (S::FailedOver, S::InitialCopy),
            (S::Fenced, S::InitialCopy),
        ] {
            assert!(!is_transition_valid(from, to), "{from:?} to {to:?}");
        }
        assert!(goes_by_itself(S::Suspended, S::Fenced) && goes_by_itself(S::Paired, S::CatchingUp));
        for to in [S::Paired, S::CatchingUp, S::Differential, S::Resync, S::InitialCopy, S::Error] {
            assert!(!goes_by_itself(S::Suspended, to), "{to:?}");
        }
    }
}
