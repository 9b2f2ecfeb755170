//! Answers, and refusals in the one shape that all errors have.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::fields::Problem;

/// What every route answers with.
pub(super) type Answer = Response<Full<Bytes>>;

/// An answer in JSON.
pub(super) fn document(status: StatusCode, json: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(json.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// A request that is not done, and why.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// One word for programs; it never changes.
    pub(super) code: &'static str,
    /// A sentence for people.
    pub(super) message: String,
    /// What is wrong with which field.
    pub(super) fields: Vec<Problem>,
    /// A header that tells the client what to do.
    hint: Option<Box<(HeaderName, HeaderValue)>>,
    /// Details for the log only.
    pub(super) cause: Option<String>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), fields: Vec::new(), hint: None, cause: None }
    }

    /// A body or a query with wrong fields.
    pub(super) fn invalid(fields: Vec<Problem>) -> Self {
        let message = match fields.len() {
            1 => "1 field is not valid".to_owned(),
            count => format!("{count} fields are not valid"),
        };
        Self { fields, ..Self::new(StatusCode::BAD_REQUEST, "invalid_request", message) }
    }

    /// The database cannot be used now; the client may try again after so many seconds.
    pub(super) fn unavailable(code: &'static str, message: impl Into<String>, retry_after: u32) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
            .with_header(header::RETRY_AFTER, HeaderValue::from(retry_after))
    }

    pub(super) fn with_field(mut self, field: impl Into<String>, message: impl Into<String>) -> Self {
        self.fields.push(Problem { field: field.into(), message: message.into() });
        self
    }

    pub(super) fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { hint: Some(Box::new((name, value))), ..self }
    }

    pub(super) fn with_cause(self, cause: impl Into<String>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    pub(super) fn into_answer(self) -> Answer {
        let mut error = json!({"code": self.code, "message": self.message});
        if !self.fields.is_empty() {
            error["fields"] = json!(self.fields);
        }
        let mut answer = document(self.status, json!({"error": error}).to_string());
        if let Some((name, value)) = self.hint.map(|hint| *hint) {
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}
