//! Each picture is a file under `golden/`. `UPDATE_GOLDEN=1 cargo test` writes them anew; read the difference.

use std::path::Path;

use tidemark_common::api::backup::types::{BackupState, RestoreState};
use tidemark_common::api::local_pair::types::{LocalPairState, LocalPairStatus};
use tidemark_common::api::types::{CopyProgress, HistoryStatus, ImageKind, LostExportStatus, OnFull, Role};
use tidemark_common::history::History;
use tidemark_common::watchdog::{Moving, Standing};

use super::*;

#[path = "../../../tests/fake/samples.rs"]
mod samples;

const PAGE: View = View { width: 100, colour: false };

fn assert_golden(name: &str, shown: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/output/status/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, shown).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == shown, "{} differs from what is shown now:\n{shown}", path.display());
}

#[test]
fn every_state_looks_as_it_did() {
    for (name, status) in samples::all() {
        assert_golden(&format!("{name}.txt"), &render(&status, samples::now(), PAGE));
    }
}

#[test]
fn states_have_their_colours() {
    for (name, status) in [("paired", samples::paired()), ("error", samples::error())] {
        assert_golden(&format!("{name}.ansi"), &render(&status, samples::now(), View { colour: true, ..PAGE }));
    }
}

/// The same pair as its primary and its copy show it.
#[test]
fn a_pair_that_does_not_send_is_not_one_whose_link_is_down() {
    let shown = |mut status: Status, role, change: &dyn Fn(&mut PairStatus)| {
        status.groups[0].role = role;
        status.groups[0].pairs[0].connected = false;
        change(&mut status.groups[0].pairs[0]);
        let shown = render(&status, samples::now(), PAGE);
        let line = shown.lines().find(|line| line.contains(" RPO ")).map(ToOwned::to_owned);
        line.expect("the pair's line")
    };
    let suspended = shown(samples::secondary(), Role::Secondary, &|pair| {
        (pair.suspended_there, pair.reason) = (true, Some("the disk under the journal of the copy is full".into()));
    });
    assert!(suspended.contains("suspended") && !suspended.contains("link down"), "{suspended}");
    let worded = shown(samples::secondary(), Role::Secondary, &|pair| {
        pair.reason = Some("the pair was suspended on 'east', somebody says".into());
    });
    assert!(worded.contains("link down"), "no word of a reason decides: {worded}");
    let stands = shown(samples::secondary(), Role::Secondary, &|pair| {
        (pair.stands, pair.reason) = (true, Some("'east' sends nothing: 90 MiB differ".into()));
    });
    assert!(stands.contains("stands") && !stands.contains("link down"), "{stands}");
    let gone = shown(samples::secondary(), Role::Secondary, &|pair| {
        pair.reason = Some("'east' is not connected: `tidemark status` there says why".into());
    });
    assert!(gone.contains("link down"), "{gone}");
    let own = shown(samples::link_down(), Role::Primary, &|pair| {
        (pair.state, pair.reason) = (PairState::Suspended, Some("suspended by the operator".into()));
    });
    assert!(own.contains("suspended") && !own.contains("link down"), "{own}");
}

/// What a catch-up or a resync has taken from a history is missing until the history is as long as asked for again.
#[test]
fn a_history_that_was_cut_short_is_not_said_to_have_no_room_for_ever() {
    let shown = |bytes| {
        let mut status = samples::secondary();
        let group = &mut status.groups[0];
        (group.journal.bytes, group.journal.capacity_bytes) = (bytes, 100 << 20);
        let asked = History { milliseconds: 3_600_000, bytes: 0 };
        group.history =
            Some(HistoryStatus { asked, oldest_marker: Some(5), shortened: true, ..HistoryStatus::default() });
        render(&status, samples::now(), View { width: 160, ..PAGE })
    };
    assert!(shown(70 << 20).contains("back to marker 5") && shown(70 << 20).contains("no room for more"));
    let grows = shown(30 << 20);
    assert!(grows.contains("was cut short and grows again") && !grows.contains("no room"), "{grows}");
}

