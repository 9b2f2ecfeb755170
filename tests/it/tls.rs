//! `sslmode` against a real server, for SQL and replication connections alike.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use txstream::postgres::conninfo::SslMode;
use txstream::postgres::error::PgError;
use txstream::postgres::replication::ReplicationConn;
use txstream::postgres::{ConnInfo, sql};

use crate::support::wait::SOON;
use crate::support::{Outbox, Postgres};

/// What both kinds of connections see: whether they are encrypted, or the error, which must be alike.
async fn both(url: &str) -> Result<bool, PgError> {
    const SQL: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let info = ConnInfo::parse(url).unwrap();
    let replication = match ReplicationConn::connect(&info, "test").await {
        Ok(mut connection) => Ok(connection.simple_query(SQL).await.unwrap()[0][0].as_deref() == Some("t")),
        Err(error) => Err(error),
    };
    let ordinary = match sql::connect(&info, "test").await {
        Ok(client) => Ok(client.query_one(SQL, &[]).await.unwrap().get::<_, bool>(0)),
        Err(error) => Err(error),
    };
    match (&replication, &ordinary) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (Err(one), Err(other)) => assert_eq!(std::mem::discriminant(one), std::mem::discriminant(other)),
        (one, other) => panic!("replication {one:?}, sql {other:?}"),
    }
    replication
}

#[tokio::test]
async fn every_mode_with_and_without_a_server_certificate() {
    let tls = Postgres::start_with_tls(Postgres::default_version(), &[]).await;
    let plain = Postgres::shared().await;
    let ca = tls.root_cert().display();
    let url = |postgres: &Postgres, host: &str, keys: &str| {
        format!("postgresql://postgres:postgres@{host}:{}/postgres?{keys}", postgres.port())
    };

    for (keys, encrypted) in [
        ("sslmode=disable", false),
        ("sslmode=prefer", true),
        ("", true),
        ("sslmode=require", true),
        ("channel_binding=require", true),
        ("sslmode=require&channel_binding=disable", true),
        (&*format!("sslmode=require&sslrootcert={ca}"), true),
        (&*format!("sslmode=verify-ca&sslrootcert={ca}"), true),
        (&*format!("sslmode=verify-full&sslrootcert={ca}&channel_binding=require"), true),
        ("sslmode=require&ssl_min_protocol_version=TLSv1.3", true),
        ("sslmode=require&ssl_max_protocol_version=TLSv1.2&sslsni=0", true),
    ] {
        let seen = both(&url(&tls, "localhost", keys)).await;
        assert_eq!(seen.map_err(|error| error.report()), Ok(encrypted), "{keys}");
    }
    if tls.version() >= 17 {
        let direct =
            url(&tls, "127.0.0.1", &format!("sslnegotiation=direct&sslmode=verify-full&sslrootcert={ca}"));
        assert!(both(&direct).await.unwrap());
    }

    for (keys, reason) in [
        // Not signed by anyone the system trusts.
        ("sslmode=verify-full", "certificate"),
        ("sslrootcert=system", "certificate"),
    ] {
        let error = both(&url(&tls, "localhost", keys)).await.unwrap_err();
        assert!(matches!(error, PgError::Tls { .. }), "{keys}: {error:?}");
        assert!(error.report().contains(reason), "{keys}: {}", error.report());
    }

    assert!(!both(&url(plain, "localhost", "sslmode=prefer")).await.unwrap());
    for mode in ["require", "verify-full"] {
        let error = both(&url(plain, "localhost", &format!("sslmode={mode}"))).await.unwrap_err();
        assert!(error.report().contains("does not offer TLS"), "{}", error.report());
    }
    let error = both(&url(plain, "localhost", "channel_binding=require")).await.unwrap_err();
    assert!(matches!(error, PgError::Auth(_)), "{error:?}");
}

#[tokio::test]
async fn a_certificate_for_another_name_passes_verify_ca_alone() {
    let tls = Postgres::start_with_tls(Postgres::default_version(), &[]).await;
    let ca = tls.root_cert().to_str().unwrap();
    // The certificate holds localhost and 127.0.0.1; hostaddr leads there under another name.
    let mut info = ConnInfo::parse(&format!(
        "host=db.example hostaddr=127.0.0.1 port={} user=postgres password=postgres sslrootcert='{ca}' sslmode=verify-ca",
        tls.port()
    ))
    .unwrap();
    assert!(sql::connect(&info, "test").await.is_ok());
    info.ssl_mode = SslMode::VerifyFull;
    let error = sql::connect(&info, "test").await.err().unwrap();
    assert!(error.report().contains("hostname mismatch"), "{}", error.report());
    assert!(error.hint().unwrap().contains("another name"), "{:?}", error.hint());
}

/// An address of this machine that is not loopback: the one that packets to elsewhere would leave by. None is
/// sent.
fn own_address() -> IpAddr {
    let towards = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|local| local.ip()).filter(|ip| !ip.is_loopback())
    };
    let found = towards("0.0.0.0:0", "192.0.2.1:9").or_else(|| towards("[::]:0", "[2001:db8::1]:9"));
    found.expect("this machine has no address but loopback")
}

/// Forwards from that address to a port of 127.0.0.1.
async fn forwarded(address: IpAddr, port: u16) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let here = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    here
}

#[tokio::test]
async fn what_leaves_the_host_unencrypted_is_warned_about_once() {
    let postgres = Postgres::start_with_tls(Postgres::default_version(), &[]).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let beyond = forwarded(own_address(), postgres.port()).await;
    let loopback = SocketAddr::from(([127, 0, 0, 1], postgres.port()));
    for (server, sslmode, warnings) in
        [(beyond, "disable", 1), (beyond, "require", 0), (loopback, "disable", 0)]
    {
        let url =
            format!("postgresql://postgres:postgres@{server}/{}?sslmode={sslmode}", outbox.database.name());
        // Several connections: two for replication and SQL at the least.
        let relay = outbox.streaming(&[], &[("DATABASE_URL", &url)]).await;
        relay.sigterm().await;
        let exit = relay.wait_exit(SOON).await;
        assert_eq!(exit.status.code(), Some(0), "{}", exit.stderr);
        let said: Vec<_> = exit.stderr.lines().filter(|line| line.contains("not encrypted")).collect();
        assert_eq!(said.len(), warnings, "{server} with sslmode={sslmode}: {said:?}");
        assert!(said.iter().all(|line| line.contains(r#""level":"WARN""#)), "{said:?}");
    }
}
