//! Numbers in bytes that anybody may have written: beyond the end they are an error, never a panic.

/// Bytes with a name for errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) what: &'static str,
}

macro_rules! numbers {
    ($($name:ident: $type:ty = $from:ident),* $(,)?) => {
        impl Bytes<'_> {
            $(pub(crate) fn $name(&self, at: usize) -> Result<$type, String> {
                let end = at.saturating_add(size_of::<$type>());
                let found = self.bytes.get(at..end).and_then(|bytes| bytes.try_into().ok());
                found.map(<$type>::$from).ok_or_else(|| format!("{} ends too early", self.what))
            })*
        }
    };
}
numbers! {
    u16: u16 = from_le_bytes,
    u32: u32 = from_le_bytes,
    u64: u64 = from_le_bytes,
    be16: u16 = from_be_bytes,
    be32: u32 = from_be_bytes,
    be64: u64 = from_be_bytes,
}

impl<'a> Bytes<'a> {
    pub(crate) const fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    pub(crate) fn u8(&self, at: usize) -> Result<u8, String> {
        self.bytes.get(at).copied().ok_or_else(|| format!("{} ends too early", self.what))
    }

    pub(crate) fn part(&self, at: usize, length: usize) -> Result<&'a [u8], String> {
        let part = self.bytes.get(at..at.saturating_add(length));
        part.ok_or_else(|| format!("{} ends too early", self.what))
    }

    pub(crate) fn below(&self, at: usize, length: usize) -> Result<Self, String> {
        Ok(Self { bytes: self.part(at, length)?, what: self.what })
    }
}

/// Reads so many bytes of an image; bounded by the caller.
pub(crate) fn read(image: &dyn crate::image::Image, offset: u64, length: usize) -> Result<Vec<u8>, String> {
    let fits = offset.checked_add(length as u64).is_some_and(|end| end <= image.size());
    if !fits {
        return Err(format!("it points to {offset}, beyond the end of its volume"));
    }
    let mut bytes = vec![0; length];
    image.read(offset, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}
