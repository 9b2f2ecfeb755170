//! A server on a free port of the loopback, real HTTP spoken to it.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::server::{Limits, start_within};
use super::status::{StatusReport, rfc3339};
use super::{AdminError, BreakerOrder, LevelSetter, Server, Settings, Subject, start};
use crate::metrics::Metrics;
use crate::secret::Secret;

/// Far more than any answer takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// Longer than any test waits.
const NEVER: Duration = Duration::from_secs(3600);

/// A subject that is what a test makes of it.
struct Fake {
    stuck: Option<&'static str>,
    reasons: Vec<String>,
    orders: Mutex<Vec<BreakerOrder>>,
    metrics: Arc<Metrics>,
}

impl Fake {
    fn new() -> Self {
        Self { stuck: None, reasons: Vec::new(), orders: Mutex::default(), metrics: Metrics::new() }
    }
}

impl Subject for Fake {
    fn live(&self) -> Result<(), String> {
        self.stuck.map_or(Ok(()), |reason| Err(reason.to_owned()))
    }

    fn ready(&self) -> Result<String, Vec<String>> {
        if self.reasons.is_empty() { Ok("streaming".to_owned()) } else { Err(self.reasons.clone()) }
    }

    fn status(&self) -> Value {
        serde_json::to_value(StatusReport { state: "streaming".to_owned(), ..StatusReport::default() })
            .unwrap()
    }

    fn refresh(&self) {
        self.metrics.in_flight_bytes.set(4321);
    }

    fn breaker(&self, order: BreakerOrder) -> Result<(), String> {
        let mut orders = self.orders.lock().unwrap();
        if orders.last() == Some(&order) {
            return Err("it is so already".to_owned());
        }
        orders.push(order);
        Ok(())
    }
}

fn settings(token: Option<&str>) -> Settings {
    Settings {
        enabled: true,
        host: "127.0.0.1".to_owned(),
        port: 0,
        path: "/metrics".to_owned(),
        admin_token: token.map(Secret::new),
    }
}

fn levels() -> LevelSetter {
    Arc::new(|level| if level == "debug" { Ok(()) } else { Err(format!("{level:?} is no level")) })
}

/// Starts a server for `fake` with the token `sesame`.
fn serve(fake: Fake) -> (Server, Arc<Fake>) {
    let fake = Arc::new(fake);
    let subject: Arc<dyn Subject> = Arc::<Fake>::clone(&fake);
    let server = start(settings(Some("sesame")), subject, fake.metrics.registry(), levels()).unwrap();
    (server, fake)
}

fn serve_within(limits: Limits) -> Server {
    start_within(limits, settings(None), Arc::new(Fake::new()), Metrics::new().registry(), levels()).unwrap()
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (given, value) = line.split_once(": ")?;
            given.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    fn error_code(&self) -> String {
        let error = &self.json()["error"];
        assert!(!error["message"].as_str().unwrap().is_empty());
        error["code"].as_str().unwrap().to_owned()
    }
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.addresses()[0]).await.unwrap()
}

