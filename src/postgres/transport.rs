//! A byte stream to a server: TCP or a Unix socket, with TLS where the settings want it. The same for
//! SQL and replication connections.

mod read_ahead;
#[cfg(test)]
mod tests;
mod tls;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::tls::ChannelBinding;

use self::read_ahead::ReadAhead;
use super::conninfo::{Endpoint, SslMode, TcpSettings};
use super::{ConnInfo, PgError};

/// Any byte stream.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connected byte stream, before the startup packet.
pub(super) struct Transport {
    stream: Box<dyn Stream>,
    /// The server certificate's hash for SCRAM channel binding (RFC 5929, tls-server-end-point).
    end_point: Option<Vec<u8>>,
    encrypted: bool,
}

impl Transport {
    /// A stream without TLS.
    pub(super) fn plain(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { stream: Box::new(stream), end_point: None, encrypted: false }
    }

    /// Whether TLS is spoken.
    pub(super) fn encrypted(&self) -> bool {
        self.encrypted
    }

    /// What SCRAM can bind to; `None` without TLS, and for certificates that define no hash (Ed25519).
    pub(super) fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl tokio_postgres::tls::TlsStream for Transport {
    fn channel_binding(&self) -> ChannelBinding {
        self.end_point.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

/// Tries the servers of the list in order: `attempt` gets each connected stream and the deadline of
/// that server.
///
/// As in libpq, the next one is tried when a server cannot be reached, is starting up, or is not what
/// `target_session_attrs` wants; any other refusal ends the search.
///
/// # Errors
/// That of the last server tried.
pub(super) async fn first_fitting<T, F>(
    info: &ConnInfo,
    mut attempt: impl FnMut(Transport, Endpoint) -> F,
) -> Result<T, PgError>
where
    F: Future<Output = Result<T, PgError>>,
{
    let mut last = None;
    for endpoint in info.endpoints() {
        let doing = format!("connect to {}", endpoint.describe());
        let deadline = Instant::now() + info.connect_timeout;
        let whole = async {
            let transport = connect(info, &endpoint, deadline).await?;
            attempt(transport, endpoint.clone()).await
        };
        let error = match timeout_at(deadline, whole).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => error,
            Err(_) => PgError::Timeout { doing, limit: info.connect_timeout },
        };
        let next_may_do = matches!(
            error,
            PgError::Io { .. } | PgError::Timeout { .. } | PgError::Closed { .. } | PgError::NotWanted { .. }
        ) || error.sqlstate() == Some("57P03");
        if !next_may_do {
            return Err(error);
        }
        last = Some(error);
    }
    Err(last.unwrap_or_else(|| PgError::Setting("no server is named".into())))
}

async fn connect(info: &ConnInfo, endpoint: &Endpoint, deadline: Instant) -> Result<Transport, PgError> {
    let doing = format!("connect to {}", endpoint.describe());
    if endpoint.is_unix() {
        // libpq writes the abstract namespace's zero byte as `@`.
        let path = match endpoint.describe() {
            path if path.starts_with('@') => path.replacen('@', "\0", 1),
            path => path,
        };
        let stream = UnixStream::connect(path).await.map_err(|source| PgError::Io { doing, source })?;
        return Ok(Transport::plain(ReadAhead::new(stream)));
    }
    let tcp = connect_tcp(endpoint, deadline)
        .await
        .map_err(|source| PgError::Io { doing: doing.clone(), source })?;
    set_tcp_options(&tcp, &info.tcp).map_err(|source| PgError::Io { doing, source })?;
    let beyond_loopback = tcp.peer_addr().is_ok_and(|peer| !peer.ip().to_canonical().is_loopback());
    let transport = secure(tcp, info, endpoint).await?;
    if beyond_loopback && !transport.encrypted {
        warn_unencrypted(endpoint);
    }
    Ok(transport)
}

/// Tries the addresses of a host in the resolver's order; each may take an equal share of the time left.
async fn connect_tcp(endpoint: &Endpoint, deadline: Instant) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match endpoint.hostaddr {
        Some(address) => vec![SocketAddr::new(address, endpoint.port)],
        None => tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await?.collect(),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (i, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        }
    }
    Err(last)
}

fn set_tcp_options(tcp: &TcpStream, settings: &TcpSettings) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    if settings.keepalives {
        let mut keepalive = TcpKeepalive::new();
        keepalive = settings.keepalives_idle.map_or(keepalive.clone(), |idle| keepalive.with_time(idle));
        keepalive =
            settings.keepalives_interval.map_or(keepalive.clone(), |time| keepalive.with_interval(time));
        keepalive =
            settings.keepalives_count.map_or(keepalive.clone(), |count| keepalive.with_retries(count));
        socket.set_keepalive(true)?;
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(settings.user_timeout.filter(|time| *time > Duration::ZERO))?;
    Ok(())
}

/// Negotiates TLS as `sslmode` wants it.
async fn secure<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    mut stream: S,
    info: &ConnInfo,
    endpoint: &Endpoint,
) -> Result<Transport, PgError> {
    let doing = format!("set up TLS with {}", endpoint.describe());
    if info.ssl_mode == SslMode::Disable {
        return Ok(Transport::plain(stream));
    }
    if !info.tls.direct {
        let mut request = bytes::BytesMut::new();
        postgres_protocol::message::frontend::ssl_request(&mut request);
        let mut answer = [0];
        async {
            stream.write_all(&request).await?;
            stream.flush().await?;
            stream.read_exact(&mut answer).await
        }
        .await
        .map_err(|error| PgError::from_io(&doing, error))?;
        match answer[0] {
            b'S' => {}
            b'N' if info.ssl_mode == SslMode::Prefer => return Ok(Transport::plain(stream)),
            b'N' => {
                let mode = info.ssl_mode.as_str();
                let source = format!("the server does not offer TLS and sslmode={mode} wants it").into();
                return Err(PgError::Tls { doing, source });
            }
            // A server too busy to fork answers with an error in place of S or N. It is not shown:
            // nobody has proved yet who sent it.
            b'E' => return Err(PgError::Closed { doing }),
            _ => return Err(PgError::protocol(&doing, "the answer to the TLS request is neither S nor N")),
        }
    }
    let tls = tls::handshake(stream, info, endpoint, &doing).await?;
    Ok(Transport { end_point: tls::server_end_point(tls.ssl()), encrypted: true, stream: Box::new(tls) })
}

fn warn_unencrypted(endpoint: &Endpoint) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            server = endpoint.describe(),
            "the connection to Postgres is not encrypted; sslmode=verify-full protects data and password"
        );
    });
}
