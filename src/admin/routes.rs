//! From a request to its answer.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

use super::answer::{Answer, answer, document, with_common_headers, with_header};
use super::page::Page;
use super::{BreakerOrder, LevelSetter, Settings, Subject};
use crate::metrics::{self, Registry};

/// More than any log level needs.
const MOST_BODY_BYTES: usize = 1024;

/// How much of a body that is too large is read and thrown away.
const MOST_DISCARDED_BYTES: usize = 1024 * 1024;

/// What is wrong with a request.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// A header that tells the client what to do instead.
    hint: Option<(HeaderName, &'static str)>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), hint: None }
    }

    fn with_hint(self, name: HeaderName, value: &'static str) -> Self {
        Self { hint: Some((name, value)), ..self }
    }

    fn into_answer(self) -> Answer {
        let body = json!({"error": {"code": self.code, "message": self.message}});
        let answer = document(self.status, &body);
        match self.hint {
            Some((name, value)) => with_header(answer, name, value),
            None => answer,
        }
    }
}

/// What the routes work with.
pub(super) struct App {
    settings: Settings,
    subject: Arc<dyn Subject>,
    metrics: Registry,
    log_level: LevelSetter,
    page: Page,
}

/// What a path stands for.
#[derive(Debug, Clone, Copy)]
enum Route {
    View(View),
    Act(Act),
}

/// What changes nothing.
#[derive(Debug, Clone, Copy)]
enum View {
    Page,
    Live,
    Ready,
    Status,
    Metrics,
}

/// What changes something, and so needs the token.
#[derive(Debug, Clone, Copy)]
enum Act {
    Breaker(BreakerOrder),
    LogLevel,
}

impl Route {
    /// The fixed paths; the one of the metrics is a setting.
    fn fixed(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::View(View::Page),
            "/livez" => Self::View(View::Live),
            "/readyz" => Self::View(View::Ready),
            "/status" => Self::View(View::Status),
            "/breaker/open" => Self::Act(Act::Breaker(BreakerOrder::Open)),
            "/breaker/close" => Self::Act(Act::Breaker(BreakerOrder::Close)),
            "/log-level" => Self::Act(Act::LogLevel),
            _ => return None,
        })
    }

    /// The methods it has, as `Allow` lists them.
    fn allow(self) -> &'static str {
        match self {
            Self::View(_) => "GET, HEAD",
            Self::Act(Act::Breaker(_)) => "POST",
            Self::Act(Act::LogLevel) => "PUT",
        }
    }
}

/// Why the metrics cannot be served at `path`, if so.
pub(super) fn path_problem(path: &str) -> Option<&'static str> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#');
    if !path.starts_with('/') {
        Some("it must begin with /")
    } else if !path.chars().all(plain) {
        Some("it must be a plain path")
    } else if Route::fixed(path).is_some() {
        Some("another page of the admin server is there")
    } else {
        None
    }
}

impl App {
    pub(super) fn new(
        settings: Settings,
        subject: Arc<dyn Subject>,
        metrics: Registry,
        log_level: LevelSetter,
    ) -> Self {
        Self { settings, subject, metrics, log_level, page: Page::new() }
    }

    /// Answers within `deadline`, whatever the client sends.
    pub(super) async fn answer(&self, request: Request<Incoming>, deadline: Duration) -> Answer {
        let answer = match tokio::time::timeout(deadline, self.route(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(refusal)) => refusal.into_answer(),
            Err(_) => {
                Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the request took too long to arrive")
                    .into_answer()
            }
        };
        with_common_headers(answer)
    }

