//! What a client says during option haggling, and how it is answered: bytes to values and values to bytes.
//!
//! Bytes from outside come in; nothing here does I/O, allocates by what a client claims, or panics.
//!
//! ```text
//! client:  IHAVEOPT u64 | option u32 | length u32 | data
//! server:  magic u64    | option u32 | type u32   | length u32 | data
//! ```

use super::protocol::{BASE_ALLOCATION, Fields, OPTION_MAGIC, OPTION_REPLY_MAGIC, info, option};
use crate::limits::NBD_STRING_BYTES_MAX;

/// Bytes before an option's data.
pub const OPTION_HEADER_BYTES: usize = 16;

/// Before each option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// One of [`option`], or something unknown.
    pub option: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

/// An option, its data taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientOption<'a> {
    /// Enter transmission on this export.
    ExportName(&'a str),
    /// Close.
    Abort,
    /// All export names.
    List,
    /// Continue under TLS.
    StartTls,
    /// Describe an export.
    Info(InfoRequest<'a>),
    /// Describe an export and enter transmission.
    Go(InfoRequest<'a>),
    /// Use structured replies.
    StructuredReply,
    /// Which metadata contexts match.
    ListMetaContext(MetaRequest<'a>),
    /// Use the metadata contexts that match.
    SetMetaContext(MetaRequest<'a>),
    /// Use extended headers.
    ExtendedHeaders,
    /// Not known here.
    Unknown,
}

/// Data of INFO and GO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InfoRequest<'a> {
    /// The export.
    pub export: &'a str,
    /// Its canonical name is wanted.
    pub name: bool,
    /// Its description is wanted.
    pub description: bool,
    /// Block sizes are wanted, and will be respected.
    pub block_size: bool,
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MetaRequest<'a> {
    /// The export.
    pub export: &'a str,
    /// No query at all: everything there is, for LIST; nothing, for SET.
    pub no_query: bool,
    /// A query is `base:`, the wildcard of LIST.
    pub base_wildcard: bool,
    /// A query is `base:allocation`.
    pub base_allocation: bool,
}

/// Why an option cannot be taken: answered "invalid", and haggling goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Bytes that are not an option: the connection is useless from here on.
    #[error("the option does not begin with IHAVEOPT")]
    BadMagic,
    /// Its data end too early, or go on too long.
    #[error("the option's data do not have the length they claim")]
    BadLength,
    /// It has data and must not.
    #[error("the option takes no data")]
    UnexpectedData,
    /// A name or query that is no string in the protocol's sense.
    #[error("names and queries are UTF-8 without NUL and at most {NBD_STRING_BYTES_MAX} bytes long")]
    BadString,
    /// A query without a namespace.
    #[error("a metadata query begins with its namespace and a colon, as in base:allocation")]
    NoNamespace,
}

/// Reads what comes before an option's data.
///
/// # Errors
/// [`OptionError::BadMagic`]: the two sides have lost each other.
pub fn parse_option_header(bytes: &[u8; OPTION_HEADER_BYTES]) -> Result<OptionHeader, OptionError> {
    let mut fields = Fields(bytes);
    let parsed = (|| Some((fields.u64()?, fields.u32()?, fields.u32()?)))();
    match parsed {
        Some((OPTION_MAGIC, option, length)) => Ok(OptionHeader { option, length }),
        _ => Err(OptionError::BadMagic),
    }
}

/// Takes an option's data apart.
///
/// # Errors
/// [`OptionError`] says what is wrong; never `BadMagic`.
pub fn parse_option(number: u32, data: &[u8]) -> Result<ClientOption<'_>, OptionError> {
    let bare = |parsed| if data.is_empty() { Ok(parsed) } else { Err(OptionError::UnexpectedData) };
    match number {
        option::EXPORT_NAME => string(data).map(ClientOption::ExportName),
        option::ABORT => Ok(ClientOption::Abort),
        option::LIST => bare(ClientOption::List),
        option::STARTTLS => bare(ClientOption::StartTls),
        option::INFO => info_request(data).map(ClientOption::Info),
        option::GO => info_request(data).map(ClientOption::Go),
        option::STRUCTURED_REPLY => bare(ClientOption::StructuredReply),
        option::LIST_META_CONTEXT => meta_request(data).map(ClientOption::ListMetaContext),
        option::SET_META_CONTEXT => meta_request(data).map(ClientOption::SetMetaContext),
        option::EXTENDED_HEADERS => bare(ClientOption::ExtendedHeaders),
        _ => Ok(ClientOption::Unknown),
    }
}

fn string(bytes: &[u8]) -> Result<&str, OptionError> {
    if bytes.len() > NBD_STRING_BYTES_MAX || bytes.contains(&0) {
        return Err(OptionError::BadString);
    }
    std::str::from_utf8(bytes).map_err(|_| OptionError::BadString)
}

fn prefixed_string<'a>(fields: &mut Fields<'a>) -> Result<&'a str, OptionError> {
    let length = fields.u32().and_then(|length| usize::try_from(length).ok()).ok_or(OptionError::BadLength)?;
    string(fields.take(length).ok_or(OptionError::BadLength)?)
}

fn info_request(data: &[u8]) -> Result<InfoRequest<'_>, OptionError> {
    let mut fields = Fields(data);
    let mut request = InfoRequest { export: prefixed_string(&mut fields)?, ..InfoRequest::default() };
    for _ in 0..fields.u16().ok_or(OptionError::BadLength)? {
        match fields.u16().ok_or(OptionError::BadLength)? {
            info::NAME => request.name = true,
            info::DESCRIPTION => request.description = true,
            info::BLOCK_SIZE => request.block_size = true,
            _ => {}
        }
    }
    if fields.is_empty() { Ok(request) } else { Err(OptionError::BadLength) }
}

