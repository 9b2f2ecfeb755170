//! The document that is served describes the routes there are.

use std::collections::BTreeSet;

use serde_json::Value;

use super::routes::ROUTES;
use super::service::OPENAPI;

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

#[test]
fn openapi_lists_exactly_the_routes_with_their_statuses() {
    let mut described = BTreeSet::new();
    for (path, methods) in document()["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let statuses: Vec<u16> = operation["responses"]
                .as_object()
                .unwrap()
                .keys()
                .map(|status| status.parse().unwrap())
                .collect();
            described.insert((format!("{} {path}", method.to_uppercase()), statuses));
        }
    }
    let routes: BTreeSet<_> =
        ROUTES.iter().map(|route| (route.name.to_owned(), route.statuses.to_vec())).collect();
    assert_eq!(described, routes);
}

#[test]
fn openapi_says_which_routes_are_open() {
    for route in &ROUTES {
        let (method, path) = route.name.split_once(' ').unwrap();
        let operation = &document()["paths"][path][method.to_lowercase()];
        assert_eq!(
            operation["security"].as_array().is_some_and(Vec::is_empty),
            route.is_open(),
            "{}",
            route.name
        );
    }
}

#[test]
fn openapi_has_this_builds_version() {
    let document = document();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["openapi"], "3.1.0");
}
