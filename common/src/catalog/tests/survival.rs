//! What is there after a kill, after a torn log, and under another process.

use std::fs;
use std::path::PathBuf;

use rocksdb::statistics::Ticker;

use super::*;

/// A copy of the directory as a kill at this moment would leave it: the files, and no farewell.
fn killed_now(directory: &Path) -> TempDir {
    let image = tempfile::tempdir().unwrap();
    fs::create_dir(image.path().join("catalog")).unwrap();
    for entry in fs::read_dir(directory.join("catalog")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), image.path().join("catalog").join(entry.file_name())).unwrap();
    }
    image
}

/// The log with records in it.
fn log_of(directory: &Path) -> PathBuf {
    let logs = fs::read_dir(directory.join("catalog")).unwrap().map(|entry| entry.unwrap().path());
    let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

fn find(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).position(|window| window == needle).unwrap()
}

#[test]
fn a_kill_loses_nothing_that_was_answered() {
    let (directory, catalog) = fresh();
    for number in 0..50 {
        catalog.put_volume(&volume(&format!("v{number:02}"))).unwrap();
        catalog.put_applied(GROUP, &applied(number)).unwrap();
    }
    let image = killed_now(directory.path());
    let after = open(image.path()).unwrap();
    assert_eq!(after.volumes().unwrap().len(), 50);
    assert_eq!(after.applied(GROUP).unwrap(), Some(applied(49)));
    after.verify().unwrap();
}

#[test]
fn every_change_is_synced_before_it_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = rocks::options();
    options.enable_statistics();
    let catalog = Catalog::open_with(directory.path(), &SystemClock::new(), &options).unwrap();
    let syncs = || options.get_ticker_count(Ticker::WalFileSynced);
    let mut before = syncs();
    let mut synced = |what| {
        let now = syncs();
        assert!(now > before, "{what} was answered and not synced");
        before = now;
    };
    catalog.put_volume(&volume("data")).unwrap();
    synced("a put");
    catalog.delete_volume("data").unwrap();
    synced("a delete");
    catalog.put_bitmap(GROUP, "far", &[1; 1000]).unwrap();
    synced("a bitmap");
    catalog.delete_group("pg", GROUP).unwrap();
    synced("a delete of ranges");
}

#[test]
fn a_batch_is_found_whole_or_not_at_all_wherever_the_log_was_torn() {
    let (directory, catalog) = fresh();
    catalog.put_peer(&peer("first")).unwrap();
    let mut batch = Batch::new();
    batch.put_volume(&volume("data")).unwrap();
    batch.put_group(&group("pg")).unwrap();
    batch.put_applied(GROUP, &applied(1)).unwrap();
    batch.delete_peer("first").unwrap();
    let before = fs::metadata(log_of(directory.path())).unwrap().len();
    catalog.commit(batch).unwrap();
    let image = killed_now(directory.path());
    let whole = fs::read(log_of(image.path())).unwrap();
    let before = usize::try_from(before).unwrap();
    assert!(before < whole.len());

    for length in (before..=whole.len()).step_by(37).chain([whole.len() - 1, whole.len()]) {
        let image = killed_now(directory.path());
        fs::write(log_of(image.path()), &whole[..length]).unwrap();
        let after = open(image.path()).unwrap();
        let all = length == whole.len();
        assert_eq!(after.volume("data").unwrap().is_some(), all, "{length}");
        assert_eq!(after.group("pg").unwrap().is_some(), all, "{length}");
        assert_eq!(after.applied(GROUP).unwrap().is_some(), all, "{length}");
        assert_eq!(after.peer("first").unwrap().is_none(), all, "{length}");
    }
}

