//! nbdinfo, nbdcopy, qemu-img, qemu-io and fio against the exports of a live pair.

use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemark_tests::appliance::{Appliance, Options};
use tidemark_tests::cluster::{Cluster, free_tcp};
use tidemark_tests::command::{run, run_within};
use tidemark_tests::pair::{Pair, Setup};

const SIZE: u64 = 24 << 20;

fn pair(seed: u64) -> Pair {
    Pair::paired(&Setup {
        volumes: vec![("a", SIZE.to_string()), ("b", SIZE.to_string())],
        interval: "250ms",
        seed,
        journals: None,
        on_full: "fold",
    })
}

/// A file with a third of random bytes, a third that compresses, and a hole.
fn image_file(pair: &Pair) -> PathBuf {
    let path = pair.cluster.join("image");
    let mut bytes = vec![0; SIZE as usize];
    let third = bytes.len() / 3;
    StdRng::seed_from_u64(7).fill_bytes(&mut bytes[..third]);
    bytes[third..2 * third].iter_mut().zip((0..=u8::MAX).cycle()).for_each(|(byte, value)| *byte = value / 16);
    std::fs::write(&path, &bytes).expect("write the image file");
    path
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn assert_same(left: &Path, right: &Path) {
    run("cmp", &[left, right]).done();
}

#[test]
fn nbdinfo_lists_and_describes_the_exports() {
    let pair = pair(101);
    let socket = pair.east.uri("");
    let listed = run("nbdinfo", &["--list", "--json", &socket]).done();
    let answer: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let names: Vec<_> =
        answer["exports"].as_array().expect("exports").iter().map(|e| e["export-name"].clone()).collect();
    assert_eq!(names, ["a", "b"], "{listed}");
    assert_eq!(run("nbdinfo", &["--size", &pair.east.uri("a")]).done().trim(), SIZE.to_string());
    for ability in ["flush", "fua", "trim", "zero", "multi-conn", "fast-zero", "cache", "structured-reply"] {
        run("nbdinfo", &["--can", ability, &pair.east.uri("a")]).code_is(0, ability);
    }
    run("nbdinfo", &["--is", "read-only", &pair.east.uri("a")]).code_is(2, "read-only");
    let map = run("nbdinfo", &["--map", "--json", &pair.east.uri("a")]).done();
    let runs: serde_json::Value = serde_json::from_str(&map).expect("JSON");
    let covered: u64 = runs.as_array().expect("runs").iter().filter_map(|run| run["length"].as_u64()).sum();
    assert_eq!(covered, SIZE, "{map}");
}

/// The Linux kernel's own client, as far as it goes without the kernel's module: it lists, agrees on an export and its
/// size, and then does not find the module.
#[test]
fn nbd_client_lists_and_enters_the_exports_over_tcp_and_unix() {
    let cluster = Cluster::new();
    let tcp = free_tcp();
    let options = Options { nbd: vec![tcp.to_string()], ..Options::default() };
    let mut east = Appliance::init(&cluster.join("east"), "east", &options);
    east.start();
    east.ok(&["volume", "create", "a", "--size", "24MiB"]);
    east.ok(&["volume", "create", "b", "--size", "1MiB"]);
    let socket = text(&east.directory().join("nbd.sock"));
    let (host, port) = (tcp.ip().to_string(), tcp.port().to_string());
    let (by_unix, by_tcp) = (["-unix", socket.as_str()], [host.as_str(), port.as_str()]);
    let device = cluster.join("no-device");
    std::fs::write(&device, "").expect("something in the device's place");
    let device = text(&device);
    for way in [by_unix, by_tcp] {
        let listed = run("nbd-client", &[&["-l"][..], &way].concat()).done();
        assert!(listed.lines().any(|line| line == "a") && listed.lines().any(|line| line == "b"), "{listed}");
        let enter = |name| run("nbd-client", &[&way[..], &["-N", name, &device, "-nonetlink", "-nofork"]].concat());
        let entered = enter("a");
        assert!(entered.stdout.contains("size = 24MB"), "{entered:?}");
        let refused = enter("nosuch").failed_with(1);
        assert!(refused.contains("no export 'nosuch'"), "{refused}");
    }
    assert!(!east.log_text().contains("ERROR"), "{}", east.log_text());
}

#[test]
fn nbdcopy_copies_in_and_out_and_over_to_the_other_side() {
    let pair = pair(102);
    let image = image_file(&pair);
    let uri = pair.east.uri("a");
    run("nbdcopy", &["--flush", &text(&image), &uri]).done();
    let out = pair.cluster.join("out");
    run("nbdcopy", &[&uri, &text(&out)]).done();
    assert_same(&image, &out);
    run("nbdcopy", &[&uri, &pair.east.uri("b")]).done();
    pair.assert_copy_equals();
    let copies = pair.backing(&pair.west);
    assert!(copies[0] == copies[1], "both copies hold the image");
}

#[test]
fn qemu_img_converts_and_compares() {
    let pair = pair(103);
    let (image, uri) = (image_file(&pair), pair.east.uri("a"));
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &text(&image), &uri]).done();
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &text(&image), &uri]).done();
    let qcow = pair.cluster.join("out.qcow2");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, &text(&qcow)]).done();
    run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &text(&qcow), &uri]).done();
    pair.assert_copy_equals();
}

