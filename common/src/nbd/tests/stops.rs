//! Stopping a connection, and what an observer is told.

use parking_lot::Mutex;

use super::client::Reply;
use super::*;
use crate::nbd::observe::{Answered, Observer, RequestKind, SessionObserver};
use crate::nbd::protocol::{Errno, command};
use crate::nbd::{Patience, SessionError};

#[tokio::test]
async fn a_stop_answers_what_is_under_way_and_closes() {
    let Served { mut client, probe, stop, ended } = transmit(Style::Simple).await;
    *probe.slow_from.lock() = 0;
    let slow = client.send(command::READ, 0, 0, 5, &[]).await;
    probe.begun(1).await;
    stop.cancel();
    probe.permits.add_permits(1);
    assert_eq!(client.reply(5).await, (slow, Reply::Data(vec![0; 5])));
    client.closed().await;
    soon(ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn requests_that_are_here_but_not_begun_get_eshutdown_at_a_stop() {
    let Served { mut client, probe, stop, ended } = transmit(Style::Simple).await;
    *probe.slow_from.lock() = 0;
    let limit = crate::limits::NBD_REQUESTS_IN_FLIGHT_MAX;
    for _ in 0..limit + 2 {
        client.send(command::READ, 0, 0, 1, &[]).await;
    }
    probe.begun(limit).await;
    stop.cancel();
    let mut refused = Vec::new();
    for answered in 0..limit + 2 {
        if answered == 2 {
            probe.permits.add_permits(limit);
        }
        let (cookie, reply) = client.reply(1).await;
        if reply == Reply::Error(Errno::Shutdown.code()) {
            refused.push(cookie);
        }
    }
    assert_eq!(refused, [limit as u64 + 1, limit as u64 + 2]);
    client.closed().await;
    soon(ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let patience = Patience { stall: Duration::from_secs(60), stop: Duration::from_millis(50) };
    let mut served = serve_with(ConnectionOptions { patience, ..ConnectionOptions::default() });
    served.client.enter(Style::Simple, "v").await;
    *served.probe.slow_from.lock() = 0;
    served.client.send(command::READ, 0, 0, 5, &[]).await;
    served.probe.begun(1).await;
    served.stop.cancel();
    match soon(served.ended).await.unwrap() {
        Err(ConnectionError::Session { source: SessionError::StopTimeout { .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stop_ends_a_handshake() {
    let mut served = serve_with(ConnectionOptions::default());
    served.client.greet(3).await;
    served.stop.cancel();
    served.client.closed().await;
    soon(served.ended).await.unwrap().unwrap();
}

#[derive(Debug, Default, Clone)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn add(&self, note: impl Into<String>) {
        self.0.lock().push(note.into());
    }
}

impl Observer for Notes {
    fn on_open(&self, export: &str) -> Arc<dyn SessionObserver> {
        self.add(format!("open {export}"));
        Arc::new(self.clone())
    }

    fn on_turned_away(&self) {
        self.add("turned away");
    }
}

impl SessionObserver for Notes {
    fn on_request(&self, answered: &Answered) {
        let Answered { kind, bytes, result, .. } = answered;
        self.add(format!("{} {bytes} {result:?}", kind.name()));
    }

    fn on_close(&self, clean: bool) {
        self.add(format!("close {clean}"));
    }
}

#[tokio::test]
async fn an_observer_is_told_of_connections_and_requests() {
    let notes = Notes::default();
    let observer = Arc::new(notes.clone());
    let mut served = serve_with(ConnectionOptions { observer, ..ConnectionOptions::default() });
    served.client.enter(Style::Simple, "v").await;
    served.client.write(0, 0, b"xyz").await;
    served.client.write(0, SIZE, b"xyz").await;
    served.client.read(0, 2).await;
    served.client.ask(command::FLUSH, 0, 0, 0).await;
    served.client.ask(99, 0, 0, 0).await;
    served.client.leave().await;
    soon(served.ended).await.unwrap().unwrap();
    let expected =
        ["open v", "write 3 Ok(())", "write 3 Err(NoSpace)", "read 2 Ok(())", "flush 0 Ok(())", "close true"];
    assert_eq!(*notes.0.lock(), expected);
}

#[tokio::test]
async fn an_observer_is_told_of_clients_that_fail() {
    let notes = Notes::default();
    let options = || ConnectionOptions { observer: Arc::new(notes.clone()), ..ConnectionOptions::default() };
    let mut served = serve_with(options());
    served.client.greet(0x8000).await;
    assert!(soon(served.ended).await.unwrap().is_err());
    let mut served = serve_with(options());
    served.client.enter(Style::Simple, "v").await;
    served.client.send(command::WRITE, 0, 0, 5, b"panic").await;
    assert!(soon(served.ended).await.unwrap_err().is_panic());
    assert_eq!(*notes.0.lock(), ["turned away", "open v", "close false"]);
}

#[test]
fn every_kind_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = (0..9).filter_map(RequestKind::of).map(RequestKind::name).collect();
    assert_eq!(names.len(), 7);
}
