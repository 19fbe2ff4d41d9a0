//! Values that read well and cannot be used: what must hold of one setting, and between several.
//!
//! A [`Config`] comes in, the first [`Problem`] goes out. Pure.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Config, format_duration, format_size};
use crate::ids::check_name;
use crate::limits::{FRAME_RAW_BYTES_MAX, FRAME_STORED_BYTES_MAX};

/// A setting that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Its table, empty for the top of the file.
    pub(super) table: &'static str,
    /// Its key.
    pub(super) key: &'static str,
    /// What is wrong and what to do.
    pub(super) message: String,
}

/// A write buffer holds what hosts write while one frame is compressed and another is written, and more than that.
const WRITE_BUFFER_BYTES: RangeInclusive<u64> = (FRAME_RAW_BYTES_MAX as u64) * 2..=1 << 40;
/// A segment holds at least one frame of any size.
const SEGMENT_BYTES: RangeInclusive<u64> = (8 << 20)..=4 << 30;
/// Segments a journal needs: one being written, one being read, one being recycled, one to spare.
const SEGMENTS_MIN: u64 = 4;
/// Room for one window of the updater, up to more than any disk has.
const IMAGE_BYTES: RangeInclusive<u64> = (64 << 20)..=1 << 60;
/// Below this the index of one image may not fit.
const IMAGE_MEMORY_BYTES: RangeInclusive<u64> = (8 << 20)..=1 << 50;
/// Below this a link makes no progress that an operator would recognise as such.
const RATE_LIMIT_MIN: u64 = 64 << 10;
/// Cutting is useless when hosts cannot be held at all, and hosts give up when they are held for long.
const FREEZE_LIMIT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
/// The protocol asks for a heartbeat at least once a second.
const HEARTBEAT: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(1);
/// Heartbeats that may be lost before a link counts as down.
const HEARTBEATS_LOST_MIN: u32 = 3;
/// A link that is silent for longer is down, whatever an operator thinks.
const IDLE_TIMEOUT_MAX: Duration = Duration::from_secs(300);

const _: () = assert!(*SEGMENT_BYTES.start() >= FRAME_STORED_BYTES_MAX as u64, "a segment holds one frame");

/// The first setting that cannot be used.
pub(super) fn first_problem(config: &Config) -> Option<Problem> {
    let checks = [name, addresses, tls, link, metrics, groups, images, ring_directory];
    checks.iter().find_map(|check| check(config))
}

fn problem(table: &'static str, key: &'static str, message: impl Into<String>) -> Option<Problem> {
    Some(Problem { table, key, message: message.into() })
}

fn name(config: &Config) -> Option<Problem> {
    check_name(&config.name).err().and_then(|error| problem("", "name", error.to_string()))
}

fn addresses(config: &Config) -> Option<Problem> {
    if config.nbd.addresses.is_empty() {
        return problem(
            "nbd",
            "addresses",
            "addresses is empty, and no host could connect: name one, as in [\"unix:nbd.sock\"]",
        );
    }
    let mut seen = HashSet::new();
    let doubled = config.nbd.addresses.iter().find(|address| !is_any_port(address) && !seen.insert(*address))?;
    problem("nbd", "addresses", format!("'{doubled}' is listed twice: remove one"))
}

fn is_any_port(address: &super::Address) -> bool {
    matches!(address, super::Address::Tcp(tcp) if tcp.port == 0)
}

fn tls(config: &Config) -> Option<Problem> {
    match (&config.nbd.tls_certificate, &config.nbd.tls_key) {
        (Some(_), None) => problem("nbd", "tls_certificate", "tls_certificate without tls_key: give both, or neither"),
        (None, Some(_)) => problem("nbd", "tls_key", "tls_key without tls_certificate: give both, or neither"),
        _ => None,
    }
}

fn link(config: &Config) -> Option<Problem> {
    let link = &config.replication;
    if link.rate_limit_bytes_per_second.is_some_and(|rate| rate < RATE_LIMIT_MIN) {
        let least = format_size(RATE_LIMIT_MIN);
        let key = "rate_limit_bytes_per_second";
        return problem(
            "replication",
            key,
            format!("{key} is too low: at least {least}, or leave it out for no limit"),
        );
    }
    let least = link.heartbeat_interval.saturating_mul(HEARTBEATS_LOST_MIN);
    out_of(&HEARTBEAT, link.heartbeat_interval, "replication", "heartbeat_interval", format_duration).or_else(|| {
        out_of(&(least..=IDLE_TIMEOUT_MAX), link.idle_timeout, "replication", "idle_timeout", format_duration)
    })
}

fn metrics(config: &Config) -> Option<Problem> {
    let metrics = &config.metrics;
    if metrics.address.is_loopback() || metrics.allow_remote_metrics {
        return None;
    }
    let message = format!(
        "'{}' lets other machines read the metrics of this appliance: if that is wanted, add \
         `allow_remote_metrics = true` under [metrics]; if not, use 127.0.0.1",
        metrics.address
    );
    problem("metrics", "address", message)
}

fn groups(config: &Config) -> Option<Problem> {
    let groups = &config.groups;
    let journal = groups.segment_bytes.saturating_mul(SEGMENTS_MIN)..=1 << 50;
    out_of(&WRITE_BUFFER_BYTES, groups.write_buffer_bytes, "groups", "write_buffer_bytes", format_size)
        .or_else(|| out_of(&SEGMENT_BYTES, groups.segment_bytes, "groups", "segment_bytes", format_size))
        .or_else(|| out_of(&journal, groups.journal_bytes, "groups", "journal_bytes", format_size))
        .or_else(|| out_of(&FREEZE_LIMIT, groups.freeze_limit, "groups", "freeze_limit", format_duration))
}

fn images(config: &Config) -> Option<Problem> {
    let images = &config.images;
    out_of(&IMAGE_BYTES, images.side_store_bytes, "images", "side_store_bytes", format_size)
        .or_else(|| out_of(&IMAGE_BYTES, images.clone_bytes, "images", "clone_bytes", format_size))
        .or_else(|| out_of(&IMAGE_BYTES, images.all_clones_bytes, "images", "all_clones_bytes", format_size))
        .or_else(|| out_of(&IMAGE_MEMORY_BYTES, images.memory_bytes, "images", "memory_bytes", format_size))
}

fn ring_directory(config: &Config) -> Option<Problem> {
    if config.groups.ring_directory.is_absolute() {
        return None;
    }
    problem(
        "groups",
        "ring_directory",
        "ring_directory must be an absolute path, on a tmpfs: /dev/shm unless you know better",
    )
}

fn out_of<T: PartialOrd + Copy>(
    allowed: &RangeInclusive<T>,
    value: T,
    table: &'static str,
    key: &'static str,
    show: impl Fn(T) -> String,
) -> Option<Problem> {
    if allowed.contains(&value) {
        return None;
    }
    let (least, most) = (show(*allowed.start()), show(*allowed.end()));
    problem(table, key, format!("{key} is {}: use a value from {least} to {most}", show(value)))
}
