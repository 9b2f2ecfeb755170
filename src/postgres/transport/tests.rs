//! TLS against a scripted server with certificates made here.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{AlpnError, NameType, Ssl, SslAcceptor, SslMethod, SslVerifyMode, SslVersion};
use openssl::symm::Cipher;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Name};
use tempfile::TempDir;
use tokio::io::duplex;
use tokio::net::{TcpListener, UnixListener};
use tokio_openssl::SslStream;

use super::*;
use crate::postgres::conninfo::{RootCert, TlsVersion};
use crate::secret::Secret;

/// A certificate and its key.
struct Identity {
    cert: X509,
    key: PKey<Private>,
}

impl Identity {
    fn new(key: PKey<Private>, digest: MessageDigest, name: &str, signer: Option<&Identity>) -> Self {
        let mut subject = X509Name::builder().unwrap();
        subject.append_entry_by_text("CN", name).unwrap();
        let subject = subject.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let serial = BigNum::from_u32(u32::from(signer.is_some()) + 1).unwrap();
        builder.set_serial_number(&Asn1Integer::from_bn(&serial).unwrap()).unwrap();
        builder.set_subject_name(&subject).unwrap();
        builder.set_issuer_name(signer.map_or(&*subject, |ca| ca.cert.subject_name())).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        if signer.is_some() {
            let names =
                SubjectAlternativeName::new().dns(name).build(&builder.x509v3_context(None, None)).unwrap();
            builder.append_extension(names).unwrap();
        } else {
            builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        }
        builder.sign(signer.map_or(&key, |ca| &ca.key), digest).unwrap();
        Self { cert: builder.build(), key }
    }

    fn rsa(name: &str, signer: Option<&Identity>) -> Self {
        Self::new(
            PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
            MessageDigest::sha256(),
            name,
            signer,
        )
    }
}

/// An authority, a server `db.example`, a client, and another authority, made once: keys are slow.
struct World {
    dir: TempDir,
    server: Identity,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (Identity::rsa("test CA", None), Identity::rsa("other CA", None));
    let (server, client) = (Identity::rsa("db.example", Some(&ca)), Identity::rsa("client", Some(&ca)));
    let write = |name: &str, bytes: Vec<u8>| fs::write(dir.path().join(name), bytes).unwrap();
    write("ca.crt", ca.cert.to_pem().unwrap());
    write("other.crt", other.cert.to_pem().unwrap());
    write("client.crt", client.cert.to_pem().unwrap());
    write("client.key", client.key.private_key_to_pem_pkcs8().unwrap());
    write("client.der", client.key.private_key_to_der().unwrap());
    let encrypted = client.key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"open sesame");
    write("locked.key", encrypted.unwrap());
    World { dir, server }
});

fn file(name: &str) -> PathBuf {
    WORLD.dir.path().join(name)
}

/// What the scripted server does after the TLS request.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Byte(u8),
    Tls,
    /// TLS, and a client certificate of the test authority or nothing.
    TlsWithClientCertificate,
}

/// Name asked for (SNI), protocol version, application protocol, common name of the client.
type Seen = Option<(Option<String>, String, Option<Vec<u8>>, Option<String>)>;

fn acceptor(identity: &Identity, answer: Answer) -> SslAcceptor {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    builder.set_certificate(&identity.cert).unwrap();
    builder.set_private_key(&identity.key).unwrap();
    builder.set_min_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    builder.set_alpn_select_callback(|_, offered| {
        if offered == b"\x0apostgresql" { Ok(&offered[1..]) } else { Err(AlpnError::ALERT_FATAL) }
    });
    if answer == Answer::TlsWithClientCertificate {
        builder.set_ca_file(file("ca.crt")).unwrap();
        builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    }
    builder.build()
}

