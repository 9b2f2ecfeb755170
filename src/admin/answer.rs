//! What is answered to a request: status, headers and body.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::Value;

/// An answer, whole.
pub(super) type Answer = Response<Full<Bytes>>;

/// An answer of any kind.
pub(super) fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    with_header(answer, header::CONTENT_TYPE, content_type)
}

/// An answer in JSON.
pub(super) fn document(status: StatusCode, value: &Value) -> Answer {
    answer(status, "application/json", format!("{value}\n"))
}

/// An answer with one more header.
pub(super) fn with_header(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}

/// Nothing here may be cached, or taken for something else than it says it is.
pub(super) fn with_common_headers(answer: Answer) -> Answer {
    let answer = with_header(answer, header::CACHE_CONTROL, "no-store");
    with_header(answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff")
}
