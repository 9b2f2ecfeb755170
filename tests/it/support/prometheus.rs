//! A real Prometheus that scrapes what a test runs, with the configuration of `docker/prometheus`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::port::free_port;
use super::wait::eventually;
use super::{http, unique};

/// A running Prometheus, killed when dropped.
pub(crate) struct Prometheus {
    address: SocketAddr,
    _child: Child,
    _dir: TempDir,
}

/// The directory with `prometheus` and `promtool`.
pub(crate) async fn binaries() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fetch-prometheus");
    let output = Command::new(script).stderr(Stdio::inherit()).output().await.unwrap();
    assert!(output.status.success(), "scripts/fetch-prometheus failed; its words are above");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// Where the configuration is.
pub(crate) fn configuration() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/prometheus")
}

impl Prometheus {
    /// Starts with the project's own configuration and rules; only the addresses of relay and writer
    /// and the interval are the test's.
    pub(crate) async fn scraping(relay: SocketAddr) -> Self {
        let dir = TempDir::with_prefix(unique("prometheus")).unwrap();
        fs::copy(configuration().join("alerts.yml"), dir.path().join("alerts.yml")).unwrap();
        let config = fs::read_to_string(configuration().join("prometheus.yml")).unwrap();
        let config = config
            .replace("\"relay:9090\"", &format!("\"{relay}\""))
            .replace("\"writer:9091\"", &format!("\"{relay}\""))
            .replace("_interval: 5s", "_interval: 1s");
        assert!(config.contains(&relay.to_string()) && config.contains("_interval: 1s"), "{config}");
        let config_file = dir.path().join("prometheus.yml");
        fs::write(&config_file, config).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port().await));
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(binaries().await.join("prometheus"))
            .arg(format!("--config.file={}", config_file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let prometheus = Self { address, _child: child, _dir: dir };
        eventually(Duration::from_secs(30), "Prometheus is ready", async || {
            http::get(address, "/-/ready").await.ok().filter(|answer| answer.status == 200)
        })
        .await;
        prometheus
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The result of an instant query: per series its labels and its value.
    ///
    /// # Panics
    /// If Prometheus refuses the query.
    pub(crate) async fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let path = format!("/api/v1/query?query={}", encoded(query));
        let answer = http::get(self.address, &path).await.unwrap();
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        let result = answer.json()["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |series: &Value| series["value"][1].as_str().unwrap().parse().unwrap();
        result.iter().map(|series| (series["metric"].clone(), value(series))).collect()
    }

    /// The result of a query over a time in seconds since 1970, a value a second: per series its labels and
    /// its times and values; values that are no number are left out.
    ///
    /// # Panics
    /// If Prometheus refuses the query.
    pub(crate) async fn range(&self, query: &str, from: f64, to: f64) -> Vec<(Value, Vec<(f64, f64)>)> {
        let path = format!("/api/v1/query_range?query={}&start={from}&end={to}&step=1", encoded(query));
        let answer = http::get(self.address, &path).await.unwrap();
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        let result = answer.json()["data"]["result"].as_array().cloned().unwrap_or_default();
        let point = |point: &Value| {
            let value: f64 = point[1].as_str().unwrap().parse().unwrap();
            value.is_finite().then(|| (point[0].as_f64().unwrap(), value))
        };
        let points = |series: &Value| series["values"].as_array().unwrap().iter().filter_map(point).collect();
        result.iter().map(|series| (series["metric"].clone(), points(series))).collect()
    }

    /// The names of the alerts that fire.
    pub(crate) async fn firing(&self) -> Vec<String> {
        let alerts = http::get(self.address, "/api/v1/alerts").await.unwrap().json();
        let alerts = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }
}

/// For a query string: everything but letters and digits as `%XX`.
fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
