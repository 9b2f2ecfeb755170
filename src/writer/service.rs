//! From a request to its answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::answer::{Answer, Refusal, document};
use super::body::{self, Body};
use super::fields::Problem;
use super::outbox_table::EVENT_BYTES_MAX;
use super::routes::{Endpoint, Found, Route, decoded};
use super::session::NoOrders;
use super::store::StoreError;
use super::{Writer, events, orders};
use crate::admin::bearer;
use crate::metrics::WriterMetrics;
use crate::outbox::TraceContext;

/// The document that describes every route, as it is served.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken over from a client.
const REQUEST_ID_CHARACTERS: usize = 128;

/// When a client may try again: soon where connections are busy, later where the database is away.
const BUSY_SECONDS: u32 = 1;
const AWAY_SECONDS: u32 = 5;

impl Writer {
    /// Answers any request, within `SERVER_TIMEOUT` and a second for the database's last word.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let begun = Instant::now();
        let deadline = begun + self.settings.timeout;
        let (parts, incoming) = request.into_parts();
        let mut body = Body::new(incoming, &parts.headers);
        let request_id = request_id(&parts.headers);
        let (route, outcome) = self.route(&parts, &mut body, deadline).await;
        let name = route.map_or(WriterMetrics::OTHER_ROUTE, |route| route.name);
        let status = outcome.as_ref().map_or_else(|refusal| refusal.status, Answer::status);
        if let Err(refusal) = &outcome {
            log(refusal, name, &request_id, begun.elapsed());
        } else {
            tracing::debug!(route = name, status = status.as_u16(), request_id, "answered");
        }
        let refused = outcome.is_err();
        let mut answer = outcome.unwrap_or_else(Refusal::into_answer);
        if refused && !body.discard(deadline).await {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let headers = answer.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            headers.insert(REQUEST_ID, value);
        }
        self.metrics.answered(name, status.as_u16(), begun.elapsed());
        Ok(answer)
    }

    async fn route(
        &self,
        parts: &Parts,
        body: &mut Body,
        deadline: Instant,
    ) -> (Option<&'static Route>, Result<Answer, Refusal>) {
        let found = self.routes.find(&parts.method, parts.uri.path());
        let is_open = match &found {
            Found::Route(route, _) => route.is_open(),
            Found::OtherMethods(_, is_open) => *is_open,
            Found::Nothing => false,
        };
        if !is_open && let Err(refusal) = self.authorize(&parts.headers) {
            let route = if let Found::Route(route, _) = found { Some(route) } else { None };
            return (route, Err(refusal));
        }
        match found {
            Found::Route(route, parameter) => {
                (Some(route), Box::pin(self.serve(route.endpoint, parts, parameter, body, deadline)).await)
            }
            Found::OtherMethods(allowed, _) => {
                let message = format!("this path has {allowed}");
                let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
                let allowed = HeaderValue::from_str(&allowed);
                (None, Err(allowed.map_or_else(|_| internal(""), |v| refusal.with_header(header::ALLOW, v))))
            }
            Found::Nothing => (None, Err(not_found("there is no such path"))),
        }
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = &self.settings.auth_token else { return Ok(()) };
        if bearer(headers).is_some_and(|given| token.is(given)) {
            return Ok(());
        }
        let message = "send the value of SERVER_AUTH_TOKEN as Authorization: Bearer";
        Err(Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
            .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
    }

    async fn serve(
        &self,
        endpoint: Endpoint,
        parts: &Parts,
        parameter: &str,
        body: &mut Body,
        deadline: Instant,
    ) -> Result<Answer, Refusal> {
        match endpoint {
            Endpoint::CreateOrder => self.create_order(&parts.headers, body, deadline).await,
            Endpoint::WriteEvents => self.write_events(&parts.headers, body, deadline).await,
            Endpoint::ListOrders => {
                let page = orders::page(parts.uri.query().unwrap_or_default()).map_err(Refusal::invalid)?;
                let orders = self.store.list_orders(&page, deadline).await.map_err(|e| refusal(e, None))?;
                Ok(document(StatusCode::OK, format!("[{}]", orders.join(","))))
            }
            Endpoint::OrderById => {
                let id = decoded(parameter).filter(|text| text.len() == 36);
                let id = id
                    .and_then(|text| Uuid::try_parse(&text).ok())
                    .ok_or_else(|| invalid("id", "must be a UUID"))?;
                one_order(self.store.order_by_id(id, deadline).await)
            }
            Endpoint::OrderByNumber => {
                let number = decoded(parameter)
                    .filter(|text| orders::NAME.contains(&text.chars().count()) && !text.contains('\0'))
                    .ok_or_else(|| invalid("number", "must be a text of 1 to 255 characters, without NUL"))?;
                one_order(self.store.order_by_number(&number, deadline).await)
            }
            Endpoint::Health => Ok(self.health(["healthy", "unhealthy"], deadline).await),
            Endpoint::Ready => Ok(self.health(["ready", "not ready"], deadline).await),
            Endpoint::OpenApi => Ok(document(StatusCode::OK, Bytes::from_static(OPENAPI.as_bytes()))),
        }
    }

    async fn create_order(
        &self,
        headers: &HeaderMap,
        body: &mut Body,
        deadline: Instant,
    ) -> Result<Answer, Refusal> {
        let text = body.text(headers, deadline).await?;
        let order = orders::read(body::json(&text)?).map_err(Refusal::invalid)?;
        let trace = trace(headers);
        let stored = self.store.create_order(&order, trace.as_ref(), deadline).await;
        let stored = stored.map_err(|error| match error {
            StoreError::Known(_) => {
                Refusal::new(StatusCode::CONFLICT, "order_exists", "there is an order with this order_number")
                    .with_field("order_number", "is the number of another order")
            }
            error => refusal(error, None),
        })?;
        self.metrics.events_written(1);
        Ok(document(StatusCode::CREATED, stored))
    }

    async fn write_events(
        &self,
        headers: &HeaderMap,
        body: &mut Body,
        deadline: Instant,
    ) -> Result<Answer, Refusal> {
        let text = body.text(headers, deadline).await?;
        let events = events::read(body::json(&text)?, self.routed).map_err(Refusal::invalid)?;
        let trace = trace(headers);
        let written = self.store.write_events(&events, trace.as_ref(), deadline).await;
        written.map_err(|error| refusal(error, Some(&events)))?;
        self.metrics.events_written(events.ids.len());
        let ids: Vec<Value> = events.ids.iter().map(|id| json!({"id": id})).collect();
        let answer =
            if events.is_list { Value::Array(ids) } else { ids.into_iter().next().unwrap_or_default() };
        Ok(document(StatusCode::CREATED, answer.to_string()))
    }

    /// The state in one of two words, version, and what is known of the database.
    async fn health(&self, [well, ill]: [&str; 2], deadline: Instant) -> Answer {
        let answer = self.health.ask_by(&self.store, deadline).await;
        let pool = self.store.status();
        let mut report = json!({
            "status": if answer.is_ok() { well } else { ill },
            "name": self.about.name,
            "version": self.about.version,
            "environment": self.about.environment,
            "database": {
                "status": if answer.is_ok() { "up" } else { "down" },
                "max_open_connections": pool.max_size,
                "open_connections": pool.size,
                "in_use": pool.size.saturating_sub(pool.available),
                "idle": pool.available,
                "waiting": pool.waiting,
            },
        });
        let Err(reason) = answer else { return document(StatusCode::OK, report.to_string()) };
        report["error"] = json!({"code": "database_unavailable", "message": reason});
        let mut answer = document(StatusCode::SERVICE_UNAVAILABLE, report.to_string());
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(AWAY_SECONDS));
        answer
    }
}

