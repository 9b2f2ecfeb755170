use serde_json::{Value, json};

use super::*;

fn address() -> Value {
    json!({"street": "Main", "number": "1a", "city": "Bonn", "state": "NW", "zip_code": "53111", "country": "DE"})
}

fn order() -> Value {
    json!({
        "customer_id": "c-1",
        "order_number": "n-1",
        "items": [{"product_id": "p", "product_name": "Pen", "quantity": 2, "unit_price": 10}],
        "shipping_address": address(),
        "billing_address": address(),
    })
}

fn read_text(text: &str) -> Result<NewOrder, Vec<Problem>> {
    read(serde_json::from_str(text).unwrap())
}

fn wrong_fields(order: &Value) -> Vec<String> {
    read_text(&order.to_string()).unwrap_err().into_iter().map(|problem| problem.field).collect()
}

#[test]
fn prices_keep_the_digits_that_were_sent() {
    for (sent, stored) in [
        ("10.50", "10.50"),
        ("\"10.50\"", "10.50"),
        ("0", "0"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ("1e2", "1e2"),
        ("999999999999.99", "999999999999.99"),
    ] {
        let text = order().to_string().replace("\"unit_price\":10", &format!("\"unit_price\":{sent}"));
        let read = read_text(&text).unwrap();
        assert!(read.items.contains(&format!("\"unit_price\":{stored}}}")), "{sent}: {}", read.items);
    }
}

#[test]
fn prices_and_quantities_out_of_bounds_are_named() {
    for (field, sent) in [
        ("unit_price", json!(-1)),
        ("unit_price", json!("-1")),
        ("unit_price", json!("1e2")),
        ("unit_price", json!("")),
        ("unit_price", json!("1,50")),
        ("unit_price", json!("01")),
        ("unit_price", json!(1_000_000_000_000_i64)),
        ("unit_price", json!(true)),
        ("unit_price", json!(null)),
        ("quantity", json!(0)),
        ("quantity", json!(-1)),
        ("quantity", json!(1.5)),
        ("quantity", json!("1")),
        ("quantity", json!(1_000_001)),
        ("quantity", json!([1])),
    ] {
        let mut order = order();
        order["items"][0][field] = sent.clone();
        assert_eq!(wrong_fields(&order), [format!("items[0].{field}")], "{sent}");
    }
    let text = order().to_string().replace("\"unit_price\":10", "\"unit_price\":1e400000000000000000000");
    assert_eq!(read_text(&text).unwrap_err()[0].field, "items[0].unit_price");
}

#[test]
fn every_invalid_field_is_named_at_once() {
    let order = json!({
        "customer_id": "",
        "order_number": 7,
        "currency": "euro",
        "items": [{"product_id": "p", "quantity": 1, "unit_price": 1, "colour": "red"}, 3],
        "shipping_address": {"street": "x"},
        "total_amount": 0,
    });
    let mut fields = wrong_fields(&order);
    fields.sort();
    assert_eq!(
        fields,
        [
            "billing_address",
            "currency",
            "customer_id",
            "items[0].colour",
            "items[0].product_name",
            "items[1]",
            "order_number",
            "shipping_address.city",
            "shipping_address.country",
            "shipping_address.number",
            "shipping_address.state",
            "shipping_address.zip_code",
            "total_amount",
        ]
    );
    assert_eq!(wrong_fields(&json!({})).len(), 5, "every required field");
    assert_eq!(wrong_fields(&json!([])), ["body"]);
}

#[test]
fn an_order_has_1_to_1000_items() {
    let mut order = order();
    let item = order["items"][0].clone();
    order["items"] = Value::Array(vec![item.clone(); 1000]);
    assert!(read_text(&order.to_string()).is_ok());
    for items in [vec![], vec![item; 1001]] {
        order["items"] = Value::Array(items);
        assert_eq!(wrong_fields(&order), ["items"]);
    }
}

#[test]
fn addresses_are_kept_apart_and_a_complement_may_be_missing() {
    let mut order = order();
    order["billing_address"]["complement"] = json!("flat 2");
    order["shipping_address"]["complement"] = json!(null);
    let read = read_text(&order.to_string()).unwrap();
    assert!(read.billing_address.contains("flat 2"));
    assert_eq!(serde_json::from_str::<Value>(&read.shipping_address).unwrap(), address());
    assert_eq!(read.currency, "USD");
}

#[test]
fn pages_have_defaults_and_bounds() {
    for (query, limit, offset) in [
        ("", 10, 0),
        ("limit=1&offset=5&x=y", 1, 5),
        ("limit=101", 100, 0),
        ("limit=99999999999999999999999&offset=99999999999999999999999", 100, i64::MAX),
    ] {
        assert_eq!(page(query), Ok(Page { limit, offset }), "{query}");
    }
    for (query, fields) in [
        ("limit=0", &["limit"][..]),
        ("limit=-1&offset=-1", &["limit", "offset"]),
        ("limit=&offset=1.5", &["limit", "offset"]),
        ("limit=1&limit=2", &["limit"]),
        ("limit", &["limit"]),
        ("limit=%31", &["limit"]),
    ] {
        let named: Vec<_> = page(query).unwrap_err().into_iter().map(|problem| problem.field).collect();
        assert_eq!(named, fields, "{query}");
    }
}
