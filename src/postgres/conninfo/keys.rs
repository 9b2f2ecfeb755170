//! What each libpq key means here: honoured, or refused with the reason.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::{
    ChannelBinding, ConnInfo, ConnInfoError, DEFAULT_CONNECT_TIMEOUT, Endpoint, RootCert, SslMode,
    Surroundings, TargetSession, TcpSettings, TlsSettings, TlsVersion,
};
use crate::secret::Secret;

const DEFAULT_PORT: u16 = 5432;

/// Where a server of this machine puts its socket, tried when no host is named.
const SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Keys of libpq (up to 18) that are not honoured, and why.
const REFUSED: &[(&str, &str)] = &[
    ("gsslib", "GSSAPI is not offered"),
    ("krbsrvname", "GSSAPI is not offered"),
    ("oauth_client_id", "OAuth is not offered"),
    ("oauth_client_secret", "OAuth is not offered"),
    ("oauth_issuer", "OAuth is not offered"),
    ("oauth_scope", "OAuth is not offered"),
    ("replication", "replication connections are opened where they are needed"),
    ("require_auth", "use channel_binding=require, or sslmode=verify-full, to be sure of the server"),
    ("requirepeer", "the owner of a Unix socket is not checked; protect its directory"),
    ("scram_client_key", "give the password"),
    ("scram_server_key", "give the password"),
    ("service", "connection service files are not read; write the settings into the connection string"),
    ("servicefile", "connection service files are not read; write the settings into the connection string"),
    ("sslkeylogfile", "session keys are never written to a file"),
];

/// Keys of the string that are not understood yet, and the problems found so far.
struct Keys {
    values: BTreeMap<String, String>,
    problems: Vec<ConnInfoError>,
}

impl Keys {
    /// The key's value; an empty one means "not given", as in libpq.
    fn take(&mut self, key: &str) -> Option<String> {
        self.values.remove(key).filter(|value| !value.is_empty())
    }

    fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(ConnInfoError(text.into()));
    }

    /// The key's value, parsed; what it must be otherwise becomes a problem.
    fn parsed<T>(&mut self, key: &str, must_be: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.take(key)?;
        let value = parse(text.trim());
        if value.is_none() {
            self.problem(format!("{key} must be {must_be}"));
        }
        value
    }

    fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        self.parsed(key, &names.join(" or "), |text| {
            choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
        })
    }

    fn seconds(&mut self, key: &str) -> Option<Duration> {
        self.parsed(key, "whole seconds", |text| text.parse::<u32>().ok())
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(seconds.into()))
    }

    fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.take(key).map(PathBuf::from)
    }
}

/// Turns keys and values into settings. `problems` are those of the syntax.
pub(super) fn interpret(
    pairs: Vec<(String, String)>,
    problems: Vec<ConnInfoError>,
    around: &Surroundings,
) -> Result<ConnInfo, Vec<ConnInfoError>> {
    let names_ssl = pairs.iter().any(|(key, _)| key.starts_with("ssl"));
    let mut keys = Keys { values: pairs.into_iter().collect(), problems };

    let mut endpoints = endpoints(&mut keys);
    let user = keys.take("user").or_else(|| around.user.clone());
    if user.is_none() && keys.problems.is_empty() {
        keys.problem("the connection string names no user");
    }
    let user = user.unwrap_or_default();
    let (ssl_mode, tls) = tls(&mut keys);
    let channel_binding = keys.choice(
        "channel_binding",
        &[
            ("disable", ChannelBinding::Disable),
            ("prefer", ChannelBinding::Prefer),
            ("require", ChannelBinding::Require),
        ],
    );
    let target_session = keys.choice(
        "target_session_attrs",
        &[
            ("any", TargetSession::Any),
            ("read-write", TargetSession::ReadWrite),
            ("primary", TargetSession::Primary),
        ],
    );
    let connect_timeout = keys.parsed("connect_timeout", "whole seconds, at least 1", |text| {
        text.parse::<u32>().ok().filter(|seconds| *seconds > 0)
    });
    let tcp = tcp(&mut keys);
    let application_name = keys.take("application_name");
    let fallback_name = keys.take("fallback_application_name");
    let first = endpoints.remove(0);
    let info = ConnInfo {
        host: first.host,
        port: first.port,
        hostaddr: first.hostaddr,
        fallbacks: endpoints,
        dbname: keys.take("dbname").unwrap_or_else(|| user.clone()),
        user,
        password: keys.take("password").map(Secret::new),
        passfile: keys.path("passfile").or_else(|| around.passfile()),
        ssl_mode,
        tls,
        channel_binding: channel_binding.unwrap_or_default(),
        target_session: target_session.unwrap_or_default(),
        connect_timeout: connect_timeout
            .map_or(DEFAULT_CONNECT_TIMEOUT, |seconds| Duration::from_secs(seconds.into())),
        tcp,
        application_name: application_name.or(fallback_name),
        options: keys.take("options"),
        names_ssl,
    };
    accept_only_harmless(&mut keys);
    refuse_the_rest(&mut keys);
    if keys.problems.is_empty() { Ok(info) } else { Err(keys.problems) }
}

