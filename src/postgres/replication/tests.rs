use std::pin::Pin;

use bytes::BufMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::startup::{Startup, check_session, create_slot_sql, start_replication_sql};
use super::*;
use crate::postgres::conninfo::TargetSession;
use crate::postgres::error::Class;

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.put_i32(i32::try_from(body.len()).unwrap() + 4);
    bytes.extend_from_slice(body);
    bytes
}

fn error(severity: &str, code: &str, message: &str) -> Vec<u8> {
    frame(b'E', format!("S{severity}\0V{severity}\0C{code}\0M{message}\0\0").as_bytes())
}

fn row(values: &[Option<&str>]) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_u16(u16::try_from(values.len()).unwrap());
    for value in values {
        match value {
            Some(text) => {
                body.put_i32(i32::try_from(text.len()).unwrap());
                body.extend_from_slice(text.as_bytes());
            }
            None => body.put_i32(-1),
        }
    }
    frame(b'D', &body)
}

const READY: [u8; 6] = [b'Z', 0, 0, 0, 5, b'I'];

fn welcome(version: &str) -> Vec<u8> {
    [
        frame(b'R', &[0; 4]),
        frame(b'S', format!("server_version\0{version}\0").as_bytes()),
        frame(b'N', b"SNOTICE\0C00000\0Mhello\0\0"),
        frame(b'K', &[0; 8]),
        READY.to_vec(),
    ]
    .concat()
}

async fn read_startup(stream: &mut DuplexStream) -> Vec<(String, String)> {
    let len = stream.read_u32().await.unwrap();
    let mut body = vec![0; len as usize - 4];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(body[..4], [0, 3, 0, 0], "protocol 3.0");
    let texts: Vec<_> =
        body[4..].split(|byte| *byte == 0).map(|text| String::from_utf8(text.to_vec()).unwrap()).collect();
    texts
        .chunks(2)
        .filter(|pair| pair.len() == 2 && !pair[0].is_empty())
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect()
}

async fn read_query(stream: &mut DuplexStream) -> String {
    assert_eq!(stream.read_u8().await.unwrap(), b'Q');
    let len = stream.read_u32().await.unwrap();
    let mut body = vec![0; len as usize - 4];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(body.pop(), Some(0));
    String::from_utf8(body).unwrap()
}

async fn open(
    info: &ConnInfo,
    stream: DuplexStream,
    timeout: Option<Duration>,
) -> Result<ReplicationConn, PgError> {
    let startup = Startup {
        info,
        password: None,
        application_name: "txstream",
        wal_sender_timeout: timeout,
        endpoint: "h:5432".into(),
    };
    startup.run(Transport::plain(stream)).await
}

fn info(more: &str) -> ConnInfo {
    ConnInfo::parse(&format!("host=h user=u dbname=d {more}")).unwrap()
}

/// A connection in command mode and the server's end of it.
async fn connected(version: &str) -> (ReplicationConn, DuplexStream) {
    let (ours, mut server) = duplex(4096);
    let info = info("");
    let (connection, _) = tokio::join!(open(&info, ours, None), async {
        let parameters = read_startup(&mut server).await;
        server.write_all(&welcome(version)).await.unwrap();
        parameters
    });
    (connection.unwrap(), server)
}

#[tokio::test]
async fn the_startup_packet_pins_what_shapes_text() {
    let (ours, mut server) = duplex(4096);
    let info = info("application_name=mine options='-c work_mem=1MB'");
    let (connection, parameters) = tokio::join!(open(&info, ours, Some(Duration::from_secs(30))), async {
        let parameters = read_startup(&mut server).await;
        server.write_all(&welcome("18.1 (Debian)")).await.unwrap();
        parameters
    });
    let connection = connection.unwrap();
    assert_eq!((connection.server_major(), connection.server_version()), (18, "18.1 (Debian)"));
    let texts: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        texts,
        [
            "user=u",
            "database=d",
            "replication=database",
            "application_name=mine",
            "options=-c work_mem=1MB",
            "client_encoding=UTF8",
            "DateStyle=ISO",
            "IntervalStyle=postgres",
            "TimeZone=UTC",
            "bytea_output=hex",
            "extra_float_digits=3",
            "client_min_messages=notice",
            "wal_sender_timeout=30000ms",
        ]
    );
}

