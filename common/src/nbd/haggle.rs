//! Option haggling: what each option of a client does, and what is answered.
//!
//! Options come in one by one, replies go out as bytes, and in the end the client is in transmission on an export, or under
//! TLS, or gone. Owns what was agreed so far. No I/O: [`super::handshake`] moves the bytes.
//!
//! ```text
//!            STARTTLS            GO, EXPORT_NAME
//!  Continue ──────────▶ StartTls
//!     │ └───────────────────────────────────────▶ Enter
//!     └── ABORT, EXPORT_NAME of what cannot be opened ──▶ Close
//! ```

use std::sync::Arc;

use super::options::{ClientOption, InfoRequest, MetaRequest, encode_option_reply, parse_option, wire_string};
use super::protocol::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, handshake_flag, info, option, reply_type, transmission_flag,
};
use super::request::{Style, Terms};
use super::{Export, ExportInfo, Exports, OpenError};
use crate::limits::{NBD_BLOCK_BYTES_PREFERRED, NBD_REQUEST_BYTES_MAX};

/// What the client answered to the greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientFlags {
    /// It understands structured option replies.
    pub fixed_newstyle: bool,
    /// It wants no padding after EXPORT_NAME.
    pub no_zeroes: bool,
}

/// Reads the client's flags; `None` when one of them is unknown, which the protocol answers by closing.
#[must_use]
pub(crate) fn parse_client_flags(flags: u32) -> Option<ClientFlags> {
    let flags = u16::try_from(flags).ok()?;
    let has = |flag| flags & flag != 0;
    let known = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    (flags & !known == 0).then(|| ClientFlags {
        fixed_newstyle: has(handshake_flag::FIXED_NEWSTYLE),
        no_zeroes: has(handshake_flag::NO_ZEROES),
    })
}

/// Where a connection stands with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// There is none here.
    Unavailable,
    /// The client may ask for it.
    Offered,
    /// Nothing is answered without it.
    Required,
    /// The connection is encrypted.
    Active,
}

/// A connection that is ready for requests.
#[derive(Clone)]
pub struct Entered {
    /// The open export.
    pub export: Arc<dyn Export>,
    /// Its name, as the client gave it.
    pub name: String,
    /// What was agreed.
    pub terms: Terms,
}

/// What comes after an option was answered.
pub enum Next {
    /// Another option.
    Continue,
    /// TLS.
    StartTls,
    /// The end of the connection, after what was answered is sent.
    Close,
    /// Transmission.
    Enter(Entered),
}

/// What was agreed so far.
pub struct Haggling<'a> {
    exports: &'a dyn Exports,
    encryption: Encryption,
    no_zeroes: bool,
    style: Style,
    /// The export for which `base:allocation` was chosen; it counts only when that one is entered.
    allocation_context_of: Option<String>,
}

impl<'a> Haggling<'a> {
    /// From the beginning; under TLS, too, everything begins again.
    #[must_use]
    pub const fn new(exports: &'a dyn Exports, client: ClientFlags, encryption: Encryption) -> Self {
        let style = Style::Simple;
        Self { exports, encryption, no_zeroes: client.no_zeroes, style, allocation_context_of: None }
    }

    /// Takes one option and appends its replies to `out`.
    pub fn answer(&mut self, number: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        if self.encryption == Encryption::Required && !matches!(number, option::STARTTLS | option::ABORT) {
            return refuse(number, out, reply_type::ERR_TLS_REQD, "this server wants TLS first");
        }
        match parse_option(number, data) {
            Err(error) => refuse(number, out, reply_type::ERR_INVALID, &error.to_string()),
            Ok(parsed) => self.take(number, parsed, out),
        }
    }

    /// Answers an option whose data were too long to look at.
    pub(crate) fn answer_too_big(&mut self, number: u32, out: &mut Vec<u8>) -> Next {
        if self.encryption == Encryption::Required {
            return refuse(number, out, reply_type::ERR_TLS_REQD, "this server wants TLS first");
        }
        let known = !matches!(parse_option(number, &[]), Ok(ClientOption::Unknown));
        let kind = if known { reply_type::ERR_TOO_BIG } else { reply_type::ERR_UNSUP };
        refuse(number, out, kind, "the option's data are too long")
    }

    fn take(&mut self, number: u32, parsed: ClientOption<'_>, out: &mut Vec<u8>) -> Next {
        match parsed {
            ClientOption::ExportName(name) => return self.export_name(name, out),
            ClientOption::Abort => {
                acknowledge(number, out);
                return Next::Close;
            }
            ClientOption::List => self.list(out),
            ClientOption::StartTls => return self.start_tls(out),
            ClientOption::Info(request) | ClientOption::Go(request) => return self.info(number, &request, out),
            ClientOption::StructuredReply if self.style == Style::Extended => {
                let message = "extended headers were agreed already";
                return refuse(number, out, reply_type::ERR_EXT_HEADER_REQD, message);
            }
            ClientOption::StructuredReply => self.style = Style::Structured,
            ClientOption::ExtendedHeaders => self.style = Style::Extended,
            ClientOption::ListMetaContext(request) | ClientOption::SetMetaContext(request) => {
                return self.meta_context(number, &request, out);
            }
            ClientOption::Unknown => return refuse(number, out, reply_type::ERR_UNSUP, "unknown option"),
        }
        acknowledge(number, out);
        Next::Continue
    }

