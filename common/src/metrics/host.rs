//! What hosts ask and get, per group. The NBD front end tells it through its observers.

use prometheus::proto::MetricFamily;
use prometheus::{Histogram, IntCounter};

use super::define::Set;
use super::labels::{ByLabel, Label};
use crate::nbd::SessionObserver;
use crate::nbd::observe::{Answered, RequestKind};

/// From a write into memory (10 µs) to a host that gives up.
const LATENCY_SECONDS: &[f64] =
    &[10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0, 10.0];

impl Label for RequestKind {
    const VALUES: &'static [Self] =
        &[Self::Read, Self::Write, Self::Flush, Self::Trim, Self::Zero, Self::Cache, Self::Status];
}

/// Handle for requests of hosts to one group's volumes. Cheap to clone, no lock.
#[derive(Debug, Clone)]
pub struct HostMetrics {
    set: Set,
    kinds: ByLabel<RequestKind, KindSeries>,
    read_bytes: IntCounter,
    write_bytes: IntCounter,
    closed: IntCounter,
    broken_off: IntCounter,
}

#[derive(Debug, Clone)]
struct KindSeries {
    answered: IntCounter,
    failed: IntCounter,
    duration: Histogram,
}

impl HostMetrics {
    pub(super) fn new(group: &str) -> Self {
        let set = Set::new(&[("group", group)]);
        let bytes = |direction| {
            set.with(&[("direction", direction)])
                .counter("tidemark_host_bytes_total", "Bytes hosts have read and written; trims and zeroes carry none.")
        };
        let (read_bytes, write_bytes) = (bytes("read"), bytes("write"));
        let kinds = ByLabel::new(|kind| KindSeries::new(&set, kind));
        let ended = |how| {
            set.with(&[("how", how)])
                .counter("tidemark_nbd_disconnects_total", "Connections of hosts that ended, in order or broken off.")
        };
        let (closed, broken_off) = (ended("clean"), ended("broken"));
        Self { set, kinds, read_bytes, write_bytes, closed, broken_off }
    }

    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.set.gather()
    }
}

impl SessionObserver for HostMetrics {
    fn on_request(&self, answered: &Answered) {
        self.kinds.at(answered.kind, |series| series.answered(answered));
        match (answered.kind, answered.result) {
            (RequestKind::Read, Ok(())) => self.read_bytes.inc_by(answered.bytes),
            (RequestKind::Write, Ok(())) => self.write_bytes.inc_by(answered.bytes),
            _ => {}
        }
    }

    fn on_close(&self, clean: bool) {
        if clean { &self.closed } else { &self.broken_off }.inc();
    }
}

impl KindSeries {
    fn new(set: &Set, kind: RequestKind) -> Self {
        let set = set.with(&[("kind", kind.name())]);
        let requests = |result| {
            set.with(&[("result", result)])
                .counter("tidemark_host_requests_total", "Requests of hosts answered, by kind and result.")
        };
        let duration = set.histogram(
            "tidemark_host_request_duration_seconds",
            "Time from a request's arrival to its answer, by kind.",
            LATENCY_SECONDS,
        );
        Self { answered: requests("ok"), failed: requests("error"), duration }
    }

    fn answered(&self, answered: &Answered) {
        if answered.result.is_ok() { &self.answered } else { &self.failed }.inc();
        self.duration.observe(answered.duration.as_secs_f64());
    }
}
