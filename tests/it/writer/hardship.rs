//! The database away, slow, restarting; the writer told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::{Service, event, migrated, order, refused};
use crate::support::wait::SOON;
use crate::support::{Postgres, Proxy, Relay, Shutdown, eventually, halted, http};

#[tokio::test]
async fn an_absent_database_is_waited_for_and_said_meanwhile() {
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let database = migrated(&postgres).await;
    postgres.stop(Shutdown::Fast).await;
    let mut service = Service::spawn(database, &[]).await;
    let waiting = |line: &str| line.contains("waiting for the database");
    service.writer.wait_for_log("it waits", SOON, waiting).await;
    let health = service.get("/health").await;
    assert_eq!((health.status, health.json()["status"].as_str()), (503, Some("unhealthy")));
    assert!(health.json()["error"]["message"].as_str().unwrap().contains("cannot be reached"), "{health:?}");
    assert!(!health.body.contains("127.0.0.1"), "no host for everybody: {health:?}");
    assert_eq!(service.get("/ready").await.status, 503);
    assert_eq!(service.writer.get("/readyz").await.status, 503);
    let answer = service.post_order(&order("n-1")).await;
    refused(&answer, 503, "database_unavailable");
    assert!(answer.header("retry-after").is_some());
    eventually(Duration::from_secs(25), "it says so again", async || {
        (service.writer.log().iter().filter(|line| waiting(line)).count() > 1).then_some(())
    })
    .await;
    postgres.start_again().await;
    service.writer.wait_ready().await;
    assert_eq!(service.post_order(&order("n-1")).await.status, 201);
    let health = service.get("/health").await.json();
    assert_eq!(
        (health["status"].as_str(), health["version"].as_str()),
        (Some("healthy"), Some(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(health["database"]["max_open_connections"], 25);
    assert_eq!(service.get("/ready").await.json()["status"], "ready");
}

#[tokio::test]
async fn a_start_that_only_a_person_can_mend_halts_with_what_to_do() {
    let postgres = Postgres::shared().await;
    let database = postgres.database().await;
    let url = database.url();
    let wrong = url.replace(":postgres@", ":wrong@");
    for (url, env, what, remedy) in [
        (&url, ("A", "b"), "public.outbox does not exist", "txstream migrate up"),
        (&wrong, ("A", "b"), "password authentication failed", ""),
    ] {
        let port = crate::support::port::free_port().await.to_string();
        let env = [("DATABASE_URL", url.as_str()), ("SERVER_PORT", &port), env];
        let halted = halted(Relay::spawn(&["writer"], &env).await).await;
        halted.names(&[what]).advises(remedy);
    }
    database
        .exec("create table outbox (id uuid, aggregatetype text, aggregateid text, type text, payload jsonb)")
        .await;
    let port = crate::support::port::free_port().await.to_string();
    let halted =
        halted(Relay::spawn(&["writer"], &[("DATABASE_URL", &url), ("SERVER_PORT", &port)]).await).await;
    halted.names(&["public.orders does not exist"]).advises("txstream migrate up");
}

#[tokio::test]
async fn a_port_in_use_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let free = crate::support::port::free_port().await.to_string();
    for (server, metrics, remedy) in [(&port, &free, "SERVER_PORT"), (&free, &port, "METRICS_PORT")] {
        let env = [("SERVER_HOST", "127.0.0.1"), ("SERVER_PORT", server), ("METRICS_PORT", metrics)];
        let writer = Relay::spawn(&["writer"], &env).await;
        let exit = writer.wait_exit(SOON).await;
        assert_eq!(exit.status.code(), Some(1), "{}", exit.stderr);
        assert!(
            exit.stderr.contains("cannot listen on 127.0.0.1") && exit.stderr.contains(remedy),
            "{}",
            exit.stderr
        );
    }
}

/// Begins a transaction that has the numbers `n-1` and `n-2`, so that whoever wants them waits for its end.
async fn hold(service: &Service) -> tokio_postgres::Client {
    let other = service.database.client().await;
    other
        .batch_execute(
            "begin; insert into orders (customer_id, order_number, total_amount, currency, items,
                                        shipping_address, billing_address)
                    select 'c', 'n-' || n, 0, 'EUR', '[]', '{}', '{}' from generate_series(1, 2) n",
        )
        .await
        .unwrap();
    other
}

#[tokio::test]
async fn a_pool_in_full_use_is_503_with_retry_after_and_the_server_gives_up_in_time() {
    let database = migrated(Postgres::shared().await).await;
    let env = [("DB_MAX_OPEN_CONNS", "2"), ("SERVER_TIMEOUT", "3s")];
    let service = Service::start_with(database, &env).await;
    let lock = hold(&service).await;
    let (a, b) = (order("n-1"), order("n-2"));
    let late = async || {
        eventually(SOON, "both connections are in use", async || {
            let metrics = service.writer.metrics().await;
            (metrics.get("txstream_pool_connections", &[("state", "in_use")]) == Some(2.0)).then_some(())
        })
        .await;
        assert_eq!(service.get("/health").await.status, 200, "a busy pool is no database that is away");
        service.post("/api/v1/events", &event("kind", "1", 1).to_string()).await
    };
    let (a, b, c) = tokio::join!(service.post_order(&a), service.post_order(&b), late());
    for slow in [a, b] {
        refused(&slow, 503, "database_timeout");
        assert!(slow.header("retry-after").is_some());
    }
    // It either found no connection in time, or got one when the others gave up.
    if c.status != 201 {
        refused(&c, 503, "busy");
        assert_eq!(c.header("retry-after"), Some("1"));
    }
    lock.batch_execute("rollback").await.unwrap();
    assert_eq!(service.count("orders").await, 0, "what was answered with nothing stored is not stored later");
    assert_eq!(service.post_order(&order("n-1")).await.status, 201);
}

#[tokio::test]
async fn no_free_connection_within_the_wait_is_busy() {
    let database = migrated(Postgres::shared().await).await;
    let env = [("DB_MAX_OPEN_CONNS", "1"), ("SERVER_TIMEOUT", "20s")];
    let service = Service::start_with(database, &env).await;
    let lock = hold(&service).await;
    let stuck = order("n-1");
    let queued = async || {
        eventually(SOON, "the connection is in use", async || {
            let metrics = service.writer.metrics().await;
            (metrics.get("txstream_pool_connections", &[("state", "in_use")]) == Some(1.0)).then_some(())
        })
        .await;
        let begin = Instant::now();
        let late = event("kind", "1", 1).to_string();
        let waits = eventually(SOON, "a request waits for it", async || {
            (service.writer.metrics().await.value("txstream_pool_waiting") > 0.5).then_some(())
        });
        let (answer, ()) = tokio::join!(service.post("/api/v1/events", &late), waits);
        refused(&answer, 503, "busy");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(begin.elapsed() < Duration::from_secs(10), "it does not wait for the whole timeout");
        lock.batch_execute("rollback").await.unwrap();
    };
    let (stuck, ()) = tokio::join!(service.post_order(&stuck), queued());
    assert_eq!(stuck.status, 201, "{stuck:?}");
}

/// Posts orders from so many clients until told to stop; gives the numbers that were answered with 201.
struct Load {
    stop: Arc<AtomicBool>,
    created: Arc<AtomicU32>,
    clients: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(service: &Service, clients: u32) -> Self {
        let (stop, created) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let clients = (0..clients)
            .map(|client| {
                let (address, stop, created) = (service.address, Arc::clone(&stop), Arc::clone(&created));
                tokio::spawn(async move {
                    let mut numbers = Vec::new();
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let number = format!("{client}-{n}");
                        let body = order(&number).to_string();
                        let headers = [("Content-Type", "application/json")];
                        let answer = http::request(address, "POST", "/api/v1/orders", &headers, &body).await;
                        let answer = answer.expect("every request is answered");
                        match answer.status {
                            201 => {
                                numbers.push(number);
                                created.fetch_add(1, Ordering::Relaxed);
                            }
                            503 => assert!(answer.header("retry-after").is_some(), "{answer:?}"),
                            _ => panic!("{answer:?}"),
                        }
                    }
                    numbers
                })
            })
            .collect();
        Self { stop, created, clients }
    }

    /// Waits until so many more were created.
    async fn created(&self, more: u32) {
        let want = self.created.load(Ordering::Relaxed) + more;
        eventually(SOON, format!("{more} more orders"), async || {
            (self.created.load(Ordering::Relaxed) >= want).then_some(())
        })
        .await;
    }

    async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut numbers = Vec::new();
        for client in self.clients {
            numbers.extend(client.await.unwrap());
        }
        numbers
    }
}

