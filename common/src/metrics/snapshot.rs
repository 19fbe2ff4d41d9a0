//! Gauges out of a [`Status`]: made anew for each page, so that nothing outlives what it describes.

use prometheus::proto::MetricFamily;

use super::UNGROUPED;
use super::define::Set;
use crate::api::backup::types::BackupState;
use crate::api::local_pair::types::{LocalPairState, LocalPairStatus};
use crate::api::types::{GroupDrills, GroupStatus, ImageState, PairState, PairStatus, Role, Status, VolumeStatus};
use crate::lag::LagCause;

const ROLES: &[(Role, &str)] = &[(Role::Primary, "primary"), (Role::Secondary, "secondary"), (Role::Fenced, "fenced")];

/// All families the status gives.
pub(super) fn families(status: &Status) -> Vec<MetricFamily> {
    let page = Set::new(&[]);
    connections(&page, status);
    images(&page, status);
    status.local_pairs.iter().for_each(|pair| of_local_pair(&page, pair));
    backups(&page, status);
    status.drills.iter().for_each(|drills| of_drills(&page, drills));
    let is_loose_and_wrong = |volume: &VolumeStatus| volume.group.is_none() && volume.problem.is_some();
    problem(&page.with(&[("group", UNGROUPED)]), status.volumes.iter().any(is_loose_and_wrong));
    for group in &status.groups {
        let labelled = page.with(&[("group", &group.name)]);
        of_group(&labelled, group);
        for pair in &group.pairs {
            let side = side(group.role);
            let labelled = labelled.with(&[("peer", &pair.peer), ("side", side)]);
            of_pair(&labelled, pair);
            copy_age(&page, group, pair);
        }
    }
    page.gather()
}

/// The side of a pair this appliance is. A fenced one was the primary and still holds the primary's end.
fn side(role: Role) -> &'static str {
    match role {
        Role::Primary | Role::Fenced => "primary",
        Role::Secondary => "secondary",
    }
}

fn set(labelled: &Set, name: &str, help: &str, value: f64) {
    labelled.gauge(name, help).set(value);
}

fn one_hot(held: bool) -> f64 {
    if held { 1.0 } else { 0.0 }
}

fn connections(page: &Set, status: &Status) {
    let of = |group: Option<&str>| -> u64 {
        status.volumes.iter().filter(|volume| volume.group.as_deref() == group).map(|volume| volume.connections).sum()
    };
    let groups = status.groups.iter().map(|group| Some(group.name.as_str()));
    for group in groups.chain([None]) {
        let labelled = page.with(&[("group", group.unwrap_or(UNGROUPED))]);
        set(&labelled, "tidemark_nbd_connections", "NBD connections open on the group's volumes.", of(group) as f64);
    }
}

fn images(page: &Set, status: &Status) {
    let used = status.side_store;
    let help = "Bytes of overwritten content kept for images (T0 copies, clones, drills).";
    set(page, "tidemark_side_store_bytes", help, used.bytes as f64);
    let help = "Bytes there are for that; when they are used up, the oldest image ends.";
    set(page, "tidemark_side_store_capacity_bytes", help, used.capacity_bytes as f64);
    let help = "Memory that images, backups and splits take to know where their content lies.";
    set(page, "tidemark_image_memory_bytes", help, status.image_memory.bytes as f64);
    let help = "Memory there is for that.";
    set(page, "tidemark_image_memory_capacity_bytes", help, status.image_memory.capacity_bytes as f64);
    let help = "Bytes that hosts have written over all clones.";
    set(page, "tidemark_clone_store_bytes", help, status.clone_store.bytes as f64);
    let help = "Bytes there are for that; past them hosts of clones get ENOSPC.";
    set(page, "tidemark_clone_store_capacity_bytes", help, status.clone_store.capacity_bytes as f64);
    for (state, text) in [(ImageState::Ready, "ready"), (ImageState::Broken, "broken")] {
        let labelled = page.with(&[("state", text)]);
        let count = status.images.iter().filter(|image| image.state == state).count();
        set(&labelled, "tidemark_images", "T0 copies and clones, by whether they can be used.", count as f64);
    }
    let oldest = status.images.iter().map(|image| image.age_seconds).fold(0.0, f64::max);
    set(page, "tidemark_images_oldest_age_seconds", "Age of the oldest image, 0 when there is none.", oldest);
}

