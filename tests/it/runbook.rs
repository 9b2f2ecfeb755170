//! The runbook as whoever is on call reads it: each section's commands, typed while a real relay is in the
//! state that the section is about, and what they print beside what the section says of it.

use tokio::time::timeout;

use crate::breaker;
use crate::checks::remove_wal;
use crate::load;
use crate::secured_kafka::{USER, properties};
use crate::slot_reset::{assert_all_arrived, noted, rows};
use crate::support::document::Commands;
use crate::support::wait::SOON;
use crate::support::{Database, Kafka, Outbox, Postgres, Proxy, Relay, eventually, halted, unique};

fn section(heading: &str) -> Commands {
    Commands::of("docs/runbook.md", heading)
}

/// What the commands print to somebody with the settings of a relay.
async fn on_call(database: &Database, kafka: &Kafka, relay: Option<&Relay>, commands: Commands) -> String {
    let mut commands = commands
        .with("BROKER:9092", kafka.bootstrap())
        // A person watches for longer, and ends it the same way.
        .with("txstream lag --follow", "timeout --preserve-status --signal=INT 2 txstream lag --follow")
        .env("DATABASE_URL", &database.url())
        .env("REPLICATION_SLOT", database.name())
        .env("KAFKA_BROKERS", kafka.bootstrap());
    if let Some(relay) = relay {
        let port = relay.admin().port().to_string();
        commands = commands.with("RELAY:9090", &relay.admin().to_string()).env("METRICS_PORT", &port);
    }
    let shell = commands.typed(kafka).await;
    let said = shell.said();
    shell.end().await;
    said
}

/// The same for an outbox with the shared broker; all of `parts` must be printed.
async fn prints(outbox: &Outbox, relay: Option<&Relay>, commands: Commands, parts: &[&str]) -> String {
    let said = on_call(&outbox.database, outbox.kafka, relay, commands).await;
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    said
}

#[tokio::test]
async fn the_first_look_at_a_relay_that_is_well_says_so() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("well");
    let topic = format!("outbox.event.{kind}");
    outbox.kafka.create_topic(&topic, 1, &[("max.message.bytes", "2000")]).await;
    let relay = outbox.streaming(&[], &[]).await;
    outbox.insert(&kind, "1", "{}").await;
    outbox.confirmed().await;
    let relay = Some(&relay);
    let look = section("# Runbook").without("journalctl");
    prints(&outbox, relay, look, &["held by pid", "not confirmed", r#""state""#, "streaming", "CLOSED"])
        .await;
    let verify = section("## When verify finds something");
    prints(&outbox, relay, verify, &["MISSING", "OUT OF ORDER", "NOT CONFIRMED", "EXPIRED"]).await;
    let broker = format!("{} (id:", outbox.kafka.bootstrap());
    prints(&outbox, relay, section("## TxstreamNoProgress"), &[&broker, "waiting_topics", "last_error"])
        .await;
    prints(&outbox, relay, section("## TxstreamEventsTooOld"), &["not confirmed", "streaming"]).await;
    let late = section("## TxstreamLateRejection").without("journalctl").with("TOPIC", &topic);
    prints(&outbox, relay, late, &["max.message.bytes=2000"]).await;
}

#[tokio::test]
async fn a_relay_that_ended_or_halts_again_and_again_says_how_to_go_on() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    outbox.insert("no topic has blanks", "1", "{}").await;
    let halted = halted(relay).await;
    halted.names(&["no topic has blanks"]);
    let nobody = ["nobody holds it", "retains"];
    prints(&outbox, None, section("## TxstreamRelayDown").without("systemctl"), &nobody).await;
    prints(&outbox, None, section("## TxstreamRelayRestarting").without("journalctl"), &nobody).await;
    // Its last line offers what the section says that it does.
    let advance = halted.remedy.split("txstream slot advance ").nth(1).expect("it offers to skip");
    let lsn = advance.split_whitespace().next().unwrap().trim_end_matches([';', ',', '.']);
    outbox.done(&["slot", "advance", lsn, "--yes"]).await;
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn a_relay_that_does_not_stream_says_what_for() {
    let outbox = Outbox::with_slot().await;
    let proxy = Proxy::to(Postgres::shared().await.port()).await;
    let through = outbox.database.url_through(proxy.port());
    let holder = outbox.streaming(&[], &[("APP_NAME", "somebody"), ("DATABASE_URL", &through)]).await;
    let mut second = outbox.relay(&[], &[]).await;
    second.wait_ready().await;
    let heading = "## TxstreamNotStreaming";
    prints(&outbox, Some(&second), section(heading), &["standby", "held by pid", "somebody", "127.0.0.1"])
        .await;
    second.sigterm().await;
    second.wait_exit(SOON).await;
    proxy.refuse();
    proxy.cut();
    eventually(SOON, "it connects again and again", async || {
        (holder.status().await["state"] == "connecting").then_some(())
    })
    .await;
    prints(&outbox, Some(&holder), section(heading), &["connecting", "nobody holds it"]).await;
}

#[tokio::test]
async fn what_retains_wal_is_named_and_time_is_won_before_the_slot_is_lost() {
    let postgres = Postgres::start(Postgres::default_version(), &[("max_slot_wal_keep_size", "64MB")]).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let relay = outbox.streaming(&[], &[]).await;
    let open = outbox.database.client().await;
    open.batch_execute("set application_name = 'forgetful'; create table noise (a text)").await.unwrap();
    open.batch_execute("begin; insert into noise values ('open')").await.unwrap();
    let retains = section("## TxstreamSlotRetainsMuchWal").without("df");
    let said = prints(&outbox, Some(&relay), retains, &["held back by", "idle in transaction"]).await;
    // By our own command, and by psql alone.
    assert!(said.matches("forgetful").count() >= 2 && said.contains(outbox.slot()), "{said}");

    prints(&outbox, Some(&relay), section("## TxstreamSlotNearLoss"), &["not confirmed"]).await;
    let room = outbox.done(&["slot", "status"]).await.stdout;
    let kept: String = outbox.database.value("show max_slot_wal_keep_size").await;
    assert_eq!(kept, "50GB", "{room}");
}

#[tokio::test]
async fn a_lost_slot_is_made_anew_and_brings_what_is_in_the_table() {
    let settings = [("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")];
    let postgres = Postgres::start(Postgres::default_version(), &settings).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let kind = unique("lost");
    let relay = outbox.streaming(&[], &[]).await;
    rows(&outbox, &kind, "before", 20).await;
    noted(&outbox, &kind).await;
    relay.sigterm().await;
    relay.wait_exit(SOON).await;
    rows(&outbox, &kind, "after", 20).await;
    outbox.database.exec("create table noise (a text)").await;
    remove_wal(&outbox).await;
    // It asks, and a person says yes.
    let lost = section("## TxstreamSlotLost").without("systemctl").with("--backfill", "--backfill --yes");
    prints(&outbox, None, lost, &["lost", "max_slot_wal_keep_size", "the gap is [", "may lie in it"]).await;
    outbox.streams(&[], &[]).await;
    assert_all_arrived(&outbox, &kind).await;
}

#[tokio::test]
async fn a_breaker_opened_by_hand_is_closed_by_the_runbook_s_command() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[("METRICS_ADMIN_TOKEN", breaker::TOKEN)]).await;
    let opened = breaker::breaker(&relay, &["open"], Some(breaker::TOKEN)).await;
    assert_eq!(opened.code, Some(0), "{}", opened.stderr);
    let open = section("## TxstreamBreakerOpen").env("METRICS_ADMIN_TOKEN", breaker::TOKEN);
    prints(&outbox, Some(&relay), open, &["OPEN", "by hand"]).await;
    assert_eq!(relay.status().await["breaker"]["state"], "CLOSED");
}