fn one_order(outcome: Result<Option<String>, StoreError>) -> Result<Answer, Refusal> {
    let order = outcome.map_err(|error| refusal(error, None))?;
    order.map(|order| document(StatusCode::OK, order)).ok_or_else(|| not_found("there is no such order"))
}

fn invalid(field: &str, message: &str) -> Refusal {
    Refusal::invalid(vec![Problem { field: field.to_owned(), message: message.to_owned() }])
}

fn not_found(message: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "not_found", message)
}

fn internal(cause: &str) -> Refusal {
    let message = "the database refused to store or to read it; the log says more under this x-request-id";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message).with_cause(cause)
}

/// What each error of the database means for a client.
fn refusal(error: StoreError, events: Option<&events::NewEvents<'_>>) -> Refusal {
    let path = |place: usize, field: &str| events.map_or_else(|| field.to_owned(), |e| e.path(place, field));
    match error {
        StoreError::Busy { connections } => {
            let message = format!("all {connections} database connections are in use; nothing was stored");
            Refusal::unavailable("busy", message, BUSY_SECONDS)
        }
        StoreError::Away { reason, cause } => Refusal::unavailable(
            "database_unavailable",
            format!("{reason}; nothing was stored"),
            AWAY_SECONDS,
        )
        .with_cause(cause),
        StoreError::NotNow(cause) => {
            let message = "the database cannot do it now; nothing was stored";
            Refusal::unavailable("database_unavailable", message, BUSY_SECONDS).with_cause(cause)
        }
        StoreError::TooSlow => {
            let message = "the database took longer than SERVER_TIMEOUT; nothing was stored";
            Refusal::unavailable("database_timeout", message, AWAY_SECONDS)
        }
        StoreError::Unknown(cause) => {
            let message = "the connection to the database was lost; it is not known whether anything was stored. \
                           Sending the same order_number or event ids again cannot store it twice";
            Refusal::unavailable("outcome_unknown", message, BUSY_SECONDS).with_cause(cause)
        }
        StoreError::NoOrders(why) => {
            let message = match why {
                NoOrders::Missing => "the order routes are off: table orders does not exist",
                NoOrders::Foreign(_) => "the order routes are off: table orders is not txstream's",
            };
            Refusal::new(StatusCode::NOT_FOUND, "orders_off", message)
        }
        StoreError::Known(ids) => {
            let known = Refusal::new(
                StatusCode::CONFLICT,
                "event_exists",
                "an event with this id exists; nothing was stored",
            );
            let Some(events) = events else { return known };
            ids.iter().fold(known, |refusal, id| {
                let place = events.ids.iter().position(|own| own.to_string() == *id);
                refusal.with_field(path(place.unwrap_or_default(), "id"), "is the id of an event that exists")
            })
        }
        StoreError::TooLarge(places) => {
            let message = format!(
                "an event's payload and headers may have {EVENT_BYTES_MAX} bytes as they are stored; nothing was stored"
            );
            let refusal = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "event_too_large", message);
            places
                .into_iter()
                .fold(refusal, |refusal, place| refusal.with_field(path(place, "payload"), "is too large"))
        }
        StoreError::NoHeaders => {
            invalid("headers", "cannot be stored: the outbox table has no JSON column for them")
        }
        StoreError::Value(code) => invalid(
            if events.is_some() { "payload" } else { "body" },
            &format!(
                "has a value that the database cannot store (SQLSTATE {code}): a number out of range, nested too \
                 deeply, or NULL or a text too long for its column"
            ),
        ),
        StoreError::Refused(cause) => internal(&cause),
    }
}