/// Also where the copy is: after a failover it does the same.
#[test]
fn a_group_that_slows_its_hosts_says_so() {
    for (mut status, is_slowed) in [(samples::paired(), false), (samples::secondary(), true)] {
        status.groups[0].on_full = if is_slowed { OnFull::Throttle } else { OnFull::Fold };
        let shown = render(&status, samples::now(), PAGE);
        assert_eq!(shown.contains("hosts slowed while the journal fills"), is_slowed, "{shown}");
    }
}

#[test]
fn a_narrow_screen_cuts_lines_and_breaks_messages() {
    let view = View { width: 60, ..PAGE };
    assert_golden("error-narrow.txt", &render(&samples::error(), samples::now(), view));
    for (name, status) in samples::all() {
        for width in [1, 20, 60, 100] {
            let shown = render(&status, samples::now(), View { width, colour: false });
            let widest = shown.lines().map(|line| line.chars().count()).max().unwrap_or(0);
            assert!(widest <= width, "{name} takes {widest} of {width} columns:\n{shown}");
        }
    }
}

#[test]
fn what_is_wrong_with_volumes_stands_with_their_group_once_or_with_those_in_none() {
    let mut status = samples::paired();
    let mut told = |volume: &str, problem: &str| {
        let found = status.volumes.iter_mut().find(|found| found.name == volume).unwrap();
        found.problem = Some(problem.into());
    };
    told("a", "a is half restored");
    told("b", "b is half restored");
    told("scratch", "scratch is half restored");
    status.groups[0].problem = Some("a is half restored".into());
    let shown = render(&status, samples::now(), PAGE);
    let lines: Vec<_> = shown.lines().filter(|line| line.starts_with("  problem")).map(str::trim_end).collect();
    let wanted = ["a", "b", "scratch"].map(|volume| format!("  problem    {volume} is half restored"));
    assert_eq!(lines, wanted, "{shown}");
    assert!(shown.contains("1 group, 2 need attention"), "{shown}");
}

#[test]
fn a_group_with_a_position_that_stands_needs_attention() {
    let shown = |position: Moving, seconds: f64| {
        let mut status = samples::paired();
        let peer = (position == Moving::Ship).then(|| "west".to_owned());
        status.groups[0].standing = vec![Standing { position, peer, seconds }];
        render(&status, samples::now(), PAGE)
    };
    for (position, seconds) in [(Moving::Journal, 1.0), (Moving::Ship, 61.0)] {
        let shown = shown(position, seconds);
        assert!(!shown.contains("attention"), "{shown}");
    }
    let stuck = shown(Moving::Journal, 61.0);
    assert!(stuck.contains("1 group, 1 needs attention"), "{stuck}");
}

/// Somebody has done what was to be done.
#[test]
fn a_fenced_side_needs_attention_until_it_is_returning() {
    let mut status = samples::fenced();
    let shown = render(&status, samples::now(), PAGE);
    assert!(shown.contains("1 group, 1 needs attention"), "{shown}");
    status.groups[0].problem = None;
    let pair = &mut status.groups[0].pairs[0];
    (pair.state, pair.stands) = (PairState::FailedOver, false);
    pair.reason = Some("it is returning to 'west' as the copy".into());
    let shown = render(&status, samples::now(), PAGE);
    assert!(shown.contains("it is returning to 'west'") && !shown.contains("attention"), "{shown}");
}

/// A clone made just now may show what was long ago.
#[test]
fn an_image_is_told_by_the_moment_it_shows_and_by_when_it_was_made() {
    let mut status = samples::secondary();
    let mut image = samples::image("try", ImageKind::Clone);
    image.moments[0].time = "2025-12-30T00:00:00Z".parse().unwrap();
    status.images = vec![image];
    let shown = render(&status, samples::now(), PAGE);
    assert!(shown.contains("try at marker 42 of 2025-12-30 00:00:00Z, made 1 min 1 s ago, "), "{shown}");
}

/// Its command, broken off, sent people to status, which did not know of it.
#[test]
fn an_export_of_what_was_lost_is_shown_with_how_far_it_is() {
    let mut status = samples::paired();
    status.lost_exports = vec![LostExportStatus {
        group: "g".into(),
        name: "generation-1-after-marker-5".into(),
        volume: "a".into(),
        to: "/srv/a.lost".into(),
        progress: CopyProgress { done_bytes: 1 << 20, total_bytes: 4 << 20, ..CopyProgress::default() },
    }];
    let shown = render(&status, samples::now(), PAGE);
    assert!(shown.contains("1 MiB of 4 MiB"), "{shown}");
    assert!(shown.contains("'generation-1-after-marker-5' of group g, volume a, to /srv/a.lost"), "{shown}");
}