#[tokio::test]
async fn a_topic_that_waits_is_named_and_flows_once_it_is_there_and_may_be_written() {
    let kafka = Kafka::start_secured(&[("auto.create.topics.enable", "false")]).await;
    kafka.set_password(USER, "wonderland").await;
    // Without a right to some topic there is no producer.
    kafka.acl("--add", USER, "another").await;
    let outbox = load::Outbox::new(Postgres::shared().await).await;
    let dir = tempfile::tempdir().unwrap();
    let file = properties(&dir, kafka.root_cert(), "wonderland");
    let env =
        [("KAFKA_CONFIG_FILE", file.as_str()), ("KAFKA_BASE_DELAY", "100ms"), ("KAFKA_MAX_DELAY", "1s")];
    let relay = outbox.relay(kafka.secured(), &env).await;
    outbox.insert("k", 1).await;
    let waiting = async || relay.status().await["waiting_topics"].get(0).cloned();
    let shown = eventually(SOON * 2, "the topic waits", waiting).await.to_string();
    assert!(!shown.contains(USER) && !shown.contains(kafka.secured()), "neither user nor host: {shown}");
    let waits = section("## TxstreamTopicWaits")
        .with("--topic TOPIC", &format!("--topic {}", outbox.topic_name()))
        .with("User:RELAY", &format!("User:{USER}"))
        .with("--replication-factor 3", "--replication-factor 1");
    let said = on_call(&outbox.database, &kafka, Some(&relay), waits).await;
    assert!(
        said.contains(&outbox.topic_name()) && said.contains("kafka-acls.sh --bootstrap-server"),
        "{said}"
    );
    timeout(SOON * 2, outbox.topic(&kafka).read_count(1)).await.expect("it flows by itself");
}

#[tokio::test]
async fn dead_letters_are_seen_mended_and_replayed_by_the_runbook_s_commands() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("letters");
    let topic = format!("outbox.event.{kind}");
    outbox.kafka.create_topic(&topic, 1, &[("max.message.bytes", "2000")]).await;
    let relay = outbox.streaming(&[], &[("WORKER_ON_REJECT", "dead-letter")]).await;
    outbox.insert(&kind, "large", &format!("\"{}\"", "x".repeat(3000))).await;
    outbox.insert(&kind, "large", "2").await;
    let first = eventually(SOON, "both are parked", async || {
        let sql =
            "select min(row_id) filter (where reason = 'too_large'), count(*) from txstream_dead_letter";
        let found = outbox.database.query(sql).await;
        (found[0].get::<_, i64>(1) == 2).then(|| found[0].get::<_, String>(0))
    })
    .await;
    // Replaying asks, and a person says yes.
    let mend = section("## TxstreamDeadLetters")
        .with("--id ID", &format!("--id {first}"))
        .with("--key KEY", "--yes --key large")
        .with("TOPIC", &topic)
        .with("BYTES", "100000");
    let said = prints(&outbox, Some(&relay), mend, &["too_large", "behind", "large"]).await;
    let wide = said.lines().filter(|line| line.len() > 1000).count();
    assert_eq!(wide, 1, "only the value's own line is as long as the value");
    assert_eq!(outbox.database.value::<i64>("select count(*) from txstream_dead_letter").await, 0);
    let mut topic = outbox.kafka.topic(&topic);
    let values: Vec<usize> =
        topic.read_count(2).await.iter().map(|record| record.value_text().len()).collect();
    assert_eq!(values, [3002, 1], "in their order");
}
