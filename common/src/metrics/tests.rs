use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::api::local_pair::types::{LocalPairState, LocalPairStatus};
use crate::api::types::{
    Addresses, ApplianceStatus, BufferStatus, ComparisonState, ComparisonStatus, CopyProgress, FreezeStatus,
    GroupDrills, GroupStatus, HistoryStatus, JournalStatus, MarkerStatus, OnFull, PairState, PairStatus, Positions,
    Role, VolumeStatus,
};
use crate::ids::Seq;
use crate::lag::Lag;
use crate::nbd::SessionObserver;
use crate::nbd::observe::{Answered, RequestKind};
use crate::nbd::protocol::Errno;
use crate::watchdog::{Moving, Standing};

fn metrics() -> Metrics {
    Metrics::new("east", "0.1.0", Timestamp::UNIX_EPOCH)
}

fn status(groups: Vec<GroupStatus>) -> Status {
    let volumes = groups
        .iter()
        .flat_map(|group| group.volumes.iter().map(|name| volume(name, Some(&group.name))))
        .chain([volume("loose", None)])
        .collect();
    Status {
        appliance: ApplianceStatus {
            name: "east".into(),
            id: "00".into(),
            version: "0.1.0".into(),
            uptime_seconds: 1.0,
        },
        addresses: Addresses { nbd: vec![], replication: String::new(), metrics: String::new() },
        volumes,
        groups,
        peers: vec![],
        images: vec![],
        side_store: Default::default(),
        image_memory: Default::default(),
        clone_store: Default::default(),
        drills: vec![GroupDrills {
            group: "h".into(),
            proven_marker: Some(7),
            proven_time: Some(Timestamp::UNIX_EPOCH),
            proven_age_seconds: Some(70.0),
            last: Some(2),
            last_passed: Some(false),
            last_rto_seconds: Some(0.25),
            running: false,
            every_seconds: Some(3600.0),
        }],
        local_pairs: vec![LocalPairStatus {
            source: "a".into(),
            group: "g".into(),
            target: "t".into(),
            state: LocalPairState::Split,
            reason: None,
            since: Timestamp::UNIX_EPOCH,
            size: 1 << 30,
            differential_bytes: 65_536,
            source_changed_bytes: 131_072,
            target_changed_bytes: 0,
            marker: Some(7),
            marker_time: Some(Timestamp::UNIX_EPOCH),
            rate: 1 << 20,
            export: None,
            connections: 0,
            saved_bytes: 0,
        }],
        backups: [("failed".to_owned(), 2)].into(),
        backups_under_way: Vec::new(),
        restores: Vec::new(),
        lost_exports: Vec::new(),
        strangers: Vec::new(),
    }
}

fn volume(name: &str, group: Option<&str>) -> VolumeStatus {
    VolumeStatus {
        name: name.into(),
        size: 1 << 30,
        group: group.map(Into::into),
        backing: "/dev/null".into(),
        connections: 2,
        offered_to: None,
        problem: None,
    }
}

fn group(name: &str, role: Role, peers: &[&str]) -> GroupStatus {
    GroupStatus {
        name: name.into(),
        id: "00".into(),
        role,
        generation: 1,
        volumes: vec![format!("{name}-data")],
        marker: MarkerStatus { last: 42, time: None },
        journal: JournalStatus { bytes: 1, capacity_bytes: 2, full_in_seconds: None, throttle_ms: 0.0 },
        buffer: BufferStatus { bytes: 3, capacity_bytes: 4 },
        freeze: FreezeStatus::default(),
        positions: Positions { captured_seq: 30, journaled_seq: 20, applied_seq: 10 },
        interval_ms: 1000,
        on_full: OnFull::Fold,
        history: Some(HistoryStatus { seconds: 3.0, ..HistoryStatus::default() }),
        problem: None,
        standing: vec![Standing { position: Moving::Apply, peer: None, seconds: 1.0 }],
        pairs: peers.iter().map(|peer| pair(peer)).collect(),
    }
}

