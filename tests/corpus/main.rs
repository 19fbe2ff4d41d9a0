//! Every input the fuzz targets have kept, through the same checks (invariant 10): what was found once stays found.

#[path = "../../fuzz/checks/mod.rs"]
mod checks;

use std::path::{Path, PathBuf};

/// The inputs kept for a target, sorted.
fn inputs(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths
}

fn replay(target: &str, check: fn(&[u8])) {
    let paths = inputs(target);
    assert!(paths.len() >= 5, "{} inputs for {target}: the corpus is missing", paths.len());
    check(&[]);
    for path in paths {
        println!("{}", path.display());
        check(&std::fs::read(&path).expect("a readable input"));
    }
}

#[test]
fn nbd_requests_are_let_through_only_inside_the_export() {
    replay("nbd_request", checks::nbd_request::check);
}

#[test]
fn nbd_connections_end_when_their_client_leaves() {
    replay("nbd_session", checks::nbd_session::check);
}

#[test]
fn wire_messages_decode_to_what_was_encoded() {
    replay("wire_message", checks::wire_message::check);
}

#[test]
fn frames_that_verify_can_be_read() {
    replay("frame_codec", checks::frame_codec::check);
}

#[test]
fn damaged_journals_are_refused_or_give_back_what_was_written() {
    replay("journal_scan", checks::journal_scan::check);
}
