//! What clients send that they should not, and how.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Service, event, order, refused};
use crate::support::http;
use crate::support::wait::SOON;

/// Sends bytes and reads on until the server closes, or says nothing more for a while after an answer.
async fn exchange(service: &Service, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    answer(&mut stream).await
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the server closes").ok();
    String::from_utf8(answer).unwrap()
}

/// One answer of a connection that is kept alive.
async fn next_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = async {
        loop {
            let mut chunk = [0; 4096];
            let length = stream.read(&mut chunk).await.unwrap();
            assert!(length > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&chunk[..length]);
            let text = String::from_utf8_lossy(&answer).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if length.is_some_and(|length| body.len() >= length.parse().unwrap()) {
                    return text;
                }
            }
        }
    };
    timeout(SOON, read).await.expect("an answer")
}

fn post(body: &[u8], more: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST /api/v1/events HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn malformed_bodies_are_a_clear_400_and_store_nothing() {
    let service = Service::start().await;
    for (body, code) in [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("{} x", "invalid_json"),
        ("{\"a\": 01}", "invalid_json"),
        ("[1,]", "invalid_json"),
        ("nul", "invalid_json"),
        ("null", "invalid_request"),
        ("[[]]", "invalid_request"),
        ("\"text\"", "invalid_request"),
        (&"[".repeat(500_000), "invalid_json"),
    ] {
        for path in ["/api/v1/orders", "/api/v1/events"] {
            refused(&service.post(path, body).await, 400, code);
        }
    }
    let answer = exchange(&service, &post(b"{\"aggregatetype\": \"\xff\"}", "Connection: close\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("not UTF-8"), "{answer}");
    // The second of two equal names, however it is written, would win in silence.
    let twice = event("kind", "1", 1).to_string().replace("{\"n\":1}", "1, \"payloa\\u0064\": 2");
    assert_eq!(refused(&service.post("/api/v1/events", &twice).await, 400, "invalid_request"), ["payload"]);
    let named = order("n-1").to_string().replace("\"quantity\":3", "\"quantity\":3, \"quantity\":1");
    assert_eq!(
        refused(&service.post("/api/v1/orders", &named).await, 400, "invalid_request"),
        ["items[0].quantity"]
    );
    assert_eq!((service.count("orders").await, service.count("outbox").await), (0, 0));
}

#[tokio::test]
async fn unknown_paths_methods_and_media_types_say_what_there_is() {
    let service = Service::start().await;
    for path in ["/", "/api/v1", "/api/v1/orders/", "/metrics", "/api/v1/orders/number/a/b"] {
        refused(&service.get(path).await, 404, "not_found");
    }
    for (method, path, allow) in [
        ("DELETE", "/api/v1/orders", "POST, GET, HEAD"),
        ("GET", "/api/v1/events", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("PATCH", "/api/v1/orders/1", "GET, HEAD"),
        ("BREW", "/ready", "GET, HEAD"),
    ] {
        let answer = http::request(service.address, method, path, &[], "").await.unwrap();
        refused(&answer, 405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(allow));
    }
    let body = event("kind", "1", 1).to_string();
    for (headers, fits) in [
        (&[][..], false),
        (&[("Content-Type", "text/plain")], false),
        (&[("Content-Type", "application/json; charset=latin1")], false),
        (&[("Content-Type", "application/json"), ("Content-Encoding", "gzip")], false),
        (&[("Content-Type", "Application/JSON; charset=\"UTF-8\"")], true),
    ] {
        let answer = http::request(service.address, "POST", "/api/v1/events", headers, &body).await.unwrap();
        if fits {
            assert_eq!(answer.status, 201, "{headers:?}");
        } else {
            refused(&answer, 415, "unsupported_media_type");
        }
    }
    let head = exchange(&service, b"HEAD /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn a_body_of_1_mib_is_taken_and_a_larger_one_refused() {
    let service = Service::start().await;
    let shell = event("kind", "1", 1).to_string().replace("{\"n\":1}", "\"\"");
    let fill = |bytes: usize| format!("{shell}{}", " ".repeat(bytes - shell.len()));
    assert_eq!(service.post("/api/v1/events", &fill(1 << 20)).await.status, 201);
    refused(&service.post("/api/v1/events", &fill((1 << 20) + 1)).await, 413, "body_too_large");
    refused(&service.post("/api/v1/events", &fill(10_000_000)).await, 413, "body_too_large");

    // Without a length, in chunks.
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let head = "POST /api/v1/events HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    let answer = exchange(&service, format!("{head}{}0\r\n\r\n", chunk.repeat(150)).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

    // A client that asks first is told before it sends.
    let ask = "POST /api/v1/events HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 10000000\r\nExpect: 100-continue\r\n\r\n";
    let answer = exchange(&service, ask.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(service.count("outbox").await, 1);
}

#[tokio::test]
async fn with_a_token_all_but_the_probes_want_it() {
    let database = super::migrated(crate::support::Postgres::shared().await).await;
    let service = Service::start_with(database, &[("SERVER_AUTH_TOKEN", "sesame")]).await;
    for path in ["/api/v1/orders", "/openapi.json", "/nothing"] {
        let answer = service.get(path).await;
        refused(&answer, 401, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    refused(&service.post("/api/v1/events", &"x".repeat(5_000_000)).await, 401, "unauthorized");
    for wrong in ["Bearer sesam", "Bearer sesamee", "Basic sesame", "sesame", "Bearer "] {
        let body = event("kind", "1", 1).to_string();
        refused(
            &service.post_with("/api/v1/events", &[("Authorization", wrong)], &body).await,
            401,
            "unauthorized",
        );
    }
    for path in ["/health", "/ready"] {
        assert_eq!(service.get(path).await.status, 200);
        let answer = service.post(path, "{}").await;
        refused(&answer, 405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
    let other = http::request(service.address, "DELETE", "/api/v1/orders", &[], "").await.unwrap();
    refused(&other, 401, "unauthorized");
    let body = event("kind", "1", 1).to_string();
    let answer = service.post_with("/api/v1/events", &[("Authorization", "bearer sesame")], &body).await;
    assert_eq!(answer.status, 201);
    assert_eq!(service.count("outbox").await, 1);
    let log = service.stop().await;
    assert!(!log.contains("sesame"), "{log}");
}

#[tokio::test]
async fn a_request_id_is_taken_over_or_made() {
    let service = Service::start().await;
    let answer = service.post_with("/api/v1/orders", &[("X-Request-Id", "req-7")], "{}").await;
    assert_eq!(answer.header("x-request-id"), Some("req-7"));
    let line = service.writer.wait_for_log("the request's id", SOON, |line| line.contains("req-7")).await;
    assert!(line.contains("\"status\":400") && line.contains("POST /api/v1/orders"), "{line}");
    let answer =
        http::request(service.address, "GET", "/health", &[("X-Request-Id", "{\"a\"}")], "").await.unwrap();
    assert_eq!(answer.header("x-request-id").unwrap().len(), 36);
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_told_where_they_can_hear_it() {
    let database = super::migrated(crate::support::Postgres::shared().await).await;
    let service = Service::start_with(database, &[("SERVER_TIMEOUT", "1s")]).await;
    // The head never ends; neither does one begin.
    for head in [&b"POST /api/v1/events HTTP/1.1\r\nHost: h\r\n"[..], b""] {
        assert_eq!(exchange(&service, head).await, "");
    }
    // The body never ends.
    let whole = post(event("kind", "1", 1).to_string().as_bytes(), "");
    let answer = exchange(&service, &whole[..whole.len() - 1]).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
    // The body breaks off.
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream.write_all(&whole[..whole.len() - 1]).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = self::answer(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(service.count("outbox").await, 0);
}

#[tokio::test]
async fn a_client_that_has_said_everything_still_hears_the_answer() {
    let service = Service::start().await;
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream.write_all(&post(event("kind", "1", 1).to_string().as_bytes(), "")).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[tokio::test]
async fn connections_are_kept_alive_also_after_a_refusal() {
    let service = Service::start().await;
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let good = post(event("kind", "1", 1).to_string().as_bytes(), "");
    for (request, status) in [(good.clone(), "201"), (post(b"{", ""), "400"), (good.clone(), "201")] {
        stream.write_all(&request).await.unwrap();
        let answer = next_answer(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    // Two at once are answered in order.
    stream.write_all(&[good.clone(), post(b"{", "Connection: close\r\n")].concat()).await.unwrap();
    let answers = answer(&mut stream).await;
    let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["201", "400"]);
    assert_eq!(service.count("outbox").await, 3);
}

#[tokio::test]
async fn a_thousand_idle_connections_shut_nobody_out() {
    let service = Service::start().await;
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(TcpStream::connect(service.address).await.unwrap());
    }
    for n in 0..20 {
        assert_eq!(service.post("/api/v1/events", &event("kind", "1", n).to_string()).await.status, 201);
    }
    assert_eq!(service.get("/health").await.status, 200);
    let open = async || service.writer.metrics().await.value("txstream_http_connections");
    assert!(open().await >= 500.0, "a server that sends the idle ones away would answer too");
    // That of the last request may end a moment after its answer.
    crate::support::eventually(SOON, "the idle ones are left", async || {
        (open().await < 1000.5).then_some(())
    })
    .await;
    drop(idle);
    crate::support::eventually(SOON, "the connections are let go", async || {
        (open().await < 2.5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_status() {
    let service = Service::start().await;
    assert_eq!(service.post_order(&order("n-1")).await.status, 201);
    assert_eq!(service.post_order(&order("n-1")).await.status, 409);
    assert_eq!(
        service
            .post("/api/v1/events", &json!([event("k", "1", 1), event("k", "1", 2)]).to_string())
            .await
            .status,
        201
    );
    service.get("/nothing/secret-path").await;
    let metrics = service.writer.metrics().await;
    for (route, status, count) in [
        ("POST /api/v1/orders", "201", 1.0),
        ("POST /api/v1/orders", "409", 1.0),
        ("POST /api/v1/orders", "503", 0.0),
        ("POST /api/v1/events", "201", 1.0),
        ("other", "404", 1.0),
    ] {
        let labels = [("route", route), ("status", status)];
        assert_eq!(metrics.get("txstream_http_requests_total", &labels), Some(count), "{route} {status}");
    }
    assert_eq!(metrics.value("txstream_events_written_total"), 3.0);
    assert_eq!(metrics.value("txstream_pool_max_connections"), 25.0);
    assert!(metrics.get("txstream_pool_connections", &[("state", "idle")]).unwrap() >= 1.0);
    assert_eq!(
        metrics.get("txstream_http_request_duration_seconds_count", &[("route", "POST /api/v1/orders")]),
        Some(2.0)
    );
    assert!(!metrics.names().contains(&"txstream_replication_connected"), "that is the relay's");
    assert_eq!(service.writer.get("/livez").await.status, 200);
    assert_eq!(service.writer.status().await["state"], "ready");
}
