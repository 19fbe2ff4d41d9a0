//! What goes first on a connection whose line is slower than those who have something to say.
//!
//! QUIC takes megabytes long before the line does, and from then on it is QUIC that decides what goes next. It serves streams by their
//! priority, and those of one priority packet by packet in turn, as long as `send_fairness` is left as it is: without it, a stream
//! that was begun is served until nothing of it waits, whatever its priority, and on a slow line something always waits. Then one lane
//! is served for as long as its frames come, and neither the frames before them on other lanes nor any message goes.
//!
//! In turn means side by side: of four frames on four lanes, the first arrives hardly before the last. So as few lanes are used as hold
//! what the line needs, and on one lane frames go in their order.

use bytes::Bytes;

/// Control messages overtake data that waits to be sent.
pub const CONTROL_PRIORITY: i32 = 1;
/// What only control messages find in the send window, bytes: lanes that are full leave it alone.
pub(super) const CONTROL_ROOM_BYTES: u64 = 1 << 20;
/// QUIC gives room back when all of what was handed over as one is acknowledged: less of it than the room of control messages
/// on all lanes together.
const PIECE_BYTES: usize = 128 << 10;
/// What lanes hold, in windows of the congestion control: what came after a lost packet is kept until that was found missing,
/// sent again and acknowledged.
const WINDOWS_HELD: u64 = 4;

const _: () = assert!(((PIECE_BYTES * crate::limits::DATA_STREAMS) as u64) < CONTROL_ROOM_BYTES, "messages find room");

/// Over how many of `lanes` frames go while so many bytes may be under way, and each lane holds so many.
#[must_use]
pub fn lanes_for(window_bytes: u64, stream_window_bytes: u32, lanes: usize) -> usize {
    let needed = window_bytes.saturating_mul(WINDOWS_HELD).div_ceil(u64::from(stream_window_bytes.max(1)));
    usize::try_from(needed).unwrap_or(lanes).min(lanes).max(1)
}

/// A frame as it is handed to QUIC.
pub fn in_pieces(mut rest: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || (!rest.is_empty()).then(|| rest.split_to(rest.len().min(PIECE_BYTES))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DATA_STREAMS;

    const STREAM_WINDOW: u32 = 8 << 20;

    #[test]
    fn a_slow_line_has_one_lane_and_a_long_and_fast_one_all() {
        let lanes = |window_bytes| lanes_for(window_bytes, STREAM_WINDOW, DATA_STREAMS);
        assert_eq!([0, 128 << 10, 2 << 20].map(lanes), [1, 1, 1]);
        // 200 Mbit/s and 100 ms, 1 Gbit/s and 100 ms.
        assert_eq!([2_700_000, 13_500_000, u64::MAX].map(lanes), [2, DATA_STREAMS, DATA_STREAMS]);
        assert_eq!(lanes_for(1 << 20, 0, 2), 2, "a window of nothing divides nothing");
    }

    #[test]
    fn a_frame_in_pieces_is_the_same_frame() {
        for bytes in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 5 << 20] {
            let frame: Bytes = (0..bytes).map(|at| at.to_le_bytes()[0]).collect();
            let pieces: Vec<Bytes> = in_pieces(frame.clone()).collect();
            assert!(pieces.concat() == frame && pieces.iter().all(|piece| (1..=PIECE_BYTES).contains(&piece.len())));
        }
    }
}
