use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("DIR/config.toml")).map_err(|error| error.to_string())
}

/// A complete file with one line replaced or, where nothing matches, added at the end.
fn with(line: &str, replacement: &str) -> String {
    let text = Config::new("east").to_toml();
    assert!(text.contains(line), "no line {line}");
    text.replacen(line, replacement, 1)
}

#[test]
fn what_init_writes_reads_back() {
    let config = Config::new("east");
    assert_eq!(parse(&config.to_toml()), Ok(config));
}

#[test]
fn settings_beside_the_defaults_read_back() {
    let mut config = Config::new("we.st-1");
    config.nbd.addresses = vec![Address::Unix("/run/a \"b\"\\.sock".into()), "[::1]:10809".parse().unwrap()];
    config.nbd.tls_certificate = Some("nbd.pem".into());
    config.nbd.tls_key = Some("/etc/nbd.key".into());
    config.replication.rate_limit_bytes_per_second = Some(60_000_000);
    config.replication.congestion = Congestion::Cubic;
    config.replication.heartbeat_interval = Duration::from_millis(100);
    config.replication.idle_timeout = Duration::from_secs(60);
    config.metrics = MetricsConfig { address: "0.0.0.0:0".parse().unwrap(), allow_remote_metrics: true };
    config.groups = GroupConfig {
        write_buffer_bytes: 1 << 30,
        ring_directory: "/run/tidemark".into(),
        journal_bytes: 1 << 40,
        segment_bytes: 64 << 20,
        freeze_limit: Duration::from_secs(1),
    };
    config.control.access = ControlAccess::Group;
    config.log.format = LogFormat::Json;
    let text = config.to_toml();
    assert_eq!(parse(&text), Ok(config), "{text}");
}

#[test]
fn every_default_shown_as_a_comment_is_the_default() {
    let shown = Config::new("east").to_toml();
    let uncommented: Vec<String> = shown.lines().map(|line| uncomment(line).to_owned()).collect();
    let mut config = parse(&uncommented.join("\n")).unwrap();
    // Examples rather than defaults: these have none.
    config.nbd.tls_certificate = None;
    config.nbd.tls_key = None;
    config.replication.rate_limit_bytes_per_second = None;
    assert_eq!(config, Config::new("east"));
    assert!(uncommented.iter().any(|line| line.starts_with("journal_bytes = \"10GiB\"")));
}

fn uncomment(line: &str) -> &str {
    let setting = line.strip_prefix("# ").filter(|rest| {
        rest.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    });
    setting.unwrap_or(line)
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let text = Config::new("east").to_toml();
    let last_setting = text.trim_end().len();
    for end in 0..last_setting {
        if let Some(short) = text.get(..end) {
            assert!(parse(short).is_err(), "cut at {end} of {last_setting} was taken:\n{short}");
        }
    }
}

#[test]
fn a_bad_line_is_named_with_what_to_do() {
    let line_of = |text: &str, needle: &str| 1 + text.lines().position(|line| line.contains(needle)).unwrap();
    for (line, replacement, says) in [
        ("name = \"east\"", "name = \"east side\"", "cannot be a name"),
        ("name = \"east\"", "nome = \"east\"", "unknown field `nome`"),
        ("# journal_bytes = \"10GiB\"", "journal_bites = 1", "unknown field `journal_bites`"),
        ("# journal_bytes = \"10GiB\"", "journal_bytes = \"10GB\"", "as in 10GiB"),
        ("# journal_bytes = \"10GiB\"", "journal_bytes = -1", "-1 is negative"),
        ("# journal_bytes = \"10GiB\"", "journal_bytes = \"1MiB\"", "use a value from 128MiB"),
        ("# segment_bytes = \"32MiB\"", "segment_bytes = 1024", "use a value from 8MiB"),
        ("# write_buffer_bytes = \"64MiB\"", "write_buffer_bytes = 0", "use a value from 8MiB"),
        ("# freeze_limit = \"50ms\"", "freeze_limit = 50", "expected a string"),
        ("# freeze_limit = \"50ms\"", "freeze_limit = \"50\"", "as in 50s"),
        ("# freeze_limit = \"50ms\"", "freeze_limit = \"1m\"", "from 1ms to 10s"),
        ("# ring_directory = \"/dev/shm\"", "ring_directory = \"shm\"", "absolute path"),
        ("# heartbeat_interval = \"500ms\"", "heartbeat_interval = \"2s\"", "from 50ms to 1s"),
        ("# idle_timeout = \"5s\"", "idle_timeout = \"1s\"", "from 1500ms to 5m"),
        ("# rate_limit_bytes_per_second = \"100MiB\"", "rate_limit_bytes_per_second = 1", "at least 64KiB"),
        ("# congestion = \"steady\"", "congestion = \"reno\"", "unknown variant `reno`"),
        ("# tls_key = \"nbd.key\"", "tls_key = \"k\"", "give both, or neither"),
        ("addresses = [\"unix:nbd.sock\"]", "addresses = [\"unix:\"]", "names no socket"),
        ("addresses = [\"unix:nbd.sock\"]", "addresses = [\"unix:a\", \"unix:a\"]", "listed twice"),
        ("addresses = [\"unix:nbd.sock\"]", "addresses = []", "no host could connect"),
        ("address = \"127.0.0.1:7411\"", "address = \"unix:x\"", "is not HOST:PORT"),
        ("address = \"127.0.0.1:9411\"", "address = \"0.0.0.0:9411\"", "allow_remote_metrics = true"),
        ("# format = \"text\"", "format = \"xml\"", "unknown variant `xml`"),
        ("# access = \"owner\"", "access = \"world\"", "unknown variant `world`"),
        ("[log]", "[logs]", "unknown field `logs`"),
        ("[log]", "[log", "correct that line"),
    ] {
        let text = with(line, replacement);
        let message = parse(&text).expect_err(replacement);
        let place = format!("DIR/config.toml:{}: ", line_of(&text, replacement));
        assert!(message.starts_with(&place), "{replacement}: {message}");
        assert!(message.contains(says), "{replacement}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn a_file_that_is_none_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let load = || Config::load(directory.path()).unwrap_err().to_string();
    assert!(load().contains("tidemark init DIR"), "{}", load());
    let file = directory.path().join(CONFIG_FILE);
    for (bytes, says) in [
        (vec![], "may have been cut short"),
        (vec![0xff; 16], "bytes that are no text"),
        (vec![b'#'; (1 << 20) + 1], "larger than 1 MiB"),
        (vec![0; 64], "config.toml:1: "),
    ] {
        std::fs::write(&file, bytes).unwrap();
        assert!(load().contains(says), "{says}: {}", load());
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert!(load().contains("read "), "{}", load());
}

#[test]
fn relative_paths_begin_at_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let mut written = Config::new("east");
    written.nbd.tls_certificate = Some("nbd.pem".into());
    written.nbd.tls_key = Some("/etc/nbd.key".into());
    std::fs::write(directory.path().join(CONFIG_FILE), written.to_toml()).unwrap();
    let config = Config::load(directory.path()).unwrap();
    assert_eq!(config.nbd.addresses, [Address::Unix(directory.path().join("nbd.sock"))]);
    assert_eq!(config.nbd.tls_certificate, Some(directory.path().join("nbd.pem")));
    assert_eq!(config.nbd.tls_key, Some("/etc/nbd.key".into()));
}