/// Host, address and port lists; always at least one server.
fn endpoints(keys: &mut Keys) -> Vec<Endpoint> {
    let mut list = |key: &str| -> Vec<String> {
        keys.take(key)
            .map(|text| text.split(',').map(|item| item.trim().to_owned()).collect())
            .unwrap_or_default()
    };
    let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = hosts.len().max(addresses.len()).max(1);
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        keys.problem("host and hostaddr must list equally many servers");
    }
    if ports.len() > 1 && ports.len() != count {
        keys.problem("port must name one port, or as many as there are hosts");
    }
    (0..count)
        .map(|i| {
            let hostaddr = addresses.get(i).filter(|text| !text.is_empty()).and_then(|text| {
                let parsed = IpAddr::from_str(text).ok();
                if parsed.is_none() {
                    keys.problem("hostaddr must be an IP address; a name belongs into host");
                }
                parsed
            });
            let port = match ports.get(i).or(ports.first()).filter(|text| !text.is_empty()) {
                None => DEFAULT_PORT,
                Some(text) => text.parse().ok().filter(|port| *port > 0).unwrap_or_else(|| {
                    keys.problem(
                        "port must be a number from 1 to 65535 \
                         (in a URI, write `/`, `@` and `:` in a password as %2F, %40, %3A)",
                    );
                    DEFAULT_PORT
                }),
            };
            let host = match (hosts.get(i).filter(|host| !host.is_empty()), hostaddr) {
                (Some(host), _) => host.clone(),
                (None, Some(address)) => address.to_string(),
                (None, None) => default_host(port),
            };
            Endpoint { host, hostaddr, port }
        })
        .collect()
}

/// The machine's own server: its socket where there is one, else `localhost`.
fn default_host(port: u16) -> String {
    SOCKET_DIRS
        .into_iter()
        .find(|dir| Path::new(dir).join(format!(".s.PGSQL.{port}")).exists())
        .unwrap_or("localhost")
        .to_owned()
}

fn tcp(keys: &mut Keys) -> TcpSettings {
    TcpSettings {
        keepalives: keys.choice("keepalives", &[("0", false), ("1", true)]).unwrap_or(true),
        keepalives_idle: keys.seconds("keepalives_idle"),
        keepalives_interval: keys.seconds("keepalives_interval"),
        keepalives_count: keys
            .parsed("keepalives_count", "a whole number", |text| text.parse().ok())
            .filter(|count| *count > 0),
        user_timeout: keys
            .parsed("tcp_user_timeout", "whole milliseconds", |text| text.parse::<u32>().ok())
            .filter(|millis| *millis > 0)
            .map(|millis| Duration::from_millis(millis.into())),
    }
}

