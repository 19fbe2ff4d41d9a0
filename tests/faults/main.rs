//! Bad input, answered clearly and without loss: from operators, disks, hosts and peers.

mod backings;
mod copies;
mod damage;
mod damage_running;
mod damage_staged;
mod doors;
mod frames;
mod full_disk;
mod input;
mod peers;
mod roles;
mod standing;
mod startup;
mod strangers;
mod trust;
mod watchdog;
mod write_buffer;
