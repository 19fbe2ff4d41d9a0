//! The list of invariants, the patches that break them on purpose, and the tests that both name are of one mind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// The rows of all tables whose last column is of mutants: the first cell, and the numbers.
fn rows(text: &str) -> Vec<(&str, BTreeSet<&str>)> {
    let mut rows = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let Some(cells) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else {
            // The line under the names of the columns is part of its table.
            inside &= line.starts_with("|--");
            continue;
        };
        let last = cells.rsplit(" | ").next().unwrap_or_default();
        if last == "mutants" {
            inside = true;
        } else if inside {
            rows.push((cells.split(" | ").next().unwrap_or_default(), last.split_whitespace().collect()));
        }
    }
    rows
}

#[test]
fn every_mutant_is_named_with_its_invariant() {
    let text = std::fs::read_to_string(docs().join("INVARIANTS.md")).expect("read the invariants");
    let rows = rows(&text);
    let bare: Vec<_> = (1..=10_u32)
        .map(|number| number.to_string())
        .filter(|number| !rows.iter().any(|(name, mutants)| name == number && !mutants.is_empty()))
        .collect();
    assert!(bare.is_empty(), "no mutant breaks invariant {bare:?}");
    let named: BTreeSet<String> =
        rows.iter().flat_map(|(_, mutants)| mutants).map(|number| (*number).to_owned()).collect();
    let mut patches = BTreeSet::new();
    for entry in std::fs::read_dir(docs().join("mutants")).expect("the mutants") {
        let name = entry.expect("a patch").file_name().into_string().expect("a name in ASCII");
        let (number, rest) = name.split_once('-').unwrap_or((&name, ""));
        assert!(number.len() == 3 && rest.ends_with(".patch"), "{name}: its number, what it breaks, .patch");
        assert!(patches.insert(number.to_owned()), "two patches have the number {number}");
        let patch = std::fs::read_to_string(docs().join("mutants").join(&name)).expect("read the patch");
        let head: Vec<&str> = patch.lines().take_while(|line| !line.starts_with("diff ")).collect();
        for field in ["Broken: ", "Package: ", "Test: "] {
            assert!(head.iter().any(|line| line.starts_with(field)), "{name} has no line '{field}'");
        }
    }
    let (unnamed, gone): (Vec<_>, Vec<_>) =
        (patches.difference(&named).collect(), named.difference(&patches).collect());
    assert!(unnamed.is_empty(), "patches that docs/INVARIANTS.md does not name: {unnamed:?}");
    assert!(gone.is_empty(), "docs/INVARIANTS.md names patches that are not there: {gone:?}");
}

/// What a crate's sources have names for.
#[derive(Default)]
struct Names {
    tests: BTreeSet<String>,
    /// Files, folders, and functions that are no tests.
    others: BTreeSet<String>,
}

impl Names {
    fn take(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).expect("a folder of the tree") {
            let path = entry.expect("an entry").path();
            self.others.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
            if path.is_dir() {
                self.take(&path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                self.take_functions(&std::fs::read_to_string(&path).expect("read a source"));
            }
        }
    }

    fn take_functions(&mut self, source: &str) {
        let mut is_test = false;
        for line in source.lines().map(str::trim_start) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if !line.starts_with("#[") && !line.starts_with("//") {
                let name = line.split_once("fn ").map(|(_, rest)| rest);
                let name = name.and_then(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next());
                let names = if is_test { &mut self.tests } else { &mut self.others };
                names.extend(name.map(str::to_owned));
                is_test = false;
            }
        }
    }
}

/// A test that was renamed or is gone proves nothing, and its name says that it does.
#[test]
fn every_test_that_is_named_is_there() {
    let mut crates = BTreeMap::new();
    for name in ["appliance", "backup", "common", "primary", "secondary", "tests"] {
        let mut names = Names::default();
        names.take(&docs().join("..").join(name));
        crates.insert(name, names);
    }
    let is_test = |name: &str| crates.values().any(|names| names.tests.contains(name));
    let is_there = |name: &str| {
        let in_crates = crates.values().any(|names| names.others.contains(name));
        is_test(name) || in_crates || docs().join("..").join(name).exists()
    };
    let text = std::fs::read_to_string(docs().join("INVARIANTS.md")).expect("read the invariants");
    let quoted = text.split('`').skip(1).step_by(2);
    let named = quoted.filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    // A test's name is a sentence; a word or two are a file, or a function of it.
    let known = |name: &str| if name.matches('_').count() > 3 { is_test(name) } else { is_there(name) };
    let (there, gone): (Vec<&str>, Vec<&str>) = named.partition(|name| known(name));
    assert!(there.len() > 150, "the list names tests: {there:?}");
    assert!(gone.is_empty(), "docs/INVARIANTS.md names what is not there: {gone:?}");
    for entry in std::fs::read_dir(docs().join("mutants")).expect("the mutants") {
        let path = entry.expect("a patch").path();
        let patch = std::fs::read_to_string(&path).expect("read the patch");
        let head = || patch.lines().take_while(|line| !line.starts_with("diff "));
        let package = head().find_map(|line| line.strip_prefix("Package: tidemark-"));
        let names = package.and_then(|package| crates.get(package));
        for test in head().filter_map(|line| line.strip_prefix("Test: ")) {
            let name = test.rsplit("::").next().unwrap_or_default();
            let is_there = names.is_some_and(|names| names.tests.contains(name));
            assert!(is_there, "{}: there is no test {test} in that package", path.display());
        }
    }
}
