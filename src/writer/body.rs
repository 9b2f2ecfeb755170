//! Bodies of requests: JSON, bounded in size and time.

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::answer::Refusal;

/// Largest body.
const MOST_BYTES: usize = 1024 * 1024;

/// How much of a body that is refused is read and thrown away. A client that is still sending when
/// the connection closes may never see the answer.
const MOST_DISCARDED_BYTES: usize = 64 * 1024 * 1024;

/// The body of one request; read at most once.
pub(super) struct Body {
    incoming: Incoming,
    /// The client waits for a word before it sends; a refusal is that word.
    expects_continue: bool,
}

impl Body {
    pub(super) fn new(incoming: Incoming, headers: &HeaderMap) -> Self {
        let expects_continue = headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        Self { incoming, expects_continue }
    }

    /// The whole body as text.
    ///
    /// # Errors
    /// What is wrong with it, or that it did not arrive in time.
    pub(super) async fn text(&mut self, headers: &HeaderMap, deadline: Instant) -> Result<String, Refusal> {
        check_type(headers)?;
        let announced = self.incoming.size_hint().lower();
        if announced > MOST_BYTES as u64 {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
        while let Some(frame) = timeout_at(deadline, self.incoming.frame()).await.map_err(|_| late())? {
            let frame = frame.map_err(|_| {
                Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "incomplete_body",
                    "the body ended before it was complete",
                )
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MOST_BYTES {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
        String::from_utf8(bytes)
            .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", "the body is not UTF-8"))
    }

    /// Reads what is left of the body of a refused request and throws it away; says whether all was.
    pub(super) async fn discard(&mut self, deadline: Instant) -> bool {
        if self.expects_continue && !self.incoming.is_end_stream() {
            return false;
        }
        let mut bytes = 0;
        while let Ok(Some(Ok(frame))) = timeout_at(deadline, self.incoming.frame()).await {
            bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
            if bytes > MOST_DISCARDED_BYTES {
                break;
            }
        }
        self.incoming.is_end_stream()
    }
}

fn too_large() -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("a body may have {MOST_BYTES} bytes"),
    )
}

/// The body did not come in time; what still comes of it is no request.
fn late() -> Refusal {
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body did not arrive in time")
        .with_header(header::CONNECTION, HeaderValue::from_static("close"))
}

/// Refuses what is not JSON in UTF-8, as it is.
fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let refused = |what: &str| {
        let message =
            format!("{what}: send Content-Type: application/json, in UTF-8 and without Content-Encoding");
        Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
    };
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return refused("the body is encoded");
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return refused("there is no Content-Type") };
    let mut parts = value.to_str().unwrap_or_default().split(';').map(str::trim);
    if !parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        return refused("the body is not said to be JSON");
    }
    let charset = parts.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    });
    match charset {
        Some(charset) if !charset.eq_ignore_ascii_case("utf-8") => refused("the body is in another charset"),
        _ => Ok(()),
    }
}

/// The body's text as one JSON value.
///
/// # Errors
/// Where it is none.
pub(super) fn json(text: &str) -> Result<&RawValue, Refusal> {
    serde_json::from_str(text).map_err(|error| {
        // The parser's own words for broken syntax hold nothing of the body.
        Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not JSON: {error}"))
    })
}
