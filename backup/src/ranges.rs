//! Byte ranges of a volume, (first byte, bytes): several together, and what is left of them.

/// In order and apart from each other.
fn settled(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.retain(|(_, length)| *length > 0);
    ranges.sort_unstable();
    let mut apart: Vec<(u64, u64)> = Vec::new();
    for (offset, length) in ranges {
        let end = offset.saturating_add(length);
        match apart.last_mut() {
            Some((begin, held)) if begin.saturating_add(*held) >= offset => *held = end.max(*begin + *held) - *begin,
            _ => apart.push((offset, end - offset)),
        }
    }
    apart
}

/// What is in one or in the other, in order and apart.
#[must_use]
pub fn together(one: &[(u64, u64)], other: &[(u64, u64)]) -> Vec<(u64, u64)> {
    settled([one, other].concat())
}

/// What of the first is not in the second, in order and apart.
#[must_use]
pub fn without(from: &[(u64, u64)], taken: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    let taken = settled(taken.to_vec());
    for (offset, length) in settled(from.to_vec()) {
        let (mut at, end) = (offset, offset + length);
        for (begin, held) in taken.iter().filter(|(begin, held)| *begin < end && begin + held > offset) {
            left.push((at, begin.saturating_sub(at)));
            at = begin + held;
        }
        left.push((at, end.saturating_sub(at)));
    }
    settled(left)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES: u64 = 64;

    fn some() -> impl Strategy<Value = Vec<(u64, u64)>> {
        proptest::collection::vec((0..BYTES, 0..BYTES / 3), 0..8)
    }

    fn has(ranges: &[(u64, u64)], byte: u64) -> bool {
        ranges.iter().any(|(offset, length)| (*offset..offset + length).contains(&byte))
    }

    proptest! {
        #[test]
        fn they_are_what_their_bytes_are(one in some(), other in some()) {
            let (all, left) = (together(&one, &other), without(&one, &other));
            for byte in 0..2 * BYTES {
                prop_assert_eq!(has(&all, byte), has(&one, byte) || has(&other, byte));
                prop_assert_eq!(has(&left, byte), has(&one, byte) && !has(&other, byte));
            }
            for ranges in [all, left] {
                prop_assert!(ranges.iter().all(|(_, length)| *length > 0));
                prop_assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0), "{:?}", ranges);
            }
        }
    }

    #[test]
    fn the_end_of_all_volumes_is_no_trap() {
        let last = (u64::MAX - 9, 9);
        assert_eq!(together(&[last, (u64::MAX, 7)], &[]), [last]);
        assert_eq!(without(&[last], &[(0, u64::MAX)]), []);
    }
}
