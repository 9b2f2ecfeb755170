//! The table `orders`: whether it is ours, and the SQL that writes an order with its event and reads orders.

use super::column::{Column, JSONB, NUMERIC, TEXT, TIMESTAMPTZ, UUID, VARCHAR};
use super::outbox_table::{Event, OutboxTable};

/// The event of a new order.
const OF_ORDER: Event = Event {
    id: "gen_random_uuid()::text",
    aggregate_type: "'order'",
    aggregate_id: "o.id::text",
    event_type: "'OrderCreated'",
    payload: "jsonb_build_object(
        'order_id', o.id, 'customer_id', o.customer_id, 'order_number', o.order_number, 'status', o.status,
        'total_amount', o.total_amount, 'currency', o.currency, 'items_count', jsonb_array_length(o.items),
        'created_at', to_char(o.created_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'))::text",
    headers: "$7::text",
    trace: "$8::text",
};

/// The statement that makes an order and its event: customer, number, currency, items, shipping and
/// billing address, headers, trace. It gives the order as JSON, or nothing if the number is known.
pub(super) fn create(outbox: &OutboxTable) -> String {
    format!(
        "with new_order as (
             insert into public.orders (customer_id, order_number, currency, items, shipping_address,
                                        billing_address, total_amount)
             select $1, $2, $3, $4::jsonb, $5::jsonb, $6::jsonb,
                    (select sum((item->>'quantity')::numeric * (item->>'unit_price')::numeric)
                       from jsonb_array_elements($4::jsonb) item)
             on conflict (order_number) do nothing
             returning *
         ), event as (
             {insert}
         )
         {document}",
        insert = outbox.insert(&OF_ORDER, "new_order o"),
        document = document("new_order o"),
    )
}

/// Gives orders as JSON: numbers exact, times in UTC.
fn document(from: &str) -> String {
    let time = |column: &str| {
        format!("to_char(o.{column} at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') as {column}")
    };
    format!(
        "select row_to_json(document)::text from (
             select o.id, o.customer_id, o.order_number, o.status, o.total_amount, o.currency, o.items,
                    o.shipping_address, o.billing_address, {}, {} from {from}
         ) document",
        time("created_at"),
        time("updated_at")
    )
}

/// The statement that lists orders, newest first: limit, offset.
pub(super) fn list() -> String {
    document("public.orders o order by o.created_at desc, o.id desc limit $1 offset $2")
}

/// The statement that gives the order with an id.
pub(super) fn by_id() -> String {
    document("public.orders o where o.id = $1")
}

/// The statement that gives the order with a number.
pub(super) fn by_number() -> String {
    document("public.orders o where o.order_number = $1")
}

/// Why a table `orders` is not ours to write into, if so.
pub(super) fn foreign(columns: &[Column], number_is_unique: bool) -> Option<String> {
    const TEXTS: &[u32] = &[TEXT, VARCHAR];
    const WANTED: [(&str, &[u32]); 11] = [
        ("id", &[UUID]),
        ("customer_id", TEXTS),
        ("order_number", TEXTS),
        ("status", TEXTS),
        ("total_amount", &[NUMERIC]),
        ("currency", TEXTS),
        ("items", &[JSONB]),
        ("shipping_address", &[JSONB]),
        ("billing_address", &[JSONB]),
        ("created_at", &[TIMESTAMPTZ]),
        ("updated_at", &[TIMESTAMPTZ]),
    ];
    let mut why = Vec::new();
    for (name, types) in WANTED {
        match columns.iter().find(|column| column.name == name) {
            None => why.push(format!("it has no column {name}")),
            Some(column) if !types.contains(&column.type_id) => {
                why.push(format!("its column {name} has another type"));
            }
            Some(_) => {}
        }
    }
    // The others of ours have defaults in a table of ours.
    let given = WANTED.iter().map(|(name, _)| *name);
    let given: Vec<_> =
        given.filter(|name| !["id", "status", "created_at", "updated_at"].contains(name)).collect();
    for Column { name, .. } in columns.iter().filter(|column| column.must_be_given) {
        if !given.contains(&name.as_str()) {
            why.push(format!("its column {name} has no default"));
        }
    }
    if why.is_empty() && !number_is_unique {
        why.push("its order_number is not unique".to_owned());
    }
    (!why.is_empty()).then(|| why.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, type_id: u32) -> Column {
        Column { name: name.to_owned(), type_id, must_be_given: false }
    }

    #[test]
    fn an_orders_table_of_others_is_known_by_its_columns() {
        let ours: Vec<Column> = [
            ("id", UUID),
            ("customer_id", VARCHAR),
            ("order_number", VARCHAR),
            ("status", VARCHAR),
            ("total_amount", NUMERIC),
            ("currency", VARCHAR),
            ("items", JSONB),
            ("shipping_address", JSONB),
            ("billing_address", JSONB),
            ("created_at", TIMESTAMPTZ),
            ("updated_at", TIMESTAMPTZ),
        ]
        .map(|(name, type_id)| column(name, type_id))
        .into();
        assert_eq!(foreign(&ours, true), None);
        assert_eq!(foreign(&ours, false).as_deref(), Some("its order_number is not unique"));
        let mut other = ours.clone();
        other[4].type_id = 701;
        other.remove(9);
        other.push(Column { must_be_given: true, ..column("tenant", 23) });
        assert_eq!(
            foreign(&other, true).as_deref(),
            Some(
                "its column total_amount has another type, it has no column created_at, its column tenant has no default"
            )
        );
    }
}
