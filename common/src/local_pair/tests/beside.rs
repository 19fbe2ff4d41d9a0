//! Hosts of a target beside a backup of it.

use std::sync::mpsc::SyncSender;

use super::*;
use crate::storage::filter::{self, Filter};

/// Tells of each read.
struct Reads(SyncSender<usize>);

impl Filter for Reads {
    fn before_read(&self, bytes: usize) -> std::io::Result<()> {
        let _ = self.0.try_send(bytes);
        Ok(())
    }
}

#[test]
fn a_host_of_a_target_under_a_backup_waits_for_the_disk_beside_others() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    rig.split().unwrap();
    rig.drain();
    let (tell, read) = sync_channel(64);
    let reads = Arc::new(Reads(tell));
    rig.running = Running::start_over(&rig.disk, 64 << 20, |target| filter::file(target, &reads)).unwrap();
    let image = rig.pair().begin_image().unwrap();
    // As if another host's write were under way.
    let other = rig.pair().parts.saves.window();
    while read.try_recv().is_ok() {}
    let target = TargetVolume(Arc::clone(rig.pair()));
    let host = std::thread::spawn(move || target.write(8192, &[9; 4096]));
    assert_eq!(read.recv_timeout(Duration::from_secs(30)), Ok(4096), "what it overwrites is read meanwhile");
    assert!(!host.is_finished(), "and it writes when the other has");
    drop(other);
    host.join().unwrap().unwrap();
    assert!(rig.pair().parts.saves.bytes_of(image.era) > 0, "with what it overwrote saved");
}
