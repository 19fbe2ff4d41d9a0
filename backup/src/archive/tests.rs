//! Whole archives: copied, verified, restored, damaged; and read by the tools people have.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;
use tidemark_common::clock::SystemClock;

use super::read::{ArchiveError, Found, Taker, walk};
use super::write::ArchiveWriter;
use crate::content::{Content, Run};
use crate::copy::{Copying, Progress, copy};
use crate::destination::file::NamedLater;
use crate::destination::folder::RawFiles;
use crate::destination::{TargetKind, settle};
use crate::files::LIST_BYTES_MAX;
use crate::files::room::{Room, Share};
use crate::form::Form;
use crate::image::Image;
use crate::image::memory::Bytes;
use crate::manifest::tests::of_nothing;
use crate::manifest::{Manifest, Moment, NotKept, SetSaid, VolumeSaid};
use crate::pace::Pace;
use crate::plan::{Images, Kind, Member, Meta, Order, arrange};
use crate::ranges::{together, without};
use crate::restore::{Ranges, VolumeWriter, to_folder, to_volumes};
use crate::sets::parse;
use crate::sets::resolve::{DataSet, members};
use crate::source::{Source, verify};
use crate::stop::Stop;

fn images(volumes: &[(&str, Vec<u8>)]) -> Images {
    let image = |bytes: &Vec<u8>| Arc::new(Bytes::new(bytes.clone())) as Arc<dyn Image>;
    volumes.iter().map(|(name, bytes)| ((*name).to_owned(), image(bytes))).collect()
}

