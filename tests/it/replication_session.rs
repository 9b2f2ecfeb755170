//! The replication connection against real servers: every row of a transaction comes, a status moves
//! the slot, a stop in order leaves nothing unconfirmed.

use std::time::Duration;

use tokio::time::timeout;
use txstream::postgres::error::Class;
use txstream::postgres::replication::{CreateOptions, ReplicationConn, StartOptions, WalSenderTimeout};
use txstream::postgres::stream::{ReplicationMessage, StatusWriter, WalReader, finish};
use txstream::postgres::{ConnInfo, Lsn, sql};

use crate::support::wait::SOON;
use crate::support::{Database, Postgres};

const PUBLICATION: &str = r#"odd "name", indeed"#;

fn options() -> StartOptions {
    StartOptions { publications: vec![PUBLICATION.into()], binary: false, messages: true }
}

async fn with_table_and_slot(postgres: &Postgres, url: impl Fn(&Database) -> String) -> (Database, ConnInfo) {
    let database = postgres.database().await;
    database
        .exec(r#"CREATE TABLE thing (id int, body text); CREATE PUBLICATION "odd ""name"", indeed" FOR TABLE thing"#)
        .await;
    let info = ConnInfo::parse(&url(&database)).unwrap();
    let mut connection = ReplicationConn::connect(&info, "test").await.unwrap();
    let created = connection.create_slot(database.name(), CreateOptions::default()).await.unwrap();
    assert_eq!(created.name, database.name());
    (database, info)
}

/// Reads to the Commit message whose position `done` accepts and gives how many bytes of rows came
/// before it and its end.
async fn read_transaction(reader: &mut WalReader) -> (usize, Lsn) {
    let mut inserts = 0;
    loop {
        timeout(SOON, reader.ready()).await.expect("a message comes in time").unwrap();
        while let Some(message) = reader.pop().unwrap() {
            if let ReplicationMessage::XLogData { body, .. } = message {
                match body[0] {
                    b'I' => inserts += 1,
                    // Flags, commit LSN, end LSN.
                    b'C' if inserts > 0 => {
                        return (inserts, Lsn(u64::from_be_bytes(body[10..18].try_into().unwrap())));
                    }
                    _ => {}
                }
            }
        }
    }
}

async fn confirmed(database: &Database) -> Lsn {
    let text: String = database
        .value(&format!(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{}'",
            database.name()
        ))
        .await;
    text.parse().unwrap()
}

async fn start(info: &ConnInfo, database: &Database) -> (WalReader, StatusWriter) {
    let connection = ReplicationConn::connect(info, "test").await.unwrap();
    connection.start_replication(database.name(), &options()).await.unwrap()
}

async fn streams_and_confirms(postgres: &Postgres, url: impl Fn(&Database) -> String) {
    let (database, info) = with_table_and_slot(postgres, url).await;
    database.exec("INSERT INTO thing SELECT i, repeat('x', i) FROM generate_series(1, 2000) i").await;

    let mut connection = ReplicationConn::connect(&info, "test").await.unwrap();
    assert_eq!(connection.server_major(), postgres.version());
    assert_eq!(connection.identify_system().await.unwrap().dbname, database.name());
    let (mut reader, mut writer) = connection.start_replication(database.name(), &options()).await.unwrap();

    let (inserts, end) = read_transaction(&mut reader).await;
    assert_eq!(inserts, 2000);
    writer.queue_status(end, end);
    finish(reader, writer).await.unwrap();
    assert_eq!(confirmed(&database).await, end);

    let (mut reader, writer) = start(&info, &database).await;
    database.exec("INSERT INTO thing VALUES (1)").await;
    assert_eq!(read_transaction(&mut reader).await.0, 1, "what was confirmed does not come again");
    finish(reader, writer).await.unwrap();
}

#[tokio::test]
async fn streams_over_tcp() {
    streams_and_confirms(Postgres::shared().await, Database::url).await;
}

#[tokio::test]
async fn streams_over_a_unix_socket() {
    streams_and_confirms(Postgres::shared().await, Database::socket_url).await;
}

#[tokio::test]
async fn every_supported_version_creates_slots_and_streams() {
    for version in 14..=17 {
        let postgres = Postgres::start(version, &[]).await;
        streams_and_confirms(&postgres, Database::url).await;
        let database = postgres.database().await;
        let info = ConnInfo::parse(&database.url()).unwrap();
        let mut connection = ReplicationConn::connect(&info, "test").await.unwrap();
        let exporting =
            CreateOptions { failover: version >= 17, export_snapshot: true, ..Default::default() };
        let slot = connection.create_slot(database.name(), exporting).await.unwrap();
        let snapshot = slot.snapshot.expect("a snapshot was asked for");
        database
            .exec(&format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{snapshot}'; COMMIT"
            ))
            .await;
        let failover =
            connection.create_slot("another", CreateOptions { failover: true, ..Default::default() }).await;
        assert_eq!(failover.is_ok(), version >= 17);
    }
}

