//! What a relay finds at its start that is not as it must be: it says what, says what mends it, and
//! that is all it takes. Until then it is never ready, and it never makes up for what it lacks.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::support::http;
use crate::support::port::free_port;
use crate::support::wait::SOON;
use crate::support::{Direction, Outbox, Postgres, Proxy, Shutdown, eventually, published, run_cli, unique};

const CREATE: &[&str] = &["--create-slot"];

#[tokio::test]
async fn a_wrong_password_halts() {
    let outbox = Outbox::with_slot().await;
    let wrong = outbox.database.url().replace("postgres:postgres@", "postgres:hunter2@");
    let halted = outbox.halts(&[], &[("DATABASE_URL", &wrong)]).await;
    halted.names(&["password authentication failed", "28P01"]).advises("check user and password");
    assert!(!halted.stderr.contains("hunter2"), "{}", halted.stderr);
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn an_unknown_database_halts() {
    let outbox = Outbox::with_slot().await;
    let wrong = format!("{}_of_nobody", outbox.database.url());
    let halted = outbox.halts(&[], &[("DATABASE_URL", &wrong)]).await;
    halted.names(&["_of_nobody", "does not exist"]).advises("check the database name");
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn a_server_without_logical_wal_halts() {
    let postgres = Postgres::start(Postgres::default_version(), &[("wal_level", "replica")]).await;
    let outbox = Outbox::migrated_on(&postgres).await;
    let halted = outbox.halts(CREATE, &[]).await;
    halted.names(&["wal_level is replica"]).advises("restart the server");
    outbox.database.exec(halted.advises("ALTER SYSTEM SET wal_level = 'logical';")).await;
    postgres.restart(Shutdown::Fast).await;
    outbox.streams(CREATE, &[]).await;
}

#[tokio::test]
async fn a_database_without_migrations_halts() {
    let outbox = Outbox::bare().await;
    let halted = outbox.halts(CREATE, &[]).await;
    halted.names(&["publication txstream_outbox does not exist"]).advises("txstream migrate up");
    assert_eq!(outbox.slots().await, 0, "publication first, slot second");
    outbox.done(&["migrate", "up"]).await;
    outbox.streams(CREATE, &[]).await;
}

#[tokio::test]
async fn a_missing_checkpoint_table_halts() {
    let outbox = Outbox::migrated().await;
    outbox.database.exec("DROP TABLE txstream_checkpoint").await;
    let halted = outbox.halts(CREATE, &[]).await;
    halted.names(&["txstream_checkpoint does not exist"]).advises("txstream migrate up");
    assert_eq!(outbox.slots().await, 0);
    outbox.done(&["migrate", "up"]).await;
    outbox.streams(CREATE, &[]).await;
}

#[tokio::test]
async fn a_missing_table_halts() {
    let outbox = Outbox::migrated().await;
    outbox.database.exec("DROP TABLE outbox").await;
    let halted = outbox.halts(CREATE, &[]).await;
    halted.names(&["outbox table public.outbox does not exist"]).advises("txstream migrate up");
    outbox.done(&["migrate", "up"]).await;
    outbox.streams(CREATE, &[]).await;
}

#[tokio::test]
async fn a_missing_publication_halts() {
    let outbox = Outbox::migrated().await;
    outbox.database.exec("DROP PUBLICATION txstream_outbox").await;
    let halted = outbox.halts(CREATE, &[]).await;
    halted.names(&["publication txstream_outbox does not exist"]).advises("txstream migrate up");
    assert_eq!(outbox.slots().await, 0);
    outbox.done(&["migrate", "up"]).await;
    outbox.streams(CREATE, &[]).await;
}

#[tokio::test]
async fn a_publication_without_the_table_halts() {
    let outbox = Outbox::with_slot().await;
    outbox.database.exec("ALTER PUBLICATION txstream_outbox DROP TABLE outbox").await;
    let halted = outbox.halts(&[], &[]).await;
    halted.names(&["txstream_outbox does not cover public.outbox", "does not have the table"]);
    halted.advises(r#"ALTER PUBLICATION "txstream_outbox" ADD TABLE "public"."outbox";"#);
    halted.advises("txstream migrate up");
    outbox.done(&["migrate", "up"]).await;
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn a_foreign_publication_without_the_table_is_mended_by_the_sql() {
    let outbox = Outbox::migrated().await;
    outbox.database.exec("CREATE PUBLICATION theirs").await;
    let theirs = [("REPLICATION_PUBLICATION", "theirs")];
    let halted = outbox.halts(CREATE, &theirs).await;
    let sql = halted.advises(r#"ALTER PUBLICATION "theirs" ADD TABLE "public"."outbox";"#);
    outbox.database.exec(sql).await;
    outbox.streams(CREATE, &theirs).await;
}

#[tokio::test]
async fn a_row_filter_halts() {
    // Publications can do so from 15 on.
    if Postgres::default_version() < 15 {
        return;
    }
    let outbox = Outbox::with_slot().await;
    outbox
        .database
        .exec("ALTER PUBLICATION txstream_outbox SET TABLE outbox WHERE (aggregatetype <> 'secret')")
        .await;
    let halted = outbox.halts(&[], &[]).await;
    halted.names(&["hides rows by the filter", "public.outbox"]);
    outbox.database.exec(halted.advises(DROP_AND_ADD)).await;
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn a_column_list_that_hides_a_column_halts() {
    // Publications can do so from 15 on.
    if Postgres::default_version() < 15 {
        return;
    }
    let outbox = Outbox::with_slot().await;
    outbox
        .database
        .exec("ALTER PUBLICATION txstream_outbox SET TABLE outbox (id, aggregatetype, aggregateid, type)")
        .await;
    let halted = outbox.halts(&[], &[]).await;
    halted.names(&["does not send payload", "public.outbox"]);
    outbox.database.exec(halted.advises(DROP_AND_ADD)).await;
    outbox.streams(&[], &[]).await;
}

/// The publication's filter or column list goes with the table's membership.
pub(crate) const DROP_AND_ADD: &str = r#"BEGIN; ALTER PUBLICATION "txstream_outbox" DROP TABLE "public"."outbox"; ALTER PUBLICATION "txstream_outbox" ADD TABLE "public"."outbox"; COMMIT;"#;

#[tokio::test]
async fn a_missing_slot_halts_and_is_not_created() {
    let outbox = Outbox::migrated().await;
    let halted = outbox.halts(&[], &[]).await;
    halted.names(&[outbox.slot(), "does not exist"]);
    halted.advises("txstream slot create");
    halted.advises("--create-slot");
    assert_eq!(outbox.slots().await, 0);
    outbox.done(&["slot", "create"]).await;
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn create_slot_does_not_replace_a_slot_that_was_dropped_by_command() {
    let outbox = Outbox::migrated().await;
    outbox.streams(CREATE, &[]).await;
    outbox.streams(CREATE, &[]).await;
    outbox.done(&["slot", "drop", "--yes"]).await;
    let halted = outbox.halts(CREATE, &[]).await;
    halted.names(&["was dropped by txstream slot drop"]).advises("txstream slot create");
    assert_eq!(outbox.slots().await, 0);
    outbox.done(&["slot", "create"]).await;
    outbox.streams(CREATE, &[]).await;
}

#[tokio::test]
async fn create_slot_does_not_replace_a_slot_that_was_lost() {
    let outbox = Outbox::migrated().await;
    outbox.streams(CREATE, &[]).await;
    outbox.drop_slot_behind_its_back().await;
    let halted = outbox.halts(CREATE, &[]).await;
    halted.names(&[outbox.slot(), "is gone", "confirmed up to"]);
    halted.advises("txstream slot reset --backfill");
    assert_eq!(outbox.slots().await, 0);
    outbox.repair(&["slot", "reset", "--backfill", "--yes", "--lock-timeout", "30s"]).await;
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn a_slot_of_another_plugin_or_database_halts_and_stays_as_it_is() {
    let (outbox, theirs) = (Outbox::migrated().await, Outbox::bare().await);
    let slot = outbox.slot();
    for (owner, plugin, named) in
        [(&outbox, "test_decoding", "test_decoding"), (&theirs, "pgoutput", theirs.slot())]
    {
        owner
            .database
            .exec(&format!("SELECT pg_create_logical_replication_slot('{slot}', '{plugin}')"))
            .await;
        let halted = outbox.halts(CREATE, &[]).await;
        halted.names(&[slot, named]).advises("set REPLICATION_SLOT to another name");
        assert_eq!(outbox.slots().await, 1);
        owner.database.exec(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    }
    outbox.streams(CREATE, &[("REPLICATION_SLOT", &unique("another"))]).await;
}

#[tokio::test]
async fn a_slot_made_by_hand_is_accepted() {
    let outbox = Outbox::migrated().await;
    let slot = outbox.slot();
    outbox.database.exec(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn the_relay_role_of_the_sql_file_is_enough_and_each_missing_right_is_named() {
    let outbox = Outbox::migrated().await;
    let (owner, relay) = (unique("owner"), unique("relay"));
    let (writer, pruner) = (unique("writer"), unique("pruner"));
    outbox.roles(&[("owner", &owner), ("relay", &relay), ("writer", &writer), ("pruner", &pruner)]).await;
    outbox.database.exec(&format!("ALTER ROLE {relay} PASSWORD 'pw'")).await;
    let url = outbox.database.url().replace("postgres:postgres@", &format!("{relay}:pw@"));
    let env = [("DATABASE_URL", url.as_str())];
    outbox.streams(CREATE, &env).await;
    let database = outbox.database.name();
    for (taken, named, given) in [
        (
            format!("ALTER ROLE {relay} NOREPLICATION"),
            "42501",
            format!(r#"ALTER ROLE "{relay}" REPLICATION;"#),
        ),
        (
            format!("REVOKE ALL ON txstream_checkpoint FROM {relay}"),
            relay.as_str(),
            format!(r#"GRANT SELECT, INSERT, UPDATE, DELETE ON public.txstream_checkpoint TO "{relay}";"#),
        ),
        (
            format!("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC, {relay}"),
            database,
            format!(r#"GRANT CONNECT ON DATABASE "{database}" TO "{relay}";"#),
        ),
    ] {
        outbox.database.exec(&taken).await;
        let halted = outbox.halts(&[], &env).await;
        outbox.database.exec(halted.names(&[named]).advises(&given)).await;
        outbox.streams(&[], &env).await;
    }
    outbox
        .database
        .exec(&format!(
            "DROP OWNED BY {owner}, {relay}, {writer}, {pruner}; DROP ROLE {owner}, {relay}, {writer}, {pruner}"
        ))
        .await;
}

/// Forwards ordinary connections to Postgres and refuses replication as PgBouncer does.
pub(crate) async fn pooler(postgres: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, postgres));
        }
    });
    port
}

async fn serve(mut client: TcpStream, postgres: u16) -> std::io::Result<()> {
    loop {
        let length = client.read_u32().await?;
        let mut body = vec![0; length as usize - 4];
        client.read_exact(&mut body).await?;
        if length == 8 {
            // A request for TLS or GSSAPI encryption.
            client.write_all(b"N").await?;
        } else if body.windows(11).any(|word| word == b"replication") {
            let fields = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: replication\0\0";
            client.write_u8(b'E').await?;
            client.write_u32(4 + fields.len() as u32).await?;
            return client.write_all(fields).await;
        } else {
            let mut server = TcpStream::connect(("127.0.0.1", postgres)).await?;
            server.write_u32(length).await?;
            server.write_all(&body).await?;
            copy_bidirectional(&mut client, &mut server).await?;
            return Ok(());
        }
    }
}

#[tokio::test]
async fn a_pooler_in_the_url_halts_and_replication_url_goes_past_it() {
    let outbox = Outbox::with_slot().await;
    let pooled = outbox.database.url_through(pooler(Postgres::shared().await.port()).await);
    let halted = outbox.halts(&[], &[("DATABASE_URL", &pooled)]).await;
    halted.names(&["08P01", "unsupported startup parameter"]).advises("set REPLICATION_URL");
    halted.advises("PgBouncer");
    let direct = outbox.database.url();
    outbox.streams(&[], &[("DATABASE_URL", &pooled), ("REPLICATION_URL", &direct)]).await;
}

#[tokio::test]
async fn an_absent_postgres_is_waited_for() {
    let outbox = Outbox::with_slot().await;
    let proxy = Proxy::to(Postgres::shared().await.port()).await;
    proxy.refuse();
    let url = outbox.database.url_through(proxy.port());
    let mut relay = outbox.relay(&[], &[("DATABASE_URL", &url)]).await;
    let said = relay.wait_for_log("it waits", SOON, |line| line.contains("not streaming")).await;
    assert!(said.contains(&proxy.port().to_string()), "it says for what: {said}");
    let ready = http::get(relay.admin(), "/readyz").await.unwrap();
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("connecting"), "{}", ready.body);
    proxy.resume();
    relay.wait_ready().await;
    outbox.insert("absent", "1", "{}").await;
    published(&relay, 1).await;
}

#[tokio::test]
async fn an_absent_postgres_is_mentioned_every_ten_seconds() {
    let port = free_port().await.to_string();
    let outbox = Outbox::bare().await;
    let url = outbox.database.url_through(port.parse().unwrap());
    let relay = outbox.relay(&[], &[("DATABASE_URL", &url)]).await;
    let lines = || relay.log().iter().filter(|line| line.contains("not streaming")).count();
    eventually(Duration::from_secs(15), "it says so again", async || (lines() >= 2).then_some(())).await;
    assert!(lines() <= 3, "not at every try: {:?}", relay.log());
}

#[tokio::test]
async fn a_postgres_that_is_slow_to_answer_makes_no_relay_that_is_stuck() {
    let outbox = Outbox::with_slot().await;
    let proxy = Proxy::to(Postgres::shared().await.port()).await;
    proxy.stall(Direction::Both);
    let url = format!("{}?connect_timeout=120", outbox.database.url_through(proxy.port()));
    let mut relay = outbox.relay(&[], &[("DATABASE_URL", &url)]).await;
    // One that is stuck for 30 s is not live, and would be restarted by whoever asks.
    eventually(Duration::from_secs(60), "it has waited for longer than that", async || {
        let live = http::get(relay.admin(), "/livez").await.ok()?;
        assert_eq!(live.status, 200, "{}", live.body);
        (relay.status().await["uptime_seconds"].as_u64()? > 35).then_some(())
    })
    .await;
    assert_eq!(relay.get("/readyz").await.status, 503);
    proxy.resume();
    relay.wait_ready().await;
}

#[tokio::test]
async fn settings_that_break_the_promise_are_bad_usage_all_told_at_once() {
    let outbox = Outbox::migrated().await;
    let url = outbox.database.url();
    let env =
        [("DATABASE_URL", url.as_str()), ("REPLICATION_SLOT", outbox.slot()), ("WORKER_ON_REJECT", "skip")];
    let args =
        ["relay", "--create-slot", "-X", "acks=1", "-X", "enable.idempotence=false", "-X", "nonsense=1"];
    let said = run_cli(&args, &env).await;
    assert_eq!(said.code, Some(64), "{}", said.stderr);
    for part in [
        "acks",
        "enable.idempotence",
        "nonsense",
        "WORKER_ON_REJECT",
        "is not a policy; write halt or dead-letter",
    ] {
        assert!(said.stderr.contains(part), "{part} is missing: {}", said.stderr);
    }
    assert_eq!(outbox.slots().await, 0);
    outbox.streams(CREATE, &[]).await;
}

#[tokio::test]
async fn a_taken_port_of_the_admin_server_halts_before_the_slot_is_touched() {
    let outbox = Outbox::migrated().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let url = outbox.database.url();
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("REPLICATION_SLOT", outbox.slot()),
        ("KAFKA_BROKERS", outbox.kafka.bootstrap()),
        ("METRICS_HOST", "127.0.0.1"),
        ("METRICS_PORT", &port),
    ];
    let said = run_cli(&["relay", "--create-slot"], &env).await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let last: Vec<&str> = said.stderr.lines().rev().take(2).collect();
    assert!(last[1].starts_with("error: ") && last[1].contains(&port), "{}", said.stderr);
    assert!(last[0].contains("what to do: free the port, or set METRICS_PORT"), "{}", said.stderr);
    assert_eq!(outbox.slots().await, 0);
    drop(taken);
    outbox.streams(CREATE, &[("METRICS_PORT", &port)]).await;
}

#[tokio::test]
async fn a_column_that_a_placement_needs_halts() {
    let outbox = Outbox::with_slot().await;
    let env = [("OUTBOX_PLACEMENT", "tenant:header,Region:header:r")];
    let halted = outbox.halts(&[], &env).await;
    halted
        .names(&["public.outbox has no column tenant (OUTBOX_PLACEMENT), Region (OUTBOX_PLACEMENT)"])
        .advises("OUTBOX_PLACEMENT");
    let sql = halted
        .advises(r#"ALTER TABLE "public"."outbox" ADD COLUMN "tenant" text, ADD COLUMN "Region" text;"#);
    outbox.database.exec(sql).await;
    outbox.streams(&[], &env).await;
}

#[tokio::test]
async fn a_column_that_the_preset_needs_halts() {
    let outbox = Outbox::with_slot().await;
    let halted = outbox.halts(&[], &[("OUTBOX_PRESET", "txstream")]).await;
    halted.names(&["public.outbox has no column", "event_type", "aggregate_id"]).advises("set OUTBOX_PRESET");
    outbox.streams(&[], &[("OUTBOX_PRESET", "debezium")]).await;
}

#[tokio::test]
async fn a_view_in_place_of_the_table_halts() {
    let outbox = Outbox::with_slot().await;
    outbox.database.exec("CREATE VIEW seen AS SELECT * FROM outbox").await;
    let halted = outbox.halts(&[], &[("OUTBOX_TABLE", "seen")]).await;
    halted.names(&["public.seen is not a table whose rows are replicated"]).advises("set OUTBOX_TABLE");
    outbox.streams(&[], &[("OUTBOX_TABLE", "outbox")]).await;
}

#[tokio::test]
async fn a_unix_socket_does_as_well_as_tcp() {
    let outbox = Outbox::with_slot().await;
    let socket = outbox.database.socket_url();
    outbox.streams(&[], &[("DATABASE_URL", &socket)]).await;
    outbox.streams(&[], &[]).await;
}
