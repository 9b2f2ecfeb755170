use super::*;
use crate::kafka::limits::TopicLimit;
use crate::outbox::{Preset, Settings, TableName};
use crate::pgoutput::{Relation, RelationColumn, Tuple, Value};
use crate::relay::backoff::Backoff;
use crate::relay::breaker::Breaker;
use crate::relay::settings::OnReject;
use crate::relay::topics::MAX_TOPICS;

/// `id`, `aggregatetype`, `aggregateid`, `type`, `payload`, all text.
const COLUMNS: [&str; 5] = ["id", "aggregatetype", "aggregateid", "type", "payload"];

const TEXT: u32 = 25;

/// Intake with the core and the routes behind it, inside a transaction.
struct Bench {
    intake: Intake,
    core: Core,
    routes: Routes,
    metrics: Arc<Metrics>,
    rows: usize,
}

impl Bench {
    fn new(on_reject: OnReject) -> Self {
        let settings = crate::relay::core::tests::settings();
        let settings = crate::relay::Settings { on_reject, ..settings };
        let (breaker, backoff) = (Breaker::new(settings.breaker), Backoff::seeded(settings.backoff, 1));
        let metrics = Metrics::new();
        let outbox = Settings {
            tables: TableName::parse_list("outbox").unwrap(),
            preset: Preset::Debezium,
            placement: vec![],
            fixed_topic: None,
        };
        let mut bench = Self {
            intake: Intake::new(Origin::Slot, Mapper::new(outbox), Arc::clone(&metrics)),
            core: Core::new(settings, Lsn(1), breaker, backoff),
            routes: Routes::new(Arc::clone(&metrics)),
            metrics,
            rows: 0,
        };
        let column = |name: &str| RelationColumn { name: name.to_owned(), type_id: TEXT, type_modifier: -1 };
        bench.give(Message::Begin { final_lsn: Lsn(0x10), commit_time: 0, xid: 1 });
        bench.give(Message::Relation(Relation {
            id: 7,
            namespace: "public".to_owned(),
            name: "outbox".to_owned(),
            columns: COLUMNS.map(column).to_vec(),
        }));
        bench
    }

    fn give(&mut self, message: Message) {
        self.intake.decoded(message, &mut self.core, &mut self.routes, Instant::now());
    }

    fn row(&mut self, aggregate_type: &str) {
        self.values(aggregate_type, Some("key-1"), "Made");
    }

    fn values(&mut self, aggregate_type: &str, key: Option<&str>, event_type: &str) {
        self.rows += 1;
        let id = format!("id-{}", self.rows);
        let values =
            [Some(id.as_str()), Some(aggregate_type), key, Some(event_type), Some("{}")].map(|value| {
                value.map_or(Value::Null, |value| Value::Text(Bytes::copy_from_slice(value.as_bytes())))
            });
        self.give(Message::Insert { relation_id: 7, row: Tuple::from_values(&values).unwrap() });
    }

    /// The lines of the metrics page that count something of an event type.
    fn counted(&self, event_type: &str) -> Vec<String> {
        let page = String::from_utf8(self.metrics.registry().render().unwrap()).unwrap();
        let of_type = format!("event_type=\"{event_type}\"");
        let counts = |line: &&str| line.contains(&of_type) && line.ends_with(" 1");
        page.lines().filter(counts).map(str::to_owned).collect()
    }
}

#[test]
fn one_topic_more_than_there_may_be_halts_before_it_and_names_the_column_whatever_the_policy() {
    for on_reject in [OnReject::Halt, OnReject::DeadLetter] {
        let mut bench = Bench::new(on_reject);
        for n in 0..MAX_TOPICS {
            bench.core.set_limit(&Arc::from(format!("outbox.event.{n}")), TopicLimit::Own(1_000));
            bench.row(&n.to_string());
        }
        // A known one is still taken.
        bench.row("77");
        assert!(bench.intake.is_open());
        bench.row("order-4711");
        let halt = bench.intake.halt().expect("one too many");
        for part in ["10000 topics", "id-10002", "outbox.event.order-4711", "aggregatetype", "public.outbox"]
        {
            assert!(halt.what.contains(part), "{part:?} is missing in {:?}", halt.what);
        }
        for part in ["KAFKA_TOPIC_EVENTS", "correct what writes aggregatetype", "slot advance 0/11"] {
            assert!(halt.remedy.contains(part), "{part:?} is missing in {:?}", halt.remedy);
        }
        assert_eq!(bench.core.ledger().unresolved(), MAX_TOPICS + 1, "it was not taken");
    }
}

#[test]
fn what_intake_halts_at_counts_under_its_event_type() {
    let known: Arc<str> = Arc::from("outbox.event.known");
    for (error, aggregate_type, key, limit) in [
        ("too_large", "known", Some("k"), 10),
        ("invalid", "not a topic", Some("k"), 1_000),
        ("unmappable", "known", None, 1_000),
    ] {
        let mut bench = Bench::new(OnReject::Halt);
        bench.core.set_limit(&known, TopicLimit::Own(limit));
        bench.values(aggregate_type, key, "Made");
        assert!(bench.intake.halt().is_some(), "{error}");
        let counted = [
            format!("txstream_events_failed_total{{error_type=\"{error}\",event_type=\"Made\"}} 1"),
            "txstream_events_processed_total{event_type=\"Made\",status=\"rejected\"} 1".to_owned(),
        ];
        assert_eq!(bench.counted("Made"), counted, "{error}");
        assert!(bench.counted("other").is_empty(), "{error}");
    }
}

#[test]
fn a_stray_stream_abort_is_counted_and_left_out_and_the_rows_around_it_are_taken() {
    let mut bench = Bench::new(OnReject::Halt);
    bench.core.set_limit(&Arc::from("outbox.event.order"), TopicLimit::Own(1_000));
    bench.row("order");
    bench.give(Message::StreamAbort { xid: 1, subxid: 2 });
    bench.row("order");
    bench.give(Message::Commit { commit_lsn: Lsn(0x10), end_lsn: Lsn(0x20), commit_time: 0 });
    assert!(bench.intake.is_open() && bench.intake.halt().is_none());
    let page = String::from_utf8(bench.metrics.registry().render().unwrap()).unwrap();
    assert!(page.contains("txstream_ignored_total{what=\"stream_abort\"} 1\n"), "{page}");
    assert_eq!(bench.core.ledger().unresolved(), 2, "both rows are to be published");
}
