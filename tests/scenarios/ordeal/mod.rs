//! An ordeal: a group under load, round after round, and in each round something befalls one of its sides. After each the
//! oracle judges what is served, and after some the copy is compared with it, byte by byte.
//!
//! Short forms are part of `make test`. `make kills ROUNDS=300` and `make soak MINUTES=60` are the long ones: the latter
//! with PostgreSQL on top, and with figures at its end. `SEED` chooses what befalls when.

mod blow;
mod course;
mod figures;
mod guest;

use std::time::{Duration, Instant};

use blow::Blow;
use course::Course;

/// A number from the environment.
pub(crate) fn given(name: &str, or: u64) -> u64 {
    let parsed = |text: String| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}"));
    std::env::var(name).map_or(or, parsed)
}

#[test]
fn twenty_kills_of_either_side_lose_nothing() {
    let mut course = Course::new(301);
    for _ in 0..20 {
        course.round(&Blow::KILLS);
    }
    course.end();
}

#[test]
fn a_pair_survives_everything_that_can_befall_it_once() {
    let mut course = Course::new(302);
    for blow in Blow::ALL {
        course.suffer(blow);
    }
    course.end();
}

/// Whatever the link does is done to the pair, whichever side is primary: seen in what was lost on the pair's way.
#[test]
fn what_befalls_the_link_befalls_the_pair_whichever_side_calls() {
    let mut course = Course::new(305);
    for blow in Blow::LINK {
        course.suffer(blow);
    }
    course.suffer(Blow::Switchover);
    for blow in Blow::LINK {
        course.suffer(blow);
    }
    course.end();
}

#[test]
#[ignore = "long: make kills ROUNDS=300"]
fn kills() {
    let mut course = Course::new(given("SEED", 303));
    for _ in 0..given("ROUNDS", 300) {
        course.round(&Blow::KILLS);
        course.tell();
    }
    println!("{}", course.end());
}

#[test]
#[ignore = "long: make soak MINUTES=60"]
fn soak() {
    let length = Duration::from_secs(60 * given("MINUTES", 60));
    let (begun, mut course) = (Instant::now(), Course::with_guest(given("SEED", 304)));
    while begun.elapsed() < length {
        course.round(&Blow::ALL);
        course.tell();
    }
    println!("{}", course.end());
}