/// Two of them, and the same to be asked what was said to be copied.
fn watched(a: Vec<u8>, b: Vec<u8>) -> (Images, [(&'static str, Arc<Bytes>); 2]) {
    let watched = [("a", Arc::new(Bytes::new(a))), ("b", Arc::new(Bytes::new(b)))];
    let image = |bytes: &Arc<Bytes>| Arc::clone(bytes) as Arc<dyn Image>;
    (watched.iter().map(|(name, bytes)| ((*name).to_owned(), image(bytes))).collect(), watched)
}

fn set(name: &str, extents: &[&str]) -> DataSet {
    let texts: Vec<_> = extents.iter().map(|text| (*text).to_owned()).collect();
    DataSet { name: name.into(), extents: parse(&texts).unwrap() }
}

fn share() -> Share {
    Share::of(Arc::new(Room::of(LIST_BYTES_MAX)))
}

/// Backs the sets up into a form.
fn back_up(images: &Images, sets: &[DataSet], order: Order, form: &mut dyn Form) -> Vec<Member> {
    let (planned, _) = members(sets, images, &Stop::default(), &mut share()).unwrap();
    back_up_members(images, sets, planned, order, form)
}

fn back_up_members(
    images: &Images,
    sets: &[DataSet],
    mut planned: Vec<Member>,
    order: Order,
    form: &mut dyn Form,
) -> Vec<Member> {
    arrange(&mut planned, order);
    let clock = Arc::new(SystemClock::new());
    let (stop, progress) = (Stop::default(), Progress::new(clock.clone()));
    let work = Copying { members: &planned, pace: Pace::new(clock, None, None), stop: &stop, progress: &progress };
    let said = copy(work, images, form).unwrap();
    let manifest = Manifest {
        order: order.name().into(),
        moments: vec![Moment {
            group: "g".into(),
            marker: 1,
            time: jiff::Timestamp::UNIX_EPOCH,
            volumes: images.iter().map(|(name, image)| VolumeSaid { name: name.clone(), size: image.size() }).collect(),
        }],
        sets: sets
            .iter()
            .map(|set| SetSaid {
                name: set.name.clone(),
                extents: set.extents.iter().map(ToString::to_string).collect(),
                not_kept: NotKept::default(),
            })
            .collect(),
        members: said,
        ..of_nothing("b")
    };
    form.finish(&manifest.encode().unwrap()).unwrap();
    planned
}

/// A volume whose blocks of 16 KiB are empty or filled.
fn volume(blocks: &[Option<u8>]) -> Vec<u8> {
    let block = |(number, value): (usize, &Option<u8>)| {
        let mut block = vec![value.unwrap_or(0); 16384];
        if value.is_some() {
            block[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
        }
        block
    };
    blocks.iter().enumerate().flat_map(block).collect()
}

#[derive(Default)]
struct Memory {
    volumes: std::collections::BTreeMap<String, Vec<u8>>,
    begun: Ranges,
    /// Bytes of the backup that were verified.
    verified: u64,
    /// It is broken off as soon as that begins.
    ends_early: bool,
}

impl VolumeWriter for Memory {
    fn size(&self, volume: &str) -> Result<u64, String> {
        let found = self.volumes.get(volume).ok_or_else(|| format!("there is no volume '{volume}'"))?;
        Ok(found.len() as u64)
    }

    fn verifying(&mut self, done_bytes: u64, total_bytes: Option<u64>) -> Result<(), String> {
        assert!(self.begun.is_empty(), "before anything is overwritten");
        assert!(done_bytes > 0 && total_bytes.is_some(), "{done_bytes} of {total_bytes:?}");
        self.verified = done_bytes;
        if self.ends_early { Err("nobody wants it any more".into()) } else { Ok(()) }
    }

    fn write(&mut self, volume: &str, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let told = without(&[(offset, bytes.len() as u64)], &self.begun[volume]);
        assert!(told.is_empty(), "only what it was told of is overwritten: {told:?} of {volume}");
        let begin = usize::try_from(offset).unwrap();
        self.volumes.get_mut(volume).unwrap()[begin..begin + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&mut self, volume: &str, offset: u64, length: u64) -> Result<(), String> {
        self.write(volume, offset, &vec![0; usize::try_from(length).unwrap()])
    }

    fn begin(&mut self, ranges: &Ranges) -> Result<(), String> {
        assert!(self.begun.is_empty(), "told once");
        self.begun.clone_from(ranges);
        Ok(())
    }

    fn complete(&mut self) -> Result<(), String> {
        self.begun.clear();
        Ok(())
    }
}

fn archive(path: &Path, images: &Images, sets: &[DataSet], order: Order) -> Vec<Member> {
    back_up(images, sets, order, &mut ArchiveWriter::new(NamedLater::create(path, "us").unwrap(), 0))
}

fn blocks() -> impl Strategy<Value = Vec<Option<u8>>> {
    proptest::collection::vec(prop_oneof![Just(None), (1..=255_u8).prop_map(Some)], 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_was_backed_up_is_what_is_restored(a in blocks(), b in blocks(), order in 0..3_usize, raw: bool) {
        let (a, b) = (volume(&a), volume(&b));
        let half = b.len() / 2 / 512 * 512;
        let (images, watched) = watched(a.clone(), b.clone());
        let second = format!("b:0+{half}");
        let third = format!("b:{half}+{}", b.len() - half);
        let sets = [set("one", &["a"]), set("two", &[&third, &second])];
        let folder = tempfile::tempdir().unwrap();
        let order = [Order::Given, Order::Address, Order::SmallestFirst][order];
        let path = folder.path().join("backup");
        let planned = if raw {
            back_up(&images, &sets, order, &mut RawFiles::create(&path, "us").unwrap())
        } else {
            let planned = archive(&path, &images, &sets, order);
            settle(&TargetKind::File(path.clone()), "us").unwrap();
            planned
        };
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let source = Source::Path(path);
        let verified = verify(&source).unwrap();
        prop_assert_eq!((verified.bad.as_slice(), verified.good), (&[][..], planned.len()));
        let mut onto = Memory::default();
        onto.volumes.insert("a".into(), vec![0xaa; a.len()]);
        onto.volumes.insert("b".into(), vec![0xbb; b.len()]);
        to_volumes(&source, None, None, &mut onto).unwrap();
        prop_assert!(onto.volumes["a"] == a && onto.volumes["b"] == b);
        // One set, onto another volume.
        let mut other = Memory::default();
        other.volumes.insert("c".into(), vec![0xcc; b.len()]);
        to_volumes(&source, Some("two"), Some("c"), &mut other).unwrap();
        prop_assert!(other.volumes["c"] == b);
        let files = folder.path().join("files");
        to_folder(&source, Some("one"), &files).unwrap();
        prop_assert!(std::fs::read(files.join("one/a")).unwrap() == a);
        prop_assert!(!files.join("two").exists());
        // All that was read was said to be copied, once: it need not be kept any more.
        for (name, image) in &watched {
            let copied = image.copied.lock().clone();
            let members = planned.iter().filter(|member| member.volume == *name);
            let read: Vec<_> =
                members.flat_map(|member| &member.content.runs).map(|run| (run.from, run.length)).collect();
            prop_assert_eq!(together(&copied, &[]), together(&read, &[]));
            let bytes = |ranges: &[(u64, u64)]| ranges.iter().map(|range| range.1).sum::<u64>();
            prop_assert_eq!(bytes(&copied), bytes(&read));
        }
    }

    #[test]
    fn every_altered_byte_is_found(at: proptest::sample::Index, value in 1..=255_u8) {
        static BACKUP: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("backup");
            let images = images(&[("a", volume(&[Some(1), None, None, None, None, Some(3), None]))]);
            archive(&path, &images, &[set("s", &["a"])], Order::Given);
            std::fs::read(path).unwrap()
        });
        let mut bytes = BACKUP.clone();
        // The end is padding: nothing is lost with it.
        let at = at.index(bytes.len());
        bytes[at] ^= value;
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all(&bytes).unwrap();
        let outcome = verify(&Source::Path(file.path().to_owned()));
        let untouched = outcome.is_ok_and(|verified| verified.bad.is_empty());
        if untouched {
            // Then what tar takes out of it is the same all the same.
            let (before, after) = (contents(&BACKUP), contents(&bytes));
            prop_assert!(before == after, "byte {at} of {}", bytes.len());
        }
    }

    #[test]
    fn random_archives_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 512..4096), sparse: bool) {
        struct Nobody;
        impl Taker for Nobody {
            fn begin(&mut self, _: &Found) -> Result<(), String> { Ok(()) }
            fn data(&mut self, _: u64, _: &[u8]) -> Result<(), String> { Ok(()) }
            fn end(&mut self) -> Result<(), String> { Ok(()) }
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(if sparse { tar::EntryType::XHeader } else { tar::EntryType::Regular });
        header.set_size(1024);
        header.set_cksum();
        bytes[..512].copy_from_slice(header.as_bytes());
        let _ = walk(bytes.as_slice(), &mut Nobody);
    }
}

/// Sets may name the same bytes: what the second reads must be kept until then.
#[test]
fn what_is_read_twice_is_never_said_to_be_copied() {
    let (images, watched) = watched(volume(&[Some(1); 4]), volume(&[Some(2); 4]));
    let folder = tempfile::tempdir().unwrap();
    let sets = [set("one", &["a", "b"]), set("two", &["a:16KiB+16KiB"])];
    archive(&folder.path().join("backup"), &images, &sets, Order::Given);
    for (name, image) in &watched {
        assert_eq!(*image.copied.lock(), [], "{name}");
    }
}

/// The last thing in an archive is the digest of its manifest: a cut before its end must not go unseen.
#[test]
fn an_archive_that_was_cut_anywhere_is_not_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    archive(&path, &images(&[("a", volume(&[Some(1), None, Some(2)]))]), &[set("s", &["a"])], Order::Given);
    let bytes = std::fs::read(&path).unwrap();
    let end = bytes.windows(5).rposition(|window| window == b".json").unwrap();
    struct Nobody;
    impl Taker for Nobody {
        fn begin(&mut self, _: &Found) -> Result<(), String> {
            Ok(())
        }
        fn data(&mut self, _: u64, _: &[u8]) -> Result<(), String> {
            Ok(())
        }
        fn end(&mut self) -> Result<(), String> {
            Ok(())
        }
    }
    for keep in 0..=end {
        let outcome = walk(&bytes[..keep], &mut Nobody);
        let seen =
            matches!(outcome, Err(ArchiveError::Incomplete(_) | ArchiveError::Read(_) | ArchiveError::Damaged { .. }));
        assert!(seen, "cut to {keep} of {} bytes: {outcome:?}", bytes.len());
    }
}

/// A member's name and its pieces.
type Taken = (String, Vec<(u64, Vec<u8>)>);

/// Names and contents as they would be taken out.
fn contents(bytes: &[u8]) -> Vec<Taken> {
    #[derive(Default)]
    struct All(Vec<Taken>);
    impl Taker for All {
        fn begin(&mut self, found: &Found) -> Result<(), String> {
            self.0.push((found.name.clone(), Vec::new()));
            Ok(())
        }
        fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
            self.0.last_mut().unwrap().1.push((at, bytes.to_vec()));
            Ok(())
        }
        fn end(&mut self) -> Result<(), String> {
            Ok(())
        }
    }
    let mut all = All::default();
    walk(bytes, &mut all).unwrap();
    all.0
}

