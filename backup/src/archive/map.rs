//! The sparse map of GNU tar's pax format 1.0: it precedes the data of a member with holes.
//!
//! ```text
//! COUNT\n  then COUNT times  OFFSET\n LENGTH\n  padded with zeroes to a block of 512
//! ```

use super::BLOCK;
use crate::content::{Content, RUNS_MAX};

/// The map of a content. One that ends with a hole has an empty run at its end, as GNU tar writes it.
#[must_use]
pub fn encode(content: &Content) -> Vec<u8> {
    let end = content.runs.last().map_or(0, |run| run.end());
    let last = (end < content.size || content.runs.is_empty()).then_some((content.size, 0));
    let runs = content.runs.iter().map(|run| (run.at, run.length)).chain(last);
    let mut text = format!("{}\n", runs.clone().count());
    for (at, length) in runs {
        text.push_str(&format!("{at}\n{length}\n"));
    }
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(usize::try_from(BLOCK).unwrap_or(512)), 0);
    bytes
}

/// A map being read, byte by byte, from bytes that anybody may have made.
#[derive(Debug, Default)]
pub struct Decoder {
    count: Option<usize>,
    numbers: Vec<u64>,
    digits: Option<u64>,
    bytes: u64,
}

impl Decoder {
    /// Takes the next byte.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn push(&mut self, byte: u8) -> Result<(), &'static str> {
        self.bytes += 1;
        match byte {
            b'0'..=b'9' => {
                let next = self.digits.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(u64::from(byte - b'0')));
                self.digits = Some(next.ok_or("its sparse map has a number that is too large")?);
                Ok(())
            }
            b'\n' => self.number(),
            _ => Err("its sparse map is not one"),
        }
    }

    fn number(&mut self) -> Result<(), &'static str> {
        let number = self.digits.take().ok_or("its sparse map has an empty line")?;
        if self.count.is_some() {
            self.numbers.push(number);
            return Ok(());
        }
        let count = usize::try_from(number).ok().filter(|count| *count <= RUNS_MAX + 1);
        self.count = Some(count.ok_or("its sparse map has too many runs")?);
        Ok(())
    }

    /// Whether all of it has come, padding aside.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.count.is_some_and(|count| self.numbers.len() >= count * 2)
    }

    /// Bytes it took, padding included.
    #[must_use]
    pub const fn stored_bytes(&self) -> u64 {
        self.bytes.next_multiple_of(BLOCK)
    }

    /// Bytes it took, without the padding.
    #[must_use]
    pub const fn consumed(&self) -> u64 {
        self.bytes
    }

    /// The runs as (offset, length), in order, inside the size.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn runs(self, size: u64) -> Result<Vec<(u64, u64)>, &'static str> {
        let mut end = 0;
        let mut runs = Vec::new();
        for pair in self.numbers.chunks_exact(2) {
            let [at, length] = pair else { continue };
            let next = at.checked_add(*length).filter(|next| *at >= end && *next <= size);
            end = next.ok_or("its sparse map has runs that overlap or lie beyond its end")?;
            if *length > 0 {
                runs.push((*at, *length));
            }
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::Run;

    proptest! {
        #[test]
        fn a_map_comes_back(lengths in proptest::collection::vec((0..9_u64, 1..9_u64), 0..200), tail in 0..9_u64) {
            let mut content = Content::default();
            for (hole, length) in lengths {
                let at = content.size + hole * 512;
                content.push(Run { at, from: at, length: length * 512 });
                content.size = at + length * 512;
            }
            content.size += tail;
            let encoded = encode(&content);
            let mut decoder = Decoder::default();
            let mut bytes = encoded.iter();
            while !decoder.is_complete() {
                decoder.push(*bytes.next().unwrap()).unwrap();
            }
            prop_assert_eq!(decoder.stored_bytes(), encoded.len() as u64);
            let runs: Vec<_> = content.runs.iter().map(|run| (run.at, run.length)).collect();
            prop_assert_eq!(decoder.runs(content.size).unwrap(), runs);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..200)) {
            let mut decoder = Decoder::default();
            for byte in bytes {
                if decoder.push(byte).is_err() {
                    return Ok(());
                }
            }
            let _ = decoder.runs(1 << 40);
        }
    }
}