fn tls(keys: &mut Keys) -> (SslMode, TlsSettings) {
    const VERSIONS: &[(&str, TlsVersion)] = &[
        ("TLSv1", TlsVersion::V1_0),
        ("TLSv1.1", TlsVersion::V1_1),
        ("TLSv1.2", TlsVersion::V1_2),
        ("TLSv1.3", TlsVersion::V1_3),
    ];
    let mode = keys
        .take("sslmode")
        .and_then(|text| SslMode::from_str(&text).map_err(|problem| keys.problems.push(problem)).ok());
    let defaults = TlsSettings::default();
    let settings = TlsSettings {
        root_cert: keys.take("sslrootcert").map(|text| root_cert(&text)),
        cert: keys.path("sslcert"),
        key: keys.path("sslkey"),
        key_password: keys.take("sslpassword").map(Secret::new),
        send_cert: keys.choice("sslcertmode", &[("disable", false), ("allow", true)]).unwrap_or(true),
        crl: keys.path("sslcrl"),
        crl_dir: keys.path("sslcrldir"),
        sni: keys.choice("sslsni", &[("0", false), ("1", true)]).unwrap_or(true),
        min_version: keys.choice("ssl_min_protocol_version", VERSIONS).unwrap_or(defaults.min_version),
        max_version: keys.choice("ssl_max_protocol_version", VERSIONS),
        direct: keys.choice("sslnegotiation", &[("postgres", false), ("direct", true)]).unwrap_or(false),
    };
    let mode = mode.unwrap_or(default_ssl_mode(settings.root_cert.as_ref()));
    keys.problems.extend(tls_contradictions(mode, &settings));
    (mode, settings)
}

/// The value of `sslrootcert`.
pub(super) fn root_cert(text: &str) -> RootCert {
    if text == "system" { RootCert::System } else { RootCert::File(text.into()) }
}

/// As in libpq, the system's authorities call for the strictest mode.
pub(super) fn default_ssl_mode(root_cert: Option<&RootCert>) -> SslMode {
    if root_cert == Some(&RootCert::System) { SslMode::VerifyFull } else { SslMode::default() }
}

/// TLS settings that cannot be meant together.
pub(super) fn tls_contradictions(mode: SslMode, tls: &TlsSettings) -> Vec<ConnInfoError> {
    let mut problems = Vec::new();
    let mut problem = |text: &str| problems.push(ConnInfoError(text.to_owned()));
    if tls.root_cert == Some(RootCert::System) && mode != SslMode::VerifyFull {
        problem(
            "sslrootcert=system needs sslmode=verify-full: anyone can get a certificate from a public authority",
        );
    }
    if tls.direct && mode < SslMode::Require {
        problem("sslnegotiation=direct needs sslmode=require or stricter");
    }
    if tls.max_version.is_some_and(|max| max < tls.min_version) {
        problem("ssl_max_protocol_version is below ssl_min_protocol_version (TLSv1.2 where not named)");
    }
    if tls.cert.is_some() != tls.key.is_some() {
        problem("sslcert and sslkey must be given together");
    }
    problems
}

/// Keys whose only sensible value says what we do anyway.
fn accept_only_harmless(keys: &mut Keys) {
    let mut only = |key: &str, accepted: &[&str], why: &str| {
        if keys.take(key).is_some_and(|value| !accepted.contains(&value.to_lowercase().as_str())) {
            keys.problem(format!("{key} can only be {}: {why}", accepted.join(" or ")));
        }
    };
    only("client_encoding", &["utf8", "utf-8", "unicode"], "everything is UTF-8");
    only("gssencmode", &["disable", "prefer"], "GSSAPI encryption is not offered; use sslmode");
    only("gssdelegation", &["0"], "GSSAPI is not offered");
    only("sslcompression", &["0"], "TLS compression is unsafe");
    only("load_balance_hosts", &["disable"], "the servers are tried in their order");
    only("min_protocol_version", &["3.0"], "protocol version 3.0 is spoken");
    only("max_protocol_version", &["3.0", "3.2", "latest"], "protocol version 3.0 is spoken");
}

fn refuse_the_rest(keys: &mut Keys) {
    for key in std::mem::take(&mut keys.values).into_keys() {
        match REFUSED.iter().find(|(name, _)| *name == key) {
            Some((name, why)) => keys.problem(format!("{name} is refused: {why}")),
            None => keys.problem(format!("{} is not a key of a Postgres connection string", printable(&key))),
        }
    }
}

/// A key as it may be shown: what does not look like one may be a piece of a password.
pub(super) fn printable(key: &str) -> &str {
    let looks_like_one =
        !key.is_empty() && key.len() <= 40 && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if looks_like_one { key } else { "something" }
}
