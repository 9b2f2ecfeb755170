//! The TLS session of a connection, by the rules of libpq's ssl keys.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::pin::Pin;

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::ssl::{
    ConnectConfiguration, SslConnector, SslConnectorBuilder, SslFiletype, SslMethod, SslRef, SslVerifyMode,
    SslVersion,
};
use openssl::x509::X509VerifyResult;
use openssl::x509::store::{X509Lookup, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio_openssl::SslStream;

use crate::postgres::conninfo::{Endpoint, RootCert, SslMode, TlsSettings, TlsVersion};
use crate::postgres::{ConnInfo, PgError};

/// OpenSSL reads a record header, then its body: behind this buffer that is one system call for
/// several records.
const READ_AHEAD: usize = 64 * 1024;

/// Shakes hands as a client and checks the server as far as `sslmode` wants.
pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    info: &ConnInfo,
    endpoint: &Endpoint,
    doing: &str,
) -> Result<SslStream<BufReader<S>>, PgError> {
    let failed = |source: Box<dyn Error + Send + Sync>| PgError::Tls { doing: doing.to_owned(), source };
    let ssl = configure(info)?.into_ssl(&endpoint.host).map_err(|error| failed(error.into()))?;
    let mut stream = SslStream::new(ssl, BufReader::with_capacity(READ_AHEAD, stream))
        .map_err(|error| failed(error.into()))?;
    if let Err(error) = Pin::new(&mut stream).connect().await {
        let verified = stream.ssl().verify_result();
        return Err(failed(if verified == X509VerifyResult::OK || error.ssl_error().is_none() {
            error.into()
        } else {
            format!("the server's certificate is refused: {}", verified.error_string()).into()
        }));
    }
    Ok(stream)
}

/// The hash SCRAM binds to: of the server's certificate, by the algorithm that signed it, SHA-256 in
/// place of MD5 and SHA-1 (RFC 5929, 4.1). Ed25519 signs without one, so there is none to bind to.
pub(super) fn server_end_point(ssl: &SslRef) -> Option<Vec<u8>> {
    let certificate = ssl.peer_certificate()?;
    let algorithms = certificate.signature_algorithm().object().nid().signature_algorithms()?;
    let digest = match algorithms.digest {
        Nid::MD5 | Nid::SHA1 => MessageDigest::sha256(),
        nid => MessageDigest::from_nid(nid)?,
    };
    certificate.digest(digest).ok().map(|hash| hash.to_vec())
}

/// The session as the settings want it, before it knows its stream.
pub(super) fn configure(info: &ConnInfo) -> Result<ConnectConfiguration, PgError> {
    let settings = &info.tls;
    let unusable =
        |what: &'static str| move |error: ErrorStack| PgError::Setting(format!("cannot use {what}: {error}"));
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(unusable("OpenSSL"))?;
    builder
        .set_min_proto_version(Some(version(settings.min_version)))
        .and_then(|()| builder.set_max_proto_version(settings.max_version.map(version)))
        .map_err(unusable("these TLS versions"))?;
    let verify = trust(&mut builder, info.ssl_mode, settings)?;
    builder.set_verify(if verify { SslVerifyMode::PEER } else { SslVerifyMode::NONE });
    if settings.send_cert {
        identify(&mut builder, settings)?;
    }
    if settings.direct {
        builder.set_alpn_protos(b"\x0apostgresql").map_err(unusable("ALPN"))?;
    }
    let mut configuration = builder.build().configure().map_err(unusable("OpenSSL"))?;
    configuration.set_use_server_name_indication(settings.sni);
    configuration.set_verify_hostname(info.ssl_mode == SslMode::VerifyFull);
    Ok(configuration)
}

/// Chooses the authorities; gives whether the server is to be verified.
fn trust(builder: &mut SslConnectorBuilder, mode: SslMode, settings: &TlsSettings) -> Result<bool, PgError> {
    let root = match (&settings.root_cert, mode) {
        (Some(root), mode) if mode >= SslMode::Require => root.clone(),
        (None, SslMode::VerifyCa | SslMode::VerifyFull) => match default_root_cert() {
            Some(path) => RootCert::File(path),
            None if mode == SslMode::VerifyFull => RootCert::System,
            None => {
                return Err(PgError::Setting(
                    "sslmode=verify-ca needs sslrootcert, the certificate of the authority to trust".into(),
                ));
            }
        },
        // prefer and disable verify nothing; require only when a root certificate is named, as in libpq.
        _ => return Ok(false),
    };
    if let RootCert::File(path) = &root {
        // Only this authority, none of the system's, which the builder has loaded.
        let store = X509StoreBuilder::new().map_err(|error| cannot_use("sslrootcert", path, &error))?;
        builder.set_cert_store(store.build());
        builder.set_ca_file(path).map_err(|error| cannot_use("sslrootcert", path, &error))?;
    }
    if let Some(path) = &settings.crl {
        let lookup = builder.cert_store_mut().add_lookup(X509Lookup::file());
        lookup
            .and_then(|lookup| lookup.load_crl_file(path, SslFiletype::PEM))
            .map_err(|error| cannot_use("sslcrl", path, &error))?;
    }
    if let Some(path) = &settings.crl_dir {
        let lookup = builder.cert_store_mut().add_lookup(X509Lookup::hash_dir());
        lookup
            .and_then(|lookup| lookup.add_dir(&path.to_string_lossy(), SslFiletype::PEM))
            .map_err(|error| cannot_use("sslcrldir", path, &error))?;
    }
    if settings.crl.is_some() || settings.crl_dir.is_some() {
        builder
            .cert_store_mut()
            .set_flags(X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL)
            .map_err(|error| PgError::Setting(format!("cannot check for revoked certificates: {error}")))?;
    }
    Ok(true)
}

/// libpq's default for `sslrootcert`.
fn default_root_cert() -> Option<std::path::PathBuf> {
    let path = Path::new(&std::env::var_os("HOME")?).join(".postgresql/root.crt");
    path.is_file().then_some(path)
}

/// Loads our own certificate and key.
fn identify(builder: &mut SslConnectorBuilder, settings: &TlsSettings) -> Result<(), PgError> {
    let (Some(cert), Some(key)) = (&settings.cert, &settings.key) else { return Ok(()) };
    builder.set_certificate_chain_file(cert).map_err(|error| cannot_use("sslcert", cert, &error))?;
    let bytes = fs::read(key).map_err(|error| cannot_use("sslkey", key, &error))?;
    // Without a passphrase an empty one is tried, so that OpenSSL never asks at the terminal.
    let passphrase = settings.key_password.as_ref().map_or("", |secret| secret.expose());
    let loaded = PKey::private_key_from_pem_passphrase(&bytes, passphrase.as_bytes())
        .or_else(|_| PKey::private_key_from_der(&bytes))
        .map_err(|_| {
            cannot_use("sslkey", key, &"no private key in PEM or DER, or not opened by this sslpassword")
        })?;
    builder
        .set_private_key(&loaded)
        .and_then(|()| builder.check_private_key())
        .map_err(|error| cannot_use("sslkey", key, &error))
}

fn cannot_use(setting: &str, path: &Path, error: &dyn std::fmt::Display) -> PgError {
    PgError::Setting(format!("cannot use {setting} {}: {error}", path.display()))
}

fn version(version: TlsVersion) -> SslVersion {
    match version {
        TlsVersion::V1_0 => SslVersion::TLS1,
        TlsVersion::V1_1 => SslVersion::TLS1_1,
        TlsVersion::V1_2 => SslVersion::TLS1_2,
        TlsVersion::V1_3 => SslVersion::TLS1_3,
    }
}
