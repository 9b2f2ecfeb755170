//! Orders and their events: one transaction.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Service, address, order, refused};
use crate::support::wait::SOON;

#[tokio::test]
async fn successful_order() {
    let service = Service::start().await;
    let answer = service.post_order(&order("n-1")).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let stored = answer.json();
    assert_eq!(stored["status"], "pending");
    assert_eq!(stored["customer_id"], "customer-1");
    assert_eq!(stored["currency"], "USD");
    assert_eq!(stored["shipping_address"], address("Shipping Street"));
    assert_eq!(stored["billing_address"], address("Billing Street"), "kept apart from the other");
    assert!(answer.body.contains("\"total_amount\":100.00"), "exact digits: {}", answer.body);
    assert!(answer.body.contains("\"unit_price\": 33.30"), "exact digits: {}", answer.body);
    assert!(stored["created_at"].as_str().unwrap().ends_with('Z'));

    let id = stored["id"].as_str().unwrap();
    for path in [format!("/api/v1/orders/{id}"), "/api/v1/orders/number/n-1".to_owned()] {
        let read = service.get(&path).await;
        assert_eq!((read.status, &read.body), (200, &answer.body), "{path}");
    }
    let table: String = service
        .database
        .value("select concat_ws(' ', order_number, total_amount, pg_typeof(total_amount)) from orders")
        .await;
    assert_eq!(table, "n-1 100.00 numeric");
}

#[tokio::test]
async fn outbox_failure_rolls_the_order_back() {
    let service = Service::start().await;
    service
        .database
        .exec(
            "create function refuse() returns trigger language plpgsql as $$ begin raise 'the outbox is full'; end $$;
             create trigger refuse before insert on outbox for each row execute function refuse()",
        )
        .await;
    let answer =
        service.post_with("/api/v1/orders", &[("x-request-id", "full-1")], &order("n-1").to_string()).await;
    refused(&answer, 500, "internal_error");
    assert!(!answer.body.contains("full\""), "the cause is for the log: {}", answer.body);
    assert_eq!(service.count("orders").await, 0);
    let line = service
        .writer
        .wait_for_log("the cause under the request's id", SOON, |line| line.contains("full-1"))
        .await;
    assert!(line.contains("the outbox is full") && line.contains("\"ERROR\""), "{line}");

    service.database.exec("drop trigger refuse on outbox").await;
    assert_eq!(service.post_order(&order("n-1")).await.status, 201, "and the number is still free");
    assert_eq!((service.count("orders").await, service.count("outbox").await), (1, 1));
}

#[tokio::test]
async fn duplicate_number() {
    let service = Service::start().await;
    assert_eq!(service.post_order(&order("n-1")).await.status, 201);
    let answer = service.post_order(&order("n-1")).await;
    assert_eq!(refused(&answer, 409, "order_exists"), ["order_number"]);
    assert_eq!((service.count("orders").await, service.count("outbox").await), (1, 1));
}

#[tokio::test]
async fn invalid_request() {
    let service = Service::start().await;
    let answer = service
        .post_order(
            &json!({"customer_id": "", "items": [{"product_id": "p", "product_name": "n", "quantity": -1,
                             "unit_price": 1.5, "colour": 1}], "shipping_address": address("s"), "total": 1}),
        )
        .await;
    let fields: BTreeSet<String> = refused(&answer, 400, "invalid_request").into_iter().collect();
    let expected =
        ["billing_address", "customer_id", "items[0].colour", "items[0].quantity", "order_number", "total"];
    assert_eq!(fields, expected.map(str::to_owned).into());
    assert_eq!((service.count("orders").await, service.count("outbox").await), (0, 0));
}

#[tokio::test]
async fn concurrent_isolation() {
    let service = Service::start().await;
    let (service, mut answers) = (&service, Vec::new());
    // Twenty numbers, each asked for by five at once.
    let asked =
        (0..100).map(|n| async move { service.post_order(&order(&format!("n-{}", n % 20))).await.status });
    for status in futures(asked).await {
        answers.push(status);
    }
    let count = |status| answers.iter().filter(|answer| **answer == status).count();
    assert_eq!((count(201), count(409)), (20, 80), "{answers:?}");
    let matching: i64 = service
        .database
        .value(
            "select count(*) from orders o join outbox e on e.aggregateid = o.id::text
                 where e.payload->>'order_number' = o.order_number",
        )
        .await;
    assert_eq!((matching, service.count("orders").await, service.count("outbox").await), (20, 20, 20));
}

/// Runs them at once and waits for all.
async fn futures<T: Send>(all: impl Iterator<Item = impl Future<Output = T> + Send>) -> Vec<T> {
    let mut waiting: Vec<_> = all.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        waiting.retain_mut(|one| match one.as_mut().poll(context) {
            std::task::Poll::Ready(value) => {
                done.push(value);
                false
            }
            std::task::Poll::Pending => true,
        });
        if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}