/// Power is lost while a change of roles is being written, and its batch is larger than a block of the log: of the tail there may be a part, or
/// all of its length with zeroes, something else, or one sector missing in it. What a start finds is the role, the place and the bitmap of one
/// moment, or it is refused by name.
#[test]
fn a_change_of_roles_is_whole_or_not_there_whatever_a_loss_of_power_left_of_the_log() {
    const SECTOR: usize = 512;
    let bits = |seed: u32| -> Vec<u8> {
        (0_u32..20 << 10).flat_map(|n| n.wrapping_add(seed).wrapping_mul(2_654_435_761).to_le_bytes()).collect()
    };
    let in_role = |role: RoleRecord| GroupRecord { role, ..group("pg") };
    let (directory, catalog) = fresh();
    let put = |record: &GroupRecord, place: u64, bitmap: &[u8]| {
        let mut batch = Batch::new();
        batch.put_group(record).unwrap();
        batch.put_applied(GROUP, &applied(place)).unwrap();
        batch.put_markers(GROUP, &[marker(place)]).unwrap();
        batch.put_bitmap(GROUP, "far", bitmap).unwrap();
        catalog.commit(batch).unwrap();
    };
    let (old, new) = (in_role(RoleRecord::Primary), in_role(RoleRecord::Fenced { by_generation: 9 }));
    put(&old, 1, &bits(0));
    let before = usize::try_from(fs::metadata(log_of(directory.path())).unwrap().len()).unwrap();
    put(&new, 2, &bits(7));
    let image = killed_now(directory.path());
    let whole = fs::read(log_of(image.path())).unwrap();
    assert!(whole.len() - before > 2 * (32 << 10), "it lies in several blocks of the log");

    // How the log reads after a loss of power, by where that struck.
    let cut = |at: usize| whole[..at].to_vec();
    let filled = |at: usize, byte: u8| [&whole[..at], &vec![byte; whole.len() - at]].concat();
    let without_a_sector = |at: usize| {
        let end = (at + SECTOR).min(whole.len());
        [&whole[..at], &vec![0_u8; end - at], &whole[end..]].concat()
    };
    let edges = [before, before + 1, before + 7, before + 8, whole.len() - 1];
    let (mut opened, mut refused) = (0, 0);
    for at in (before..whole.len()).step_by(3_001).chain(edges) {
        let tails =
            [("cut", cut(at)), ("zeroes", filled(at, 0)), ("ones", filled(at, 0xff)), ("a hole", without_a_sector(at))];
        for (what, log) in tails {
            let image = killed_now(directory.path());
            fs::write(log_of(image.path()), log).unwrap();
            let after = match open(image.path()) {
                Ok(after) => after,
                Err(error) => {
                    assert!(what != "cut", "what was cut short was never answered: {error}");
                    assert!(matches!(error, CatalogError::FilesDamaged { .. }), "{what} at {at}: {error}");
                    refused += 1;
                    continue;
                }
            };
            opened += 1;
            let found = after.group("pg").unwrap().unwrap();
            let (place, bitmap) = if found == new { (2, bits(7)) } else { (1, bits(0)) };
            assert!(found == new || found == old, "{what} at {at}: {found:?}");
            assert_eq!(after.applied(GROUP).unwrap(), Some(applied(place)), "{what} at {at}");
            assert_eq!(after.markers(GROUP, 1).unwrap(), [marker(place)], "{what} at {at}");
            assert!(after.bitmap(GROUP, "far").unwrap() == Some(bitmap), "{what} at {at}");
        }
    }
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused");
}

#[test]
fn a_batch_that_is_not_committed_changes_nothing() {
    let (_directory, catalog) = fresh();
    let mut batch = Batch::new();
    batch.put_volume(&volume("data")).unwrap();
    assert!(!batch.is_empty());
    drop(batch);
    assert_eq!(catalog.volumes().unwrap(), []);
    catalog.commit(Batch::new()).unwrap();
}

#[test]
fn damage_inside_the_log_is_an_error_and_drops_nothing_silently() {
    let (directory, catalog) = fresh();
    for name in ["first", "second", "third"] {
        catalog.put_peer(&peer(name)).unwrap();
    }
    let image = killed_now(directory.path());
    let log = log_of(image.path());
    let mut bytes = fs::read(&log).unwrap();
    let second = find(&bytes, b"peer/second");
    bytes[second] ^= 1;
    fs::write(&log, bytes).unwrap();
    let error = open(image.path()).unwrap_err();
    assert!(matches!(error, CatalogError::FilesDamaged { .. }), "{error}");
}

#[test]
fn a_second_opener_is_told_that_it_is_in_use() {
    let (directory, catalog) = fresh();
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, CatalogError::Locked { .. }), "{error}");
    drop(catalog);
    open(directory.path()).unwrap();
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let error = open(Path::new("/proc/self/no-such-place")).unwrap_err();
    assert!(matches!(error, CatalogError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("/proc/self/no-such-place/catalog"), "{error}");
}

/// Every table that is written, and every one that is merged, adds to it.
#[test]
fn what_names_the_tables_does_not_grow_for_as_long_as_the_service_runs() {
    let (directory, _catalog) = fresh();
    let files = fs::read_dir(directory.path().join("catalog")).unwrap().map(|entry| entry.unwrap().path());
    let is_options = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("OPTIONS-");
    let said = fs::read_to_string(files.filter(is_options).max().unwrap()).unwrap();
    let found = said.lines().find_map(|line| line.trim().strip_prefix("max_manifest_file_size="));
    assert_eq!(found, Some("1048576"));
}