#[test]
fn the_tools_people_have_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup.tar");
    let (a, b) = (volume(&[None, Some(1), None, None, Some(2), None, None]), volume(&[Some(9); 3]));
    let long = format!("{}@0+512", "v".repeat(64));
    let images = images(&[("a", a.clone()), ("b", b.clone()), (&"v".repeat(64), vec![5; 1024])]);
    archive(
        &path,
        &images,
        &[set("one", &["a", "b"]), set(&"t".repeat(64), &[&format!("{}:0+512", "v".repeat(64))])],
        Order::Given,
    );
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let done = Command::new("tar").arg("-xf").arg(&path).arg("-C").arg(&out).output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(std::fs::read(out.join("one/a")).unwrap() == a);
    assert!(std::fs::read(out.join("one/b")).unwrap() == b);
    assert_eq!(std::fs::read(out.join("t".repeat(64)).join(long)).unwrap(), [5; 512]);
    let sparse = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(out.join("one/a")).unwrap()) * 512;
    assert!(sparse < a.len() as u64, "{sparse} bytes for two blocks of seven");
    let listed = Command::new("tar").arg("-tf").arg(&path).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.ends_with("tidemark-manifest.json\ntidemark-manifest.json.b3\n"), "{listed}");
    let size = std::fs::metadata(&path).unwrap().len();
    assert_eq!(size % super::RECORD, 0);
}

