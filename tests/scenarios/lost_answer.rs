//! A switchover that is broken off anywhere between its question and its answer (invariant 8): never two that serve, never
//! none for good, and nothing lost that was answered.

use std::time::{Duration, Instant};

use tidemark_common::api::types::{PairState, RejoinReport, Role};
use tidemark_tests::appliance::{Appliance, tidemark};
use tidemark_tests::command::Outcome;
use tidemark_tests::impairment::Relay;
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

const LIMIT: Duration = Duration::from_secs(40);
/// A copy that was asked has taken over within this time.
const TAKE_OVER: Duration = Duration::from_secs(2);

/// What befalls the two in the middle of what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// Nothing comes through any more, either way.
    LinkIsCut,
    /// The same, and the primary is killed.
    PrimaryIsKilled,
    /// The same, and the copy is killed.
    CopyIsKilled,
}

/// How it stood when the blow was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// Not asked yet: hosts went on where they were, or go on there.
    AsBefore,
    /// The old primary serves nothing, and the copy has not taken over.
    Neither,
    /// The copy has taken over.
    Over,
}

struct Course {
    pair: Pair,
    west_is_primary: bool,
    loads: u64,
}

impl Course {
    fn new(seed: u64) -> Self {
        Self { pair: Pair::prefilled(&Setup::seeded(seed)), west_is_primary: false, loads: 0 }
    }

    fn primary(&self) -> &Appliance {
        if self.west_is_primary { &self.pair.west } else { &self.pair.east }
    }

    fn copy(&self) -> &Appliance {
        if self.west_is_primary { &self.pair.east } else { &self.pair.west }
    }

    fn primary_mut(&mut self) -> &mut Appliance {
        if self.west_is_primary { &mut self.pair.west } else { &mut self.pair.east }
    }

    fn copy_mut(&mut self) -> &mut Appliance {
        if self.west_is_primary { &mut self.pair.east } else { &mut self.pair.west }
    }

    /// The way on which the primary calls.
    fn way(&self) -> &Relay {
        if self.west_is_primary { &self.pair.way_back } else { &self.pair.relay }
    }

    /// A primary seen before and after the other was seen: then two serve.
    fn assert_not_both(&self) {
        let (one, other) = (self.primary(), self.copy());
        let roles = [one, other, one].map(|side| side.group(GROUP).role);
        assert_ne!(roles, [Role::Primary; 3], "both sides are primary");
    }

    /// A switchover under load, broken off after so many datagrams of its conversation; then what status says leads out of it.
    fn suffer(&mut self, blow: Blow, datagrams: u64) -> Stand {
        let load = self.pair.load_on(self.primary(), self.loads);
        self.loads += 1;
        load.wait_acked(60);
        self.way().cut_next_call_after(datagrams);
        let asked = self.ask();
        wait_until("the conversation to be cut", LIMIT, || {
            check(self.way().is_cut() || asked.is_finished(), || "it goes on".into())
        });
        let cut = self.way().is_cut();
        if blow == Blow::CopyIsKilled && (self.loads / 2).is_multiple_of(2) {
            // Killed when it has taken over, if it was asked to.
            self.give_time_to_take_over();
        }
        match blow {
            Blow::LinkIsCut => {}
            _ if !cut => {}
            Blow::PrimaryIsKilled => self.primary_mut().kill9(),
            Blow::CopyIsKilled => self.copy_mut().kill9(),
        }
        let outcome = asked.join().expect("the command ends");
        assert!(cut || outcome.code == 0, "{outcome:?}");
        match blow {
            Blow::LinkIsCut => {}
            _ if !cut => {}
            Blow::PrimaryIsKilled => self.primary_mut().start(),
            Blow::CopyIsKilled => self.copy_mut().start(),
        }
        self.assert_not_both();
        let stand = self.stand();
        self.way().heal();
        self.assert_not_both();
        drop(load.end());
        self.lead_out(stand);
        self.go_on(&format!("{blow:?} after {datagrams} datagrams: {stand:?}"));
        stand
    }

    fn give_time_to_take_over(&self) {
        let begun = Instant::now();
        wait_until("a moment", LIMIT, || {
            let over = self.copy().group(GROUP).role == Role::Primary || begun.elapsed() > TAKE_OVER;
            check(over, || "not yet".into())
        });
    }

    fn ask(&self) -> std::thread::JoinHandle<Outcome> {
        let (to, directory) = (self.copy().name().to_owned(), self.primary().directory().display().to_string());
        std::thread::spawn(move || tidemark(&["switchover", GROUP, "--to", &to, "--dir", &directory]))
    }

    fn stand(&self) -> Stand {
        match (self.primary().group(GROUP).role, self.copy().group(GROUP).role) {
            (Role::Primary, Role::Secondary) => Stand::AsBefore,
            (Role::Fenced, Role::Secondary) => Stand::Neither,
            (Role::Fenced | Role::Secondary, Role::Primary) => Stand::Over,
            other => panic!("the primary and the copy are {other:?}"),
        }
    }

    /// As an operator who reads nothing but `status`.
    fn lead_out(&mut self, mut stand: Stand) {
        if self.primary().group(GROUP).role == Role::Fenced {
            let advice = self.primary().pair(GROUP).reason.expect("a reason");
            assert!(advice.contains(&format!("`tidemark rejoin {GROUP}`")), "{advice}");
            let report = wait_until("the return", LIMIT, || {
                let outcome = self.primary().cli(&["rejoin", GROUP, "--json"]);
                self.assert_not_both();
                if outcome.code == 0 { Ok(outcome.stdout) } else { Err(outcome.stderr) }
            });
            let report: RejoinReport = serde_json::from_str(&report).expect("a report");
            if stand == Stand::Neither && report.primary == self.copy().name() {
                // It was about to take over when it was looked at.
                stand = Stand::Over;
            }
            let primary = if stand == Stand::Over { self.copy() } else { self.primary() };
            assert_eq!((report.primary.as_str(), report.lost_writes), (primary.name(), 0), "{report:?}");
        }
        self.west_is_primary ^= stand == Stand::Over;
        assert_eq!((self.primary().group(GROUP).role, self.copy().group(GROUP).role), (Role::Primary, Role::Secondary));
        for side in [self.primary(), self.copy()] {
            side.wait_pair(GROUP, "the pair to be paired", LIMIT, |pair| pair.state == PairState::Paired);
        }
    }

