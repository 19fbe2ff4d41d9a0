//! Two appliances and what happens to them: kills, cuts, takeovers, bad links. Judged by the oracle.

mod backup;
mod backup_ends;
mod cut;
mod differences;
mod drill_ends;
mod drills;
mod failover;
mod history;
mod images;
mod initial_copy;
mod kill_primary;
mod kill_secondary;
mod link;
mod local_pair;
mod members;
mod memory;
mod offers;
mod ordeal;
mod permission;
mod pressure;
mod rejoin;
mod restore;
mod several_groups;
mod size;
mod staging;
mod verify;