#[test]
fn a_volume_that_is_too_small_is_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    archive(&path, &images(&[("a", volume(&[Some(1); 4]))]), &[set("s", &["a"])], Order::Given);
    let source = Source::Path(path.clone());
    let mut onto = Memory::default();
    onto.volumes.insert("a".into(), vec![3; 16384]);
    let why = to_volumes(&source, None, None, &mut onto).unwrap_err();
    assert!(why.contains("has 16384 bytes") && onto.volumes["a"] == vec![3; 16384], "{why}");
    assert!(to_volumes(&source, None, Some("z"), &mut onto).unwrap_err().contains("no volume 'z'"));
    assert!(to_volumes(&source, Some("q"), None, &mut onto).unwrap_err().contains("no set 'q'; it has s"));
    // A damaged one overwrites nothing.
    onto.volumes.insert("a".into(), vec![3; 65536]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let why = to_volumes(&source, None, None, &mut onto).unwrap_err();
    assert!(why.contains("damaged") && onto.volumes["a"] == vec![3; 65536], "{why}");
}

#[test]
fn who_is_told_of_the_verification_may_end_it_before_anything_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    archive(&path, &images(&[("a", volume(&[Some(1); 4]))]), &[set("s", &["a"])], Order::Given);
    let source = Source::Path(path.clone());
    let mut onto = Memory { ends_early: true, ..Memory::default() };
    onto.volumes.insert("a".into(), vec![3; 65536]);
    let why = to_volumes(&source, None, None, &mut onto).unwrap_err();
    assert!(why == "nobody wants it any more" && onto.volumes["a"] == vec![3; 65536], "{why}");
    onto.ends_early = false;
    let restored = to_volumes(&source, None, None, &mut onto).unwrap();
    assert_eq!(onto.verified, restored.data_bytes);
    // All of it, and tar's headers.
    let total = source.bytes().unwrap();
    assert!(onto.verified < total && total == std::fs::metadata(path).unwrap().len(), "{total}");
}

