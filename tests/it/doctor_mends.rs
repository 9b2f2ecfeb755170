//! Every misconfiguration that `doctor` knows: made, found, and mended by what it prints.

use serde_json::Value;

use crate::starting::pooler;
use crate::support::wait::SOON;
use crate::support::{Outbox, Postgres, eventually, run_cli, unique};

/// The findings, with these settings besides those of the outbox.
pub(crate) async fn findings(outbox: &Outbox, env: &[(&str, &str)]) -> Vec<Value> {
    let url = outbox.database.url();
    let mut all = vec![
        ("DATABASE_URL", url.as_str()),
        ("REPLICATION_SLOT", outbox.slot()),
        ("KAFKA_BROKERS", outbox.kafka.bootstrap()),
    ];
    all.extend_from_slice(env);
    let said = run_cli(&["doctor", "--output", "json"], &all).await;
    let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
    report["checks"].as_array().unwrap().clone()
}

/// What one check found.
pub(crate) async fn found(outbox: &Outbox, check: &str, env: &[(&str, &str)]) -> Vec<Value> {
    findings(outbox, env).await.into_iter().filter(|finding| finding["check"] == check).collect()
}

/// The only thing that a check found, which must be this bad: what mends it.
pub(crate) async fn mend(outbox: &Outbox, check: &str, status: &str) -> String {
    let found = found(outbox, check, &[]).await;
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0]["status"], status, "{found:#?}");
    found[0]["mend"].as_str().unwrap_or_else(|| panic!("nothing mends it: {found:#?}")).to_owned()
}

/// All that a check finds is well.
pub(crate) async fn is_well(outbox: &Outbox, check: &str, after: &str) {
    let found = found(outbox, check, &[]).await;
    assert!(found.iter().all(|finding| finding["status"] == "ok"), "after {after}: {found:#?}");
}

/// Runs what is printed as SQL, as somebody who pastes it into psql.
pub(crate) async fn paste(outbox: &Outbox, sql: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), sql).unwrap();
    let (done, said) = outbox.psql(&[format!("--file={}", file.path().display())]).await;
    assert!(done, "{sql}: {said}");
}

/// Runs a command of Kafka's distribution as it is printed.
async fn kafka(outbox: &Outbox, command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let class = match words[0] {
        "kafka-topics.sh" => "org.apache.kafka.tools.TopicCommand",
        "kafka-configs.sh" => "kafka.admin.ConfigCommand",
        other => panic!("not a command of Kafka: {other}"),
    };
    // The script names the broker itself.
    assert_eq!(words[1..3], ["--bootstrap-server", outbox.kafka.bootstrap()], "{command}");
    outbox.kafka.tool(&[&[class], &words[3..]].concat()).await;
}

#[tokio::test]
async fn settings_of_the_server_are_mended_by_the_printed_sql() {
    let postgres = Postgres::start(18, &[]).await;
    let outbox = Outbox::migrated_on(&postgres).await;
    // Forgotten: it holds the slot back from the moment it wrote.
    outbox.done(&["slot", "create", "--failover"]).await;
    let forgotten = outbox.database.client().await;
    let insert = "insert into outbox (aggregatetype, aggregateid, type) values ('a', '1', 'T')";
    forgotten.batch_execute(&format!("begin; {insert}")).await.unwrap();

    outbox.database.exec("select pg_create_physical_replication_slot('standby1')").await;
    for (setting, value, status) in [
        ("max_slot_wal_keep_size", "-1", "warn"),
        ("max_slot_wal_keep_size", "64MB", "warn"),
        ("idle_replication_slot_timeout", "1h", "warn"),
        ("synchronous_standby_names", "*", "fail"),
        // No standby uses it.
        ("synchronized_standby_slots", "standby1", "fail"),
    ] {
        paste(&outbox, &format!("alter system set {setting} = '{value}'; select pg_reload_conf();")).await;
        let set = format!("select current_setting('{setting}') = '{value}'");
        let reloaded = async || outbox.database.value::<bool>(&set).await.then_some(());
        eventually(SOON, "the setting is in force", reloaded).await;
        let sql = mend(&outbox, setting, status).await;
        assert!(sql.starts_with(&format!("ALTER SYSTEM SET {setting} = ")), "{sql}");
        paste(&outbox, &sql).await;
        let set = format!("select current_setting('{setting}') <> '{value}'");
        let reloaded = async || outbox.database.value::<bool>(&set).await.then_some(());
        eventually(SOON, "the setting is in force", reloaded).await;
        is_well(&outbox, setting, &sql).await;
    }

    let old = eventually(SOON, "the transaction is old enough to be called forgotten", async || {
        let found = found(&outbox, "open_transaction", &[]).await;
        (found[0]["status"] == "warn").then(|| found[0]["mend"].as_str().unwrap().to_owned())
    })
    .await;
    paste(&outbox, &old).await;
    is_well(&outbox, "open_transaction", &old).await;
    assert!(forgotten.batch_execute("commit").await.is_err(), "its session was ended");
}

