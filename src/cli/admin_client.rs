//! Asks the admin server of a running relay, and tells it what to do.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::secret::Secret;

/// It answers at once or not at all: it has a thread of its own.
const PATIENCE: Duration = Duration::from_secs(2);

/// No answer of ours is near it.
const MOST_BYTES: usize = 1 << 20;

/// The JSON at `path` of the admin server at `base`, like `http://localhost:9090`.
///
/// # Errors
/// Why there is none, in words.
pub(super) async fn get_json(base: &str, path: &str) -> Result<serde_json::Value, String> {
    let url = format!("{}{path}", base.trim_end_matches('/'));
    match timeout(PATIENCE, get(&url)).await {
        Ok(Ok(body)) => serde_json::from_slice(&body).map_err(|error| format!("{url} is not JSON: {error}")),
        Ok(Err(error)) => Err(format!("{url}: {error}")),
        Err(_) => Err(format!("{url} did not answer within {PATIENCE:?}")),
    }
}

/// An order that was not carried out.
#[derive(Debug)]
pub(super) struct Refused {
    /// The HTTP status, if there was an answer.
    pub(super) status: Option<u16>,
    /// What happened, with the server's own words.
    pub(super) what: String,
}

/// POSTs to `path`, with the token if there is one.
///
/// # Errors
/// [`Refused`] when it was not done.
pub(super) async fn post(base: &str, path: &str, token: Option<&Secret>) -> Result<(), Refused> {
    let url = format!("{}{path}", base.trim_end_matches('/'));
    let refused = |status, what| Refused { status, what };
    match timeout(PATIENCE, send(Method::POST, &url, token)).await {
        Err(_) => Err(refused(None, format!("{url} did not answer within {PATIENCE:?}"))),
        Ok(Err(error)) => Err(refused(None, format!("{url}: {error}"))),
        Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
        Ok(Ok(answer)) => {
            let status = answer.status();
            let body: Option<serde_json::Value> = serde_json::from_slice(answer.body()).ok();
            let said = body.as_ref().and_then(|body| body.pointer("/error/message")?.as_str());
            let said = said.map(|said| format!(": {said}")).unwrap_or_default();
            Err(refused(Some(status.as_u16()), format!("{url} answered {status}{said}")))
        }
    }
}

async fn get(url: &str) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let answer = send(Method::GET, url, None).await?;
    if !answer.status().is_success() {
        return Err(format!("it answered {}", answer.status()).into());
    }
    Ok(answer.into_body())
}

async fn send(
    method: Method,
    url: &str,
    token: Option<&Secret>,
) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
    let uri: Uri = url.parse()?;
    if uri.scheme_str() != Some("http") {
        return Err("write it like http://localhost:9090".into());
    }
    let authority = uri.authority().ok_or("it names no host")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request =
        Request::builder().method(method).uri(uri.path()).header(header::HOST, authority.as_str());
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    let (parts, body) = sender.send_request(request.body(Empty::<Bytes>::new())?).await?.into_parts();
    let body = Limited::new(body, MOST_BYTES).collect().await?.to_bytes();
    Ok(Response::from_parts(parts, body))
}
