//! Which database: the highest layer that names `DATABASE_URL` or one of `DB_*` decides; within it
//! the URL wins. Layers and URL are never merged, so that no connection is a mixture of two that
//! people had in mind. Only `DB_SSL_*` say how, not where, and apply where the URL names no ssl key.

use super::Source;
use super::layers::label;
use super::read::Reader;
use crate::postgres::ConnInfo;
use crate::postgres::conninfo::{ConnInfoError, SslMode};
use crate::secret::Secret;

/// What says where the database is, piece by piece.
const PARTS: [&str; 6] = ["DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD", "DB_PASSWORD_FILE"];
/// What decides, the URL first.
const DECIDING: [&str; 8] = [
    "DATABASE_URL",
    "DATABASE_URL_FILE",
    "DB_HOST",
    "DB_PORT",
    "DB_NAME",
    "DB_USER",
    "DB_PASSWORD",
    "DB_PASSWORD_FILE",
];
const SSL: [&str; 4] = ["DB_SSL_MODE", "DB_SSL_ROOT_CERT", "DB_SSL_CERT", "DB_SSL_KEY"];

/// Where ordinary SQL goes, and where we replicate from.
pub(super) struct Databases {
    pub(super) sql: ConnInfo,
    pub(super) replication: ConnInfo,
}

/// How a connection is encrypted where its URL does not say.
struct Ssl {
    mode: Option<SslMode>,
    root_cert: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    /// What of it was set.
    set: Vec<&'static str>,
}

impl Ssl {
    fn apply(&self, read: &mut Reader<'_>, info: ConnInfo) -> Option<ConnInfo> {
        let [root_cert, cert, key] = [&self.root_cert, &self.cert, &self.key].map(Option::as_deref);
        match info.with_ssl(self.mode, root_cert, cert, key) {
            Ok(info) => Some(info),
            Err(errors) => {
                for error in errors {
                    read.wrong(format!("DB_SSL_*: {error}"));
                }
                None
            }
        }
    }
}

/// Resolves both connections, `None` after an error that was noted.
pub(super) fn resolve(read: &mut Reader<'_>) -> Option<Databases> {
    let ssl = ssl(read);
    let layer = read.layers.highest_with(&DECIDING);
    let url = layer.map(|layer| read.layers.get_or_file_in(layer, "DATABASE_URL")).transpose();
    let sql = match url.map(Option::flatten) {
        Ok(Some((text, source))) => from_url(read, "DATABASE_URL", &text, source, &ssl),
        Ok(None) => from_parts(read, layer, &ssl),
        Err(error) => {
            read.wrong(error);
            None
        }
    };
    warn_of_unused(read, layer);
    let replication = match read.layers.get_or_file("REPLICATION_URL") {
        Ok(Some((text, source))) => {
            let info = from_url(read, "REPLICATION_URL", &text, source, &ssl);
            read.show("REPLICATION_URL", info.as_ref().map(ConnInfo::redacted), source);
            info
        }
        Ok(None) => {
            read.show("REPLICATION_URL", sql.as_ref().map(ConnInfo::redacted), Source::Default);
            sql.clone()
        }
        Err(error) => {
            read.wrong(error);
            None
        }
    };
    Some(Databases { sql: sql?, replication: replication? })
}

fn ssl(read: &mut Reader<'_>) -> Ssl {
    let set = SSL.into_iter().filter(|name| read.layers.get(name).is_some()).collect();
    let mode = read.layers.get("DB_SSL_MODE").and_then(|given| {
        let mode = given.text.trim().parse().map(Some).map_err(|error: ConnInfoError| error.to_string());
        read.checked("DB_SSL_MODE", given.source, mode)
    });
    let file = |name| read.layers.get(name).map(|given| given.text.to_owned());
    Ssl { mode, root_cert: file("DB_SSL_ROOT_CERT"), cert: file("DB_SSL_CERT"), key: file("DB_SSL_KEY"), set }
}

fn from_url(read: &mut Reader<'_>, name: &str, text: &str, source: Source, ssl: &Ssl) -> Option<ConnInfo> {
    let info = match ConnInfo::parse(text.trim()) {
        Ok(info) => info,
        Err(errors) => {
            for error in errors {
                read.wrong(format!("{}: {error}", label(name, source)));
            }
            // What is wrong with them is told too, unless the URL may mean to say it itself.
            if !text.contains("ssl") {
                ssl.apply(read, stand_in());
            }
            return None;
        }
    };
    let names_ssl = info.names_ssl();
    if names_ssl {
        for variable in &ssl.set {
            read.warn(variable, format!("{variable} is not used for {name}, which names its own ssl keys"));
        }
    }
    let info = if names_ssl { info } else { ssl.apply(read, info)? };
    if name == "DATABASE_URL" {
        show_url(read, &info, source, names_ssl, ssl);
    }
    Some(info)
}