#[test]
fn qemu_io_writes_zeroes_discards_and_reads_back() {
    let pair = pair(104);
    let commands = [
        "write -P 0xaa 0 1M",
        "write -f -P 0xbb 1M 64k",
        "write -z 128k 64k",
        "discard 256k 64k",
        "flush",
        "aio_write -P 0xcc 2M 128k",
        "aio_flush",
        "write -P 0xdd 512 512",
        "read -P 0xaa 0 512",
        "read -P 0xdd 512 512",
        "read -P 0xaa 1k 127k",
        "read -P 0 128k 64k",
        "read -P 0 256k 64k",
        "read -P 0xaa 320k 704k",
        "read -P 0xbb 1M 64k",
        "read -P 0xcc 2M 128k",
    ];
    let uri = pair.east.uri("a");
    let mut words = vec!["-f", "raw"];
    words.extend(commands.iter().flat_map(|command| ["-c", *command]));
    words.push(&uri);
    let outcome = run("qemu-io", &words);
    assert!(!outcome.stdout.contains("verification failed"), "{}", outcome.stdout);
    outcome.done();
    let beyond = run("qemu-io", &["-f", "raw", "-c", &format!("write {SIZE} 4k"), &uri]);
    assert!(beyond.code != 0 || format!("{}{}", beyond.stdout, beyond.stderr).contains("rror"), "{beyond:?}");
    pair.assert_copy_equals();
}

#[test]
fn fio_verifies_what_it_wrote_on_a_live_pair() {
    let pair = pair(105);
    let job = |name: &str, volume: &str, pattern: &str, block: &str| {
        let words = [
            format!("--name={name}"),
            "--ioengine=nbd".into(),
            format!("--uri={}", pair.east.uri(volume)),
            format!("--rw={pattern}"),
            format!("--bsrange={block}"),
            "--size=16M".into(),
            "--io_size=32M".into(),
            "--iodepth=16".into(),
            "--verify=crc32c".into(),
            "--verify_fatal=1".into(),
            "--do_verify=1".into(),
            "--fsync=64".into(),
            "--randseed=9".into(),
        ];
        let limit = std::time::Duration::from_secs(60);
        let outcome = run_within(limit, "fio", &words);
        assert!(!outcome.stdout.contains("verify:"), "{}{}", outcome.stdout, outcome.stderr);
        outcome.done();
    };
    job("random", "a", "randwrite", "4k-4k");
    job("mixed", "b", "randwrite", "512-64k");
    pair.assert_copy_equals();
}