fn meta_request(data: &[u8]) -> Result<MetaRequest<'_>, OptionError> {
    let mut fields = Fields(data);
    let export = prefixed_string(&mut fields)?;
    let queries = fields.u32().ok_or(OptionError::BadLength)?;
    let mut request = MetaRequest { export, no_query: queries == 0, ..MetaRequest::default() };
    // Bounded by the data, not by what `queries` claims: each takes at least four bytes.
    for _ in 0..queries {
        let query = prefixed_string(&mut fields)?;
        let (namespace, leaf) = query.split_once(':').ok_or(OptionError::NoNamespace)?;
        request.base_wildcard |= namespace == "base" && leaf.is_empty();
        request.base_allocation |= query == BASE_ALLOCATION;
    }
    if fields.is_empty() { Ok(request) } else { Err(OptionError::BadLength) }
}

/// Appends one reply to an option; `data` is what follows its header, in pieces.
pub(crate) fn encode_option_reply(out: &mut Vec<u8>, option: u32, reply_type: u32, data: &[&[u8]]) {
    let length: usize = data.iter().map(|piece| piece.len()).sum();
    let Ok(length) = u32::try_from(length) else {
        debug_assert!(false, "a reply of 4 GiB");
        return;
    };
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&reply_type.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    for piece in data {
        out.extend_from_slice(piece);
    }
}

/// A string as replies may carry it: no NUL, not longer than the protocol allows, cut at a character.
#[must_use]
pub(crate) fn wire_string(text: &str) -> &str {
    let text = text.split('\0').next().unwrap_or_default();
    text.get(..text.floor_char_boundary(NBD_STRING_BYTES_MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefixed(text: &str) -> Vec<u8> {
        let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    fn meta(export: &str, queries: &[&str]) -> Vec<u8> {
        let mut bytes = prefixed(export);
        bytes.extend_from_slice(&u32::try_from(queries.len()).unwrap().to_be_bytes());
        queries.iter().for_each(|query| bytes.extend_from_slice(&prefixed(query)));
        bytes
    }

    #[test]
    fn go_names_the_export_and_what_it_wants() {
        let mut data = prefixed("vol");
        data.extend_from_slice(&[0, 3, 0, 3, 0, 1, 0x77, 0x77]);
        let wanted = InfoRequest { export: "vol", name: true, description: false, block_size: true };
        assert_eq!(parse_option(option::GO, &data), Ok(ClientOption::Go(wanted)));
        for end in 0..data.len() {
            assert_eq!(parse_option(option::GO, &data[..end]), Err(OptionError::BadLength), "cut at {end}");
        }
        data.push(0);
        assert_eq!(parse_option(option::GO, &data), Err(OptionError::BadLength));
    }

    #[test]
    fn a_name_that_claims_more_than_there_is_is_refused() {
        let data = [0xff, 0xff, 0xff, 0xff, b'x', 0, 0];
        assert_eq!(parse_option(option::INFO, &data), Err(OptionError::BadLength));
    }

    #[test]
    fn strings_are_what_the_protocol_calls_strings() {
        let long = "x".repeat(NBD_STRING_BYTES_MAX);
        assert_eq!(parse_option(option::EXPORT_NAME, long.as_bytes()), Ok(ClientOption::ExportName(&long)));
        for bad in [format!("{long}x").as_bytes(), b"a\0b", b"\xff"] {
            assert_eq!(parse_option(option::EXPORT_NAME, bad), Err(OptionError::BadString));
        }
        assert_eq!(wire_string("a\0b"), "a");
        assert_eq!(wire_string(&"ä".repeat(4096)).len(), 4096);
        assert_eq!(wire_string(&format!("x{}", "ä".repeat(4096))).len(), 4095);
    }

    #[test]
    fn meta_queries_are_matched_and_unknown_ones_ignored() {
        let parse = |queries: &[&str]| match parse_option(option::SET_META_CONTEXT, &meta("v", queries)) {
            Ok(ClientOption::SetMetaContext(request)) => Ok((request.base_wildcard, request.base_allocation)),
            Err(error) => Err(error),
            Ok(other) => panic!("{other:?}"),
        };
        assert_eq!(parse(&["qemu:dirty-bitmap:x", "base:other"]), Ok((false, false)));
        assert_eq!(parse(&["base:allocation"]), Ok((false, true)));
        assert_eq!(parse(&["base:"]), Ok((true, false)));
        assert_eq!(parse(&["base"]), Err(OptionError::NoNamespace));
        let mut lying = meta("v", &[]);
        *lying.last_mut().unwrap() = 0xff;
        assert_eq!(parse_option(option::LIST_META_CONTEXT, &lying), Err(OptionError::BadLength));
    }

    #[test]
    fn options_without_data_refuse_data_and_abort_ignores_it() {
        for number in [option::LIST, option::STARTTLS, option::STRUCTURED_REPLY, option::EXTENDED_HEADERS] {
            assert_eq!(parse_option(number, b"x"), Err(OptionError::UnexpectedData), "{number}");
        }
        assert_eq!(parse_option(option::ABORT, b"x"), Ok(ClientOption::Abort));
        assert_eq!(parse_option(4711, b"x"), Ok(ClientOption::Unknown));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(number in 0u32..13, data: Vec<u8>, header: [u8; OPTION_HEADER_BYTES]) {
            let _ = parse_option_header(&header);
            let _ = parse_option(number, &data);
        }
    }
}
