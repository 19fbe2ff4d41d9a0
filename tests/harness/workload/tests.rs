//! Hosts, load and oracle together, against another server (nbdkit): a correct one passes, a planted fault does not.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command};

use super::*;
use crate::cluster::Cluster;
use crate::image;
use crate::oracle::{Bounds, assert_legal, judge};

/// One file served by nbdkit, whatever the export's name.
struct Server {
    process: Child,
    socket: std::path::PathBuf,
}

impl Server {
    fn start(cluster: &Cluster, name: &str, bytes: u64) -> Self {
        let (file, socket) = (cluster.join(name), cluster.join(&format!("{name}.sock")));
        std::fs::File::create(&file).and_then(|file| file.set_len(bytes)).expect("make the file");
        Self { process: serve(&file, &socket), socket }
    }
}

fn serve(file: &Path, socket: &Path) -> Child {
    let mut command = Command::new("nbdkit");
    command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(socket).arg("file").arg(file);
    let process = command.spawn().expect("start nbdkit");
    let address = Address::Unix(socket.into());
    wait_until("nbdkit to serve", Duration::from_secs(10), || {
        Connection::open(&address, "disk").map(drop).map_err(|error| error.to_string())
    });
    process
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn profile() -> Profile {
    Profile { writers: 2, stripe_blocks: 64, pause: Duration::ZERO, ..Profile::seeded(1) }
}

#[test]
fn load_over_a_correct_server_is_legal_and_a_planted_fault_is_not() {
    let cluster = Cluster::new();
    let server = Server::start(&cluster, "a", profile().volume_bytes());
    let target = Target { address: Address::Unix(server.socket.clone()), exports: vec!["disk".into()] };
    let history = Arc::new(History::new());
    prefill(&history, &target, 128).expect("prefill");
    let load = Load::start(&history, &target, &profile());
    load.wait_acked(500);
    load.stop();
    let read = || image::read(&mut target.open().expect("open")).expect("read");
    assert_legal("a correct server", &history.writes(), &read(), Bounds::EVERYTHING_ACKED);

    let file = std::fs::File::options().write(true).open(cluster.join("a")).expect("open the file");
    file.write_all_at(&stamp::stamp(1, 0, 5), 5 * BLOCK_BYTES as u64).expect("go back to the first write");
    let newest = history.writes().into_iter().filter(|write| write.range().contains(&5)).count();
    assert_eq!(judge(&history.writes(), &read(), Bounds::EVERYTHING_ACKED).is_err(), newest > 1);
    file.write_all_at(&[9; 512], 700).expect("tear a block");
    assert!(judge(&history.writes(), &read(), Bounds::ANY).is_err());
}

#[test]
fn hosts_of_a_killed_server_end_and_know_what_was_answered() {
    let cluster = Cluster::new();
    let mut server = Server::start(&cluster, "a", profile().volume_bytes());
    let target = Target { address: Address::Unix(server.socket.clone()), exports: vec!["disk".into()] };
    let history = Arc::new(History::new());
    let load = Load::start(&history, &target, &profile());
    load.wait_acked(300);
    server.process.kill().expect("kill");
    server.process.wait().expect("reap");
    let ends = load.join_broken();
    assert_eq!(ends.len(), 2, "{ends:?}");
    let image = image::Image::from_bytes(&[std::fs::read(cluster.join("a")).expect("read the file")]);
    assert_legal("a killed process loses nothing", &history.writes(), &image, Bounds::EVERYTHING_ACKED);
}
