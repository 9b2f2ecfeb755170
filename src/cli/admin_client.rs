//! Asks the admin server of a running relay, and tells it what to do.

use std::net::IpAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::connect::RETRY;
use crate::admin;
use crate::secret::Secret;

/// It answers at once or not at all: it has a thread of its own.
const PATIENCE: Duration = Duration::from_secs(2);

/// No answer of ours is near it.
const MOST_BYTES: usize = 1 << 20;

/// Why an admin server did not tell or do what it was asked.
#[derive(Debug)]
pub(super) enum Refused {
    /// Nobody answers there.
    Absent(String),
    /// It answered something else, with this HTTP status; in its own words.
    Answered {
        /// The HTTP status.
        status: u16,
        /// What happened.
        what: String,
    },
    /// What was named is no admin server of ours.
    Other(String),
}

impl Refused {
    /// What happened.
    pub(super) fn what(self) -> String {
        match self {
            Self::Absent(what) | Self::Answered { what, .. } | Self::Other(what) => what,
        }
    }
}

/// Where a relay with these settings is reached from its own host: one that listens on every address, on
/// the loopback one. Without an admin server there is no such place.
pub(super) fn default_url(settings: &admin::Settings) -> Option<String> {
    let host = settings.host.as_str();
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let host = match bare.parse() {
        Ok(IpAddr::V4(every)) if every.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(IpAddr::V6(every)) if every.is_unspecified() => "[::1]".to_owned(),
        _ if bare.contains(':') => format!("[{bare}]"),
        _ => bare.to_owned(),
    };
    settings.enabled.then(|| format!("http://{host}:{}", settings.port))
}

/// Does `ask` again and again while nobody answers, for at most `wait`.
///
/// # Errors
/// The last [`Refused`].
pub(super) async fn waiting<T>(
    wait: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, Refused>,
) -> Result<T, Refused> {
    let deadline = Instant::now() + wait;
    let mut said = false;
    loop {
        match ask().await {
            Err(Refused::Absent(error)) if Instant::now() < deadline => {
                if !said {
                    tracing::info!(error, wait = ?wait, "waiting for the relay");
                    said = true;
                }
                sleep(RETRY).await;
            }
            done => return done,
        }
    }
}

/// The JSON at `path` of the admin server at `base`, like `http://localhost:9090`.
///
/// # Errors
/// [`Refused`].
pub(super) async fn get_json(base: &str, path: &str) -> Result<serde_json::Value, Refused> {
    let (url, answer) = ask(Method::GET, base, path, None).await?;
    serde_json::from_slice(answer.body())
        .map_err(|error| Refused::Other(format!("{url} is not JSON: {error}")))
}

/// POSTs to `path`, with the token if there is one.
///
/// # Errors
/// [`Refused`] when it was not done.
pub(super) async fn post(base: &str, path: &str, token: Option<&Secret>) -> Result<(), Refused> {
    ask(Method::POST, base, path, token).await.map(|_| ())
}

/// The URL that was asked and its answer, a success.
async fn ask(
    method: Method,
    base: &str,
    path: &str,
    token: Option<&Secret>,
) -> Result<(String, Response<Bytes>), Refused> {
    let url = format!("{}{path}", base.trim_end_matches('/'));
    let uri = uri(&url).map_err(|why| Refused::Other(format!("{url}: {why}")))?;
    let answer = match timeout(PATIENCE, send(method, &uri, token)).await {
        Err(_) => return Err(Refused::Absent(format!("{url} did not answer within {PATIENCE:?}"))),
        Ok(Err(error)) => return Err(Refused::Absent(format!("{url}: {error}"))),
        Ok(Ok(answer)) => answer,
    };
    let status = answer.status();
    if status.is_success() {
        return Ok((url, answer));
    }
    let body: Option<serde_json::Value> = serde_json::from_slice(answer.body()).ok();
    let said = body.as_ref().and_then(|body| body.pointer("/error/message")?.as_str());
    let said = said.map(|said| format!(": {said}")).unwrap_or_default();
    Err(Refused::Answered { status: status.as_u16(), what: format!("{url} answered {status}{said}") })
}

/// What `--admin-url` takes: a mistake in it is told before anything is asked.
///
/// # Errors
/// How to write it.
pub(super) fn base_url(text: &str) -> Result<String, String> {
    uri(text).map(|_| text.to_owned())
}

fn uri(url: &str) -> Result<Uri, String> {
    const HOW: &str = "write it like http://localhost:9090";
    let uri: Uri = url.parse().map_err(|_| HOW)?;
    if uri.scheme_str() == Some("https") {
        return Err(format!("the admin server has no TLS; {HOW}"));
    }
    // A port over 65535 is no port for the library, which would go to 80.
    let known = uri.authority().is_some_and(|authority| {
        let all = authority.as_str();
        !all.contains('@') && (authority.port_u16().is_some() || all == authority.host())
    });
    if uri.scheme_str() != Some("http") || !known || uri.query().is_some() {
        return Err(HOW.to_owned());
    }
    Ok(uri)
}

async fn send(
    method: Method,
    uri: &Uri,
    token: Option<&Secret>,
) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_asked_is_taken_for_an_address() {
        for url in
            ["http://localhost", "http://localhost:9090", "http://[::1]:65535/", "http://relay.example/below"]
        {
            assert_eq!(base_url(url).as_deref(), Ok(url));
        }
        // A port that is none is no port at all, and port 80 would be asked instead.
        for url in [
            "localhost:9090",
            "https://localhost:9090",
            "http://localhost:65536",
            "http://",
            "http://h:1?x=1",
            "",
        ] {
            assert!(base_url(url).unwrap_err().contains("write it like http://localhost:9090"), "{url}");
        }
        assert!(base_url("https://localhost:9090").unwrap_err().contains("no TLS"));
    }

    #[test]
    fn a_relay_of_this_host_is_asked_where_it_listens() {
        for (host, enabled, url) in [
            ("0.0.0.0", true, Some("http://127.0.0.1:9090")),
            ("::", true, Some("http://[::1]:9090")),
            ("[::]", true, Some("http://[::1]:9090")),
            ("127.0.0.2", true, Some("http://127.0.0.2:9090")),
            ("localhost", true, Some("http://localhost:9090")),
            ("relay.example", true, Some("http://relay.example:9090")),
            ("fd00::2", true, Some("http://[fd00::2]:9090")),
            ("[fd00::2]", true, Some("http://[fd00::2]:9090")),
            ("0.0.0.0", false, None),
        ] {
            let settings = admin::Settings {
                enabled,
                host: host.to_owned(),
                port: 9090,
                path: "/metrics".to_owned(),
                admin_token: None,
            };
            assert_eq!(default_url(&settings).as_deref(), url, "{host}");
        }
    }
}