fn of_local_pair(page: &Set, pair: &LocalPairStatus) {
    let labelled = page.with(&[("group", &pair.group), ("source", &pair.source), ("target", &pair.target)]);
    for state in LocalPairState::ALL {
        let labelled = labelled.with(&[("state", state.name())]);
        let help = "1 for the state of a source and its target on this appliance.";
        set(&labelled, "tidemark_local_pair_state", help, one_hot(pair.state == state));
    }
    let help = "Bytes still to be copied to the target (in reverse: to the source), regions counted whole.";
    set(&labelled, "tidemark_local_pair_differential_bytes", help, pair.differential_bytes as f64);
    for (side, bytes) in [("source", pair.source_changed_bytes), ("target", pair.target_changed_bytes)] {
        let labelled = labelled.with(&[("side", side)]);
        let help = "Bytes of that side written since the split: what a resync copies.";
        set(&labelled, "tidemark_local_pair_changed_bytes", help, bytes as f64);
    }
}

fn backups(page: &Set, status: &Status) {
    for state in BackupState::ALL {
        let labelled = page.with(&[("state", state.name())]);
        let count = status.backups.get(state.name()).copied().unwrap_or(0);
        let help =
            "Backups by their state; one that failed counts until it is asked for again or its record is deleted.";
        set(&labelled, "tidemark_backups", help, count as f64);
    }
}

fn of_drills(page: &Set, drills: &GroupDrills) {
    let labelled = page.with(&[("group", &drills.group)]);
    if let Some(every) = drills.every_seconds {
        set(&labelled, "tidemark_drill_interval_seconds", "Time between two scheduled drills.", every);
    }
    if let Some(marker) = drills.proven_marker {
        let help = "Number of the newest marker that a drill has proven to be recoverable; absent before the first.";
        set(&labelled, "tidemark_drill_proven_marker_number", help, marker as f64);
    }
    if let Some(age) = drills.proven_age_seconds {
        let help = "Age of the newest moment that a drill has proven to be recoverable; absent before the first.";
        set(&labelled, "tidemark_drill_proven_age_seconds", help, age);
    }
    if let Some(passed) = drills.last_passed {
        set(&labelled, "tidemark_drill_passed", "1 when the last drill passed, 0 when it failed.", one_hot(passed));
    }
    if let Some(rto) = drills.last_rto_seconds {
        let help = "Time from the order to the first answered reads in the last drill.";
        set(&labelled, "tidemark_drill_rto_seconds", help, rto);
    }
}

fn of_group(labelled: &Set, group: &GroupStatus) {
    for (role, text) in ROLES {
        let labelled = labelled.with(&[("role", text)]);
        let held = one_hot(group.role == *role);
        set(&labelled, "tidemark_group_role", "1 for what this appliance is for the group.", held);
    }
    set(labelled, "tidemark_group_generation", "Counts role changes of the group.", group.generation as f64);
    problem(labelled, group.problem.is_some());
    set(labelled, "tidemark_marker_number", "Newest marker of the group.", group.marker.last as f64);
    set(labelled, "tidemark_buffer_bytes", "Bytes in the write buffer.", group.buffer.bytes as f64);
    set(
        labelled,
        "tidemark_buffer_capacity_bytes",
        "Bytes the write buffer can hold.",
        group.buffer.capacity_bytes as f64,
    );
    set(labelled, "tidemark_journal_bytes", "Bytes of the journal that are taken.", group.journal.bytes as f64);
    set(
        labelled,
        "tidemark_journal_capacity_bytes",
        "Bytes the journal may hold.",
        group.journal.capacity_bytes as f64,
    );
    positions(labelled, group);
    history(labelled, group);
    for standing in &group.standing {
        let peer = standing.peer.as_deref().unwrap_or_default();
        let labelled = labelled.with(&[("position", standing.position.name()), ("peer", peer)]);
        let help = "For how long a position has not moved though there was something to do; 0 while it moves or rests.";
        set(&labelled, "tidemark_standing_seconds", help, standing.seconds);
    }
}

fn problem(labelled: &Set, needs_a_person: bool) {
    let help =
        "1 when something about the group, or a volume in no group, needs a person; `tidemark status` says what.";
    set(labelled, "tidemark_group_problem", help, one_hot(needs_a_person));
}

fn history(labelled: &Set, group: &GroupStatus) {
    let Some(history) = group.history.filter(|_| group.role == Role::Secondary) else { return };
    let help = "How far back from its newest marker this copy can be cloned or failed over to.";
    set(labelled, "tidemark_history_seconds", help, history.seconds);
    let help = "Bytes of the journal that are kept for the history.";
    set(labelled, "tidemark_history_bytes", help, history.bytes as f64);
    let help = "1 when the journal has no room for as long a history as was asked for.";
    set(labelled, "tidemark_history_shortened", help, one_hot(history.shortened));
}

fn positions(labelled: &Set, group: &GroupStatus) {
    let stages = [
        ("captured", group.positions.captured_seq),
        ("journaled", group.positions.journaled_seq),
        ("applied", group.positions.applied_seq),
    ];
    for (stage, seq) in stages {
        let labelled = labelled.with(&[("stage", stage)]);
        set(&labelled, "tidemark_position_seq", "Newest sequence number past this stage here.", seq as f64);
    }
}

