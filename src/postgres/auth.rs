//! Authentication of a replication connection: SCRAM-SHA-256 with and without channel binding, MD5,
//! clear-text password. (SQL connections leave it to tokio-postgres, by the same rules.)

#[cfg(test)]
mod tests;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as Binding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::PgError;
use super::channel::Channel;
use super::conninfo::ChannelBinding;
use crate::secret::Secret;

/// Said when the server asks for a password and there is none.
pub(super) const NO_PASSWORD: &str =
    "the server asks for a password and none was given (in the URL, as DB_PASSWORD, or in ~/.pgpass)";

/// Who logs in, and what the connection allows.
pub(super) struct Login<'a> {
    pub(super) user: &'a str,
    pub(super) password: Option<&'a Secret>,
    pub(super) channel_binding: ChannelBinding,
    /// What SCRAM can bind to, see [`super::transport::Transport::end_point`].
    pub(super) end_point: Option<Vec<u8>>,
    pub(super) encrypted: bool,
}

impl Login<'_> {
    fn password(&self) -> Result<&[u8], PgError> {
        self.password
            .map(|secret| secret.expose().as_bytes())
            .ok_or_else(|| PgError::Auth(NO_PASSWORD.into()))
    }

    /// Everything but SCRAM-SHA-256-PLUS is without channel binding.
    fn without_binding(&self) -> Result<(), PgError> {
        if self.channel_binding == ChannelBinding::Require {
            let why =
                if self.encrypted { "the server does not offer it" } else { "the connection has no TLS" };
            return Err(PgError::Auth(format!("channel_binding=require cannot be met: {why}")));
        }
        Ok(())
    }
}

/// Answers the server until it says AuthenticationOk.
pub(super) async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    channel: &mut Channel<S>,
    login: &Login<'_>,
    doing: &str,
) -> Result<(), PgError> {
    match channel.recv_message(doing).await? {
        Message::AuthenticationOk => return login.without_binding(),
        Message::AuthenticationCleartextPassword => {
            login.without_binding()?;
            let password = login.password()?;
            channel.send(doing, |buf| frontend::password_message(password, buf)).await?;
        }
        Message::AuthenticationMd5Password(body) => {
            login.without_binding()?;
            let hash = md5_hash(login.user.as_bytes(), login.password()?, body.salt());
            channel.send(doing, |buf| frontend::password_message(hash.as_bytes(), buf)).await?;
        }
        Message::AuthenticationSasl(body) => scram(channel, login, &body, doing).await?,
        Message::AuthenticationGss | Message::AuthenticationKerberosV5 => {
            return Err(unsupported("GSSAPI or Kerberos"));
        }
        Message::AuthenticationSspi => return Err(unsupported("SSPI")),
        Message::AuthenticationScmCredential => return Err(unsupported("SCM credentials")),
        _ => return Err(PgError::protocol(doing, "the server does not ask for authentication")),
    }
    match channel.recv_message(doing).await? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(PgError::protocol(doing, "the server does not end the authentication")),
    }
}

fn unsupported(method: &str) -> PgError {
    PgError::Auth(format!(
        "the server asks for {method}, which is not supported; let pg_hba.conf ask for scram-sha-256 or a certificate"
    ))
}

/// Which mechanism, and what to tell the server about channel binding (RFC 5802, section 6): that we
/// could bind but saw no offer lets the server notice that somebody removed it.
fn mechanism(login: &Login<'_>, body: &AuthenticationSaslBody) -> Result<(&'static str, Binding), PgError> {
    let (mut plain, mut plus) = (false, false);
    let mut others = Vec::new();
    let mut offered = body.mechanisms();
    while let Some(name) =
        offered.next().map_err(|error| PgError::from_io("read the SASL mechanisms", error))?
    {
        match name {
            SCRAM_SHA_256 => plain = true,
            SCRAM_SHA_256_PLUS => plus = true,
            other => others.push(other.to_owned()),
        }
    }
    let bindable =
        login.end_point.as_ref().filter(|_| login.channel_binding != ChannelBinding::Disable).cloned();
    match bindable {
        Some(hash) if plus => Ok((SCRAM_SHA_256_PLUS, Binding::tls_server_end_point(hash))),
        _ if !plain && !plus => Err(unsupported(&format!("SASL {}", others.join(", ")))),
        bindable => {
            login.without_binding()?;
            let binding = if bindable.is_some() { Binding::unrequested() } else { Binding::unsupported() };
            Ok((SCRAM_SHA_256, binding))
        }
    }
}

async fn scram<S: AsyncRead + AsyncWrite + Unpin>(
    channel: &mut Channel<S>,
    login: &Login<'_>,
    body: &AuthenticationSaslBody,
    doing: &str,
) -> Result<(), PgError> {
    let (mechanism, binding) = mechanism(login, body)?;
    let mut scram = ScramSha256::new(login.password()?, binding);
    channel.send(doing, |buf| frontend::sasl_initial_response(mechanism, scram.message(), buf)).await?;
    let Message::AuthenticationSaslContinue(body) = channel.recv_message(doing).await? else {
        return Err(PgError::protocol(doing, "the server breaks off the SCRAM exchange"));
    };
    scram.update(body.data()).map_err(|error| PgError::Auth(format!("SCRAM fails: {error}")))?;
    channel.send(doing, |buf| frontend::sasl_response(scram.message(), buf)).await?;
    let Message::AuthenticationSaslFinal(body) = channel.recv_message(doing).await? else {
        return Err(PgError::protocol(doing, "the server breaks off the SCRAM exchange"));
    };
    scram.finish(body.data()).map_err(|_| {
        PgError::Auth("the server cannot prove that it knows the password; it may not be yours".into())
    })
}
