use std::path::Path;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_line_of_the_contract_is_understood() {
    let id = "0123456789abcdef".repeat(4);
    for line in [
        "init DIR",
        "init DIR --name east --nbd unix:/run/nbd.sock --nbd [::1]:10809 --replication h:0 --metrics 127.0.0.1:0",
        "id DIR",
        "serve DIR",
        &format!("peer add west --id {id}"),
        &format!("peer add west --id {id} --addr west.example:7411"),
        "peer remove west",
        "volume create a --size 1GiB",
        "volume create a --size 1073741824 --backing /dev/vdb",
        "volume list",
        "volume delete a",
        "volume resize a --size 2GiB",
        "volume offer a --group g",
        "volume offer a --withdraw",
        "verify g --to west --wait 30s",
        "verify g --to west --resume --repair --rate 50MiB",
        "verify g --to west --suspend",
        "verify g --to west --cancel",
        "group create g --volume a",
        "group create g --volume a --volume b --interval 250ms --on-full fold",
        "group create g --volume a --interval 1s --on-full throttle",
        "group add g --volume c",
        "group remove g --volume c",
        "pair create g --to west",
        "pair suspend g --to west",
        "pair resume g --to west",
        "pair resume g --to west --in-place",
        "pair delete g --to west",
        "pair release g --to west",
        "leases",
        "leases g",
        "local-pair create a --target t",
        "local-pair create a --target t --rate 100MiB",
        "local-pair split t",
        "local-pair split t u v",
        "local-pair resync t --force",
        "local-pair reverse t",
        "local-pair wait t --timeout 10s",
        "local-pair delete t",
        "local-pair list",
        "local-pair show t",
        "backup create b --set s --to - --while-differential copy",
        "drill run g --check true --timeout 5s",
        "drill run g --mount --volume a --volume b --check true",
        "drill schedule g --every 1h --mount --volume a --check true",
        "drill cancel g",
        "backup restore b --set s --onto-volumes",
        "backup restore b --set s --onto a --cancel",
        "cut g",
        "cut g --tag x",
        "markers g",
        "wait g",
        "wait g --to west --marker 7 --for received --timeout 30s",
        "wait g --for applied --timeout 0s",
        "status",
        "status --watch",
        "failover g",
        "failover g --force",
        "completions bash",
        "man DIR",
        "openapi",
    ] {
        for line in [
            format!("tidemark {line}"),
            format!("tidemark --dir D --json {line}"),
            format!("tidemark {line} --json --dir D"),
        ] {
            let parsed = parse(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let given = line.contains("--json");
            assert_eq!(parsed.common.json, given, "{line}");
            assert!(!given || parsed.common.dir.as_deref() == Some(Path::new("D")), "{line}");
        }
    }
}

#[test]
fn what_is_understood_is_what_was_said() {
    let said = |line: &str| format!("{:?}", parse(line).unwrap().command);
    for (line, needles) in [
        ("tidemark volume create a --size 64KiB", vec!["size: 65536", "backing: None"]),
        ("tidemark group create g --volume a --volume b", vec![r#"["a", "b"]"#, "interval: 1000", "on_full: Fold"]),
        ("tidemark group create g --volume a --interval 250ms", vec!["interval: 250"]),
        ("tidemark wait g", vec!["to: None", "marker: None", "what: Applied", "timeout: 30000"]),
        ("tidemark wait g --for received --timeout 2m", vec!["what: Received", "timeout: 120000"]),
        ("tidemark cut g --tag -5% --json", vec![r#"Some("-5%")"#]),
        ("tidemark init D --nbd unix:s --nbd h:1", vec![r#"Unix("s")"#, r#"host: "h", port: 1"#]),
    ] {
        let command = said(line);
        for needle in needles {
            assert!(command.contains(needle), "{line}: {command}");
        }
    }
}

#[test]
fn wrong_usage_is_told_with_what_is_right() {
    let long_tag = format!("tidemark cut g --tag {}", "x".repeat(201));
    for (line, kind, says) in [
        (long_tag.as_str(), ErrorKind::ValueValidation, "at most 200"),
        ("tidemark", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, "Usage"),
        ("tidemark volume", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, "create"),
        ("tidemark nonsense", ErrorKind::InvalidSubcommand, "nonsense"),
        ("tidemark cut", ErrorKind::MissingRequiredArgument, "<GROUP>"),
        ("tidemark group create g", ErrorKind::MissingRequiredArgument, "--volume"),
        ("tidemark volume create a", ErrorKind::MissingRequiredArgument, "--size"),
        ("tidemark volume offer a", ErrorKind::MissingRequiredArgument, "<--group <GROUP>|--withdraw>"),
        ("tidemark volume offer a --group g --withdraw", ErrorKind::ArgumentConflict, "--withdraw"),
        ("tidemark volume create a --size 1GB", ErrorKind::ValueValidation, "as in 1GiB"),
        ("tidemark volume create ../a --size 1GiB", ErrorKind::ValueValidation, "cannot be a name"),
        ("tidemark group create g --volume a --interval 5", ErrorKind::ValueValidation, "as in 5s"),
        ("tidemark group create g --volume a --interval 0s", ErrorKind::ValueValidation, "10ms or more"),
        ("tidemark group create g --volume a --interval 1us", ErrorKind::ValueValidation, "whole milliseconds"),
        ("tidemark group create g --volume a --on-full stop", ErrorKind::InvalidValue, "throttle"),
        ("tidemark verify g --to west --resume --cancel", ErrorKind::ArgumentConflict, "--cancel"),
        ("tidemark verify g --to west --suspend --repair", ErrorKind::ArgumentConflict, "--repair"),
        ("tidemark backup create b --set s --to F --at noon", ErrorKind::ValueValidation, "as in 2026-01-31T12:00:00Z"),
        (
            "tidemark backup create b --set s --to F --at 2999-01-01T00:00:00Z",
            ErrorKind::ValueValidation,
            "too far away",
        ),
        ("tidemark failover g --at 2999-01-01T00:00:00Z", ErrorKind::ValueValidation, "too far away"),
        ("tidemark failover g --at noon", ErrorKind::ValueValidation, "no duration (10m)"),
        ("tidemark backup restore b --cancel", ErrorKind::MissingRequiredArgument, "--onto-volumes"),
        ("tidemark backup restore b --into F --cancel", ErrorKind::ArgumentConflict, "--cancel"),
        ("tidemark wait g --for seen", ErrorKind::InvalidValue, "received"),
        ("tidemark wait g --marker -1", ErrorKind::UnknownArgument, "-1"),
        ("tidemark peer add west --id abc", ErrorKind::ValueValidation, "64 hexadecimal digits"),
        ("tidemark peer add west --id 00 --addr unix:/x", ErrorKind::ValueValidation, "64 hexadecimal digits"),
        ("tidemark init D --replication unix:/x", ErrorKind::ValueValidation, "is not HOST:PORT"),
        ("tidemark init D --nbd 10809", ErrorKind::ValueValidation, "unix:PATH or HOST:PORT"),
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.kind(), kind, "{line}: {error}");
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(says), "{line}: {error}");
    }
}
