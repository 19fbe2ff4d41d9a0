//! Making counters, gauges and histograms with fixed labels: the only place that speaks to the `prometheus` crate about
//! names.

use std::collections::HashMap;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Histogram, HistogramOpts, IntCounter, Opts, Registry};

/// Metrics that are collected together, with labels they all have.
#[derive(Debug, Clone)]
pub(super) struct Set {
    registry: Registry,
    labels: HashMap<String, String>,
}

impl Set {
    pub(super) fn new(labels: &[(&str, &str)]) -> Self {
        Self { registry: Registry::new(), labels: HashMap::new() }.with(labels)
    }

    /// The same set, for metrics with these labels as well.
    pub(super) fn with(&self, labels: &[(&str, &str)]) -> Self {
        let mut set = self.clone();
        set.labels.extend(labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        set
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(self.opts(name, help)))
    }

    /// A counter of seconds.
    pub(super) fn seconds_counter(&self, name: &str, help: &str) -> Counter {
        self.register(Counter::with_opts(self.opts(name, help)))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::with_opts(self.opts(name, help)))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts { common_opts: self.opts(name, help), buckets: buckets.to_vec() };
        self.register(Histogram::with_opts(opts))
    }

    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).const_labels(self.labels.clone())
    }

    #[expect(clippy::expect_used, reason = "names and buckets are constants of this module; its tests make every one")]
    fn register<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("a metric's name, label names and buckets are well formed");
        if let Err(error) = self.registry.register(Box::new(metric.clone())) {
            // Two of the same name in a status: the first one stands.
            tracing::warn!(%error, labels = ?self.labels, "a metric is left out of the page");
        }
        metric
    }
}

/// Saturating, because a counter must not panic on a size that came from outside.
pub(super) fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
