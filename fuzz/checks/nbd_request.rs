//! Requests and options of NBD clients: what is let through is inside the export and was agreed on.

use tidemark_common::limits::NBD_REQUEST_BYTES_MAX;
use tidemark_common::nbd::Bounds;
use tidemark_common::nbd::check::check as check_request;
use tidemark_common::nbd::options::{OPTION_HEADER_BYTES, parse_option, parse_option_header};
use tidemark_common::nbd::request::{Request, Style, Terms, parse_request};

use super::Input;

const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let bounds = Bounds { size: input.u64(), read_only: input.u8() & 1 != 0 };
    let option = input.u32();
    let bytes = input.0;
    for style in STYLES {
        request(bytes, style, bounds);
    }
    if let Some(header) = bytes.first_chunk::<OPTION_HEADER_BYTES>() {
        let _ = parse_option_header(header);
    }
    let _ = parse_option(option % 16, bytes);
}

fn request(bytes: &[u8], style: Style, bounds: Bounds) {
    let Ok(Some(header)) = parse_request(bytes, style) else { return };
    assert!(bytes.len() >= style.request_bytes(), "a header out of {} bytes", bytes.len());
    for allocation_context in [false, true] {
        let terms = Terms { style, allocation_context };
        if let Ok(request) = check_request(&header, terms, bounds) {
            inside(request, bounds, terms);
        }
    }
}

fn inside(request: Request, bounds: Bounds, terms: Terms) {
    let (offset, length, changes) = match request {
        Request::Read { offset, bytes } => (offset, bytes as u64, false),
        Request::Write { offset, bytes, .. } => (offset, bytes as u64, true),
        Request::Trim { offset, length, .. } | Request::Zero { offset, length, .. } => (offset, length, true),
        Request::Cache { offset, length } => (offset, length, false),
        Request::Status { offset, length, .. } => {
            assert!(terms.allocation_context, "{request:?} without the context");
            (offset, length, false)
        }
        Request::Flush | Request::Nothing => return,
    };
    assert!(length > 0, "{request:?} is empty");
    assert!(offset.checked_add(length).is_some_and(|end| end <= bounds.size), "{request:?} in {bounds:?}");
    assert!(!(changes && bounds.read_only), "{request:?} on a read-only export");
    if matches!(request, Request::Read { .. } | Request::Write { .. }) {
        assert!(length <= NBD_REQUEST_BYTES_MAX.into(), "{request:?} does not fit a buffer");
    }
}
