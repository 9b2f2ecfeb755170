//! The writer service: what it stores, what it refuses, what it survives.

mod cost;
mod events;
mod hardship;
mod openapi;
mod orders;
mod probes;
mod requests;

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use crate::support::http::{self, Response};
use crate::support::port::free_port;
use crate::support::wait::SOON;
use crate::support::{Database, Postgres, Relay, run_cli};

/// A running writer on a database of its own.
struct Service {
    database: Database,
    writer: Relay,
    address: SocketAddr,
}

impl Service {
    /// On a migrated database of the shared server.
    async fn start() -> Self {
        Self::start_with(migrated(Postgres::shared().await).await, &[]).await
    }

    /// On this database, ready, with more settings.
    async fn start_with(database: Database, env: &[(&str, &str)]) -> Self {
        let mut service = Self::spawn(database, env).await;
        service.writer.wait_ready().await;
        service
    }

    /// The same, not waited for.
    async fn spawn(database: Database, env: &[(&str, &str)]) -> Self {
        let port = free_port().await;
        let (url, text) = (database.url(), port.to_string());
        let mut all =
            vec![("DATABASE_URL", url.as_str()), ("SERVER_HOST", "127.0.0.1"), ("SERVER_PORT", &text)];
        all.extend_from_slice(env);
        let writer = Relay::spawn(&["writer"], &all).await;
        Self { database, writer, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) }
    }

    async fn get(&self, path: &str) -> Response {
        http::get(self.address, path).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    async fn post(&self, path: &str, body: &str) -> Response {
        self.post_with(path, &[], body).await
    }

    async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let headers = [&[("Content-Type", "application/json")], headers].concat();
        let answer = http::request(self.address, "POST", path, &headers, body).await;
        answer.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    async fn post_order(&self, order: &Value) -> Response {
        self.post("/api/v1/orders", &order.to_string()).await
    }

    /// Rows of a table.
    async fn count(&self, table: &str) -> i64 {
        self.database.value(&format!("select count(*) from {table}")).await
    }

    /// SIGTERM, and a graceful end.
    async fn stop(self) -> String {
        self.writer.sigterm().await;
        let exit = self.writer.wait_exit(SOON).await;
        assert_eq!(exit.status.code(), Some(0), "{}", exit.stderr);
        exit.stderr
    }
}

/// A database with tables and publication.
async fn migrated(postgres: &Postgres) -> Database {
    let database = postgres.database().await;
    let output = run_cli(&["migrate", "up"], &[("DATABASE_URL", &database.url())]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    database
}

fn address(street: &str) -> Value {
    json!({"street": street, "number": "1a", "city": "Bonn", "state": "NW", "zip_code": "53111", "country": "DE"})
}

/// An order that keeps every rule.
fn order(number: &str) -> Value {
    json!({
        "customer_id": "customer-1",
        "order_number": number,
        "items": [
            {"product_id": "p-1", "product_name": "Pen", "quantity": 3, "unit_price": "33.30"},
            {"product_id": "p-2", "product_name": "Ink", "quantity": 1, "unit_price": 0.1},
        ],
        "shipping_address": address("Shipping Street"),
        "billing_address": address("Billing Street"),
    })
}

fn event(aggregatetype: &str, aggregateid: &str, n: u32) -> Value {
    json!({"aggregatetype": aggregatetype, "aggregateid": aggregateid, "type": "Tested", "payload": {"n": n}})
}

/// Asserts status and error code, and gives the named fields.
fn refused(answer: &Response, status: u16, code: &str) -> Vec<String> {
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (status, Some(code)), "{answer:?}");
    assert!(!answer.json()["error"]["message"].as_str().unwrap().is_empty());
    let fields = answer.json()["error"]["fields"].as_array().cloned().unwrap_or_default();
    fields.iter().map(|field| field["field"].as_str().unwrap().to_owned()).collect()
}