/// Everything until the other end closes; a reset counts as closed.
async fn read_to_end(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match tokio::time::timeout(DEADLINE, socket.read_to_end(&mut bytes)).await.expect("never closed") {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    String::from_utf8(bytes).unwrap()
}

/// Sends one request as written and reads the reply.
async fn exchange(server: &Server, request: &str) -> Reply {
    let mut socket = connect(server).await;
    socket.write_all(request.as_bytes()).await.unwrap();
    let text = read_to_end(&mut socket).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no reply: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

async fn send(server: &Server, method: &str, path: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    exchange(server, &request).await
}

async fn get(server: &Server, path: &str) -> Reply {
    send(server, "GET", path, "", "").await
}

const TOKEN: &str = "authorization: Bearer sesame\r\n";

#[tokio::test]
async fn a_healthy_subject_is_live_and_ready_and_says_its_state() {
    let (server, _) = serve(Fake::new());
    let live = get(&server, "/livez").await;
    assert_eq!((live.status, live.json()), (200, json!({"status": "live"})));
    let ready = get(&server, "/readyz").await;
    assert_eq!((ready.status, ready.json()), (200, json!({"status": "ready", "state": "streaming"})));
    assert_eq!(ready.header("content-type"), Some("application/json"));
    assert_eq!(ready.header("cache-control"), Some("no-store"));
    server.stop();
}

#[tokio::test]
async fn an_unhealthy_subject_is_503_with_every_reason() {
    let reasons = vec!["breaker open".to_owned(), "topic a waits".to_owned()];
    let (server, _) = serve(Fake { stuck: Some("no turn for 31 s"), reasons, ..Fake::new() });
    let live = get(&server, "/livez").await;
    assert_eq!((live.status, &live.json()["reasons"]), (503, &json!(["no turn for 31 s"])));
    let ready = get(&server, "/readyz").await;
    assert_eq!((ready.status, &ready.json()["reasons"]), (503, &json!(["breaker open", "topic a waits"])));
    server.stop();
}

#[tokio::test]
async fn the_status_is_the_subjects_document() {
    let (server, fake) = serve(Fake::new());
    let reply = get(&server, "/status?pretty").await;
    assert_eq!((reply.status, reply.json()), (200, fake.status()));
    server.stop();
}

#[tokio::test]
async fn a_scrape_refreshes_the_gauges_and_is_prometheus_text() {
    let (server, _) = serve(Fake::new());
    let reply = get(&server, "/metrics").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(reply.body.contains("\ntxstream_in_flight_bytes 4321\n"), "{}", reply.body);
    server.stop();
}

#[tokio::test]
async fn the_metrics_are_where_the_path_says() {
    let settings = Settings { path: "/internal/prometheus".to_owned(), ..settings(None) };
    let server = start(settings, Arc::new(Fake::new()), Metrics::new().registry(), levels()).unwrap();
    assert_eq!(get(&server, "/internal/prometheus").await.status, 200);
    assert_eq!(get(&server, "/metrics").await.status, 404);
    server.stop();
}

#[tokio::test]
async fn the_page_runs_its_own_script_and_nothing_from_elsewhere() {
    let (server, _) = serve(Fake::new());
    let reply = get(&server, "/").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(reply.body.contains("fetch(\"status\""));
    for from_elsewhere in ["://", "src=", "@import", "innerHTML", "style=\""] {
        assert!(!reply.body.contains(from_elsewhere), "{from_elsewhere}");
    }
    let policy = reply.header("content-security-policy").unwrap();
    for element in ["script", "style"] {
        let (_, rest) = reply.body.split_once(&format!("<{element}>")).unwrap();
        let (inside, _) = rest.split_once(&format!("</{element}>")).unwrap();
        let digest = openssl::base64::encode_block(&openssl::sha::sha256(inside.as_bytes()));
        assert!(policy.contains(&format!("{element}-src 'sha256-{digest}'")), "{policy}");
    }
    server.stop();
}

#[tokio::test]
async fn head_has_the_head_of_get_and_no_body() {
    let (server, _) = serve(Fake::new());
    for path in ["/", "/livez", "/readyz", "/status"] {
        let (head, full) = (send(&server, "HEAD", path, "", "").await, get(&server, path).await);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("content-length"), Some(full.body.len().to_string().as_str()), "{path}");
    }
    assert_eq!(send(&server, "HEAD", "/metrics", "", "").await.status, 200);
    server.stop();
}

#[tokio::test]
async fn an_unknown_page_is_404_and_a_wrong_method_405_with_allow() {
    let (server, fake) = serve(Fake::new());
    for path in ["/nothing", "/livez/", "/breaker", "/breaker/toggle", "//"] {
        let reply = get(&server, path).await;
        assert_eq!((reply.status, reply.error_code().as_str()), (404, "not_found"), "{path}");
    }
    let wrong = [
        ("POST", "/", "GET, HEAD"),
        ("DELETE", "/metrics", "GET, HEAD"),
        ("PUT", "/status", "GET, HEAD"),
        ("OPTIONS", "/livez", "GET, HEAD"),
        ("PATCH", "/readyz", "GET, HEAD"),
        ("GET", "/breaker/open", "POST"),
        ("HEAD", "/breaker/close", "POST"),
        ("POST", "/log-level", "PUT"),
    ];
    for (method, path, allow) in wrong {
        let reply = send(&server, method, path, TOKEN, "").await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allow)), "{method} {path}");
        if method != "HEAD" {
            assert_eq!(reply.error_code(), "method_not_allowed");
        }
    }
    assert!(fake.orders.lock().unwrap().is_empty());
    server.stop();
}

#[tokio::test]
async fn the_breaker_obeys_the_token_and_says_why_it_refuses() {
    let (server, fake) = serve(Fake::new());
    let open = send(&server, "POST", "/breaker/open", TOKEN, "").await;
    assert_eq!((open.status, open.json()), (200, json!({"breaker": "open"})));
    let again = send(&server, "POST", "/breaker/open", TOKEN, "").await;
    assert_eq!((again.status, again.error_code().as_str()), (409, "breaker"));
    assert!(again.body.contains("it is so already"));
    // The scheme's name has no case.
    let close = send(&server, "POST", "/breaker/close", "authorization: bearer  sesame\r\n", "").await;
    assert_eq!(close.status, 200);
    assert_eq!(*fake.orders.lock().unwrap(), [BreakerOrder::Open, BreakerOrder::Close]);
    server.stop();
}

