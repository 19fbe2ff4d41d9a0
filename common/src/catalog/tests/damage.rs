//! Bytes that are not what was put there: an error that names the record, never a panic, never a wrong record.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::catalog::batch::Change;
use crate::catalog::envelope;
use crate::catalog::records::is_readable;

/// Puts bytes below the envelope.
fn put_raw(catalog: &Catalog, key: &[u8], value: &[u8]) {
    catalog.store.write(&[Change::Put(key.to_vec(), value.to_vec())]).unwrap();
}

fn raw(catalog: &Catalog, key: &Key) -> Vec<u8> {
    catalog.store.database().get(key.bytes()).unwrap().unwrap()
}

#[track_caller]
fn assert_names<T: std::fmt::Debug>(result: Result<T, CatalogError>, wanted: &str) {
    let error = result.unwrap_err();
    assert!(matches!(&error, CatalogError::Damaged { key, .. } if key == wanted), "{error}");
    let message = error.to_string();
    assert!(message.contains(wanted) && message.contains("What to do"), "{message}");
}

#[test]
fn an_altered_byte_is_an_error_that_names_the_record() {
    let (directory, catalog) = fresh();
    catalog.put_volume(&volume("data")).unwrap();
    let key = Key::volume("data").unwrap();
    let mut sealed = raw(&catalog, &key);
    let middle = sealed.len() / 2;
    sealed[middle] ^= 1;
    put_raw(&catalog, key.bytes(), &sealed);

    assert_names(catalog.volume("data"), "volume/data");
    assert_names(catalog.volumes(), "volume/data");
    assert_names(catalog.verify(), "volume/data");
    drop(catalog);
    assert_names(open(directory.path()), "volume/data");
}

#[test]
fn a_record_under_another_key_is_an_error_that_names_that_key() {
    let (directory, catalog) = fresh();
    catalog.put_group(&group("pg")).unwrap();
    catalog.put_applied(GROUP, &applied(5)).unwrap();
    let group = raw(&catalog, &Key::group("pg").unwrap());
    put_raw(&catalog, b"group/pq", &group);
    assert_names(catalog.group("pq"), "group/pq");
    assert_eq!(catalog.group("pg").unwrap().unwrap().name, "pg");

    let other = Key::applied(OTHER_GROUP);
    put_raw(&catalog, other.bytes(), &raw(&catalog, &Key::applied(GROUP)));
    assert_names(catalog.applied(OTHER_GROUP), &other.to_string());
    drop(catalog);
    assert_names(open(directory.path()), &other.to_string());
}

#[test]
fn damaged_markers_and_bitmaps_are_found_when_read() {
    let (directory, catalog) = fresh();
    catalog.put_markers(GROUP, &[marker(1)]).unwrap();
    catalog.put_bitmap(GROUP, "far", &[0; 100]).unwrap();
    let marker_key = Key::marker(GROUP, MarkerNumber(1));
    let bitmap_key = Key::bitmap(GROUP, "far").unwrap();
    for key in [&marker_key, &bitmap_key] {
        let sealed = raw(&catalog, key);
        put_raw(&catalog, key.bytes(), &sealed[..sealed.len() - 1]);
    }
    drop(catalog);
    let catalog = open(directory.path()).unwrap();
    assert_names(catalog.markers(GROUP, 1), &marker_key.to_string());
    assert_names(catalog.bitmap(GROUP, "far"), &bitmap_key.to_string());
    assert_names(catalog.verify(), &bitmap_key.to_string());
}

#[test]
fn keys_of_no_table_are_refused() {
    for key in [&b"a"[..], b"applied", b"applied0", b"volumes", b"zzz", b"\xff\x00\n"] {
        let (directory, catalog) = fresh();
        put_raw(&catalog, key, b"x");
        assert!(catalog.verify().is_err(), "{key:?}");
        drop(catalog);
        assert!(matches!(open(directory.path()), Err(CatalogError::Damaged { .. })), "{key:?}");
    }
}

#[test]
fn a_newer_format_is_refused_and_a_missing_one_is_damage() {
    let (directory, catalog) = fresh();
    catalog.put_volume(&volume("data")).unwrap();
    let newer = ApplianceRecord { format: CATALOG_FORMAT + 1, created_ns: 0 };
    catalog.change(|batch| batch.put(&Key::appliance(), &newer)).unwrap();
    drop(catalog);
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, CatalogError::Newer { found, .. } if found == CATALOG_FORMAT + 1), "{error}");

    let (directory, catalog) = fresh();
    catalog.put_volume(&volume("data")).unwrap();
    catalog.store.write(&[Change::Delete(Key::appliance().bytes().to_vec())]).unwrap();
    drop(catalog);
    assert_names(open(directory.path()), "appliance/self");
}

#[test]
fn tables_without_their_root_are_not_taken_for_a_new_catalogue() {
    let (directory, catalog) = fresh();
    catalog.put_volume(&volume("data")).unwrap();
    drop(catalog);
    let current = directory.path().join("catalog/CURRENT");
    let root = fs::read(&current).unwrap();
    fs::remove_file(&current).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, CatalogError::FilesDamaged { .. }), "{error}");
    fs::write(&current, root).unwrap();
    assert_eq!(open(directory.path()).unwrap().volumes().unwrap(), [volume("data")]);
}

#[test]
fn garbage_under_any_key_is_an_error_and_no_panic() {
    let (_directory, catalog) = fresh();
    let keys = [
        Key::volume("x").unwrap(),
        Key::peer("x").unwrap(),
        Key::group("x").unwrap(),
        Key::applied(GROUP),
        Key::marker(GROUP, MarkerNumber(1)),
        Key::bitmap(GROUP, "x").unwrap(),
        Key::appliance(),
    ];
    proptest!(ProptestConfig::with_cases(64), |(garbage: Vec<u8>)| {
        for key in &keys {
            put_raw(&catalog, key.bytes(), &garbage);
        }
        prop_assert!(catalog.volume("x").is_err());
        prop_assert!(catalog.peers().is_err());
        prop_assert!(catalog.group("x").is_err());
        prop_assert!(catalog.applied(GROUP).is_err());
        prop_assert!(catalog.markers(GROUP, 1).is_err());
        prop_assert!(catalog.bitmap(GROUP, "x").is_err());
        prop_assert!(catalog.appliance().is_err());
    });
}

proptest! {
    /// Past the checksum there is still the validation of the archive: a broken build could have sealed anything.
    #[test]
    fn sealed_garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..600)) {
        for table in Table::ALL {
            let _ = is_readable(table, &garbage);
        }
    }

    #[test]
    fn a_sealed_record_with_altered_bytes_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let key = Key::group("pg").unwrap();
        let mut payload = group("pg").encode().unwrap();
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        let sealed = envelope::seal(&key, &payload).unwrap();
        let opened = envelope::open(key.table().kind(), key.bytes(), &sealed).unwrap();
        let _ = GroupRecord::decode(opened);
    }
}
