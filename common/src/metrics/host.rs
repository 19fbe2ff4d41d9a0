//! What hosts ask and get, per group.

use std::time::Duration;

use prometheus::proto::MetricFamily;
use prometheus::{Histogram, IntCounter};

use super::define::{Set, count};
use super::labels::{ByLabel, RequestKind};

/// From a write into memory (10 µs) to a host that gives up.
const LATENCY_SECONDS: &[f64] =
    &[10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0, 10.0];

/// Handle for requests of hosts to one group's volumes. Cheap to clone, no lock.
#[derive(Debug, Clone)]
pub struct HostMetrics {
    set: Set,
    kinds: ByLabel<RequestKind, KindSeries>,
    read_bytes: IntCounter,
    write_bytes: IntCounter,
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
        Self { set, kinds, read_bytes, write_bytes }
    }

    /// A request was answered: with `payload_bytes` read or written, or with an error.
    pub fn answered(&self, kind: RequestKind, succeeded: bool, payload_bytes: usize, took: Duration) {
        self.kinds.at(kind, |series| series.answered(succeeded, took));
        match kind {
            RequestKind::Read if succeeded => self.read_bytes.inc_by(count(payload_bytes)),
            RequestKind::Write if succeeded => self.write_bytes.inc_by(count(payload_bytes)),
            _ => {}
        }
    }

    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.set.gather()
    }
}

impl KindSeries {
    fn new(set: &Set, kind: RequestKind) -> Self {
        let set = set.with(&[("kind", kind.as_str())]);
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

    fn answered(&self, succeeded: bool, took: Duration) {
        if succeeded { &self.answered } else { &self.failed }.inc();
        self.duration.observe(took.as_secs_f64());
    }
}
