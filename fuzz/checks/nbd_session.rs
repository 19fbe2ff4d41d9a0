//! A whole connection: whatever a client sends and then closes, the server ends, and what it sent is replies.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::nbd::memory::{FixedExports, MemoryExport};
use tidemark_common::nbd::protocol::{OPTION_MAGIC, option};
use tidemark_common::nbd::{ConnectionOptions, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;

use super::Input;

const EXPORT: &str = "disk";
/// Far above what a server on memory needs.
const LIMIT: Duration = Duration::from_secs(20);

pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let mut bytes = prelude(input.u8());
    bytes.extend_from_slice(input.0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let ended = runtime.block_on(async { tokio::time::timeout(LIMIT, connection(&bytes)).await });
    let answered = ended.expect("the server ends when its client has left");
    assert!(answered.is_empty() || answered.starts_with(b"NBDMAGIC"), "a server greets first");
}

async fn connection(bytes: &[u8]) -> Vec<u8> {
    let exports = FixedExports::default()
        .with(EXPORT, Arc::new(MemoryExport::new(64 << 10, false)))
        .with("fixed", Arc::new(MemoryExport::new(8 << 10, true)));
    let (client, server) = tokio::io::duplex(16 << 10);
    let (answers, requests) = tokio::io::split(client);
    let (options, stop) = (ConnectionOptions::default(), CancellationToken::new());
    let (_, (), answered) =
        tokio::join!(serve(server, &exports, &options, &stop), send(requests, bytes), receive(answers));
    answered
}

/// The server may leave before it has everything.
async fn send(mut requests: WriteHalf<DuplexStream>, bytes: &[u8]) {
    if requests.write_all(bytes).await.is_ok() {
        let _ = requests.shutdown().await;
    }
}

/// The first bytes of what comes back; the rest is taken and dropped.
async fn receive(mut answers: ReadHalf<DuplexStream>) -> Vec<u8> {
    let mut head = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = answers.read(&mut buffer).await {
        if head.len() < 64 {
            head.extend_from_slice(&buffer[..length]);
        }
    }
    head
}

/// What a client says to come into transmission, so that not every input has to find it out.
fn prelude(choice: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    if choice & 1 == 0 {
        return bytes;
    }
    bytes.extend(3_u32.to_be_bytes());
    if choice & 2 != 0 {
        say(&mut bytes, option::STRUCTURED_REPLY, &[]);
    }
    if choice & 4 != 0 {
        say(&mut bytes, option::EXTENDED_HEADERS, &[]);
    }
    if choice & 8 != 0 {
        let context = b"base:allocation";
        let parts: [&[u8]; 5] =
            [&4_u32.to_be_bytes(), EXPORT.as_bytes(), &1_u32.to_be_bytes(), &15_u32.to_be_bytes(), context];
        say(&mut bytes, option::SET_META_CONTEXT, &parts);
    }
    if choice & 16 != 0 {
        say(&mut bytes, option::GO, &[&4_u32.to_be_bytes(), EXPORT.as_bytes(), &0_u16.to_be_bytes()]);
    }
    bytes
}

fn say(bytes: &mut Vec<u8>, option: u32, parts: &[&[u8]]) {
    let data = parts.concat();
    bytes.extend(OPTION_MAGIC.to_be_bytes());
    bytes.extend(option.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).expect("short").to_be_bytes());
    bytes.extend(data);
}
