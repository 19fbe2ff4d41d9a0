//! Prometheus against two live appliances: clean metrics, and data for every panel of the dashboards and every alert.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tidemark_common::api::types::PairState;
use tidemark_common::watchdog::Moving;
use tidemark_tests::command::run;
use tidemark_tests::pair::{Pair, Setup};
use tidemark_tests::prometheus::{Prometheus, get};
use tidemark_tests::wait::wait_until;

const DATA_LIMIT: Duration = Duration::from_secs(30);

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../grafana")
}

/// All panel queries of all dashboards: "dashboard: panel" and expression.
fn panel_queries() -> Vec<(String, String)> {
    let folder = grafana().join("dashboards");
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files =
        files.map(|entry| entry.expect("an entry").path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
    let mut queries = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("read the dashboard");
        let dashboard: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        collect(&dashboard["panels"], &mut queries);
    }
    queries
}

/// Panels may hold panels (rows).
fn collect(panels: &Value, queries: &mut Vec<(String, String)>) {
    for panel in panels.as_array().into_iter().flatten() {
        let title = panel["title"].as_str().unwrap_or("untitled");
        for target in panel["targets"].as_array().into_iter().flatten() {
            if let Some(expression) = target["expr"].as_str() {
                queries.push((title.to_owned(), without_variables(expression)));
            }
        }
        collect(&panel["panels"], queries);
    }
}

/// What Grafana does with its variables, with everything chosen and a window that two scrapes fill.
fn without_variables(expression: &str) -> String {
    let mut text = expression.to_owned();
    for window in ["$__rate_interval", "$__interval", "$__range", "${__rate_interval}", "${__range}"] {
        text = text.replace(window, "10s");
    }
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find('$') {
        plain.push_str(&rest[..at]);
        plain.push_str(".*");
        rest = rest[at + 1..].trim_start_matches(|c: char| c.is_alphanumeric() || "_{:}".contains(c));
    }
    plain + rest
}

/// The metrics an expression reads.
fn metric_names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("tidemark_")).map(ToOwned::to_owned).collect()
}

#[test]
fn every_panel_and_every_alert_has_data_from_two_live_appliances() {
    let pair = Pair::prefilled(&Setup::seeded(141));
    let load = pair.load(0);
    pair.west.ok(&["drill", "schedule", "g", "--every", "1h"]);
    pair.east.ok(&["group", "set", "g", "--history", "1h"]);
    pair.east.ok(&["volume", "create", "t", "--size", "64MiB"]);
    pair.east.ok(&["local-pair", "create", "a", "--target", "t"]);
    let addresses = [&pair.east, &pair.west].map(|side| side.status().addresses.metrics);
    let targets: Vec<_> = addresses.iter().map(String::as_str).collect();
    let rules = grafana().join("alerts.yml").canonicalize().expect("grafana/alerts.yml");
    let prometheus = Prometheus::start(&pair.cluster.join("prometheus"), "tidemark", &targets, &rules);

    let panels = panel_queries();
    assert!(panels.len() >= 5, "a dashboard has panels: {panels:?}");
    for (panel, expression) in &panels {
        wait_until(&format!("data for the panel '{panel}': {expression}"), DATA_LIMIT, || {
            match prometheus.series(expression)? {
                0 => Err("no series".into()),
                _ => Ok(()),
            }
        });
    }
    let alerts = prometheus.rules();
    assert!(alerts.len() >= 3, "alerts are loaded: {alerts:?}");
    for (alert, expression) in &alerts {
        prometheus.series(expression).unwrap_or_else(|error| panic!("the alert {alert}: {error}"));
        for metric in metric_names(expression) {
            wait_until(&format!("{metric}, which the alert {alert} reads"), DATA_LIMIT, || {
                match prometheus.series(&metric)? {
                    0 => Err("no series".into()),
                    _ => Ok(()),
                }
            });
        }
    }
    load.stop();
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics_of_either_side() {
    let pair = Pair::prefilled(&Setup::seeded(142));
    for side in [&pair.east, &pair.west] {
        let page = get(&side.status().addresses.metrics, "/metrics");
        let file = pair.cluster.join("page");
        std::fs::write(&file, page).expect("write the page");
        let command = format!("promtool check metrics < {}", file.display());
        let outcome = run("sh", &["-c", &command]);
        assert_eq!((outcome.code, outcome.stdout.trim(), outcome.stderr.trim()), (0, "", ""), "{}", side.name());
    }
}

/// Who is woken by an alert finds it in the runbook.
#[test]
fn every_alert_is_in_the_runbook() {
    let alerts = std::fs::read_to_string(grafana().join("alerts.yml")).expect("read the alerts");
    let runbook = std::fs::read_to_string(grafana().join("../docs/OPERATING.md")).expect("read the runbook");
    let rows: BTreeSet<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|names| names.split(", "))
        .collect();
    let names = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: Tidemark"));
    let missing: Vec<&str> = names.filter(|name| !rows.contains(name)).collect();
    assert!(rows.contains("GroupProblem") && missing.is_empty(), "not in docs/OPERATING.md: {missing:?}");
}

/// Whoever sees a state, or a position that stands, finds what it means and what to do.
#[test]
fn every_state_is_in_the_runbook_and_every_position_has_its_alert() {
    let runbook = std::fs::read_to_string(grafana().join("../docs/OPERATING.md")).expect("read the runbook");
    let rows: Vec<&str> = runbook.lines().filter(|line| line.starts_with("| `")).collect();
    for state in PairState::ALL {
        let row = rows.iter().find(|row| row.starts_with(&format!("| `{}` |", state.name())));
        let cells = row.map_or(0, |row| row.split('|').filter(|cell| !cell.trim().is_empty()).count());
        assert_eq!(cells, 3, "docs/OPERATING.md: no row with a meaning and what to do for {}", state.name());
    }
    let alerts = std::fs::read_to_string(grafana().join("alerts.yml")).expect("read the alerts");
    for position in Moving::ALL {
        let asked = format!("tidemark_standing_seconds{{position=\"{}\"}}", position.name());
        assert!(alerts.contains(&asked), "no alert on {asked}");
    }
}

#[test]
fn looking_at_a_copy_and_adding_peers_do_not_wait_for_each_other() {
    let pair = Pair::paired(&Setup::seeded(143));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Acquire) {
                    let _ = pair.west.status();
                }
            });
        }
        for number in 0..100 {
            pair.west.ok(&["peer", "add", &format!("p{number}"), "--id", &format!("{:064x}", number + 1)]);
        }
        done.store(true, std::sync::atomic::Ordering::Release);
    });
    assert_eq!(pair.west.status().peers.len(), 101);
}
