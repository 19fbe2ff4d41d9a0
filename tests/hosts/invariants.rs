//! The list of invariants and the patches that break them on purpose are of one mind.

use std::collections::BTreeSet;
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
