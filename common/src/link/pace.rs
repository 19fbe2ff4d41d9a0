//! A token bucket: how long to wait so that a rate is kept on average.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::rate::lasts;

/// Bytes written at once while a rate is kept: small enough that other traffic is not starved by bursts.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// Gives out `rate` bytes per second, and up to a hundredth of a second's worth at once after a pause.
#[derive(Debug)]
pub(super) struct TokenBucket {
    rate: NonZeroU64,
    /// Everything given out so far is paid for at this time.
    paid_until: Duration,
}

impl TokenBucket {
    /// Full at time zero.
    pub(super) fn new(rate: NonZeroU64) -> Self {
        Self { rate, paid_until: Duration::ZERO }
    }

    /// Takes so many bytes and says at which time they may go.
    pub(super) fn take(&mut self, now: Duration, bytes: usize) -> Duration {
        let credit_from = now.saturating_sub(Duration::from_millis(10));
        let start = self.paid_until.max(credit_from);
        self.paid_until = start.saturating_add(lasts(bytes as u64, self.rate.get()));
        start.max(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In any interval that begins and ends with a send, no more goes than the rate allows, one piece and the
        /// hundredth of a second aside.
        #[test]
        fn the_rate_is_kept(
            rate in 1_000_u64..1_000_000_000,
            sends in proptest::collection::vec((0_u64..50_000, 1_usize..PIECE_BYTES), 1..200),
        ) {
            let mut bucket = TokenBucket::new(NonZeroU64::new(rate).unwrap());
            let mut now = Duration::ZERO;
            let mut gone: Vec<(Duration, usize)> = Vec::new();
            for (pause_us, bytes) in sends {
                now += Duration::from_micros(pause_us);
                now = bucket.take(now, bytes);
                gone.push((now, bytes));
            }
            for (from, &(start, _)) in gone.iter().enumerate() {
                let end = gone.last().unwrap().0;
                let sent: usize = gone[from..].iter().map(|(_, bytes)| bytes).sum();
                let last = gone.last().unwrap().1;
                let allowed = (end - start + Duration::from_millis(10)).as_secs_f64() * rate as f64;
                prop_assert!((sent - last) as f64 <= allowed * 1.001 + 1.0, "{sent} of {allowed} from {from}");
            }
        }

        #[test]
        fn a_busy_sender_gets_the_whole_rate(rate in 100_000_u64..1_000_000_000) {
            let mut bucket = TokenBucket::new(NonZeroU64::new(rate).unwrap());
            let mut now = Duration::ZERO;
            for _ in 0..1000 {
                now = bucket.take(now, PIECE_BYTES);
            }
            let got = 999.0 * PIECE_BYTES as f64 / now.as_secs_f64();
            prop_assert!((got / rate as f64 - 1.0).abs() < 0.02, "{got} of {rate}");
        }
    }
}