    /// Whoever serves now has every write that was answered.
    fn judge(&self, what: &str) {
        let image = self.pair.image(self.primary());
        let verdict = assert_legal(what, &self.pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
        self.pair.history.settle(&verdict);
    }

    /// And takes more; its copy follows.
    fn go_on(&mut self, what: &str) {
        self.judge(what);
        let load = self.pair.load_on(self.primary(), self.loads);
        self.loads += 1;
        load.wait_acked(30);
        load.stop();
        let marker = self.primary().ok(&["cut", GROUP]);
        let to = self.copy().name();
        self.primary().ok(&["wait", GROUP, "--to", to, "--marker", marker.trim(), "--timeout", "30s"]);
        let served = self.pair.open(self.primary()).into_iter().map(|mut export| export.read_all().expect("read"));
        for (served, copied) in served.zip(self.pair.backing(self.copy())) {
            assert!(served == copied, "{what}: the copy differs");
        }
    }
}

/// At ten moments and more, from the first datagrams of the call on: before the question, in the middle, and when the answer is
/// under way.
fn broken_off_anywhere(seed: u64, blow: Blow) {
    const STEP: usize = 4;
    let mut course = Course::new(seed);
    let mut seen = Vec::new();
    for datagrams in (1 + seed % STEP as u64..100).step_by(STEP) {
        let stand = course.suffer(blow, datagrams);
        println!("{blow:?} after {datagrams} datagrams: {stand:?}");
        seen.push(stand);
        if seen.len() >= 10 && seen.contains(&Stand::Over) {
            break;
        }
    }
    for stand in [Stand::AsBefore, Stand::Neither, Stand::Over] {
        assert!(seen.contains(&stand), "no moment was met that leaves it {stand:?}: {seen:?}");
    }
}

#[test]
fn a_switchover_whose_link_is_cut_anywhere_is_led_out_of() {
    broken_off_anywhere(131, Blow::LinkIsCut);
}

#[test]
fn a_primary_killed_anywhere_in_a_switchover_loses_nothing_and_is_led_out_of_it() {
    broken_off_anywhere(132, Blow::PrimaryIsKilled);
}

#[test]
fn a_copy_killed_anywhere_in_a_switchover_loses_nothing_and_is_led_out_of_it() {
    broken_off_anywhere(133, Blow::CopyIsKilled);
}

/// While a take-over waits for something over there, nobody says that there will be none: the old primary would serve again, and
/// the copy take over from it all the same.
#[test]
fn a_take_over_under_way_is_not_denied() {
    let mut course = Course::new(134);
    let pair = &course.pair;
    // An operator's change that waits keeps the next one on west waiting: for longer than a cut link is silent, and for less than the question waits
    // there before it is refused.
    let north = pair.cluster.running("north");
    pair.west.trust(&north, Some(north.replication()));
    north.trust(&pair.west, Some(pair.west.replication()));
    pair.west.ok(&["volume", "create", "other", "--size", "1MiB"]);
    pair.west.ok(&["group", "create", "o", "--volume", "other"]);
    pair.west.ok(&["pair", "create", "o", "--to", "north"]);
    pair.west.wait_pair("o", "the pair to be paired", LIMIT, |pair| pair.state == PairState::Paired);
    north.freeze();
    let directory = pair.west.directory().display().to_string();
    let waits = std::thread::spawn(move || {
        tidemark(&["switchover", "o", "--to", "north", "--timeout", "14s", "--dir", &directory])
    });
    wait_until("the change on west to wait", LIMIT, || {
        let markers = pair.west.ok(&["markers", "o", "--json"]);
        check(markers.contains("switchover"), || markers)
    });
    let load = pair.load(0);
    load.wait_acked(60);
    // What the pair says besides comes to more than question and answer: the question is over there when the link is cut.
    pair.relay.cut_next_call_after(60);
    let asked = course.ask().join().expect("the command ends");
    assert!(asked.code != 0 && asked.stderr.contains("is not known"), "{asked:?}");
    drop(load.end());
    assert_eq!(course.stand(), Stand::Neither);
    course.pair.relay.heal();
    let returned = wait_until("the return", LIMIT, || {
        let outcome = course.pair.east.cli(&["rejoin", GROUP, "--json"]);
        if outcome.code == 0 { Ok(outcome.stdout) } else { Err(outcome.stderr) }
    });
    let returned: RejoinReport = serde_json::from_str(&returned).expect("a report");
    course.west_is_primary = returned.primary == "west";
    course.judge("after the return");
    // Nobody writes until west may go on: no newer marker keeps it from taking over then. Whoever serves now goes on to.
    assert_ne!(waits.join().expect("the command ends").code, 0, "north does not answer");
    let load = course.pair.load_on(course.primary(), 1);
    load.wait_acked(300);
    load.stop();
    course.assert_not_both();
    for side in [course.primary(), course.copy()] {
        side.wait_pair(GROUP, "the pair to be paired", LIMIT, |pair| pair.state == PairState::Paired);
    }
    course.loads = 2;
    course.go_on("after a take-over that waited");
}