/// Runs `secure` against the scripted server, and one byte each way over what comes out.
async fn try_with(
    info: &ConnInfo,
    identity: &Identity,
    answer: Answer,
) -> (Result<Transport, PgError>, Seen) {
    let (ours, mut theirs) = duplex(64 * 1024);
    let endpoint = info.endpoints().next().unwrap();
    let direct = info.tls.direct;
    let server = async {
        if !direct {
            let mut request = [0; 8];
            theirs.read_exact(&mut request).await.ok()?;
            assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47], "SSLRequest");
            match answer {
                Answer::Byte(byte) => {
                    theirs.write_all(&[byte]).await.ok()?;
                    return None;
                }
                _ => theirs.write_all(b"S").await.ok()?,
            }
        }
        let ssl = Ssl::new(acceptor(identity, answer).context()).unwrap();
        let mut stream = SslStream::new(ssl, theirs).unwrap();
        Pin::new(&mut stream).accept().await.ok()?;
        stream.write_all(b"!").await.ok()?;
        stream.read_u8().await.ok()?;
        let ssl = stream.ssl();
        let client = ssl
            .peer_certificate()
            .map(|cert| cert.subject_name().entries().next().unwrap().data().to_string().unwrap());
        Some((
            ssl.servername(NameType::HOST_NAME).map(str::to_owned),
            ssl.version_str().to_owned(),
            ssl.selected_alpn_protocol().map(<[u8]>::to_vec),
            client,
        ))
    };
    let client = async {
        let mut transport = secure(ours, info, &endpoint).await?;
        if transport.encrypted() {
            // Under TLS 1.3 the server refuses a client only after the client's part is done.
            let refused = |source: io::Error| PgError::Tls { doing: "talk".into(), source: source.into() };
            transport.read_u8().await.map_err(refused)?;
            transport.write_all(b"?").await.map_err(refused)?;
        }
        Ok(transport)
    };
    tokio::join!(client, server)
}

fn info(keys: &str) -> ConnInfo {
    ConnInfo::parse(&format!("host=db.example user=u {keys}"))
        .unwrap_or_else(|problems| panic!("{keys}: {problems:?}"))
}

fn with_ca(keys: &str) -> ConnInfo {
    info(&format!("sslrootcert='{}' {keys}", file("ca.crt").display()))
}

async fn connects(info: &ConnInfo) -> Result<(), String> {
    let (result, _) = try_with(info, &WORLD.server, Answer::Tls).await;
    result.map(|transport| assert!(transport.encrypted())).map_err(|error| error.report())
}

#[tokio::test]
async fn a_server_without_tls_serves_prefer_alone() {
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        let info = with_ca(&format!("sslmode={mode}"));
        let (result, _) = try_with(&info, &WORLD.server, Answer::Byte(b'N')).await;
        match result {
            Ok(transport) => assert!(mode == "prefer" && !transport.encrypted()),
            Err(error) => {
                assert_ne!(mode, "prefer");
                assert!(error.report().contains(&format!("sslmode={mode} wants it")), "{}", error.report());
                assert!(error.hint().unwrap().contains("ssl = on"));
            }
        }
    }
}

#[tokio::test]
async fn a_strange_answer_to_the_tls_request_is_refused() {
    for (byte, closed) in [(b'E', true), (b'X', false)] {
        let (result, _) = try_with(&info("sslmode=prefer"), &WORLD.server, Answer::Byte(byte)).await;
        let error = result.err().unwrap();
        assert_eq!(matches!(error, PgError::Closed { .. }), closed, "{error:?}");
        assert_eq!(matches!(error, PgError::Protocol { .. }), !closed, "{error:?}");
    }
}

#[tokio::test]
async fn each_mode_verifies_what_it_says() {
    let other = format!("sslrootcert='{}'", file("other.crt").display());
    let elsewhere = |keys: &str| with_ca(&format!("host=elsewhere.example {keys}"));
    for settings in [
        info("sslmode=prefer"),
        info("sslmode=require"),
        info(&format!("{other} sslmode=prefer")),
        with_ca("sslmode=require"),
        with_ca("sslmode=verify-ca"),
        with_ca("sslmode=verify-full"),
        elsewhere("sslmode=require"),
        elsewhere("sslmode=verify-ca"),
    ] {
        assert_eq!(connects(&settings).await, Ok(()), "{settings:?}");
    }
    for settings in [
        info(&format!("{other} sslmode=require")),
        info(&format!("{other} sslmode=verify-ca")),
        info(&format!("{other} sslmode=verify-full")),
        info("sslrootcert=system"),
        elsewhere("sslmode=verify-full"),
    ] {
        let error = connects(&settings).await.expect_err("an unverified server was accepted");
        assert!(error.contains("certificate is refused"), "{error}");
    }
    if std::env::var_os("HOME").is_none_or(|home| !PathBuf::from(home).join(".postgresql/root.crt").exists())
    {
        assert!(
            connects(&info("sslmode=verify-ca")).await.unwrap_err().contains("verify-ca needs sslrootcert")
        );
    }
}

#[test]
fn a_named_root_certificate_replaces_those_of_the_system() {
    let trusted = |info: &ConnInfo| {
        let configuration = tls::configure(info).map_err(|error| error.report()).unwrap();
        configuration.ssl_context().cert_store().all_certificates().len()
    };
    assert_eq!(trusted(&with_ca("sslmode=verify-full")), 1);
    assert!(trusted(&info("sslrootcert=system")) > 1, "this machine has no authorities (ca-certificates)");
}

