//! An ordeal: a group under load, round after round, and in each round something befalls one of its sides. After each the
//! oracle judges what is served, and after some the copy is compared with it, byte by byte.
//!
//! Short forms are part of `make test`. `make kills ROUNDS=300` and `make soak MINUTES=60` are the long ones: the latter
//! with PostgreSQL on top. Both print figures at their end, also when that is a violation. `SEED` chooses what befalls when.

mod blow;
mod course;
mod figures;
mod guest;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
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
    course.close();
}

#[test]
fn a_pair_survives_everything_that_can_befall_it_once() {
    let mut course = Course::new(302);
    for blow in Blow::ALL {
        course.suffer(blow);
    }
    course.close();
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
    course.close();
}

/// Rounds for as long as there are to be more, and their figures: also of those before a violation, which then ends the test.
fn endure(mut course: Course, of: &[Blow], more: impl Fn(u64) -> bool) {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        while more(course.rounds()) {
            course.round(of);
            course.tell();
        }
        course.close();
    }));
    let mut figures = course.figures();
    if let Err(violation) = &ended {
        figures.violated(&**violation);
    }
    println!("{figures}");
    if let Err(violation) = ended {
        resume_unwind(violation);
    }
}

#[test]
#[ignore = "long: make kills ROUNDS=300"]
fn kills() {
    let rounds = given("ROUNDS", 300);
    endure(Course::new(given("SEED", 303)), &Blow::KILLS, |been| been < rounds);
}

#[test]
#[ignore = "long: make soak MINUTES=60"]
fn soak() {
    let length = Duration::from_secs(60 * given("MINUTES", 60));
    let (begun, course) = (Instant::now(), Course::with_guest(given("SEED", 304)));
    endure(course, &Blow::ALL, |_| begun.elapsed() < length);
}