    /// The answer, in the error case one that says what is wrong with the request.
    async fn route(&self, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let path = request.uri().path();
        let route =
            if path == self.settings.path { Some(Route::View(View::Metrics)) } else { Route::fixed(path) };
        let route =
            route.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is no such page"))?;
        let allow = route.allow();
        if !allow.split(", ").any(|method| method == request.method().as_str()) {
            let text = format!("this page has {allow} only");
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text);
            return Err(refusal.with_hint(header::ALLOW, allow));
        }
        match route {
            Route::View(view) => Ok(self.show(view)),
            Route::Act(act) => {
                self.authorize(request.headers())?;
                let body = text_of(request.into_body()).await?;
                self.act(act, &body)
            }
        }
    }

    /// The answer to a view.
    fn show(&self, view: View) -> Answer {
        const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        match view {
            View::Page => self.page.answer(),
            View::Live => match self.subject.live() {
                Ok(()) => document(StatusCode::OK, &json!({"status": "live"})),
                Err(reason) => document(UNAVAILABLE, &json!({"status": "stuck", "reasons": [reason]})),
            },
            View::Ready => match self.subject.ready() {
                Ok(state) => document(StatusCode::OK, &json!({"status": "ready", "state": state})),
                Err(reasons) => document(UNAVAILABLE, &json!({"status": "not ready", "reasons": reasons})),
            },
            View::Status => document(StatusCode::OK, &self.subject.status()),
            View::Metrics => {
                self.subject.refresh();
                match self.metrics.render() {
                    Ok(text) => answer(StatusCode::OK, metrics::CONTENT_TYPE, text),
                    Err(error) => {
                        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics", error).into_answer()
                    }
                }
            }
        }
    }

    /// Does what the caller, who has proven who it is, orders.
    fn act(&self, act: Act, body: &str) -> Result<Answer, Refusal> {
        match act {
            Act::Breaker(order) => {
                let refused = |reason: String| Refusal::new(StatusCode::CONFLICT, "breaker", reason);
                self.subject.breaker(order).map_err(refused)?;
                let word = if order == BreakerOrder::Open { "open" } else { "close" };
                tracing::info!(order = word, "the breaker was ordered by hand");
                Ok(document(StatusCode::OK, &json!({"breaker": word})))
            }
            Act::LogLevel => {
                let level = level_of(body);
                let refused = |reason: String| Refusal::new(StatusCode::BAD_REQUEST, "invalid_level", reason);
                (self.log_level)(&level).map_err(refused)?;
                tracing::info!(level, "the log level was changed by hand");
                Ok(document(StatusCode::OK, &json!({"level": level})))
            }
        }
    }

    /// Whether the caller may act.
    fn authorize(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let token = self.settings.admin_token.as_ref();
        let Some(token) = token.filter(|token| !token.expose().is_empty()) else {
            let text = "acts are off: set METRICS_ADMIN_TOKEN and send it as a bearer token";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", text));
        };
        if bearer(headers).is_some_and(|given| token.is(given)) {
            return Ok(());
        }
        let text = "send the value of METRICS_ADMIN_TOKEN as `Authorization: Bearer`";
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", text);
        Err(refusal.with_hint(header::WWW_AUTHENTICATE, "Bearer"))
    }
}

/// The bearer token of a request.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The body as text, if it is short. A longer one is read to its end, within reason, because a
/// client that is still sending when the connection closes may never see the answer.
async fn text_of(mut body: Incoming) -> Result<String, Refusal> {
    let mut kept = Vec::new();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let incomplete = |_| Refusal::new(StatusCode::BAD_REQUEST, "bad_body", "the body is incomplete");
        let Ok(data) = frame.map_err(incomplete)?.into_data() else { continue };
        bytes += data.len();
        if bytes <= MOST_BODY_BYTES {
            kept.extend_from_slice(&data);
        } else if bytes > MOST_DISCARDED_BYTES {
            break;
        }
    }
    if bytes > MOST_BODY_BYTES {
        let text = format!("the body may have {MOST_BODY_BYTES} bytes");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", text));
    }
    String::from_utf8(kept)
        .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "bad_body", "the body is not UTF-8"))
}

/// The level in a body: the bare word, or `{"level": "..."}`.
fn level_of(body: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(body).ok();
    match parsed.as_ref().and_then(|value| value.get("level")).and_then(Value::as_str) {
        Some(level) => level.to_owned(),
        None => body.trim().to_owned(),
    }
}