/// Volumes, and a backup that is altered when it was verified and is about to be restored to them.
struct Altering {
    onto: Memory,
    path: PathBuf,
    complete: bool,
}

impl VolumeWriter for Altering {
    fn size(&self, volume: &str) -> Result<u64, String> {
        self.onto.size(volume)
    }

    fn verifying(&mut self, done_bytes: u64, total_bytes: Option<u64>) -> Result<(), String> {
        self.onto.verifying(done_bytes, total_bytes)
    }

    fn write(&mut self, volume: &str, offset: u64, bytes: &[u8]) -> Result<(), String> {
        self.onto.write(volume, offset, bytes)
    }

    fn zero(&mut self, volume: &str, offset: u64, length: u64) -> Result<(), String> {
        self.onto.zero(volume, offset, length)
    }

    fn begin(&mut self, ranges: &Ranges) -> Result<(), String> {
        let mut bytes = std::fs::read(&self.path).unwrap();
        bytes[40_000] ^= 1;
        std::fs::write(&self.path, bytes).unwrap();
        self.onto.begin(ranges)
    }

    fn complete(&mut self) -> Result<(), String> {
        self.complete = true;
        self.onto.complete()
    }
}

#[test]
fn what_is_not_what_was_verified_is_not_called_restored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    archive(&path, &images(&[("a", volume(&[Some(1); 4]))]), &[set("s", &["a"])], Order::Given);
    let mut onto = Altering { onto: Memory::default(), path: path.clone(), complete: false };
    onto.onto.volumes.insert("a".into(), vec![3; 65536]);
    let why = to_volumes(&Source::Path(path), None, None, &mut onto).unwrap_err();
    assert!(why.contains("s/a is not what it was") && !onto.complete, "{why}");
}

/// The first bytes of volume `a` as a file of a directory.
fn member(name: &str, kind: Kind, length: u64) -> Member {
    let runs = if length > 0 { vec![Run { at: 0, from: 0, length }] } else { Vec::new() };
    Member { set: "s".into(), name: name.into(), volume: "a".into(), kind, content: Content { size: length, runs } }
}

