//! Where and how to connect: a libpq URI or keyword string, every key honoured or refused by name.
//!
//! Invariant: no key of a connection string is ignored, and no message shows a value that might be
//! (part of) a password.

mod keys;
mod passfile;
mod syntax;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::secret::Secret;

/// How long connecting, TLS and authentication together may take where the string names no
/// `connect_timeout`.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much TLS a connection must have; libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS when the server has it, unverified.
    #[default]
    Prefer,
    /// TLS or nothing; verified only when a root certificate is named, as in libpq.
    Require,
    /// TLS with a certificate from a known authority.
    VerifyCa,
    /// TLS with a certificate from a known authority that names the host.
    VerifyFull,
}

impl SslMode {
    /// The mode as libpq spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl FromStr for SslMode {
    type Err = ConnInfoError;

    fn from_str(text: &str) -> Result<Self, ConnInfoError> {
        [Self::Disable, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| {
                ConnInfoError(if text == "allow" {
                    "sslmode=allow is refused: it prefers an unencrypted connection; use prefer or require"
                        .into()
                } else {
                    "sslmode must be disable, prefer, require, verify-ca or verify-full".into()
                })
            })
    }
}

/// libpq's `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// When the connection has TLS and the server offers it.
    #[default]
    Prefer,
    /// Or no connection.
    Require,
}

/// What a server of the list must be; libpq's `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetSession {
    /// The first that answers.
    #[default]
    Any,
    /// One that accepts writes.
    ReadWrite,
    /// One that is not a standby.
    Primary,
}

/// The authorities that a server's certificate may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// Those the operating system trusts (`sslrootcert=system`).
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

/// A TLS protocol version, from `ssl_min_protocol_version` and `ssl_max_protocol_version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.0.
    V1_0,
    /// TLS 1.1.
    V1_1,
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// TLS details beside the mode.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// Authorities to trust; none named: `~/.postgresql/root.crt` where it exists, and for
    /// `verify-full` else those of the system.
    pub root_cert: Option<RootCert>,
    /// Our certificate chain, PEM.
    pub cert: Option<PathBuf>,
    /// Its private key, PEM or DER.
    pub key: Option<PathBuf>,
    /// What decrypts the key.
    pub key_password: Option<Secret>,
    /// Whether we may show our certificate (`sslcertmode`).
    pub send_cert: bool,
    /// Revoked certificates, PEM.
    pub crl: Option<PathBuf>,
    /// A directory of such, prepared by `openssl rehash`.
    pub crl_dir: Option<PathBuf>,
    /// Whether the host name is sent in clear (SNI).
    pub sni: bool,
    /// Lowest version; TLS 1.2 as in libpq.
    pub min_version: TlsVersion,
    /// Highest version, if bounded.
    pub max_version: Option<TlsVersion>,
    /// Start with TLS at once (`sslnegotiation=direct`, Postgres 17+).
    pub direct: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            root_cert: None,
            cert: None,
            key: None,
            key_password: None,
            send_cert: true,
            crl: None,
            crl_dir: None,
            sni: true,
            min_version: TlsVersion::V1_2,
            max_version: None,
            direct: false,
        }
    }
}

/// TCP settings of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpSettings {
    /// Whether the kernel probes an idle peer.
    pub keepalives: bool,
    /// Idle time before the first probe; the system's when `None`.
    pub keepalives_idle: Option<Duration>,
    /// Time between probes; the system's when `None`.
    pub keepalives_interval: Option<Duration>,
    /// Unanswered probes that end the connection; the system's when `None`.
    pub keepalives_count: Option<u32>,
    /// How long sent data may stay unacknowledged; the system's when `None`.
    pub user_timeout: Option<Duration>,
}

impl Default for TcpSettings {
    fn default() -> Self {
        Self {
            keepalives: true,
            keepalives_idle: None,
            keepalives_interval: None,
            keepalives_count: None,
            user_timeout: None,
        }
    }
}

/// One server of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name, address, or the directory of a Unix socket (starts with `/` or `@`).
    pub host: String,
    /// Where to connect instead of looking `host` up.
    pub hostaddr: Option<IpAddr>,
    /// TCP port, or the number in the Unix socket's name.
    pub port: u16,
}

impl Endpoint {
    /// Whether this is a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.hostaddr.is_none() && self.host.starts_with(['/', '@'])
    }

    /// For people: `host:port`, `[v6]:port`, or the socket's path.
    pub fn describe(&self) -> String {
        if self.is_unix() {
            format!("{}/.s.PGSQL.{}", self.host, self.port)
        } else if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// A place to connect to and how.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// Host name, address, or the directory of a Unix socket (starts with `/` or `@`).
    pub host: String,
    /// TCP port, or the number in the Unix socket's name.
    pub port: u16,
    /// Where to connect instead of looking `host` up.
    pub hostaddr: Option<IpAddr>,
    /// Further servers, tried in this order when those before cannot be reached or do not fit.
    pub fallbacks: Vec<Endpoint>,
    /// Role to log in as.
    pub user: String,
    /// Password, if one was given; else the password file is asked at each connect.
    pub password: Option<Secret>,
    /// The password file, `None` when there is no home directory either.
    pub passfile: Option<PathBuf>,
    /// Database name.
    pub dbname: String,
    /// TLS mode; no meaning on a Unix socket, as in libpq.
    pub ssl_mode: SslMode,
    /// TLS details.
    pub tls: TlsSettings,
    /// Whether SCRAM binds to the TLS channel.
    pub channel_binding: ChannelBinding,
    /// What a server must be to be taken.
    pub target_session: TargetSession,
    /// Limit for connecting to one server of the list, TLS and authentication included.
    pub connect_timeout: Duration,
    /// TCP settings.
    pub tcp: TcpSettings,
    /// Name for `pg_stat_activity`; beats the one the program proposes.
    pub application_name: Option<String>,
    /// Command-line options for the server process, like `-c statement_timeout=5s`.
    pub options: Option<String>,
    pub(super) names_ssl: bool,
}

