//! Asks the admin server of a running relay.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

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

async fn get(url: &str) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let uri: Uri = url.parse()?;
    if uri.scheme_str() != Some("http") {
        return Err("write it like http://localhost:9090".into());
    }
    let authority = uri.authority().ok_or("it names no host")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request =
        Request::get(uri.path()).header(header::HOST, authority.as_str()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    if !response.status().is_success() {
        return Err(format!("it answered {}", response.status()).into());
    }
    Ok(Limited::new(response.into_body(), MOST_BYTES).collect().await?.to_bytes())
}
