//! What a request costs, and what is left of a client that went away.

use socket2::SockRef;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Service, event, migrated, order};
use crate::support::wait::SOON;
use crate::support::{Postgres, eventually};

#[tokio::test]
async fn statements_are_prepared_once_for_a_connection_and_a_request_is_one_transaction() {
    // A server of its own, that logs every step of every statement.
    let postgres = Postgres::start(Postgres::default_version(), &[("log_min_duration_statement", "0")]).await;
    let service = Service::start_with(migrated(&postgres).await, &[]).await;
    let ask = async |n: u32| {
        assert_eq!(service.post_order(&order(&format!("n-{n}"))).await.status, 201);
        assert_eq!(service.post("/api/v1/events", &event("kind", "1", n).to_string()).await.status, 201);
        assert_eq!(service.get(&format!("/api/v1/orders/number/n-{n}")).await.status, 200);
    };
    let count = |part: &str| postgres.log().lines().filter(|line| line.contains(part)).count();
    // One after the other, they all have the pool's first connection.
    ask(0).await;
    let [parsed, executed, begun, committed] =
        ["ms  parse ", "ms  execute s", "begin isolation level", "statement: commit"].map(count);
    assert!(parsed > 0 && executed >= 3, "the log has another form: {}", postgres.log());
    for n in 1..=20 {
        ask(n).await;
    }
    let parsed_since = count("ms  parse ") - parsed;
    // Looking at the tables below, and nothing of the 60 requests.
    assert_eq!(parsed_since, 0, "{}", postgres.log());
    assert_eq!(count("ms  execute s") - executed, 60);
    assert_eq!((count("begin isolation level") - begun, count("statement: commit") - committed), (60, 60));
}

/// Open files of the writer.
fn descriptors(service: &Service) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", service.writer.pid())).unwrap().count()
}

#[tokio::test]
async fn clients_that_vanish_at_any_moment_leave_nothing_half_stored_and_no_descriptor_open() {
    const CLIENTS: usize = 200;
    let service = Service::start().await;
    assert_eq!(service.post_order(&order("n-0")).await.status, 201);
    let before = descriptors(&service);
    for n in 1..=CLIENTS {
        let body = order(&format!("n-{n}")).to_string();
        let whole = format!(
            "POST /api/v1/orders HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(service.address).await.unwrap();
        // From nothing to everything. The last of them go without hearing the answer.
        stream
            .write_all(&whole.as_bytes()[..(whole.len() * n / (CLIENTS - 20)).min(whole.len())])
            .await
            .unwrap();
        if n == CLIENTS {
            // Whoever goes at once may be gone before it is read; the last one is not.
            eventually(SOON, "one that said everything is stored", async || {
                (service.count("orders").await >= 2).then_some(())
            })
            .await;
        }
        if n % 2 == 0 {
            // Not by closing, but by a reset.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
    let halves = "select count(*) from orders o full join outbox e on e.aggregateid = o.id::text
                      where o.id is null or e.id is null";
    eventually(SOON, "every connection and every lease is given back", async || {
        let metrics = service.writer.metrics().await;
        let in_use = metrics.get("txstream_pool_connections", &[("state", "in_use")]);
        (metrics.value("txstream_http_connections") < 0.5 && in_use == Some(0.0)).then_some(())
    })
    .await;
    assert_eq!(service.database.value::<i64>(halves).await, 0);
    let stored = service.count("orders").await;
    assert!((2..30).contains(&stored), "of those who said everything some were stored: {stored}");
    // What the pool keeps idle, and this scrape.
    eventually(SOON, "no descriptor is left open", async || {
        (descriptors(&service) <= before + 6).then_some(())
    })
    .await;
    assert_eq!(service.post_order(&order("after")).await.status, 201);
    assert!(!service.stop().await.contains("panicked"));
}