#[tokio::test]
async fn a_slot_that_would_not_outlive_a_failover_is_made_one_that_does_by_the_printed_command() {
    let postgres = Postgres::start(18, &[]).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    is_well(&outbox, "failover", "no standby").await;
    outbox.database.exec("select pg_create_physical_replication_slot('standby1')").await;
    let command = mend(&outbox, "failover", "warn").await;
    let run =
        tokio::process::Command::new("sh").args(["-c", &command]).env("PGPASSWORD", "postgres").output();
    let run = run.await.unwrap();
    assert!(run.status.success(), "{command}: {}", String::from_utf8_lossy(&run.stderr));
    is_well(&outbox, "failover", &command).await;
}

#[tokio::test]
async fn every_right_that_a_role_lacks_is_given_by_the_printed_sql() {
    let outbox = Outbox::with_slot().await;
    let role = unique("doctored");
    outbox.database.exec(&format!("create role {role} login password 'p'")).await;
    let url = outbox.database.url().replace("postgres:postgres@", &format!("{role}:p@"));
    let env = [("DATABASE_URL", url.as_str())];
    let lacks = found(&outbox, "grants", &env).await;
    assert_eq!(lacks.len(), 5, "replication, two tables, the outbox, statistics: {lacks:#?}");
    for lack in &lacks {
        assert_ne!(lack["status"], "ok", "{lack}");
        let sql = lack["mend"].as_str().unwrap();
        outbox.database.exec(sql).await;
    }
    let left = found(&outbox, "grants", &env).await;
    assert_eq!((left.len(), &left[0]["status"]), (1, &Value::from("ok")), "{left:#?}");
    outbox.database.exec(&format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_topic_is_mended_by_the_printed_command() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("topical");
    let topic = format!("outbox.event.{kind}");
    outbox.insert(&kind, "1", &format!("{{\"large\": \"{}\"}}", "x".repeat(5_000))).await;
    kafka(&outbox, &mend(&outbox, "topic", "warn").await).await;
    is_well(&outbox, "topic", "its creation").await;
    is_well(&outbox, "max_message_bytes", "its creation").await;

    for (check, config) in
        [("max_message_bytes", "max.message.bytes=2000"), ("min_insync_replicas", "min.insync.replicas=2")]
    {
        let set = format!(
            "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {topic} --add-config {config}",
            outbox.kafka.bootstrap()
        );
        kafka(&outbox, &set).await;
        let command = mend(&outbox, check, "fail").await;
        kafka(&outbox, &command).await;
        is_well(&outbox, check, &command).await;
    }
}

#[tokio::test]
async fn a_pooler_in_the_way_of_replication_is_mended_by_the_setting_that_is_named() {
    let outbox = Outbox::with_slot().await;
    let pooled = outbox.database.url_through(pooler(Postgres::shared().await.port()).await);
    let env = [("DATABASE_URL", pooled.as_str())];
    let found_there = found(&outbox, "replication", &env).await;
    assert_eq!(found_there[0]["status"], "fail", "{found_there:#?}");
    assert!(found_there[0]["mend"].as_str().unwrap().contains("REPLICATION_URL"), "{found_there:#?}");
    let direct = outbox.database.url();
    let past = found(&outbox, "replication", &[env[0], ("REPLICATION_URL", &direct)]).await;
    assert_eq!(past[0]["status"], "ok", "{past:#?}");
}

#[tokio::test]
async fn a_publication_younger_than_its_slot_is_found_before_18_and_mended_by_the_printed_command() {
    let postgres = Postgres::start(17, &[]).await;
    let outbox = Outbox::bare_on(&postgres).await;
    let slot = outbox.slot();
    outbox
        .database
        .exec(
            "create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text, aggregateid text,
                                  type text, payload jsonb)",
)
        .await;
    outbox.database.exec(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    outbox.insert("early", "1", "{}").await;
    outbox.done(&["migrate", "up"]).await;
    let command = mend(&outbox, "publication_age", "fail").await;
    for command in command.split("&&") {
        let words: Vec<&str> = command.trim().split(' ').collect();
        assert_eq!(words[0], "txstream", "{command}");
        let url = outbox.database.url();
        let env = [
            ("DATABASE_URL", url.as_str()),
            ("REPLICATION_SLOT", slot),
            ("KAFKA_BROKERS", outbox.kafka.bootstrap()),
        ];
        let said = run_cli(&[&words[1..], &["--yes"]].concat(), &env).await;
        assert_eq!(said.code, Some(0), "{command}: {}", said.stderr);
    }
    is_well(&outbox, "publication_age", &command).await;
}