#[tokio::test]
async fn the_server_answers_every_status() {
    let (database, info) = with_table_and_slot(Postgres::shared().await, Database::url).await;
    let (mut reader, mut writer) = start(&info, &database).await;
    let before = reader.last_heard();
    loop {
        writer.queue_status(Lsn::ZERO, Lsn::ZERO);
        writer.flush().await.unwrap();
        assert!(!writer.pending());
        timeout(SOON, reader.ready()).await.expect("the server answers").unwrap();
        // The first message may be the keepalive with which every stream begins.
        if reader.pop().unwrap().is_some() && reader.last_heard() > before {
            break;
        }
    }
}

#[tokio::test]
async fn a_held_slot_is_busy_and_an_unknown_one_halts() {
    let (database, info) = with_table_and_slot(Postgres::shared().await, Database::url).await;
    let _holder = start(&info, &database).await;
    let second = ReplicationConn::connect(&info, "test").await.unwrap();
    let error = second.start_replication(database.name(), &options()).await.err().unwrap();
    assert_eq!((error.class(), error.sqlstate()), (Class::Busy, Some("55006")));

    let third = ReplicationConn::connect(&info, "test").await.unwrap();
    let error = third.start_replication("no_such_slot", &options()).await.err().unwrap();
    assert_eq!((error.class(), error.sqlstate()), (Class::Halt, Some("42704")));
    assert!(error.hint().unwrap().contains("txstream slot create"), "{:?}", error.hint());
}

#[tokio::test]
async fn waiting_for_an_old_transaction_ends_at_the_lock_timeout() {
    let database = Postgres::shared().await.database().await;
    let old = database.client().await;
    old.batch_execute("CREATE TABLE thing (id int); BEGIN; INSERT INTO thing VALUES (1)").await.unwrap();
    let info = ConnInfo::parse(&database.url()).unwrap();
    let mut connection = ReplicationConn::connect(&info, "test").await.unwrap();
    let options = CreateOptions { lock_timeout: Some(Duration::from_millis(200)), ..Default::default() };
    let error = timeout(SOON, connection.create_slot(database.name(), options)).await.unwrap().unwrap_err();
    assert_eq!(error.sqlstate(), Some("55P03"));
    assert_eq!(
        connection.identify_system().await.unwrap().dbname,
        database.name(),
        "the connection still serves"
    );
}

#[tokio::test]
async fn a_role_setting_changes_no_text_of_the_stream() {
    let database = Postgres::shared().await.database().await;
    let name = database.name();
    database
        .exec(&format!(
            "ALTER DATABASE {name} SET datestyle = 'German'; ALTER DATABASE {name} SET timezone = 'Asia/Tokyo';
             ALTER DATABASE {name} SET bytea_output = 'escape'; ALTER DATABASE {name} SET intervalstyle = 'iso_8601';
             ALTER DATABASE {name} SET extra_float_digits = -5"
        ))
        .await;
    let info = ConnInfo::parse(&database.url()).unwrap();
    let mut connection = ReplicationConn::connect(&info, "test").await.unwrap();
    let rows = connection
        .simple_query(
            r"SELECT timestamptz '2026-01-02 03:04:05+00', bytea '\x00ff', interval '1 day 2 hours', 0.1::float8 + 0.2",
        )
        .await
        .unwrap();
    let texts: Vec<_> = rows[0].iter().map(|text| text.as_deref().unwrap()).collect();
    assert_eq!(texts, ["2026-01-02 03:04:05+00", r"\x00ff", "1 day 02:00:00", "0.30000000000000004"]);
}

