//! What can be said on the command line. Arguments of each command stand in its own file.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, Subcommand};
use jiff::Timestamp;
use tidemark_common::clock::{Clock, SystemClock};
use tidemark_common::config::{parse_duration, parse_size};
use tidemark_common::ids::{ApplianceId, check_name, check_tag};

use crate::commands::{
    backup, clone, completions, cut, demo, drill, failover, group, id, init, leases, local_pair, lost, man, markers,
    pair, peer, rejoin, serve, set, status, switchover, t0, verify, volume, wait,
};

/// Journal-based asynchronous remote copy of block volumes.
#[derive(Debug, Parser)]
#[command(name = "tidemark", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 service not reachable, 4 time ran out, 128 + N \
                  interrupted by signal N."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Heading of what every command understands.
const COMMON: &str = "Common options";

/// What every command understands.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// Directory of the appliance; the variable TIDEMARK_DIR names one as well
    // A variable that is set to nothing is none: it must not refuse what names the directory otherwise.
    #[arg(long, global = true, env = "TIDEMARK_DIR", hide_env = true, value_name = "DIR", help_heading = COMMON,
        value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub(crate) dir: Option<PathBuf>,
    /// Print the answer as JSON on stdout
    #[arg(long, global = true, help_heading = COMMON)]
    pub(crate) json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the directory of a new appliance; prints its id
    Init(init::Args),
    /// Print an appliance's id
    Id(id::Args),
    /// Run the service in the foreground
    Serve(serve::Args),
    /// Appliances this one trusts
    #[command(subcommand)]
    Peer(peer::Command),
    /// Volumes
    #[command(subcommand)]
    Volume(volume::Command),
    /// Consistency groups
    #[command(subcommand)]
    Group(group::Command),
    /// Pairs: copies of a group on other appliances
    #[command(subcommand)]
    Pair(pair::Command),
    /// Cut a marker now; prints its number
    Cut(cut::Args),
    /// List the markers of a group that are held, newest first
    Markers(markers::Args),
    /// Wait until a secondary has a marker
    Wait(wait::Args),
    /// Show the appliance, its groups and their pairs
    Status(status::Args),
    /// Compare a copy with its primary at one marker, while hosts write; exit 1 when they differ
    Verify(verify::Args),
    /// Take over a group on the secondary
    Failover(failover::Args),
    /// Change roles with a copy, planned: nothing is lost
    Switchover(switchover::Args),
    /// On an old primary: return as the copy of the appliance that took over
    Rejoin(rejoin::Args),
    /// List what keeps old data (pairs that are behind, histories, images, backups), the space it takes, and how to end it
    Leases(leases::Args),
    /// Writes of an old primary that never reached the other side
    #[command(subcommand)]
    Lost(lost::Command),
    /// Failovers rehearsed on clones
    #[command(subcommand)]
    Drill(drill::Command),
    /// Read-only images of volumes at a moment
    #[command(subcommand)]
    T0(t0::Command),
    /// Writable images of a group at a moment
    #[command(subcommand)]
    Clone(clone::Command),
    /// Copies of volumes on this appliance (targets) that follow their source, can be split off, and written back
    #[command(subcommand)]
    LocalPair(local_pair::Command),
    /// Data sets: what a backup contains
    #[command(subcommand)]
    Set(set::Command),
    /// Backups of data sets at one moment
    #[command(subcommand)]
    Backup(backup::Command),
    /// Demonstration in under a minute: two appliances, a load, a disaster, a failover, and the proof that the copy is exact
    Demo(demo::Args),
    /// Print shell completions
    Completions(completions::Args),
    /// Write the man pages
    Man(man::Args),
    /// Print the OpenAPI document of the control API
    Openapi,
}

/// A name of a volume, group or peer.
pub(crate) fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// A tag of a marker.
pub(crate) fn tag(text: &str) -> Result<String, String> {
    check_tag(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// A size in bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

/// An appliance's id.
pub(crate) fn appliance_id(text: &str) -> Result<ApplianceId, String> {
    text.parse().map_err(|error: tidemark_common::ids::IdError| error.to_string())
}

/// A duration in whole milliseconds.
pub(crate) fn milliseconds(text: &str) -> Result<u64, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    let whole = duration.subsec_nanos().is_multiple_of(1_000_000);
    u64::try_from(duration.as_millis())
        .ok()
        .filter(|_| whole)
        .ok_or_else(|| format!("'{text}' is not whole milliseconds: use ms or a larger unit"))
}

/// A moment of the past.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment {
    Marker(u64),
    Time(Timestamp),
}

impl Moment {
    pub(crate) const fn parts(self) -> (Option<u64>, Option<Timestamp>) {
        match self {
            Self::Marker(number) => (Some(number), None),
            Self::Time(time) => (None, Some(time)),
        }
    }
}

/// A time. The service keeps nanoseconds since 1970, in 64 bits.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    let time: Timestamp =
        text.parse().map_err(|_| format!("'{text}' is no time: write it as in 2026-01-31T12:00:00Z"))?;
    match i64::try_from(time.as_nanosecond()) {
        Ok(_) => Ok(time),
        Err(_) => Err(format!("'{text}' is too far away: use a time from 1678 to 2262")),
    }
}

/// A marker's number, a time, or how long ago.
pub(crate) fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(number) = text.parse() {
        return Ok(Moment::Marker(number));
    }
    if text.parse::<Timestamp>().is_ok() {
        return time(text).map(Moment::Time);
    }
    let wrong = || format!("'{text}' is no marker's number, no time (2026-01-31T12:00:00Z) and no duration (10m)");
    let ago = parse_duration(text).map_err(|_| wrong())?;
    SystemClock::new().wall().checked_sub(ago).map(Moment::Time).map_err(|_| wrong())
}

/// A time between two cuts.
pub(crate) fn interval(text: &str) -> Result<u64, String> {
    match milliseconds(text)? {
        0 => Err("cuts cannot follow each other without any time between them: use 10ms or more".into()),
        interval => Ok(interval),
    }
}

#[cfg(test)]
mod tests;
