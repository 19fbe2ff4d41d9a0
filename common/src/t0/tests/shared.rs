//! One side store for several groups.

use super::*;

/// The side store is one for all groups: who keeps something there makes room for the volumes of another one, and who keeps nothing has nothing to
/// hurry for.
#[test]
fn who_keeps_something_hurries_for_the_volumes_of_another_group() {
    let mut rig = Rig::new(44 << 10);
    let (mut other, mut empty) = (sharing(&rig), sharing(&rig));
    for rig in [&mut rig, &mut other, &mut empty] {
        rig.write(extent(0, SIZE as u64), 1).unwrap();
        rig.begin().unwrap();
    }
    let hurry = |rigs: [&Rig; 3]| rigs.map(|rig| rig.eras.must_hurry());
    rig.write(extent(0, 16384), 2).unwrap();
    assert_eq!(hurry([&rig, &other, &empty]), [false; 3]);
    // Where none ends, the volumes wait.
    other.eras.keep_all();
    let saves = |rig: &Rig| rig.eras.save(at(rig.place), &[extent(0, 16384)], &rig.volumes, true).unwrap();
    assert!(!saves(&other) && !saves(&other) && other.eras.is_squeezed());
    assert_eq!(hurry([&rig, &other, &empty]), [true, true, false]);
    assert!(!rig.eras.is_squeezed(), "its own volumes wait for nothing");
    // Nobody is done soon there, and no updater may come to find that out.
    other.eras.set_brief(other.known[0].user.era, false);
    assert_eq!(hurry([&rig, &other, &empty]), [false; 3]);
    assert!(!saves(&other));
    assert_eq!(hurry([&rig, &other, &empty]), [true, true, false]);
    rig.end(0);
    assert!(saves(&other), "there is room");
    assert_eq!(hurry([&rig, &other, &empty]), [false; 3]);
    // One that goes while its volumes wait is waited for by nobody.
    assert!(!rig.space.is_waited_for());
    other.write(extent(0, 16384), 3).unwrap();
    let gone = sharing(&rig);
    gone.eras.squeeze(true);
    assert!(other.eras.must_hurry());
    drop(gone);
    assert!(!other.eras.must_hurry());
}

/// Another group with a volume of its own, which shares the side store.
fn sharing(rig: &Rig) -> Rig {
    let mut other = Rig::new(0);
    other.space = Arc::clone(&rig.space);
    other.eras = Eras::open(parts(&other.disk, &rig.space), &[]).unwrap().0;
    other.eras.applied(at(1));
    other
}

/// Hosts write a target themselves and wait for nothing: a full side store would end its backup at once.
#[test]
fn a_backup_of_what_hosts_write_themselves_hurries_while_there_is_room() {
    let mut rig = Rig::new(44 << 10);
    let brief = ErasParts { outlive: false, ..parts(&rig.disk, &rig.space) };
    rig.eras = Eras::open(brief, &[]).unwrap().0;
    rig.eras.applied(at(1));
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    rig.begin().unwrap();
    rig.write(extent(0, 4096), 2).unwrap();
    assert!(!rig.eras.must_hurry());
    rig.write(extent(4096, 12288), 2).unwrap();
    assert!(rig.eras.must_hurry() && !rig.eras.is_squeezed());
    let other = sharing(&rig);
    assert!(!other.eras.must_hurry(), "the updater of a group has the volumes wait");
    rig.end(0);
    assert!(!rig.eras.must_hurry());
}