#[tokio::test]
async fn the_log_level_is_a_word_or_a_document() {
    let (server, _) = serve(Fake::new());
    for body in ["debug", " debug\n", r#"{"level": "debug"}"#] {
        let reply = send(&server, "PUT", "/log-level", TOKEN, body).await;
        assert_eq!((reply.status, reply.json()), (200, json!({"level": "debug"})), "{body}");
    }
    for body in ["", "loud", "{}", "[1]"] {
        let reply = send(&server, "PUT", "/log-level", TOKEN, body).await;
        assert_eq!((reply.status, reply.error_code().as_str()), (400, "invalid_level"), "{body}");
    }
    let request = format!("PUT /log-level HTTP/1.0\r\ncontent-length: 0\r\n{TOKEN}\r\n");
    assert_eq!(exchange(&server, &request).await.status, 400);
    server.stop();
}

#[tokio::test]
async fn nobody_acts_with_a_wrong_token_and_the_answer_does_not_show_the_right_one() {
    let (server, fake) = serve(Fake::new());
    let wrong = [
        "",
        "authorization: Bearer \r\n",
        "authorization: Bearer sesam\r\n",
        "authorization: Bearer sesames\r\n",
        "authorization: Basic sesame\r\n",
        "authorization: sesame\r\n",
        "authorization: B\r\n",
    ];
    for headers in wrong {
        for (method, path) in [("POST", "/breaker/open"), ("POST", "/breaker/close"), ("PUT", "/log-level")] {
            let reply = send(&server, method, path, headers, "debug").await;
            assert_eq!((reply.status, reply.error_code().as_str()), (401, "unauthorized"), "{headers:?}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
            assert!(!reply.body.contains("sesame"));
        }
    }
    assert!(fake.orders.lock().unwrap().is_empty());
    server.stop();
}

#[tokio::test]
async fn without_a_token_acts_are_off_and_name_the_variable() {
    for token in [None, Some("")] {
        let fake = Arc::new(Fake::new());
        let subject: Arc<dyn Subject> = Arc::<Fake>::clone(&fake);
        let server = start(settings(token), subject, Metrics::new().registry(), levels()).unwrap();
        for headers in ["", "authorization: Bearer \r\n", "authorization: Bearer guess\r\n"] {
            let reply = send(&server, "POST", "/breaker/open", headers, "").await;
            assert_eq!((reply.status, reply.error_code().as_str()), (403, "forbidden"));
            assert!(reply.body.contains("METRICS_ADMIN_TOKEN"));
        }
        assert!(fake.orders.lock().unwrap().is_empty());
        server.stop();
    }
}

#[tokio::test]
async fn a_large_body_is_413_with_and_without_a_length() {
    let (server, fake) = serve(Fake::new());
    let large = "x".repeat(200_000);
    let reply = send(&server, "PUT", "/log-level", TOKEN, &large).await;
    assert_eq!((reply.status, reply.error_code().as_str()), (413, "too_large"));
    let reply = send(&server, "POST", "/breaker/open", TOKEN, &large[..1025]).await;
    assert_eq!(reply.status, 413);
    let chunked = format!(
        "PUT /log-level HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{TOKEN}transfer-encoding: chunked\r\n\r\n\
         {:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    assert_eq!(exchange(&server, &chunked).await.status, 413);
    assert!(fake.orders.lock().unwrap().is_empty());
    server.stop();
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_address_and_variable() {
    let (server, _) = serve(Fake::new());
    let address = server.addresses()[0];
    let taken = Settings { port: address.port(), ..settings(None) };
    let error = start(taken, Arc::new(Fake::new()), Metrics::new().registry(), levels()).unwrap_err();
    assert!(matches!(error, AdminError::Listen(_)));
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("METRICS_PORT"), "{text}");
    server.stop();
}

#[test]
fn a_host_or_path_that_cannot_serve_is_named() {
    let start = |settings| start(settings, Arc::new(Fake::new()), Metrics::new().registry(), levels());
    for path in ["", "metrics", "/", "/status", "/log-level", "/a b", "/a?b", "/ä"] {
        let text = start(Settings { path: path.to_owned(), ..settings(None) }).unwrap_err().to_string();
        assert!(text.contains("METRICS_PATH"), "{text}");
    }
    let text = start(Settings { host: "not a host".to_owned(), ..settings(None) }).unwrap_err().to_string();
    assert!(text.contains("METRICS_HOST") && text.contains("not a host"), "{text}");
    // A documentation address: no machine has it.
    let text = start(Settings { host: "192.0.2.1".to_owned(), ..settings(None) }).unwrap_err().to_string();
    assert!(text.contains("192.0.2.1:0") && text.contains("METRICS_HOST"), "{text}");
}

#[tokio::test]
async fn a_disabled_server_listens_nowhere() {
    let settings = Settings { enabled: false, ..settings(None) };
    let server = start(settings, Arc::new(Fake::new()), Metrics::new().registry(), levels()).unwrap();
    assert!(server.addresses().is_empty());
    server.stop();
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_cut_off() {
    let server = serve_within(Limits { header: Duration::from_millis(50), ..Limits::default() });
    let mut slow = connect(&server).await;
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    assert!(!read_to_end(&mut slow).await.contains(" 200 "));
    let mut silent = connect(&server).await;
    assert_eq!(read_to_end(&mut silent).await, "");
    server.stop();
}

#[tokio::test]
async fn a_body_that_never_arrives_is_408() {
    let limits = Limits { request: Duration::from_millis(50), ..Limits::default() };
    let subject = Arc::new(Fake::new());
    let server =
        start_within(limits, settings(Some("sesame")), subject, Metrics::new().registry(), levels()).unwrap();
    let request = format!("PUT /log-level HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n{TOKEN}\r\nde");
    assert_eq!(exchange(&server, &request).await.status, 408);
    server.stop();
}

#[tokio::test]
async fn clients_that_keep_connections_open_do_not_shut_out_a_probe() {
    let server = serve_within(Limits { connections: 3, header: NEVER, ..Limits::default() });
    let mut idle = Vec::new();
    for _ in 0..10 {
        let mut socket = connect(&server).await;
        socket.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        idle.push(socket);
    }
    assert_eq!(get(&server, "/livez").await.status, 200);
    // The oldest ones had to go, long before their time was up.
    for socket in &mut idle[..7] {
        assert_eq!(read_to_end(socket).await, "");
    }
    server.stop();
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let (server, _) = serve(Fake::new());
    let mut socket = connect(&server).await;
    socket.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert_eq!(read_to_end(&mut socket).await.matches("HTTP/1.1 200 OK").count(), 2);
    server.stop();
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_frees_the_port_at_once() {
    // An address of its own: no other test can take the port in between.
    let own = || Settings { host: "127.0.0.2".to_owned(), ..settings(None) };
    // Neither deadline helps the stop: it has to close the connection itself.
    let limits = Limits { header: NEVER, stop: NEVER, ..Limits::default() };
    let server =
        start_within(limits, own(), Arc::new(Fake::new()), Metrics::new().registry(), levels()).unwrap();
    let address = server.addresses()[0];
    let mut idle = connect(&server).await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    idle.readable().await.unwrap();
    let (stopped, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        server.stop();
        let _ = stopped.send(());
    });
    tokio::time::timeout(DEADLINE, told).await.expect("never stopped").unwrap();
    assert!(read_to_end(&mut idle).await.contains(" 200 "));
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let again = Settings { port: address.port(), ..own() };
    start(again, Arc::new(Fake::new()), Metrics::new().registry(), levels()).unwrap().stop();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_client_that_stalls() {
    let limits = Limits { header: NEVER, stop: Duration::from_millis(50), ..Limits::default() };
    let server = serve_within(limits);
    let mut stalled = connect(&server).await;
    stalled.write_all(b"GET /livez HTTP/1.1\r\nhost").await.unwrap();
    assert_eq!(get(&server, "/livez").await.status, 200);
    server.stop();
    assert_eq!(read_to_end(&mut stalled).await, "");
}

#[tokio::test]
async fn the_server_answers_while_the_callers_runtime_does_not_turn() {
    let (server, _) = serve(Fake::new());
    // A blocking client on the only thread of this runtime: nothing of it turns meanwhile.
    let mut socket = std::net::TcpStream::connect(server.addresses()[0]).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    io::Write::write_all(&mut socket, b"GET /livez HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    io::Read::read_to_string(&mut socket, &mut text).unwrap();
    assert!(text.starts_with("HTTP/1.0 200 OK"), "{text}");
    server.stop();
}

#[test]
fn a_time_is_written_as_rfc_3339() {
    let at =
        |seconds, millis: u32| rfc3339(SystemTime::UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000));
    assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
    assert_eq!(at(951_782_399, 999), "2000-02-28T23:59:59.999Z");
    assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000Z");
    assert_eq!(at(951_868_800, 0), "2000-03-01T00:00:00.000Z");
    assert_eq!(at(1_767_323_045, 678), "2026-01-02T03:04:05.678Z");
    assert_eq!(at(4_107_542_399, 0), "2100-02-28T23:59:59.000Z");
    assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
}

#[test]
fn a_status_report_survives_the_wire_and_older_ones_are_read() {
    let report = StatusReport { state: "standby".to_owned(), reconnects: 3, ..StatusReport::default() };
    let value = serde_json::to_value(&report).unwrap();
    assert_eq!(serde_json::from_value::<StatusReport>(value).unwrap(), report);
    let older: StatusReport = serde_json::from_value(json!({"state": "standby", "unknown": 1})).unwrap();
    assert_eq!(older.state, "standby");
}