/// What is wrong with a connection string; several may be reported at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnInfoError(pub String);

/// What a connection string leaves to the environment.
#[derive(Debug, Clone, Default)]
struct Surroundings {
    user: Option<String>,
    home: Option<PathBuf>,
    passfile: Option<PathBuf>,
}

impl Surroundings {
    fn of_process() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            user: text("USER").or_else(|| text("LOGNAME")),
            home: text("HOME").map(PathBuf::from),
            passfile: text("PGPASSFILE").map(PathBuf::from),
        }
    }

    fn passfile(&self) -> Option<PathBuf> {
        self.passfile.clone().or_else(|| Some(self.home.as_ref()?.join(".pgpass")))
    }
}

impl ConnInfo {
    /// Parses a libpq URI (`postgresql://…`) or keyword string (`host=… user=…`).
    ///
    /// As in libpq, a missing user is the operating system's (`USER`), a missing database is named
    /// like the user, and a missing password is looked up in `PGPASSFILE` or `~/.pgpass`.
    ///
    /// # Errors
    /// All problems of the string at once.
    pub fn parse(text: &str) -> Result<Self, Vec<ConnInfoError>> {
        Self::parse_within(text, &Surroundings::of_process())
    }

    fn parse_within(text: &str, around: &Surroundings) -> Result<Self, Vec<ConnInfoError>> {
        let (pairs, problems) = syntax::pairs(text);
        keys::interpret(pairs, problems, around)
    }

    /// Connection settings from single values, everything else as libpq has it by default.
    pub fn from_parts(
        host: impl Into<String>,
        port: u16,
        dbname: impl Into<String>,
        user: impl Into<String>,
        password: Option<Secret>,
    ) -> Self {
        Self {
            host: host.into(),
            port,
            hostaddr: None,
            fallbacks: Vec::new(),
            user: user.into(),
            password,
            passfile: Surroundings::of_process().passfile(),
            dbname: dbname.into(),
            ssl_mode: SslMode::default(),
            tls: TlsSettings::default(),
            channel_binding: ChannelBinding::default(),
            target_session: TargetSession::default(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            tcp: TcpSettings::default(),
            application_name: None,
            options: None,
            names_ssl: false,
        }
    }

    /// Whether the connection string named an ssl key, so that settings from elsewhere must not
    /// weaken it.
    pub fn names_ssl(&self) -> bool {
        self.names_ssl
    }

    /// Sets TLS by single values, spelled as libpq spells `sslmode`, `sslrootcert`, `sslcert`, `sslkey`.
    ///
    /// # Errors
    /// As [`ConnInfo::parse`] for these keys.
    pub fn with_ssl(
        mut self,
        mode: Option<SslMode>,
        root_cert: Option<&str>,
        cert: Option<&str>,
        key: Option<&str>,
    ) -> Result<Self, Vec<ConnInfoError>> {
        self.tls.root_cert = root_cert.filter(|text| !text.is_empty()).map(keys::root_cert);
        self.tls.cert = cert.map(PathBuf::from);
        self.tls.key = key.map(PathBuf::from);
        self.ssl_mode = mode.unwrap_or(keys::default_ssl_mode(self.tls.root_cert.as_ref()));
        let problems = keys::tls_contradictions(self.ssl_mode, &self.tls);
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    /// The servers to try, in order; at least one.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> + '_ {
        let first = Endpoint { host: self.host.clone(), hostaddr: self.hostaddr, port: self.port };
        std::iter::once(first).chain(self.fallbacks.iter().cloned())
    }

    /// The password for a server: the given one, else the password file's.
    pub(super) fn password_for(&self, endpoint: &Endpoint) -> Option<Secret> {
        self.password
            .clone()
            .or_else(|| passfile::lookup(self.passfile.as_deref()?, endpoint, &self.dbname, &self.user))
    }

    /// Whether `options` sets this server setting.
    pub fn options_name(&self, setting: &str) -> bool {
        self.options.as_deref().is_some_and(|options| options.contains(setting))
    }

    /// Whether both lead to the same servers, database and role.
    pub fn same_target(&self, other: &Self) -> bool {
        self.redacted() == other.redacted()
    }

    /// A URI for people and logs: where, who and how much TLS, and no secret.
    pub fn redacted(&self) -> String {
        let mut text = format!("postgresql://{}@", syntax::percent_encode(&self.user));
        for (i, endpoint) in self.endpoints().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let host = if endpoint.host.contains(':') && !endpoint.is_unix() {
                format!("[{}]", endpoint.host)
            } else {
                syntax::percent_encode(&endpoint.host)
            };
            let _ = write!(text, "{comma}{host}:{}", endpoint.port);
        }
        let _ = write!(text, "/{}?sslmode={}", syntax::percent_encode(&self.dbname), self.ssl_mode.as_str());
        text
    }
}