#[tokio::test]
async fn restarts_of_the_database_under_load_leave_no_half_transaction_and_no_lost_order() {
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let database = migrated(&postgres).await;
    let service = Service::start_with(database, &[]).await;
    let load = Load::start(&service, 8);
    for shutdown in [Shutdown::Fast, Shutdown::Immediate, Shutdown::Fast] {
        load.created(50).await;
        postgres.restart(shutdown).await;
    }
    load.created(50).await;
    let answered = load.stop().await;
    let numbers = service.database.query("select order_number from orders").await;
    let stored: std::collections::HashSet<String> = numbers.iter().map(|row| row.get(0)).collect();
    let missing: Vec<_> = answered.iter().filter(|number| !stored.contains(*number)).collect();
    assert!(missing.is_empty(), "answered with 201 and not stored: {missing:?}");
    let halves: i64 = service
        .database
        .value(
            "select count(*) from orders o full join outbox e on e.aggregateid = o.id::text
                 where o.id is null or e.id is null",
        )
        .await;
    assert_eq!(halves, 0);
    let metrics = service.writer.metrics().await;
    assert_eq!(
        metrics.get("txstream_pool_connections", &[("state", "in_use")]),
        Some(0.0),
        "no connection leaked"
    );
    let log = service.stop().await;
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn a_connection_cut_before_the_answer_says_that_the_outcome_is_unknown() {
    let postgres = Postgres::shared().await;
    let database = migrated(postgres).await;
    let proxy = Proxy::to(postgres.port()).await;
    let url = database.url_through(proxy.port());
    let service = Service::start_with(database, &[("DATABASE_URL", &url), ("SERVER_TIMEOUT", "2s")]).await;
    assert_eq!(service.post_order(&order("n-1")).await.status, 201);
    proxy.stall(crate::support::Direction::ToClient);
    let answer = service.post_order(&order("n-2")).await;
    refused(&answer, 503, "outcome_unknown");
    // Nothing came back from the server, and yet it had all of the transaction: one round trip.
    eventually(SOON, "the order is stored", async || (service.count("orders").await == 2).then_some(()))
        .await;
    proxy.resume();
    eventually(SOON, "it serves again", async || {
        (service.post_order(&order("n-2")).await.status == 409).then_some(())
    })
    .await;
    assert_eq!((service.count("orders").await, service.count("outbox").await), (2, 2));
}

#[tokio::test]
async fn a_stop_answers_what_was_asked_and_refuses_new_clients() {
    let service = Service::start().await;
    let lock = hold(&service).await;
    let mut idle = TcpStream::connect(service.address).await.unwrap();
    let stuck = order("n-1");
    let mut told = async || {
        eventually(SOON, "the order is under way", async || {
            let metrics = service.writer.metrics().await;
            (metrics.get("txstream_pool_connections", &[("state", "in_use")]) == Some(1.0)).then_some(())
        })
        .await;
        service.writer.sigterm().await;
        eventually(SOON, "new clients are refused", async || {
            TcpStream::connect(service.address).await.is_err().then_some(())
        })
        .await;
        let mut rest = Vec::new();
        assert_eq!(idle.read_to_end(&mut rest).await.unwrap(), 0, "an idle connection is closed");
        lock.batch_execute("rollback").await.unwrap();
    };
    let (answer, ()) = tokio::join!(service.post_order(&stuck), told());
    assert_eq!(answer.status, 201, "{answer:?}");
    let exit = service.writer.wait_exit(SOON).await;
    assert_eq!(exit.status.code(), Some(0), "{}", exit.stderr);
    assert!(exit.stderr.contains("every request was answered"), "{}", exit.stderr);
}

#[tokio::test]
async fn a_stop_ends_at_its_deadline_or_at_a_second_signal() {
    let database = migrated(Postgres::shared().await).await;
    let service = Service::start_with(database, &[("SHUTDOWN_TIMEOUT", "1s")]).await;
    let mut slow = TcpStream::connect(service.address).await.unwrap();
    let head = "POST /api/v1/events HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    eventually(SOON, "the client is connected", async || {
        (service.writer.metrics().await.value("txstream_http_connections") > 0.5).then_some(())
    })
    .await;
    let begin = Instant::now();
    let database = service.database;
    service.writer.sigterm().await;
    let exit = service.writer.wait_exit(SOON).await;
    assert!(begin.elapsed() >= Duration::from_secs(1), "it waited for the client");
    assert_eq!(exit.status.code(), Some(0), "{}", exit.stderr);
    assert!(exit.stderr.contains("before every request was answered"), "{}", exit.stderr);

    let service = Service::start_with(database, &[]).await;
    let mut slow = TcpStream::connect(service.address).await.unwrap();
    slow.write_all(head.as_bytes()).await.unwrap();
    eventually(SOON, "the client is connected", async || {
        (service.writer.metrics().await.value("txstream_http_connections") > 0.5).then_some(())
    })
    .await;
    service.writer.sigterm().await;
    service.writer.wait_for_log("the first signal", SOON, |line| line.contains("stopping")).await;
    service.writer.signal("INT").await;
    assert_eq!(service.writer.wait_exit(SOON).await.status.code(), Some(128 + 2));
}

