//! What Prometheus sees of an appliance.
//!
//! Stages get handles ([`GroupMetrics`], [`PairMetrics`], [`HostMetrics`]) whose counters and histograms are resolved
//! when they are made, so that counting is an atomic addition and no lock. What the control API knows anyway (fills,
//! positions, ages, states) is taken from its [`Status`] when the page is asked for, so that the page and `tidemark
//! status` never disagree and an idle appliance's ages are as of now.
//!
//! A group's or pair's series live exactly as long as somebody holds its handle, and those taken from the status exactly
//! as long as the status names them: what is deleted leaves the page.
//!
//! Names are `tidemark_<what>_<unit>`, base units, counters end in `_total`. Each of them is used by the dashboard or an
//! alert in `grafana/`; a test holds this module to it.

mod define;
mod group;
mod host;
mod labels;
mod pair;
mod snapshot;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, TextEncoder};

use crate::api::types::Status;
use define::Set;
pub use group::{Applied, Drained, GroupMetrics};
pub use host::HostMetrics;
use labels::ByLabel;
pub use labels::{FrameRejection, Part, PeerRefusal};
pub use pair::{PacketCount, PairMetrics};

/// The content type of [`Metrics::render`]'s page.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The group label of volumes that are in no group; no group can have this name.
const UNGROUPED: &str = "-";

/// All metrics of one appliance. Owns what belongs to no group; hands out what does.
#[derive(Debug)]
pub struct Metrics {
    set: Set,
    errors: Arc<ByLabel<Part, IntCounter>>,
    refused: ByLabel<PeerRefusal, IntCounter>,
    turned_away: IntCounter,
    ungrouped: HostMetrics,
    groups: Mutex<BTreeMap<String, Weak<group::Inner>>>,
}

impl Metrics {
    /// For the appliance of this name, build and start.
    #[must_use]
    pub fn new(appliance: &str, version: &str, started: Timestamp) -> Self {
        let set = Set::new(&[]);
        set.with(&[("appliance", appliance), ("version", version)])
            .gauge("tidemark_build_info", "Always 1; the labels name the appliance and its build.")
            .set(1.0);
        set.gauge("tidemark_start_time_seconds", "When the service started, seconds since 1970.")
            .set(started.as_duration().as_secs_f64());
        let errors = ByLabel::new(|part: Part| {
            set.with(&[("part", part.as_str())])
                .counter("tidemark_errors_total", "Errors logged, by the part of the appliance that met them.")
        });
        let refused = ByLabel::new(|reason: PeerRefusal| {
            set.with(&[("reason", reason.as_str())])
                .counter("tidemark_peers_refused_total", "Connections of other appliances that were refused.")
        });
        let turned_away = set.counter(
            "tidemark_nbd_turned_away_total",
            "Connections of hosts that did not get to an export: too many, or a failed handshake.",
        );
        let ungrouped = HostMetrics::new(UNGROUPED);
        Self { set, errors: Arc::new(errors), refused, turned_away, ungrouped, groups: Mutex::default() }
    }

    /// The handle of a group: the same series for everybody who asks while one of the handles lives.
    #[must_use]
    pub fn group(&self, name: &str) -> GroupMetrics {
        let mut groups = self.groups.lock();
        groups.retain(|_, group| group.strong_count() > 0);
        if let Some(inner) = groups.get(name).and_then(Weak::upgrade) {
            return GroupMetrics(inner);
        }
        let inner = Arc::new(group::Inner::new(name, Arc::clone(&self.errors)));
        groups.insert(name.to_owned(), Arc::downgrade(&inner));
        GroupMetrics(inner)
    }

    /// Requests to volumes that are in no group.
    #[must_use]
    pub fn ungrouped(&self) -> HostMetrics {
        self.ungrouped.clone()
    }

    /// An error was met and logged.
    pub fn error(&self, part: Part) {
        self.errors.at(part, IntCounter::inc);
    }

    /// Another appliance was refused.
    pub fn peer_refused(&self, reason: PeerRefusal) {
        self.refused.at(reason, IntCounter::inc);
    }

    /// A host did not get to an export.
    pub fn host_turned_away(&self) {
        self.turned_away.inc();
    }

    /// The page for Prometheus ([`CONTENT_TYPE`]), with the status as it is now.
    #[must_use]
    pub fn render(&self, status: &Status) -> String {
        let mut page = Page::default();
        page.add(self.set.gather());
        page.add(self.ungrouped.gather());
        for group in self.live_groups() {
            page.add(group.gather());
        }
        page.add(snapshot::families(status));
        page.into_text()
    }

    fn live_groups(&self) -> Vec<GroupMetrics> {
        self.groups.lock().values().filter_map(Weak::upgrade).map(GroupMetrics).collect()
    }
}

/// Families of several sets, brought together under one header each.
#[derive(Default)]
struct Page {
    families: BTreeMap<String, MetricFamily>,
}

impl Page {
    fn add(&mut self, families: Vec<MetricFamily>) {
        for mut family in families {
            match self.families.get_mut(family.name()) {
                Some(known) => known.mut_metric().append(&mut family.take_metric()),
                None => {
                    self.families.insert(family.name().to_owned(), family);
                }
            }
        }
    }

    fn into_text(self) -> String {
        let families: Vec<MetricFamily> = self.families.into_values().collect();
        TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics page cannot be written");
            String::new()
        })
    }
}

#[cfg(test)]
mod tests;