#[tokio::test]
async fn a_pooler_that_refuses_replication_is_explained() {
    let (ours, mut server) = duplex(4096);
    let info = info("");
    let (result, ()) = tokio::join!(open(&info, ours, None), async {
        read_startup(&mut server).await;
        server
            .write_all(&error("FATAL", "08P01", "unsupported startup parameter: replication"))
            .await
            .unwrap();
    });
    let error = result.err().unwrap();
    assert_eq!(error.class(), Class::Halt, "{error:?}");
    assert!(error.report().contains("unsupported startup parameter: replication"), "{}", error.report());
    assert!(error.hint().unwrap().contains("REPLICATION_URL"));
}

#[tokio::test]
async fn a_pooler_that_does_not_know_identify_system_is_explained() {
    let (mut connection, mut server) = connected("15.1").await;
    let (result, query) = tokio::join!(connection.identify_system(), async {
        let query = read_query(&mut server).await;
        let bytes =
            [self::error("ERROR", "42601", "syntax error at or near \"IDENTIFY_SYSTEM\""), READY.to_vec()]
                .concat();
        server.write_all(&bytes).await.unwrap();
        query
    });
    assert_eq!(query, "IDENTIFY_SYSTEM");
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::Halt);
    assert!(error.hint().unwrap().contains("REPLICATION_URL"));

    // Nor is a strange answer taken for one.
    let (result, _) = tokio::join!(connection.identify_system(), async {
        read_query(&mut server).await;
        server.write_all(&[row(&[Some("1")]), READY.to_vec()].concat()).await.unwrap();
    });
    let error = result.unwrap_err();
    assert!(matches!(error, PgError::Protocol { .. }));
    assert!(error.hint().unwrap().contains("REPLICATION_URL"));
}

#[tokio::test]
async fn the_same_sqlstates_on_a_running_stream_do_not_halt() {
    let error = Box::new(ServerError { code: "08P01".into(), ..ServerError::default() });
    let server = |replication_command| PgError::Server {
        doing: String::new(),
        replication_command,
        error: error.clone(),
    };
    assert_eq!(server(true).class(), Class::Halt);
    assert_eq!(server(false).class(), Class::Retry);
}