#[test]
fn files_come_back_with_owner_permissions_and_time() {
    use std::os::unix::fs::MetadataExt;
    let is_root = rustix::process::geteuid().is_root();
    let meta = |mode, modified| Meta { mode, uid: 1234, gid: 2345, modified };
    let planned = vec![
        // A file may come before its folder.
        member("s/a/closed/in", Kind::File(meta(0o400, 7)), 9),
        member("s/a", Kind::Folder(meta(0o750, 1_000_000_000)), 0),
        member("s/a/closed", Kind::Folder(meta(0o500, 5)), 0),
        member("s/a/link", Kind::Link(meta(0o777, 6), "closed".into()), 0),
        member("s/a/open", Kind::File(meta(0o644, -9)), 0),
        member("s/a/secret", Kind::File(meta(0o600, 1_000_000_001)), 512),
        member("s/a/setuid", Kind::File(meta(0o4755, 8)), 3),
        member("s/a@0+512", Kind::Range { offset: 0 }, 512),
    ];
    let images = images(&[("a", volume(&[Some(1)]))]);
    let sets = [set("s", &["a:/"])];
    let place = tempfile::tempdir().unwrap();
    for raw in [false, true] {
        let path = place.path().join(format!("backup-{raw}"));
        if raw {
            back_up_members(&images, &sets, planned.clone(), Order::Given, &mut RawFiles::create(&path, "us").unwrap());
            assert_eq!(std::fs::metadata(path.join("s/a/closed")).unwrap().mode() & 0o777, 0o700, "closed to others");
        } else {
            let mut form = ArchiveWriter::new(NamedLater::create(&path, "us").unwrap(), 0);
            back_up_members(&images, &sets, planned.clone(), Order::Given, &mut form);
        }
        let out = place.path().join(format!("out-{raw}"));
        assert_eq!(to_folder(&Source::Path(path), None, &out).unwrap().members, planned.len());
        for member in &planned {
            let found = std::fs::symlink_metadata(out.join(&member.name)).unwrap();
            let (Kind::File(meta) | Kind::Folder(meta) | Kind::Link(meta, _)) = &member.kind else {
                assert_eq!(found.mode() & 0o7777, 0o600, "an image of a volume is nobody else's");
                continue;
            };
            assert_eq!(found.mtime(), meta.modified, "{} {raw}", member.name);
            if is_root {
                assert_eq!((found.uid(), found.gid()), (meta.uid, meta.gid), "{} {raw}", member.name);
            }
            let kept = if is_root { 0o7777 } else { 0o777 };
            if !found.is_symlink() {
                assert_eq!(found.mode() & 0o7777, meta.mode & kept, "{} {raw}", member.name);
            }
        }
        let closed = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(out.join("s/a/closed"), closed).unwrap();
    }
}

#[test]
fn a_link_that_an_archive_brings_leads_nothing_out_of_the_folder() {
    let images = images(&[("a", volume(&[Some(1)]))]);
    let place = tempfile::tempdir().unwrap();
    let (path, out, other) = (place.path().join("backup"), place.path().join("out"), place.path().join("other"));
    std::fs::create_dir(&other).unwrap();
    let planned = vec![
        member("s/a", Kind::Link(Meta::default(), other.to_str().unwrap().into()), 0),
        member("s/a/new/file", Kind::File(Meta::default()), 3),
    ];
    let mut form = ArchiveWriter::new(NamedLater::create(&path, "us").unwrap(), 0);
    back_up_members(&images, &[set("s", &["a:/"])], planned, Order::Given, &mut form);
    let why = to_folder(&Source::Path(path), None, &out).unwrap_err();
    assert!(why.contains("is a link or a file"), "{why}");
    assert_eq!(std::fs::read_dir(other).unwrap().count(), 0);
}

