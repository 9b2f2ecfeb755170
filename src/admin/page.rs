//! The page for people: one file, no script or style from elsewhere.

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};

use super::answer::{Answer, answer};

const HTML: &str = include_str!("page.html");

/// The page, and the policy by which a browser runs its own script and style and nothing else.
#[derive(Debug)]
pub(super) struct Page {
    policy: Option<HeaderValue>,
}

impl Page {
    pub(super) fn new() -> Self {
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            digest_of("script"),
            digest_of("style"),
        );
        Self { policy: HeaderValue::from_str(&policy).ok() }
    }

    pub(super) fn answer(&self) -> Answer {
        let mut page = answer(StatusCode::OK, "text/html; charset=utf-8", HTML);
        if let Some(policy) = &self.policy {
            page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy.clone());
        }
        page
    }
}

/// The digest of what stands inside the page's only `element`.
fn digest_of(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let inside = HTML.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
    let (inside, _) = inside.unwrap_or_default();
    openssl::base64::encode_block(&openssl::sha::sha256(inside.as_bytes()))
}