fn from_parts(read: &mut Reader<'_>, layer: Option<Source>, ssl: &Ssl) -> Option<ConnInfo> {
    let part = |name: &str, default: &str| {
        layer.and_then(|layer| read.layers.get_in(layer, name)).map_or_else(
            || (default.to_owned(), Source::Default),
            |given| (given.text.trim().to_owned(), given.source),
        )
    };
    let default = |name| match super::variables::find(name).map(|variable| variable.default) {
        Some(super::variables::Default::Is(text)) => text,
        _ => "",
    };
    let [host, port, name, user] =
        ["DB_HOST", "DB_PORT", "DB_NAME", "DB_USER"].map(|name| (name, part(name, default(name))));
    let password = layer.map(|layer| read.layers.get_or_file_in(layer, "DB_PASSWORD")).transpose();
    for (variable, (text, source)) in [&host, &port, &name, &user] {
        read.show(*variable, Some(text.clone()), *source);
    }
    read.show("DATABASE_URL", None, Source::Default);
    let number = port.1.0.parse().ok().filter(|port| *port > 0);
    if number.is_none() {
        read.wrong(format!("{}: {:?} is not a port from 1 to 65535", label("DB_PORT", port.1.1), port.1.0));
    }
    let (password, readable) = match password {
        Ok(password) => (password.flatten(), true),
        Err(error) => {
            read.wrong(error);
            (None, false)
        }
    };
    let source = password.as_ref().map_or(Source::Default, |(_, source)| *source);
    read.show("DB_PASSWORD", password.is_some().then(|| "***".to_owned()), source);
    let password = password.map(|(text, _)| Secret::new(text));
    let info = number.map(|port| ConnInfo::from_parts(&host.1.0, port, &name.1.0, &user.1.0, password));
    let complete = info.is_some() && readable;
    let info = ssl.apply(read, info.unwrap_or_else(stand_in))?;
    show_ssl(read, info.ssl_mode, ssl);
    complete.then_some(info)
}

/// Never connected to: for what is checked beside a database that is not well named.
fn stand_in() -> ConnInfo {
    ConnInfo::from_parts("", 1, "", "", None)
}

/// Shows what a URL came to under the names of its pieces.
fn show_url(read: &mut Reader<'_>, info: &ConnInfo, source: Source, names_ssl: bool, ssl: &Ssl) {
    read.show("DATABASE_URL", Some(info.redacted()), source);
    for (variable, text) in [
        ("DB_HOST", info.host.clone()),
        ("DB_PORT", info.port.to_string()),
        ("DB_NAME", info.dbname.clone()),
        ("DB_USER", info.user.clone()),
    ] {
        read.show(variable, Some(text), Source::DatabaseUrl);
    }
    read.show("DB_PASSWORD", info.password.is_some().then(|| "***".to_owned()), Source::DatabaseUrl);
    if names_ssl {
        for name in SSL {
            let mode = (name == "DB_SSL_MODE").then(|| info.ssl_mode.as_str().to_owned());
            read.show(name, mode, Source::DatabaseUrl);
        }
    } else {
        show_ssl(read, info.ssl_mode, ssl);
    }
}

fn show_ssl(read: &mut Reader<'_>, mode: SslMode, ssl: &Ssl) {
    let values = [Some(mode.as_str().to_owned()), ssl.root_cert.clone(), ssl.cert.clone(), ssl.key.clone()];
    for (name, value) in SSL.into_iter().zip(values) {
        let source = read.layers.get(name).map_or(Source::Default, |given| given.source);
        read.show(name, value, source);
    }
}

/// Says which settings of the database lose: a lower layer's, and pieces beside a URL.
fn warn_of_unused(read: &mut Reader<'_>, layer: Option<Source>) {
    let Some(layer) = layer else { return };
    let by_url = read.layers.get_in(layer, "DATABASE_URL").or(read.layers.get_in(layer, "DATABASE_URL_FILE"));
    if by_url.is_some() {
        for name in PARTS {
            if read.layers.get_in(layer, name).is_some() {
                read.warn(name, format!("{name} ({layer}) is not used: DATABASE_URL wins over DB_*"));
            }
        }
    }
    for (name, lower) in read.layers.below(layer, &DECIDING) {
        read.warn(
            name,
            format!(
                "{name} ({lower}) is not used: the database is named by {layer}, and layers are not merged"
            ),
        );
    }
}