#[tokio::test]
async fn event_matches_order() {
    let service = Service::start().await;
    let order = service.post_order(&order("n-1")).await.json();
    let rows =
        service.database.query("select aggregatetype, aggregateid, type, payload::text from outbox").await;
    let row: Vec<String> = (0..4).map(|column| rows[0].get(column)).collect();
    assert_eq!(row[..3], ["order", order["id"].as_str().unwrap(), "OrderCreated"]);
    assert!(row[3].contains("\"total_amount\": 100.00"), "exact digits: {}", row[3]);
    let payload: Value = serde_json::from_str(&row[3]).unwrap();
    let expected = json!({
        "order_id": order["id"],
        "customer_id": "customer-1",
        "order_number": "n-1",
        "status": "pending",
        "total_amount": order["total_amount"],
        "currency": "USD",
        "items_count": 2,
        "created_at": order["created_at"],
    });
    assert_eq!(payload, expected);
}

#[tokio::test]
async fn money_is_never_floating_point() {
    let service = Service::start().await;
    let item = |quantity: &str, price: &str| {
        format!(r#"{{"product_id":"p","product_name":"n","quantity":{quantity},"unit_price":{price}}}"#)
    };
    for (number, items, total) in [
        ("1", vec![item("1", "0.1"), item("1", "0.2")], "0.3"),
        ("2", vec![item("1000000", "999999999999.99")], "999999999999990000.00"),
        (
            "3",
            vec![item("3", "0.1000000000000000055511151231257827")],
            "0.3000000000000000166533453693773481",
        ),
        ("4", vec![item("2e0", "1.005e1"), item("1.0", "\"0.90\"")], "21.00"),
        ("5", vec![item("7", "-0.0"), item("1", "5e-20")], "0.00000000000000000005"),
    ] {
        let mut order = order(number);
        order["items"] = json!("ITEMS");
        let body = order.to_string().replace("\"ITEMS\"", &format!("[{}]", items.join(",")));
        let answer = service.post("/api/v1/orders", &body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert!(answer.body.contains(&format!("\"total_amount\":{total},")), "{total}: {}", answer.body);
        let event: String = service
            .database
            .value(&format!(
                "select payload->>'total_amount' from outbox where payload->>'order_number' = '{number}'"
            ))
            .await;
        assert_eq!(event, total);
    }
}

#[tokio::test]
async fn orders_are_listed_newest_first_in_pages() {
    let service = Service::start().await;
    assert_eq!(service.get("/api/v1/orders").await.json(), json!([]));
    service
        .database
        .exec(
            "insert into orders (customer_id, order_number, total_amount, currency, items, shipping_address,
                                 billing_address, created_at)
             select 'c', 'n-' || n, n, 'EUR', '[]', '{}', '{}', now() + n * interval '1 s' from generate_series(1, 120) n",
        )
        .await;
    let numbers = async |query: &str| -> Vec<String> {
        let answer = service.get(&format!("/api/v1/orders{query}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let orders = answer.json();
        orders.as_array().unwrap().iter().map(|o| o["order_number"].as_str().unwrap().to_owned()).collect()
    };
    let page = numbers("").await;
    assert_eq!((page.len(), page[0].as_str(), page[9].as_str()), (10, "n-120", "n-111"));
    assert_eq!(numbers("?limit=2&offset=3").await, ["n-117", "n-116"]);
    assert_eq!(numbers("?limit=1000").await.len(), 100);
    assert_eq!(numbers("?offset=99999999999999999999").await.len(), 0);
    assert_eq!(
        refused(&service.get("/api/v1/orders?limit=0&offset=x").await, 400, "invalid_request"),
        ["limit", "offset"]
    );
    assert_eq!(refused(&service.get("/api/v1/orders/17").await, 400, "invalid_request"), ["id"]);
    let unknown = "/api/v1/orders/00000000-0000-0000-0000-000000000000";
    refused(&service.get(unknown).await, 404, "not_found");
    refused(&service.get("/api/v1/orders/number/n-999").await, 404, "not_found");
}

#[tokio::test]
async fn an_order_number_may_hold_anything_a_path_can_encode() {
    let service = Service::start().await;
    let number = "a/b?c%d ä'\"";
    assert_eq!(service.post_order(&order(number)).await.status, 201);
    let read = service.get("/api/v1/orders/number/a%2Fb%3Fc%25d%20%C3%A4'%22").await;
    assert_eq!((read.status, read.json()["order_number"].as_str()), (200, Some(number)));
    for path in ["%", "%00", "%ff"] {
        refused(&service.get(&format!("/api/v1/orders/number/{path}")).await, 400, "invalid_request");
    }
}