    /// Errors of this option cannot be told, only by closing; nor may it follow extended headers.
    fn export_name(&self, name: &str, out: &mut Vec<u8>) -> Next {
        if self.style == Style::Extended {
            return Next::Close;
        }
        let Ok(export) = self.exports.open(name) else { return Next::Close };
        let info = export.info();
        out.extend_from_slice(&info.size.to_be_bytes());
        out.extend_from_slice(&transmission_flags(&info, self.style).to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        self.enter(name, export)
    }

    fn list(&self, out: &mut Vec<u8>) {
        for name in self.exports.list() {
            let name = wire_string(&name).as_bytes();
            let length = u32::try_from(name.len()).unwrap_or_default().to_be_bytes();
            encode_option_reply(out, option::LIST, reply_type::SERVER, &[&length, name]);
        }
    }

    fn start_tls(&self, out: &mut Vec<u8>) -> Next {
        match self.encryption {
            Encryption::Offered | Encryption::Required => {
                acknowledge(option::STARTTLS, out);
                Next::StartTls
            }
            Encryption::Unavailable => {
                refuse(option::STARTTLS, out, reply_type::ERR_POLICY, "TLS is not configured on this server")
            }
            Encryption::Active => {
                refuse(option::STARTTLS, out, reply_type::ERR_INVALID, "the connection is encrypted already")
            }
        }
    }

    fn info(&self, number: u32, request: &InfoRequest<'_>, out: &mut Vec<u8>) -> Next {
        let enters = number == option::GO;
        let found = if enters { self.exports.open(request.export) } else { self.exports.look(request.export) };
        let export = match found {
            Ok(export) => export,
            Err(error) => return refuse_open(number, out, &error),
        };
        let described = export.info();
        let mut say = |kind: u16, data: &[&[u8]]| {
            let kind = kind.to_be_bytes();
            let data: Vec<&[u8]> = std::iter::once(&kind[..]).chain(data.iter().copied()).collect();
            encode_option_reply(out, number, reply_type::INFO, &data);
        };
        let flags = transmission_flags(&described, self.style);
        say(info::EXPORT, &[&described.size.to_be_bytes(), &flags.to_be_bytes()]);
        if request.name {
            say(info::NAME, &[request.export.as_bytes()]);
        }
        if request.description && !described.description.is_empty() {
            say(info::DESCRIPTION, &[wire_string(&described.description).as_bytes()]);
        }
        // Always, because the largest block is not the protocol's default.
        let sizes = [1, NBD_BLOCK_BYTES_PREFERRED, NBD_REQUEST_BYTES_MAX].map(u32::to_be_bytes);
        say(info::BLOCK_SIZE, &[sizes.as_flattened()]);
        acknowledge(number, out);
        if enters { self.enter(request.export, export) } else { Next::Continue }
    }

    fn meta_context(&mut self, number: u32, request: &MetaRequest<'_>, out: &mut Vec<u8>) -> Next {
        let set = number == option::SET_META_CONTEXT;
        if set {
            // Also when it fails, it replaces what was chosen before.
            self.allocation_context_of = None;
        }
        if self.style == Style::Simple {
            return refuse(number, out, reply_type::ERR_INVALID, "structured replies come first");
        }
        if let Err(error) = self.exports.look(request.export) {
            return refuse_open(number, out, &error);
        }
        let listed = !set && (request.no_query || request.base_wildcard);
        if request.base_allocation || listed {
            let id = if set { BASE_ALLOCATION_ID } else { 0 }.to_be_bytes();
            encode_option_reply(out, number, reply_type::META_CONTEXT, &[&id, BASE_ALLOCATION.as_bytes()]);
        }
        if set && request.base_allocation {
            self.allocation_context_of = Some(request.export.to_owned());
        }
        acknowledge(number, out);
        Next::Continue
    }

    fn enter(&self, name: &str, export: Arc<dyn Export>) -> Next {
        let allocation_context = self.allocation_context_of.as_deref() == Some(name);
        Next::Enter(Entered { export, name: name.to_owned(), terms: Terms { style: self.style, allocation_context } })
    }
}

/// What an export can do, for one connection.
#[must_use]
pub(crate) fn transmission_flags(info: &ExportInfo, style: Style) -> u16 {
    use transmission_flag as flag;
    let always = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE | flag::CAN_MULTI_CONN;
    let structured = if style == Style::Simple { 0 } else { flag::SEND_DF };
    // Many file systems discard all of a new disk: what has to be written for that holds up everything else for hours.
    let fast = if info.gives_back { flag::SEND_TRIM | flag::SEND_FAST_ZERO } else { 0 };
    let changes = if info.read_only { flag::READ_ONLY } else { flag::SEND_WRITE_ZEROES | fast };
    always | structured | changes
}

fn acknowledge(number: u32, out: &mut Vec<u8>) {
    encode_option_reply(out, number, reply_type::ACK, &[]);
}

fn refuse(number: u32, out: &mut Vec<u8>, kind: u32, message: &str) -> Next {
    if number == option::EXPORT_NAME {
        return Next::Close;
    }
    encode_option_reply(out, number, kind, &[wire_string(message).as_bytes()]);
    Next::Continue
}

fn refuse_open(number: u32, out: &mut Vec<u8>, error: &OpenError) -> Next {
    let kind = match error {
        OpenError::Unknown { .. } => reply_type::ERR_UNKNOWN,
        OpenError::Refused { .. } => reply_type::ERR_POLICY,
        OpenError::ShuttingDown => reply_type::ERR_SHUTDOWN,
    };
    refuse(number, out, kind, &error.to_string())
}