fn of_pair(labelled: &Set, pair: &PairStatus) {
    for state in PairState::ALL {
        let labelled = labelled.with(&[("state", state.name())]);
        let held = one_hot(pair.state == state);
        set(&labelled, "tidemark_pair_state", "1 for the state the pair is in, 0 for the others.", held);
    }
    set(
        labelled,
        "tidemark_pair_state_since_timestamp_seconds",
        "When the pair came into its state, seconds since 1970.",
        pair.since.as_duration().as_secs_f64(),
    );
    set(labelled, "tidemark_pair_connected", "1 when the other side answers.", one_hot(pair.connected));
    let help = "1 on a copy whose primary has said that an operator suspended the pair.";
    set(labelled, "tidemark_pair_suspended_there", help, one_hot(pair.suspended_there));
    if let Some(seconds) = pair.rpo_seconds {
        let help =
            "What a disaster of the primary now would lose, as seen from this side; absent without a usable copy.";
        set(labelled, "tidemark_pair_rpo_seconds", help, seconds);
    }
    set(
        labelled,
        "tidemark_pair_lag_bytes",
        "Bytes captured and not yet durable on the secondary; with side=\"secondary\", durable there and not yet applied.",
        pair.lag_bytes as f64,
    );
    set(
        labelled,
        "tidemark_pair_differential_bytes",
        "Bytes marked in the differential bitmap.",
        pair.differential_bytes as f64,
    );
    let help = "Bytes that the last comparison with the copy has found different so far and did not copy again.";
    let differ = pair.comparison.as_ref().map_or(0, |found| found.different_bytes.saturating_sub(found.repaired_bytes));
    set(labelled, "tidemark_pair_comparison_different_bytes", help, differ as f64);
    if let Some(milliseconds) = pair.round_trip_ms {
        set(labelled, "tidemark_link_round_trip_seconds", "Round trip time of the link.", milliseconds / 1e3);
    }
    markers(labelled, pair);
    lag(labelled, pair);
    copy_progress(labelled, pair);
}

fn lag(labelled: &Set, pair: &PairStatus) {
    let lag = &pair.lag;
    let stages = [
        ("buffer", Some(lag.buffer_bytes)),
        ("unsent", Some(lag.unsent_bytes)),
        ("under-way", Some(lag.under_way_bytes)),
        ("unapplied", lag.unapplied_bytes),
    ];
    for (stage, bytes) in stages {
        let Some(bytes) = bytes else { continue };
        let labelled = labelled.with(&[("stage", stage)]);
        set(&labelled, "tidemark_pair_lag_stage_bytes", "What the copy lacks, by where it waits.", bytes as f64);
    }
    for cause in LagCause::ALL {
        let labelled = labelled.with(&[("cause", cause.name())]);
        let help = "1 for what a pair that is behind waits for, 0 for the others.";
        set(&labelled, "tidemark_pair_lag_cause", help, one_hot(lag.cause == Some(cause)));
    }
}

fn markers(labelled: &Set, pair: &PairStatus) {
    // No marker has that number: the other side was not heard since this one was started, and is not that far behind.
    if pair.received_marker == 0 {
        return;
    }
    let stages =
        [("received", pair.received_marker), ("permitted", pair.permitted_marker), ("applied", pair.applied_marker)];
    for (stage, number) in stages {
        let labelled = labelled.with(&[("stage", stage)]);
        set(
            &labelled,
            "tidemark_pair_marker_number",
            "Newest marker past this stage of the secondary; absent until it is known.",
            number as f64,
        );
    }
}

fn copy_progress(labelled: &Set, pair: &PairStatus) {
    let copy = pair.copy.unwrap_or_default();
    set(
        labelled,
        "tidemark_pair_copy_done_bytes",
        "Bytes the differential copy under way has dealt with, 0 when there is none.",
        copy.done_bytes as f64,
    );
    set(
        labelled,
        "tidemark_pair_copy_size_bytes",
        "Bytes the differential copy under way has to deal with, 0 when there is none.",
        copy.total_bytes as f64,
    );
}

/// Only the side that holds the copy says how old it is: the one figure that is still there, and still true, when the
/// primary is not.
fn copy_age(page: &Set, group: &GroupStatus, pair: &PairStatus) {
    if let (Role::Secondary, Some(seconds)) = (group.role, pair.rpo_seconds) {
        let labelled = page.with(&[("group", &group.name), ("peer", &pair.peer)]);
        let help = "Age of the newest moment this appliance could take over at; absent without a usable copy.";
        set(&labelled, "tidemark_copy_age_seconds", help, seconds);
    }
}