#[test]
fn names_that_are_no_text_come_back_byte_by_byte() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir_all(source.join(OsStr::from_bytes(b"d\xe9"))).unwrap();
    let lines = b"line\n".repeat(30);
    let long = [&b"x\n"[..], &[b'y'; 120], b"\xfe"].concat();
    let names = [&b"caf\xe9"[..], br"caf\xe9", br"caf\x5cxe9", b"d\xe9/\xff", "d\u{e9}".as_bytes(), &long, &lines];
    for name in names {
        std::fs::write(source.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let sparse = OsStr::from_bytes(b"sparse\xfe");
    std::fs::File::create(source.join(sparse)).unwrap().set_len(1 << 20).unwrap();
    std::os::unix::fs::symlink(OsStr::from_bytes(b"to\xff"), source.join("link")).unwrap();
    let disk = place.path().join("disk");
    std::fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
    let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&source).arg(&disk).status();
    assert!(made.unwrap().success());
    let images = images(&[("a", std::fs::read(&disk).unwrap())]);
    for raw in [false, true] {
        let path = place.path().join(format!("backup-{raw}"));
        let sets = [set("s", &["a:/"])];
        if raw {
            back_up(&images, &sets, Order::Given, &mut RawFiles::create(&path, "us").unwrap());
        } else {
            archive(&path, &images, &sets, Order::Given);
            let by_tar = place.path().join("by-tar");
            std::fs::create_dir(&by_tar).unwrap();
            assert!(Command::new("tar").arg("-xf").arg(&path).arg("-C").arg(&by_tar).status().unwrap().success());
        }
        let verified = verify(&Source::Path(path.clone())).unwrap();
        assert_eq!((verified.bad.as_slice(), verified.good), (&[][..], verified.manifest.members.len()));
        let said: std::collections::BTreeSet<_> = verified.manifest.members.iter().map(|member| &member.name).collect();
        assert_eq!(said.len(), verified.good, "no two have one name");
        to_folder(&Source::Path(path), None, &place.path().join(format!("out-{raw}"))).unwrap();
    }
    for out in ["out-false", "out-true", "by-tar"] {
        let root = place.path().join(out).join("s/a");
        for name in names {
            let found = std::fs::read(root.join(OsStr::from_bytes(name)));
            assert!(found.is_ok_and(|found| found == name), "{out}: {}", String::from_utf8_lossy(name));
        }
        assert_eq!(std::fs::metadata(root.join(sparse)).unwrap().len(), 1 << 20);
        assert_eq!(std::fs::read_link(root.join("link")).unwrap().as_os_str(), OsStr::from_bytes(b"to\xff"));
    }
}

/// An earlier build wrote what it could not keep as `\xHH`, and named the file so.
#[test]
fn a_name_that_an_earlier_build_altered_stays_as_it_wrote_it() {
    let said: Manifest = {
        let place = tempfile::tempdir().unwrap();
        let images = images(&[("a", volume(&[Some(1)]))]);
        let planned = vec![member(r"s/a/caf\x5cxe9", Kind::File(Meta::default()), 3)];
        let path = place.path().join("backup");
        let mut form = ArchiveWriter::new(NamedLater::create(&path, "us").unwrap(), 0);
        back_up_members(&images, &[set("s", &["a:/"])], planned, Order::Given, &mut form);
        assert_eq!(contents(&std::fs::read(&path).unwrap())[0].0, r"s/a/caf\x5cxe9", "the file is caf\\xe9");
        verify(&Source::Path(path)).unwrap().manifest
    };
    let mut earlier = said.members[0].clone();
    assert!(earlier.escaped);
    (earlier.escaped, earlier.name) = (false, r"s/a/caf\xe9".into());
    assert_eq!(earlier.readable_name(), said.members[0].readable_name());
}

#[test]
fn what_an_archive_has_not_as_it_was_is_counted() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir_all(source.join("in")).unwrap();
    std::fs::write(source.join("in/one"), "one").unwrap();
    for other in ["in/two", "three"] {
        std::fs::hard_link(source.join("in/one"), source.join(other)).unwrap();
    }
    assert!(Command::new("mkfifo").arg(source.join("pipe")).status().unwrap().success());
    let disk = place.path().join("disk");
    std::fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
    let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&source).arg(&disk).status();
    assert!(made.unwrap().success());
    let images = images(&[("a", std::fs::read(&disk).unwrap())]);
    let sets = [set("s", &["a:/"]), set("in", &["a:/in"]), set("all", &["a"])];
    let (_, not_kept) = members(&sets, &images, &Stop::default(), &mut share()).unwrap();
    let of = |special_files, hard_links| NotKept { special_files, hard_links, ..NotKept::default() };
    assert_eq!(not_kept, [of(1, 2), of(0, 1), of(0, 0)]);
}