fn pair(peer: &str) -> PairStatus {
    PairStatus {
        peer: peer.into(),
        state: PairState::CatchingUp,
        reason: None,
        since: Timestamp::UNIX_EPOCH,
        connected: true,
        stands: false,
        suspended_there: false,
        received_marker: 41,
        permitted_marker: 40,
        applied_marker: 39,
        rpo_seconds: Some(1.5),
        lag_bytes: 4096,
        lag: Lag::default(),
        held: None,
        differential_bytes: 0,
        copy: Some(CopyProgress { done_bytes: 1, total_bytes: 2, ..CopyProgress::default() }),
        verify: None,
        comparison: None,
        round_trip_ms: Some(20.0),
    }
}

/// A page on which every family of the registry appears.
fn full_page() -> String {
    let metrics = metrics();
    let handle = metrics.group("g");
    let _pair = handle.pair("west");
    metrics.render(&status(vec![group("g", Role::Secondary, &["west"])]))
}

fn families(page: &str) -> BTreeSet<String> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned)).collect()
}

fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[test]
fn every_family_says_what_it_is_once() {
    let page = full_page();
    let helps: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# HELP ")).collect();
    assert_eq!(helps.len(), families(&page).len());
    assert!(helps.len() > 50, "{page}");
    for help in helps {
        assert!(help.ends_with('.') && help.contains(' '), "{help}");
    }
}

