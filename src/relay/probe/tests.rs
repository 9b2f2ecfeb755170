use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::*;
use crate::metrics::Metrics;
use crate::outbox::{Preset, TableName};
use crate::postgres::ConnInfo;
use crate::postgres::stream::tests::{keepalive, start};
use crate::relay::Board;
use crate::relay::silence::SILENCE;

fn relay() -> Relay {
    Relay {
        settings: crate::relay::core::tests::settings(),
        outbox: crate::outbox::Settings {
            tables: TableName::parse_list("outbox").unwrap(),
            preset: Preset::Debezium,
            placement: vec![],
            fixed_topic: None,
        },
        kafka: crate::kafka::Settings {
            brokers: "127.0.0.1:1".to_owned(),
            client_id: "txstream".to_owned(),
            request_timeout: Duration::from_secs(1),
            properties: vec![],
        },
        conninfo: ConnInfo::parse("host=127.0.0.1 user=u").unwrap(),
        application_name: "txstream".to_owned(),
        create_slot: false,
        board: Board::new("s", "p").0,
        metrics: Metrics::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_search_for_the_record_takes_a_server_for_dead_that_is_silent_for_as_long_as_while_streaming() {
    let (relay, inbox) = (relay(), Inbox::new());
    let (reader, writer, mut server) = start(1 << 16);
    let mut probe = Probe {
        reader,
        writer,
        producer: Producer::new(&relay.kafka, None, inbox.clone()).unwrap(),
        inbox,
        confirmed_lsn: Lsn(1),
        rejected: Rejected {
            table: "public.outbox".to_owned(),
            row_id: "1".to_owned(),
            topic: "t".to_owned(),
            commit_lsn: 0x100,
            ordinal: 0,
            reason: "too old".to_owned(),
            letter: false,
        },
        status_every: Duration::from_secs(1),
        said: Pacing::default(),
    };
    let began = Instant::now();
    // The server speaks up once, in time, and vanishes without a word: its connection stays open.
    let speaks = async {
        sleep(SILENCE - Duration::from_secs(1)).await;
        server.write_all(&keepalive(0x50, false)).await.unwrap();
        std::future::pending::<()>().await;
    };
    let search = timeout(SILENCE * 3, probe.find(&relay));
    let found = tokio::select! {
        found = search => found.expect("it gives up"),
        () = speaks => unreachable!(),
    };
    assert!(matches!(found, Err(PgError::Timeout { .. })), "it is an error to try again at");
    assert_eq!(began.elapsed(), SILENCE * 2 - Duration::from_secs(1));
}