#[tokio::test]
async fn a_lower_wal_sender_timeout_of_the_server_stays() {
    let database = Postgres::shared().await.database().await;
    for (server, shown) in [("60s", "30s"), ("0", "30s"), ("5s", "5s")] {
        database
            .exec(&format!("ALTER DATABASE {} SET wal_sender_timeout = '{server}'", database.name()))
            .await;
        let info = ConnInfo::parse(&database.url()).unwrap();
        let client = sql::connect(&info, "test").await.unwrap();
        let chosen = WalSenderTimeout::choose(&client, &info).await.unwrap();
        let mut connection = ReplicationConn::connect_asking(&info, "test", chosen.ask).await.unwrap();
        let rows = connection.simple_query("SHOW wal_sender_timeout").await.unwrap();
        assert_eq!(rows[0][0].as_deref(), Some(shown), "server {server}");
    }
    let url = format!("{}?options=-c%20wal_sender_timeout%3D90s", database.url());
    let info = ConnInfo::parse(&url).unwrap();
    let client = sql::connect(&info, "test").await.unwrap();
    let chosen = WalSenderTimeout::choose(&client, &info).await.unwrap();
    assert_eq!(chosen, WalSenderTimeout { ask: None, effective: Some(Duration::from_secs(90)) });
}

#[tokio::test]
async fn an_sql_connection_says_how_it_ended() {
    let database = Postgres::shared().await.database().await;
    let connection = sql::connect(&ConnInfo::parse(&database.url()).unwrap(), "test").await.unwrap();
    let row = connection.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
    database.exec(&format!("SELECT pg_terminate_backend({})", row.get::<_, i32>(0))).await;
    let end = timeout(SOON, connection.closed()).await.unwrap();
    assert_eq!(end.sqlstate.as_deref(), Some("57P01"), "{end:?}");
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let postgres = Postgres::shared().await;
    let database = postgres.database().await;
    let port = postgres.port();
    let cases = [
        (format!("postgresql://postgres:wrong@127.0.0.1:{port}/postgres"), "28P01", "user and password"),
        (format!("postgresql://postgres:postgres@127.0.0.1:{port}/nowhere"), "3D000", "database name"),
    ];
    for (url, code, hint) in cases {
        let info = ConnInfo::parse(&url).unwrap();
        let replication = ReplicationConn::connect(&info, "test").await.err().unwrap();
        let sql = sql::connect(&info, "test").await.err().unwrap();
        for error in [replication, sql] {
            assert_eq!((error.sqlstate(), error.class()), (Some(code), Class::Halt), "{}", error.report());
            assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
            assert!(!error.report().contains("wrong"), "{}", error.report());
        }
    }

    let role = database.name();
    database.exec(&format!("CREATE ROLE {role} LOGIN PASSWORD 'p'")).await;
    let info = ConnInfo::parse(&format!("postgresql://{role}:p@127.0.0.1:{port}/{role}")).unwrap();
    let error = ReplicationConn::connect(&info, "test").await.err().unwrap();
    assert_eq!(error.class(), Class::Halt, "{}", error.report());
    assert!(error.hint().unwrap().contains("REPLICATION"), "{:?}", error.hint());
    database.exec(&format!("DROP ROLE {role}")).await;

    let mut info = ConnInfo::parse(&database.url()).unwrap();
    (info.password, info.passfile) = (None, None);
    for error in [
        ReplicationConn::connect(&info, "test").await.err().unwrap(),
        sql::connect(&info, "test").await.err().unwrap(),
    ] {
        assert!(error.report().contains("password and none was given"), "{}", error.report());
        assert_eq!(error.class(), Class::Halt);
    }
}