#[test]
fn promtool_finds_nothing_to_say() {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is in Debian's package prometheus; `scripts/install-debian-packages` installs it");
    promtool.stdin.take().unwrap().write_all(full_page().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn what_is_counted_is_on_the_page() {
    let metrics = metrics();
    let group = metrics.group("g");
    for result in [Ok(()), Err(Errno::Io)] {
        let duration = Duration::from_micros(20);
        group.host().on_request(&Answered { kind: RequestKind::Write, bytes: 4096, duration, result });
    }
    group.host().on_close(false);
    metrics.host_turned_away();
    group.marker_cut(Duration::from_micros(3));
    group.marker_abandoned(Duration::from_millis(50));
    group.pair("west").state_changed(PairState::Paired); // handle gone, series gone
    let pair = group.pair("west");
    pair.shipped(1000, Seq(7));
    pair.state_changed(PairState::Error);
    metrics.error(Part::Journal);
    group.error(Part::Journal);
    let mut packets = pair.packets();
    packets.now(10, 1);
    packets.now(15, 1);
    pair.packets().now(3, 0); // the next connection
    metrics.peer_refused(PeerRefusal::UnknownPeer);

    let page = metrics.render(&status(vec![]));
    for (series, expected) in [
        (r#"tidemark_host_requests_total{group="g",kind="write",result="ok"}"#, 1.0),
        (r#"tidemark_host_requests_total{group="g",kind="write",result="error"}"#, 1.0),
        (r#"tidemark_host_bytes_total{direction="write",group="g"}"#, 4096.0),
        (r#"tidemark_host_request_duration_seconds_count{group="g",kind="write"}"#, 2.0),
        (r#"tidemark_nbd_disconnects_total{group="g",how="broken"}"#, 1.0),
        (r#"tidemark_nbd_turned_away_total"#, 1.0),
        (r#"tidemark_freeze_duration_seconds_count{group="g"}"#, 2.0),
        (r#"tidemark_freeze_duration_seconds_bucket{group="g",le="0.000005"}"#, 1.0),
        (r#"tidemark_markers_total{group="g"}"#, 1.0),
        (r#"tidemark_markers_abandoned_total{group="g"}"#, 1.0),
        (r#"tidemark_ship_bytes_total{group="g",peer="west"}"#, 1000.0),
        (r#"tidemark_pair_position_seq{group="g",peer="west",stage="shipped"}"#, 7.0),
        (r#"tidemark_pair_state_changes_total{group="g",peer="west",state="error"}"#, 1.0),
        (r#"tidemark_pair_state_changes_total{group="g",peer="west",state="paired"}"#, 0.0),
        (r#"tidemark_link_packets_sent_total{group="g",peer="west"}"#, 18.0),
        (r#"tidemark_link_packets_lost_total{group="g",peer="west"}"#, 1.0),
        (r#"tidemark_errors_total{part="journal"}"#, 2.0),
        (r#"tidemark_errors_total{part="nbd"}"#, 0.0),
        (r#"tidemark_peers_refused_total{reason="unknown_peer"}"#, 1.0),
    ] {
        assert_eq!(value(&page, series), Some(expected), "{series}\n{page}");
    }
}

#[test]
fn all_handles_of_a_group_count_together() {
    let metrics = metrics();
    let (one, other) = (metrics.group("g"), metrics.group("g"));
    one.journal_damaged();
    other.journal_damaged();
    drop(one);
    let page = metrics.render(&status(vec![]));
    assert_eq!(value(&page, r#"tidemark_journal_damaged_records_total{group="g"}"#), Some(2.0), "{page}");
}

#[test]
fn the_status_gives_the_gauges() {
    let groups = vec![group("g", Role::Primary, &["west"]), group("h", Role::Secondary, &["north"])];
    let page = metrics().render(&status(groups));
    for (series, expected) in [
        (r#"tidemark_pair_rpo_seconds{group="g",peer="west",side="primary"}"#, Some(1.5)),
        (r#"tidemark_pair_rpo_seconds{group="h",peer="north",side="secondary"}"#, Some(1.5)),
        (r#"tidemark_copy_age_seconds{group="h",peer="north"}"#, Some(1.5)),
        (r#"tidemark_copy_age_seconds{group="g",peer="west"}"#, None),
        (r#"tidemark_pair_state{group="g",peer="west",side="primary",state="catching-up"}"#, Some(1.0)),
        (r#"tidemark_pair_state{group="g",peer="west",side="primary",state="paired"}"#, Some(0.0)),
        (r#"tidemark_group_role{group="h",role="secondary"}"#, Some(1.0)),
        (r#"tidemark_position_seq{group="g",stage="journaled"}"#, Some(20.0)),
        (r#"tidemark_pair_marker_number{group="g",peer="west",side="primary",stage="applied"}"#, Some(39.0)),
        (r#"tidemark_link_round_trip_seconds{group="g",peer="west",side="primary"}"#, Some(0.02)),
        (r#"tidemark_nbd_connections{group="g"}"#, Some(2.0)),
        (r#"tidemark_nbd_connections{group="-"}"#, Some(2.0)),
        (r#"tidemark_drill_proven_marker_number{group="h"}"#, Some(7.0)),
        (r#"tidemark_drill_proven_age_seconds{group="h"}"#, Some(70.0)),
        (r#"tidemark_drill_passed{group="h"}"#, Some(0.0)),
        (r#"tidemark_drill_interval_seconds{group="h"}"#, Some(3600.0)),
        (r#"tidemark_images{state="broken"}"#, Some(0.0)),
        (r#"tidemark_local_pair_state{group="g",source="a",state="split",target="t"}"#, Some(1.0)),
        (r#"tidemark_local_pair_state{group="g",source="a",state="error",target="t"}"#, Some(0.0)),
        (r#"tidemark_local_pair_differential_bytes{group="g",source="a",target="t"}"#, Some(65_536.0)),
        (r#"tidemark_local_pair_changed_bytes{group="g",side="source",source="a",target="t"}"#, Some(131_072.0)),
        (r#"tidemark_backups{state="failed"}"#, Some(2.0)),
        (r#"tidemark_backups{state="copying"}"#, Some(0.0)),
    ] {
        assert_eq!(value(&page, series), expected, "{series}\n{page}");
    }
}

#[test]
fn a_volume_in_no_group_that_needs_a_person_is_told() {
    let mut status = status(vec![group("g", Role::Primary, &["west"])]);
    for (told, expected) in [(None, 0.0), (Some("its backing is not there".to_owned()), 1.0)] {
        let loose = status.volumes.iter_mut().find(|volume| volume.group.is_none()).unwrap();
        loose.problem = told;
        let page = metrics().render(&status);
        assert_eq!(value(&page, r#"tidemark_group_problem{group="-"}"#), Some(expected), "{page}");
        assert_eq!(value(&page, r#"tidemark_group_problem{group="g"}"#), Some(0.0), "{page}");
    }
}

#[test]
fn a_copy_tells_that_its_pair_was_suspended_over_there() {
    let mut secondary = group("g", Role::Secondary, &["west"]);
    let series = r#"tidemark_pair_suspended_there{group="g",peer="west",side="secondary"}"#;
    for (suspended_there, expected) in [(false, 0.0), (true, 1.0)] {
        secondary.pairs[0].suspended_there = suspended_there;
        let page = metrics().render(&status(vec![secondary.clone()]));
        assert_eq!(value(&page, series), Some(expected), "{page}");
    }
}

/// A comparison in the background has no command that ends with 1.
#[test]
fn what_a_comparison_finds_different_and_does_not_mend_is_a_figure() {
    let series = r#"tidemark_pair_comparison_different_bytes{group="g",peer="west",side="primary"}"#;
    let found = |different_bytes, repaired_bytes| ComparisonStatus {
        state: ComparisonState::Ended,
        reason: None,
        began: Timestamp::UNIX_EPOCH,
        done_bytes: 1 << 30,
        total_bytes: 1 << 30,
        resumed: 0,
        resumed_at_bytes: 0,
        from_marker: 3,
        marker: 7,
        different_bytes,
        repaired_bytes,
    };
    for (comparison, expected) in
        [(None, 0.0), (Some(found(131_072, 0)), 131_072.0), (Some(found(131_072, 131_072)), 0.0)]
    {
        let mut primary = group("g", Role::Primary, &["west"]);
        primary.pairs[0].comparison = comparison;
        let page = metrics().render(&status(vec![primary]));
        assert_eq!(value(&page, series), Some(expected), "{page}");
    }
}

#[test]
fn without_a_usable_copy_there_is_no_age() {
    let mut secondary = group("g", Role::Secondary, &["west"]);
    secondary.pairs[0].rpo_seconds = None;
    let page = metrics().render(&status(vec![secondary]));
    assert!(!page.contains("tidemark_copy_age_seconds") && !page.contains("tidemark_pair_rpo_seconds"), "{page}");
}

/// A panel shows how far the newest marker is from them.
#[test]
fn who_was_not_heard_yet_is_behind_by_nobody_knows_how_much() {
    let mut primary = group("g", Role::Primary, &["west"]);
    let told = |primary: &GroupStatus| {
        metrics().render(&status(vec![primary.clone()])).contains("tidemark_pair_marker_number{")
    };
    assert!(told(&primary));
    let pair = &mut primary.pairs[0];
    (pair.received_marker, pair.permitted_marker, pair.applied_marker) = (0, 0, 0);
    assert!(!told(&primary));
}

#[test]
fn what_went_away_leaves_the_page() {
    let metrics = metrics();
    let (kept, gone) = (metrics.group("kept"), metrics.group("gone"));
    let (kept_pair, gone_pair) = (kept.pair("near"), kept.pair("far"));
    let before = status(vec![group("kept", Role::Primary, &["near", "far"]), group("gone", Role::Primary, &["near"])]);
    let page = metrics.render(&before);
    assert!(page.contains(r#"group="gone""#) && page.contains(r#"peer="far""#), "{page}");

    drop((gone, gone_pair));
    let page = metrics.render(&status(vec![group("kept", Role::Primary, &["near"])]));
    assert!(!page.contains(r#"group="gone""#) && !page.contains(r#"peer="far""#), "{page}");
    assert!(page.contains(r#"tidemark_ship_bytes_total{group="kept",peer="near"}"#), "{page}");
    drop(kept_pair);
}

#[test]
fn a_status_that_names_a_pair_twice_is_no_panic() {
    let page = metrics().render(&status(vec![group("g", Role::Primary, &["west", "west"])]));
    assert_eq!(page.matches("\ntidemark_pair_lag_bytes{").count(), 1, "{page}");
}

fn grafana(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../grafana").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Metric names in a text, histograms by their family.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("tidemark_"))
        .map(|word| {
            ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
        })
        .collect()
}

#[test]
fn every_metric_is_used_and_every_name_used_is_a_metric() {
    let made = families(&full_page());
    let used = names(&(grafana("dashboards/tidemark.json") + &grafana("alerts.yml")));
    let unused: Vec<_> = made.difference(&used).collect();
    assert!(unused.is_empty(), "in no panel and no alert: {unused:?}");
    let unknown: Vec<_> = used.difference(&made).collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
}
