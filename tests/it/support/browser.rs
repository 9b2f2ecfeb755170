//! A real headless Chromium, driven over its own pipe: messages of JSON that end with a zero byte, on file
//! descriptors 3 and 4 of the browser.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// More than a browser needs on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A browser with one page, killed when dropped.
pub(crate) struct Browser {
    _child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    next_id: u64,
    /// What the page threw.
    pub(crate) exceptions: Vec<Value>,
    /// The addresses it asked for.
    pub(crate) requests: Vec<String>,
    _dir: TempDir,
}

/// The browser's program, if it is installed.
pub(crate) fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|program| program.is_file())
}

impl Browser {
    /// Starts it with an empty page.
    pub(crate) async fn start(program: &std::path::Path) -> Self {
        let dir = TempDir::new().unwrap();
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "sh", "-c"])
            .arg("exec 3<&0 4>&1; exec \"$@\" </dev/null >/dev/null 2>&1")
            .arg("sh")
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--remote-debugging-pipe", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", dir.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut browser = Self {
            _child: child,
            to,
            from,
            session: None,
            next_id: 0,
            exceptions: Vec::new(),
            requests: Vec::new(),
            _dir: dir,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Network.enable"] {
            browser.call(domain, json!({})).await;
        }
        browser
    }

    /// Sends an order and waits for its answer; what the page does meanwhile is kept.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        let mut order = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            order["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{order}\0").as_bytes()).await.unwrap();
        loop {
            let mut line = Vec::new();
            let read = timeout(DEADLINE, self.from.read_until(0, &mut line)).await;
            let read = read.unwrap_or_else(|_| panic!("the browser does not answer {method}")).unwrap();
            assert!(read > 0, "the browser ended at {method}");
            let message: Value = serde_json::from_slice(&line[..read - 1]).unwrap();
            if message["id"] == json!(id) {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            match message["method"].as_str() {
                Some("Runtime.exceptionThrown") => self.exceptions.push(message["params"].clone()),
                Some("Network.requestWillBeSent") => {
                    self.requests.extend(message["params"]["request"]["url"].as_str().map(str::to_owned));
                }
                _ => {}
            }
        }
    }

    /// The value of an expression of JavaScript.
    pub(crate) async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        self.call("Runtime.evaluate", params).await["result"]["value"].clone()
    }

    /// The size of the screen in points, and whether it prefers dark.
    pub(crate) async fn screen(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media).await;
    }

    /// Goes to an address.
    pub(crate) async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
    }

    /// A picture of the page as PNG, into `TXSTREAM_PICTURES` if that names a directory.
    pub(crate) async fn picture(&mut self, name: &str) {
        let Some(dir) = std::env::var_os("TXSTREAM_PICTURES") else { return };
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let png = openssl::base64::decode_block(shot["data"].as_str().unwrap()).unwrap();
        std::fs::write(PathBuf::from(dir).join(format!("{name}.png")), png).unwrap();
    }
}
