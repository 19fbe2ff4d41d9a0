//! Bytes nobody thought of: a connection ends by itself, and nothing panics (invariant 10).

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{go, request};
use super::*;
use crate::nbd::protocol::{OPTION_MAGIC, option};

/// Runs a connection on these bytes, with the client's end closed behind them, and waits for its end.
fn feed(bytes: Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let Served { client, ended, .. } = serve_with(ConnectionOptions::default());
        let (mut reader, mut writer) = tokio::io::split(client.stream);
        let sent = tokio::spawn(async move {
            // The server may have closed before all is sent.
            let _ = writer.write_all(&bytes).await;
            let _ = writer.shutdown().await;
        });
        let _ = soon(reader.read_to_end(&mut Vec::new())).await;
        let _ = soon(ended).await.unwrap();
        soon(sent).await.unwrap();
    });
}

fn option_bytes(number: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&OPTION_MAGIC.to_be_bytes(), &number.to_be_bytes()[..], &length, data].concat()
}

/// The client's side of a handshake into transmission.
fn handshake(style: Style) -> Vec<u8> {
    let form = match style {
        Style::Simple => Vec::new(),
        Style::Structured => option_bytes(option::STRUCTURED_REPLY, &[]),
        Style::Extended => option_bytes(option::EXTENDED_HEADERS, &[]),
    };
    let chosen = option_bytes(option::SET_META_CONTEXT, &super::client::meta("v", &["base:allocation"]));
    [vec![0, 0, 0, 3], form, chosen, option_bytes(option::GO, &go("v"))].concat()
}

fn style() -> impl Strategy<Value = Style> {
    prop::sample::select(vec![Style::Simple, Style::Structured, Style::Extended])
}

/// A request with plausible fields, and perhaps too much or too little behind it.
fn any_request(style: Style) -> impl Strategy<Value = Vec<u8>> {
    let offset = prop_oneof![0..2 * SIZE, any::<u64>()];
    let length = prop_oneof![0u64..70_000, 0..=u64::from(u32::MAX)];
    (0u16..9, 0u16..64, offset, length, prop::collection::vec(any::<u8>(), 0..200)).prop_map(
        move |(command, flags, offset, length, payload)| {
            [request(style, command, flags, 7, offset, length), payload].concat()
        },
    )
}

fn any_option() -> impl Strategy<Value = Vec<u8>> {
    (0u32..13, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(number, data)| option_bytes(number, &data))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes(bytes: Vec<u8>) {
        feed(bytes);
    }

    #[test]
    fn any_options(options in prop::collection::vec(any_option(), 0..10), tail: Vec<u8>) {
        feed([vec![0, 0, 0, 3], options.concat(), tail].concat());
    }

    #[test]
    fn any_bytes_in_transmission(style in style(), bytes: Vec<u8>) {
        feed([handshake(style), bytes].concat());
    }

    #[test]
    fn any_requests(
        requests in style().prop_flat_map(|style| {
            prop::collection::vec(any_request(style), 0..12).prop_map(move |requests| (style, requests))
        })
    ) {
        feed([handshake(requests.0), requests.1.concat()].concat());
    }
}
