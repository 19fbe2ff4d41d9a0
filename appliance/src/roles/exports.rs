//! The names hosts can open.

use std::sync::Arc;

use tidemark_common::config::NbdConfig;
use tidemark_common::metrics::Metrics;
use tidemark_common::nbd::observe::{Answered, Observer, SessionObserver};
use tidemark_common::nbd::tls::{Tls, TlsError};
use tidemark_common::nbd::{Export, Exports, OpenError};

use super::appliance::Appliance;
use super::door::Visit;

/// The exports of an appliance.
pub(crate) struct Served(pub(crate) Arc<Appliance>);

impl Served {
    fn is_open(&self, name: &str) -> bool {
        self.0.backups.closed_by_restore(name).is_none() && self.0.served(name).is_ok()
    }
}

impl Exports for Served {
    fn list(&self) -> Vec<String> {
        let names: Vec<String> = self.0.volumes.read().keys().cloned().collect();
        let mut names: Vec<String> = names.into_iter().filter(|name| self.is_open(name)).collect();
        names.extend(self.0.image_exports());
        names.sort_unstable();
        names
    }

    fn look(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        if let Some((image, volume)) = name.split_once('/') {
            return self.0.image_door(image, volume).map(|door| door as Arc<dyn Export>);
        }
        let volume = self.0.volume(name).map_err(|_| OpenError::Unknown { name: name.into() })?;
        if let Some(reason) = self.0.backups.closed_by_restore(name) {
            return Err(OpenError::Refused { reason });
        }
        match self.0.served(name) {
            Ok(_) => Ok(Arc::clone(&volume.door) as Arc<dyn Export>),
            Err(reason) => Err(OpenError::Refused { reason }),
        }
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        self.look(name)?;
        self.0.opened_by_a_host(name).map_err(|reason| OpenError::Refused { reason })?;
        // A copy that was waited for has it now.
        self.look(name)
    }
}

/// Counts connections per volume and requests per group.
pub(crate) struct Watched {
    pub(crate) appliance: Arc<Appliance>,
    pub(crate) metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

struct Session {
    group: Arc<dyn SessionObserver>,
    _visit: Option<Visit>,
}

impl Observer for Watched {
    fn on_open(&self, export: &str) -> Arc<dyn SessionObserver> {
        let group = match self.appliance.group_of(export) {
            Some(group) => self.metrics.group(&group).host().clone(),
            None => self.metrics.ungrouped(),
        };
        let door = match export.split_once('/') {
            Some((image, volume)) => self.appliance.image_door(image, volume).ok(),
            None => self.appliance.volume(export).ok().map(|volume| Arc::clone(&volume.door)),
        };
        let visit = door.map(Visit::new);
        Arc::new(Session { group: Arc::new(group), _visit: visit })
    }

    fn on_turned_away(&self) {
        self.metrics.host_turned_away();
    }
}

impl SessionObserver for Session {
    fn on_request(&self, answered: &Answered) {
        self.group.on_request(answered);
    }

    fn on_close(&self, clean: bool) {
        self.group.on_close(clean);
    }
}

/// Encryption for hosts, when it is configured: those that come in may use it.
pub(crate) fn tls(config: &NbdConfig) -> Result<Option<Tls>, TlsError> {
    let (Some(certificate), Some(key)) = (&config.tls_certificate, &config.tls_key) else { return Ok(None) };
    Tls::from_files(certificate, key, None, false).map(Some)
}