/// Says what was refused, with the id by which a client can ask about it.
fn log(refusal: &Refusal, route: &str, request_id: &str, duration: Duration) {
    let Refusal { status, code, cause, .. } = refusal;
    let (status, cause) = (status.as_u16(), cause.as_deref());
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if status == 500 {
        tracing::error!(route, status, code, request_id, duration_ms, cause, "a request failed");
    } else if status > 500 {
        // Of a database that is away one line warns, not every request.
        tracing::info!(route, status, code, request_id, duration_ms, cause, "a request could not be served");
    } else {
        tracing::info!(route, status, code, request_id, duration_ms, "a request was refused");
    }
}

/// The request's own id if it is a sane one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let sane = |text: &&str| {
        (1..=REQUEST_ID_CHARACTERS).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte))
    };
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(sane);
    given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// The trace that the request belongs to.
fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    let parent = headers.get("traceparent")?.to_str().ok()?;
    // A list may come as several headers.
    let states: Vec<&str> =
        headers.get_all("tracestate").iter().filter_map(|value| value.to_str().ok()).collect();
    let states = (!states.is_empty()).then(|| states.join(","));
    TraceContext::of_headers(parent, states.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(entries: &[(&'static str, &str)]) -> HeaderMap {
        entries.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_sane_request_id_is_taken_over_and_any_other_replaced() {
        for id in ["a", "01HX/req-1_x.y:z=@+", &"x".repeat(128)] {
            assert_eq!(request_id(&headers(&[("x-request-id", id)])), id);
        }
        for id in ["", "a b", "\"", "{}", &"x".repeat(129)] {
            let made = request_id(&headers(&[("x-request-id", id)]));
            assert!(Uuid::try_parse(&made).is_ok(), "{id:?}: {made}");
        }
    }

    #[test]
    fn the_trace_is_that_of_the_request() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let stored = |entries: &[_]| trace(&headers(entries)).map(|trace| trace.to_properties());
        assert_eq!(stored(&[("traceparent", parent)]).unwrap(), format!("traceparent={parent}\n"));
        assert_eq!(
            stored(&[("traceparent", parent), ("tracestate", "a=1")]).unwrap(),
            format!("traceparent={parent}\ntracestate=a=1\n")
        );
        assert_eq!(stored(&[("tracestate", "a=1")]), None);
        assert_eq!(stored(&[("traceparent", "x")]), None);
    }
}