#[tokio::test]
async fn answers_are_rows_of_text() {
    let (mut connection, mut server) = connected("15.1").await;
    let (identity, _) = tokio::join!(connection.identify_system(), async {
        read_query(&mut server).await;
        let bytes = [
            row(&[Some("7"), Some("3"), Some("16/B374D848"), Some("d")]),
            frame(b'C', b"IDENTIFY_SYSTEM\0"),
            READY.to_vec(),
        ];
        // Byte by byte: the answer is cut everywhere.
        for byte in bytes.concat() {
            server.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let expected = SystemIdentity {
        system_id: "7".into(),
        timeline: 3,
        xlogpos: Lsn(0x16_B374_D848),
        dbname: "d".into(),
    };
    assert_eq!(identity.unwrap(), expected);
    let (rows, _) = tokio::join!(connection.simple_query("SELECT 1"), async {
        read_query(&mut server).await;
        server.write_all(&[row(&[None, Some("")]), READY.to_vec()].concat()).await.unwrap();
    });
    assert_eq!(rows.unwrap(), [[None, Some(String::new())]]);
}

#[tokio::test]
async fn a_fatal_error_is_told_instead_of_the_end_it_brings() {
    let (mut connection, mut server) = connected("15.1").await;
    let (result, ()) = tokio::join!(connection.simple_query("SELECT 1"), async move {
        read_query(&mut server).await;
        server.write_all(&error("FATAL", "57P01", "terminating")).await.unwrap();
    });
    assert_eq!(result.unwrap_err().sqlstate(), Some("57P01"));
}

#[tokio::test]
async fn streaming_begins_with_copy_both_and_keeps_what_came_with_it() {
    let (connection, mut server) = connected("15.1").await;
    let options = StartOptions { publications: vec!["p".into()], binary: false, messages: false };
    let mut keepalive = vec![b'k'];
    keepalive.extend_from_slice(&[0; 17]);
    let (halves, _) = tokio::join!(connection.start_replication("s", &options), async {
        read_query(&mut server).await;
        let bytes = [
            frame(b'N', b"SWARNING\0C01000\0Mcareful\0\0"),
            frame(b'W', &[0, 0, 0]),
            frame(b'd', &keepalive),
        ];
        server.write_all(&bytes.concat()).await.unwrap();
    });
    let (mut reader, _writer) = halves.unwrap();
    reader.ready().await.unwrap();
    assert!(matches!(reader.pop().unwrap(), Some(stream::ReplicationMessage::Notice { .. })));
    reader.ready().await.unwrap();
    assert!(matches!(reader.pop().unwrap(), Some(stream::ReplicationMessage::KeepAlive { .. })));
}

#[tokio::test]
async fn a_busy_slot_is_busy() {
    let (connection, mut server) = connected("15.1").await;
    let options = StartOptions { publications: vec!["p".into()], binary: false, messages: false };
    let (result, _) = tokio::join!(connection.start_replication("s", &options), async {
        read_query(&mut server).await;
        server
            .write_all(&error("ERROR", "55006", "replication slot \"s\" is active for PID 7"))
            .await
            .unwrap();
    });
    assert_eq!(result.err().unwrap().class(), Class::Busy);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_given_up() {
    let (mut connection, _server) = connected("15.1").await;
    let error = connection.identify_system().await.unwrap_err();
    assert!(matches!(error, PgError::Timeout { limit: COMMAND_TIMEOUT, .. }), "{error:?}");
}

#[tokio::test]
async fn a_connection_cut_at_any_byte_of_the_welcome_is_an_error_not_a_hang() {
    let bytes = welcome("15.1");
    for cut in 0..bytes.len() {
        let (ours, mut server) = duplex(4096);
        let info = info("");
        let opening: Pin<Box<dyn Future<Output = _>>> = Box::pin(open(&info, ours, None));
        let (result, ()) = tokio::join!(opening, async {
            read_startup(&mut server).await;
            server.write_all(&bytes[..cut]).await.unwrap();
            drop(server);
        });
        assert!(matches!(result, Err(PgError::Closed { .. })), "cut at {cut}");
    }
}

#[test]
fn names_are_quoted() {
    let options =
        StartOptions { publications: vec!["a".into(), r#"it's "b""#.into()], binary: true, messages: true };
    assert_eq!(
        start_replication_sql("my_slot", &options).unwrap(),
        r#"START_REPLICATION SLOT "my_slot" LOGICAL 0/0 (proto_version '1', publication_names '"a","it''s ""b"""', binary 'true', messages 'true')"#
    );
    for (slot, publication) in [("", "p"), ("s", ""), ("s\0", "p")] {
        let options = StartOptions { publications: vec![publication.into()], binary: false, messages: false };
        assert!(matches!(start_replication_sql(slot, &options), Err(PgError::Setting(_))));
    }
}

#[test]
fn slots_are_created_in_the_words_of_each_version() {
    let sql = |failover, export_snapshot, major| {
        create_slot_sql("s", CreateOptions { failover, export_snapshot, lock_timeout: None }, major)
            .map(|sql| sql.replace("CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput ", ""))
    };
    assert_eq!(sql(false, false, 14).unwrap(), "NOEXPORT_SNAPSHOT");
    assert_eq!(sql(false, true, 14).unwrap(), "EXPORT_SNAPSHOT");
    assert_eq!(sql(false, false, 15).unwrap(), "(SNAPSHOT 'nothing')");
    assert_eq!(sql(false, true, 16).unwrap(), "(SNAPSHOT 'export')");
    assert_eq!(sql(true, true, 17).unwrap(), "(SNAPSHOT 'export', FAILOVER true)");
    assert_eq!(sql(true, false, 18).unwrap(), "(SNAPSHOT 'nothing', FAILOVER true)");
    assert!(sql(true, false, 16).unwrap_err().report().contains("Postgres 17"));
}

#[test]
fn the_lower_wal_sender_timeout_wins() {
    let seconds = Duration::from_secs;
    for (millis, named, ask, effective) in [
        (60_000, false, Some(seconds(30)), Some(seconds(30))),
        (0, false, Some(seconds(30)), Some(seconds(30))),
        (30_000, false, None, Some(seconds(30))),
        (5_000, false, None, Some(seconds(5))),
        (90_000, true, None, Some(seconds(90))),
        (0, true, None, None),
    ] {
        assert_eq!(
            WalSenderTimeout::decide(millis, named),
            WalSenderTimeout { ask, effective },
            "{millis} {named}"
        );
    }
}

#[test]
fn target_session_attrs_choose_the_server() {
    use TargetSession::{Any, Primary, ReadWrite};
    for (wanted, standby, read_only, fits) in [
        (Any, true, true, true),
        (Primary, false, true, true),
        (Primary, true, false, false),
        (ReadWrite, false, false, true),
        (ReadWrite, false, true, false),
        (ReadWrite, true, false, false),
    ] {
        assert_eq!(
            check_session(wanted, standby, read_only, "h:1").is_ok(),
            fits,
            "{wanted:?} {standby} {read_only}"
        );
    }
}
