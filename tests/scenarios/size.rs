//! As large as an appliance may get (1,000 volumes in 100 groups), in small: many volumes start fast and idle cheaply.

use std::time::Duration;

use tidemark_tests::cluster::Cluster;
use tidemark_tests::figures::{processor_time, resident_kib};
use tidemark_tests::wait::measure_for;

const GROUPS: usize = 50;
const VOLUMES_PER_GROUP: usize = 10;
const START_LIMIT: Duration = Duration::from_secs(5);
const RESIDENT_KIB_MAX: u64 = 400 << 10;
const IDLE_SHARE_MAX: f64 = 0.05;

#[test]
fn five_hundred_volumes_of_a_tebibyte_start_fast_and_idle_cheaply() {
    let cluster = Cluster::new();
    let mut appliance = cluster.running("big");
    for group in 0..GROUPS {
        let names: Vec<_> = (0..VOLUMES_PER_GROUP).map(|volume| format!("v{group}-{volume}")).collect();
        let mut words =
            vec!["group".to_owned(), "create".into(), format!("g{group}"), "--interval".into(), "1s".into()];
        for name in names {
            appliance.ok(&["volume", "create", &name, "--size", "1TiB"]);
            words.extend(["--volume".into(), name]);
        }
        appliance.ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    appliance.stop();

    appliance.start();
    // By the processor's time: how long that takes on a machine that is busy otherwise says nothing. The benches measure the other.
    let took = processor_time(appliance.pid());
    assert!(took < START_LIMIT, "started with {took:?} of a processor");
    assert_eq!(appliance.status().groups.len(), GROUPS);
    assert_eq!(appliance.open("v49-9").size(), 1 << 40);

    let window = Duration::from_secs(5);
    let before = processor_time(appliance.pid());
    measure_for(window);
    let share = (processor_time(appliance.pid()) - before).as_secs_f64() / window.as_secs_f64();
    let resident = resident_kib(appliance.pid());
    eprintln!(
        "started with {took:?} of a processor, {} MiB resident, {:.1} % of a core when idle",
        resident >> 10,
        share * 100.0
    );
    assert!(resident < RESIDENT_KIB_MAX, "{} MiB resident", resident >> 10);
    assert!(share < IDLE_SHARE_MAX, "{:.1} % of a core when idle", share * 100.0);
}
