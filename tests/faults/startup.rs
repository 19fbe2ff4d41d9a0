//! What keeps a service from starting: said clearly, and nothing else is disturbed.

use tidemark_tests::appliance::{Appliance, Options};
use tidemark_tests::cluster::{Cluster, free_tcp};

#[test]
fn a_second_service_on_a_directory_is_refused_and_the_first_goes_on() {
    let cluster = Cluster::new();
    let one = cluster.running("one");
    one.ok(&["volume", "create", "a", "--size", "1MiB"]);
    let mut host = one.open("a");
    let outcome = one.start_refused();
    let reason = outcome.failed_with(1);
    assert!(reason.contains(&one.directory().display().to_string()), "names the directory: {reason}");
    host.write(0, &[1; 4096]).expect("the first goes on");
    one.open("a").read(0, 4096).expect("and takes new hosts");
}

#[test]
fn a_busy_replication_port_is_named() {
    let cluster = Cluster::new();
    let one = cluster.running("one");
    let options = Options { replication: Some(one.replication().into()), ..Options::default() };
    let two = Appliance::init(&cluster.join("two"), "two", &options);
    let reason = two.start_refused().failed_with(1);
    assert!(reason.contains(one.replication()), "names the address: {reason}");
}

#[test]
fn a_busy_nbd_port_is_named() {
    let cluster = Cluster::new();
    let address = free_tcp();
    let holder = std::net::TcpListener::bind(address).expect("take the port");
    let options = Options { nbd: vec![address.to_string()], ..Options::default() };
    let mut one = Appliance::init(&cluster.join("one"), "one", &options);
    let reason = one.start_refused().failed_with(1);
    assert!(reason.contains(&address.to_string()), "names the address: {reason}");
    drop(holder);
    one.start();
    one.ok(&["volume", "create", "a", "--size", "1MiB"]);
    let nbd = one.status().addresses.nbd;
    assert!(nbd.contains(&address.to_string()), "{nbd:?}");
    let tcp = tidemark_tests::host::Address::parse(&address.to_string());
    let mut host = tidemark_tests::host::Connection::open(&tcp, "a").expect("over TCP");
    host.write(0, &[1; 512]).expect("write over TCP");
}

#[test]
fn a_config_cut_short_or_altered_is_refused_with_its_place() {
    let cluster = Cluster::new();
    let mut one = cluster.appliance("one");
    let path = one.directory().join("config.toml");
    let whole = std::fs::read_to_string(&path).expect("read the config");
    let cuts = [0, whole.len() / 3, whole.len() * 2 / 3].map(|at| whole[..at].to_owned());
    let altered = [whole.replace("[nbd]", "[nbdd]"), whole.replace("addresses", "adresses"), "\u{0}\u{1}".repeat(40)];
    for text in cuts.into_iter().chain(altered) {
        std::fs::write(&path, &text).expect("write the config");
        let reason = one.start_refused().failed_with(1);
        assert!(reason.contains("config.toml"), "names the file: {reason}");
        assert!(!reason.contains("panicked"), "{reason}");
    }
    std::fs::write(&path, &whole).expect("restore the config");
    one.start();
}

#[test]
fn sockets_left_by_a_killed_service_do_not_stop_the_next() {
    let cluster = Cluster::new();
    let mut one = cluster.running("one");
    one.ok(&["volume", "create", "a", "--size", "1MiB"]);
    one.kill9();
    one.start();
    one.open("a").write(0, &[1; 4096]).expect("served again");
}

#[test]
fn what_the_system_says_is_told_once() {
    let cluster = Cluster::new();
    let socket = format!("unix:{}", cluster.join("nosuch/nbd.sock").display());
    let one = Appliance::init(&cluster.join("one"), "one", &Options { nbd: vec![socket], ..Options::default() });
    let reason = one.start_refused().failed_with(1);
    assert!(reason.contains("nosuch/nbd.sock"), "names the socket: {reason}");
    assert_eq!(reason.matches("No such file or directory").count(), 1, "{reason}");
}