#[tokio::test]
async fn an_unreadable_certificate_file_is_named() {
    for keys in ["sslrootcert=/no/such", "sslcert=/no/such sslkey=/no/such", "sslcrl=/no/such"] {
        let info = if keys.contains("crl") {
            with_ca(&format!("{keys} sslmode=verify-ca"))
        } else {
            info(&format!("{keys} sslmode=require"))
        };
        let (result, _) = try_with(&info, &WORLD.server, Answer::Tls).await;
        let error = result.err().unwrap();
        assert!(
            matches!(error, PgError::Setting(_)) && error.report().contains("/no/such"),
            "{}",
            error.report()
        );
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_when_there_is_one() {
    let cert = file("client.crt").display().to_string();
    for (key, more) in [("client.key", ""), ("client.der", ""), ("locked.key", "sslpassword='open sesame'")] {
        let key = file(key).display().to_string();
        let info = with_ca(&format!("sslmode=verify-full sslcert='{cert}' sslkey='{key}' {more}"));
        let (result, seen) = try_with(&info, &WORLD.server, Answer::TlsWithClientCertificate).await;
        result.map_err(|error| error.report()).unwrap();
        assert_eq!(seen.unwrap().3.as_deref(), Some("client"));
    }
    let key = file("client.key").display().to_string();
    for keys in [String::new(), format!("sslcert='{cert}' sslkey='{key}' sslcertmode=disable")] {
        let (result, _) = try_with(
            &with_ca(&format!("sslmode=require {keys}")),
            &WORLD.server,
            Answer::TlsWithClientCertificate,
        )
        .await;
        assert!(matches!(result, Err(PgError::Tls { .. })), "a client without certificate was let in");
    }
    let locked = file("locked.key").display().to_string();
    for password in [None, Some(Secret::new("wrong"))] {
        let mut info = with_ca(&format!("sslmode=require sslcert='{cert}' sslkey='{locked}'"));
        info.tls.key_password = password;
        let error = connects(&info).await.unwrap_err();
        assert!(error.contains("locked.key") && error.contains("not opened by this sslpassword"), "{error}");
    }
}

#[tokio::test]
async fn versions_names_and_direct_tls_are_as_asked() {
    let seen = async |info: &ConnInfo| {
        let (result, seen) = try_with(info, &WORLD.server, Answer::Tls).await;
        result.map_err(|error| error.report()).unwrap();
        seen.unwrap()
    };
    let newest = seen(&info("sslmode=require")).await;
    assert_eq!((newest.0.as_deref(), newest.1.as_str(), newest.2), (Some("db.example"), "TLSv1.3", None));
    assert_eq!(seen(&info("sslmode=require ssl_max_protocol_version=TLSv1.2")).await.1, "TLSv1.2");
    assert_eq!(seen(&info("sslmode=require sslsni=0")).await.0, None);
    let direct = seen(&with_ca("sslmode=verify-full sslnegotiation=direct")).await;
    assert_eq!(direct.2.as_deref(), Some(&b"postgresql"[..]));
    let mut old = info("sslmode=require");
    (old.tls.min_version, old.tls.max_version) = (TlsVersion::V1_0, Some(TlsVersion::V1_1));
    assert!(connects(&old).await.is_err(), "the server wants TLS 1.2");
}

#[tokio::test]
async fn scram_binds_to_the_hash_of_the_signature() {
    let rsa = || PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    for (digest, bound) in [
        (MessageDigest::sha256(), MessageDigest::sha256()),
        (MessageDigest::sha384(), MessageDigest::sha384()),
        // RFC 5929: in place of MD5 and SHA-1, SHA-256.
        (MessageDigest::sha1(), MessageDigest::sha256()),
    ] {
        let identity = Identity::new(rsa(), digest, "db.example", None);
        let (result, _) = try_with(&info("sslmode=require"), &identity, Answer::Tls).await;
        let Ok(transport) = result else {
            // OpenSSL may be told (security level) to accept no SHA-1 at all.
            assert_eq!(digest.type_(), MessageDigest::sha1().type_());
            continue;
        };
        assert_eq!(transport.end_point(), Some(&*identity.cert.digest(bound).unwrap()));
    }
    let edwards = Identity::new(PKey::generate_ed25519().unwrap(), MessageDigest::null(), "db.example", None);
    let (result, _) = try_with(&info("sslmode=require"), &edwards, Answer::Tls).await;
    assert_eq!(result.map_err(|error| error.report()).unwrap().end_point(), None);
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    // Revocation lists cannot be made with the openssl crate: its command line can.
    let script = r#"set -e
        openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj "/CN=crl CA" -keyout ca.key -out ca.crt
        for name in good bad; do
            openssl req -newkey rsa:2048 -nodes -subj "/CN=db.example" -keyout $name.key -out $name.csr
            openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -out $name.crt
        done
        printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ncrlnumber=number\ndefault_md=sha256\ndefault_crl_days=1\n' >ca.cnf
        : >index.txt; echo 01 >number
        openssl ca -config ca.cnf -keyfile ca.key -cert ca.crt -revoke bad.crt
        openssl ca -config ca.cnf -keyfile ca.key -cert ca.crt -gencrl -out crl.pem
        mkdir crls; cp crl.pem crls/$(openssl crl -hash -noout -in crl.pem).r0"#;
    let made =
        std::process::Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let path = |name: &str| dir.path().join(name);
    let identity = |name: &str| Identity {
        cert: X509::from_pem(&fs::read(path(&format!("{name}.crt"))).unwrap()).unwrap(),
        key: PKey::private_key_from_pem(&fs::read(path(&format!("{name}.key"))).unwrap()).unwrap(),
    };
    let mut unchecked = info("sslmode=verify-ca");
    unchecked.tls.root_cert = Some(RootCert::File(path("ca.crt")));
    let (mut by_file, mut by_dir) = (unchecked.clone(), unchecked.clone());
    by_file.tls.crl = Some(path("crl.pem"));
    by_dir.tls.crl_dir = Some(path("crls"));
    for (info, name, accepted) in [
        (&unchecked, "bad", true),
        (&by_file, "good", true),
        (&by_file, "bad", false),
        (&by_dir, "good", true),
        (&by_dir, "bad", false),
    ] {
        let (result, _) = try_with(info, &identity(name), Answer::Tls).await;
        match result {
            Ok(_) => assert!(accepted, "{name} was accepted"),
            Err(error) => assert!(!accepted && error.report().contains("revoked"), "{}", error.report()),
        }
    }
}

#[tokio::test]
async fn unix_sockets_and_lists_of_servers_are_tried_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(".s.PGSQL.7")).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        gone.local_addr().unwrap().port()
    };
    let socket = dir.path().display();
    let port = tcp.local_addr().unwrap().port();
    let info = ConnInfo::parse(&format!(
        "host=127.0.0.1,{socket},localhost port={closed},7,{port} user=u sslmode=disable"
    ))
    .unwrap();
    let mut tried = Vec::new();
    // The second is starting up: the third is asked.
    let reached = first_fitting(&info, |_, endpoint| {
        tried.push(endpoint.describe());
        let starting = endpoint.is_unix();
        async move {
            let error = super::super::error::ServerError { code: "57P03".into(), ..Default::default() };
            let error = Box::new(error);
            if starting {
                Err(PgError::Server { doing: "test".into(), replication_command: false, error })
            } else {
                Ok(endpoint.port)
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(reached, port);
    assert_eq!(tried, [format!("{socket}/.s.PGSQL.7"), format!("localhost:{port}")]);
    drop(listener);
    // A refusal that no other server would answer differently ends the search.
    let result: Result<(), _> = first_fitting(&info, |_, _| async { Err(PgError::Auth("no".into())) }).await;
    assert!(matches!(result, Err(PgError::Auth(_))));
}

#[tokio::test]
async fn an_abstract_socket_is_written_with_an_at_sign() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let name = format!("txstream-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(format!("{name}/.s.PGSQL.5432")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let info = ConnInfo::parse(&format!("host=@{name} user=u")).unwrap();
    let reached =
        first_fitting(&info, |transport, _| async move { Ok(transport.encrypted()) }).await.unwrap();
    assert!(!reached, "no TLS on a Unix socket");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_says_nothing_costs_the_timeout_once() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let info = ConnInfo::parse(&format!("host=127.0.0.1 port={port} user=u connect_timeout=3")).unwrap();
    let begun = Instant::now();
    let result: Result<(), _> = first_fitting(&info, |_, _| async { Ok(()) }).await;
    let error = result.unwrap_err();
    assert!(matches!(error, PgError::Timeout { limit, .. } if limit == Duration::from_secs(3)), "{error:?}");
    assert_eq!(begun.elapsed().as_secs(), 3);
    assert!(error.report().contains(&format!("connect to 127.0.0.1:{port} within 3s")), "{}", error.report());
}