#[test]
fn a_restore_is_shown_with_how_far_it_is_and_what_ends_it() {
    let mut status = samples::paired();
    status.restores = vec![samples::restore()];
    status.restores[0].warnings = vec!["the copy on 'west' may not follow".into()];
    let shown = render(&status, samples::now(), PAGE);
    assert!(
        shown.contains("\n\n  restore    ▕█████               ▏ 25 %   1 GiB of 4 GiB   50 MiB/s   1 min 1 s left\n"),
        "{shown}"
    );
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("b from /backups/monday.tar: closed to hosts until all of it is written."), "{shown}");
    let ends = "`tidemark backup restore /backups/monday.tar --set mail --onto-volumes --cancel` ends it";
    assert!(words.contains(ends) && words.contains("the copy on 'west' may not follow"), "{shown}");
    // Of what comes from a tape it is not known how much that is.
    let restore = &mut status.restores[0];
    (restore.state, restore.progress.total_bytes) = (RestoreState::Verifying, 0);
    (restore.from, restore.onto) = ("/dev/my tape".into(), Some("c".into()));
    let shown = render(&status, samples::now(), PAGE);
    assert!(shown.contains("\n  restore    1 GiB read\n"), "{shown}");
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("/dev/my tape is being verified, and nothing is changed yet."), "{shown}");
    assert!(words.contains("`tidemark backup restore '/dev/my tape' --set mail --onto c --cancel` ends it"), "{shown}");
}

#[test]
fn a_backup_is_shown_with_how_far_it_is_and_what_ends_it() {
    let mut status = samples::paired();
    status.backups_under_way = vec![samples::backup()];
    let shown = render(&status, samples::now(), PAGE);
    assert!(
        shown.contains("\n\n  backup     ▕█████               ▏ 25 %   1 GiB of 4 GiB   50 MiB/s   1 min 1 s left\n"),
        "{shown}"
    );
    let words = |shown: &str| shown.split_whitespace().collect::<Vec<_>>().join(" ");
    let told = "monday is being copied to /backups/monday.tar. `tidemark backup cancel monday` ends it";
    assert!(words(&shown).contains(told), "{shown}");
    let backup = &mut status.backups_under_way[0];
    (backup.state, backup.to, backup.progress.stalled_seconds) = (BackupState::Waiting, "-".into(), Some(7.0));
    let shown = render(&status, samples::now(), PAGE);
    assert!(shown.contains("\n  backup     4 GiB to copy\n"), "{shown}");
    assert!(words(&shown).contains("monday waits to be copied to the standard output"), "{shown}");
    assert!(words(&shown).contains("has taken nothing for 7.0 s"), "{shown}");
}

#[test]
fn local_pairs_stand_with_the_group_of_their_source() {
    let mut status = samples::paired();
    let group = status.groups[0].name.clone();
    status.local_pairs = vec![LocalPairStatus {
        source: "a".into(),
        group,
        target: "t".into(),
        state: LocalPairState::Split,
        reason: None,
        since: samples::now(),
        size: 1 << 30,
        differential_bytes: 65_536,
        source_changed_bytes: 0,
        target_changed_bytes: 0,
        marker: Some(41),
        marker_time: Some(samples::now()),
        rate: 1 << 20,
        export: None,
        connections: 0,
        saved_bytes: 0,
    }];
    let shown = render(&status, samples::now(), PAGE);
    assert!(shown.contains("  local pair t of a, split: 64 KiB to copy\n") && !shown.contains("attention"), "{shown}");
    status.local_pairs[0].reason = Some("the disk is full".into());
    status.local_pairs[0].state = LocalPairState::Error;
    let shown = render(&status, samples::now(), PAGE);
    assert!(shown.contains("t of a, error: the disk is full") && shown.contains("1 needs attention"), "{shown}");
}
