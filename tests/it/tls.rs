//! `sslmode` against a real server, for SQL and replication connections alike.

use txstream::postgres::conninfo::SslMode;
use txstream::postgres::error::PgError;
use txstream::postgres::replication::ReplicationConn;
use txstream::postgres::{ConnInfo, sql};

use crate::support::Postgres;

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