#[tokio::test]
async fn idle_connections_are_closed_down_to_the_bound() {
    let database = migrated(Postgres::shared().await).await;
    let service = Service::start_with(database, &[("DB_MAX_IDLE_CONNS", "1")]).await;
    let load = Load::start(&service, 10);
    load.created(100).await;
    load.stop().await;
    let open = async || {
        let metrics = service.writer.metrics().await;
        metrics.get("txstream_pool_connections", &[]).unwrap()
    };
    assert!(open().await > 1.5);
    eventually(SOON, "one connection is left", async || (open().await < 1.5).then_some(())).await;
}

#[tokio::test]
async fn a_connection_is_replaced_when_it_is_as_old_as_it_may_be() {
    let database = migrated(Postgres::shared().await).await;
    let env = [("DB_MAX_OPEN_CONNS", "1"), ("DB_CONN_MAX_LIFETIME", "1s")];
    let service = Service::start_with(database, &env).await;
    // The pool's only one: the one that writes.
    service
        .database
        .exec(
            "create table written (pid int, born timestamptz, age interval);
             create function written() returns trigger language plpgsql as $$ begin
                 insert into written select pid, backend_start, now() - backend_start
                   from pg_stat_activity where pid = pg_backend_pid();
                 return null;
             end $$;
             create trigger written after insert on outbox for each statement execute function written()",
        )
        .await;
    eventually(SOON, "the third connection writes", async || {
        let answer = service.post("/api/v1/events", &event("kind", "1", 1).to_string()).await;
        assert_eq!(answer.status, 201, "a replacement costs no request: {answer:?}");
        let connections: i64 = service.database.value("select count(distinct born) from written").await;
        (connections >= 3).then_some(())
    })
    .await;
    // A connection that was taken in time may have been used a moment longer.
    let oldest: f64 =
        service.database.value("select max(extract(epoch from age))::float8 from written").await;
    assert!(oldest < 4.0, "one of {oldest} s wrote");
    eventually(SOON, "the last one is closed, though nobody asks for another", async || {
        let left: i64 = service
            .database
            .value(
                "select count(*) from pg_stat_activity
                  where (pid, backend_start) in (select pid, born from written)",
            )
            .await;
        (left == 0).then_some(())
    })
    .await;
}
