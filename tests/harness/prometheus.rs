//! Debian's Prometheus against live appliances, asked over its HTTP API.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::free_tcp;
use crate::wait::wait_until;

const START_LIMIT: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The body of a page that must be there.
///
/// # Panics
/// When it is not.
#[must_use]
pub fn get(address: &str, path: &str) -> String {
    try_get(address, path).unwrap_or_else(|error| panic!("GET http://{address}{path}: {error}"))
}

/// The body of a page, or why there is none.
///
/// # Errors
/// What the connection or the server says.
pub fn try_get(address: &str, path: &str) -> Result<String, String> {
    let text = exchange(address, path).map_err(|error| error.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP answer: {text}"))?;
    let status = head.lines().next().unwrap_or_default();
    if status.contains(" 200 ") { Ok(body.to_owned()) } else { Err(format!("{status}: {body}")) }
}

/// The values of a metric on an appliance's page, one for each series.
///
/// # Panics
/// When there is no page.
#[must_use]
pub fn figures(address: &str, name: &str) -> Vec<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let is_whole = rest.starts_with('{') || rest.starts_with(' ');
        is_whole.then(|| rest.rsplit_once(' ')?.1.parse::<f64>().ok()).flatten()
    };
    get(address, "/metrics").lines().filter_map(value).collect()
}

fn exchange(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    // HTTP/1.0, so that the answer is neither chunked nor kept alive.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A running Prometheus; ends when it is dropped.
#[derive(Debug)]
pub struct Prometheus {
    process: Child,
    address: String,
}

impl Prometheus {
    /// Starts one that scrapes these addresses every second and evaluates these rules.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(directory: &Path, job: &str, targets: &[&str], rules: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("make the directory");
        let config = directory.join("prometheus.yml");
        let targets = targets.iter().map(|target| format!("'{target}'")).collect::<Vec<_>>().join(", ");
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n\
             - job_name: {job}\n  static_configs:\n  - targets: [{targets}]\n",
            rules.display()
        );
        std::fs::write(&config, text).expect("write prometheus.yml");
        let address = free_tcp().to_string();
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "prometheus", "--log.level=warn"])
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .spawn()
            .expect("start prometheus");
        let started = Self { process, address };
        wait_until("Prometheus to be ready", START_LIMIT, || try_get(&started.address, "/-/ready").map(drop));
        started
    }

    fn api(&self, path: &str) -> Result<Value, String> {
        let body = try_get(&self.address, path)?;
        serde_json::from_str::<Value>(&body).map(|answer| answer["data"].clone()).map_err(|error| error.to_string())
    }

    /// How many series an expression gives now.
    ///
    /// # Errors
    /// What Prometheus says about the expression.
    pub fn series(&self, expression: &str) -> Result<usize, String> {
        let data = self.api(&format!("/api/v1/query?query={}", percent(expression)))?;
        match data["resultType"].as_str() {
            Some("vector") => Ok(data["result"].as_array().map_or(0, Vec::len)),
            Some("scalar") => Ok(1),
            _ => Err(format!("not a vector: {data}")),
        }
    }

    /// The expressions of all rules it has loaded, by name.
    ///
    /// # Panics
    /// When it does not answer as documented.
    #[must_use]
    pub fn rules(&self) -> Vec<(String, String)> {
        let data = self.api("/api/v1/rules").expect("the rules");
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        rules.map(|rule| (text(&rule["name"]), text(&rule["query"]))).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn percent(text: &str) -> String {
    let keep = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes().map(|byte| if keep(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
