//! `outbox prune`: old rows go once the slot has confirmed them, and never before.

use serde_json::Value;
use txstream::retention::widened;

use crate::load::{self, Load, RECOVERY};
use crate::support::wait::SOON;
use crate::support::{Kafka, Outbox, Postgres, eventually, published};

/// Commits rows that are ten days old.
async fn old_rows(outbox: &Outbox, kind: &str, rows: u32) {
    outbox
        .database
        .exec(&format!(
            "insert into outbox (aggregatetype, aggregateid, type, payload, \"timestamp\")
                 select '{kind}', n::text, 'T', '{{}}', now() - interval '10 days' from generate_series(1, {rows}) n"
        ))
        .await;
}

/// What a run of `outbox prune --older-than 7d` reports.
async fn prune(outbox: &Outbox, args: &[&str]) -> Value {
    let all = [&["outbox", "prune", "--older-than", "7d", "--output", "json"], args].concat();
    serde_json::from_str(&outbox.done(&all).await.stdout).unwrap()
}

/// A run that must refuse: what it says.
async fn refused(outbox: &Outbox, args: &[&str]) -> String {
    let said = outbox.cli(&[&["outbox", "prune", "--older-than", "7d"], args].concat()).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{}", said.stderr);
    said.stderr
}

async fn rows(outbox: &Outbox) -> i64 {
    outbox.database.value("select count(*) from outbox").await
}

#[tokio::test]
async fn old_confirmed_rows_go_young_ones_stay_and_a_dry_run_only_counts() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    old_rows(&outbox, "old", 20_000).await;
    // A row under an exception block has the id of a subtransaction.
    outbox
        .database
        .exec(
            "do $$ begin
                 begin insert into outbox (aggregatetype, aggregateid, type, \"timestamp\")
                       values ('old', 's', 'T', now() - interval '10 days');
                 exception when unique_violation then null; end; end $$;
             insert into outbox (aggregatetype, aggregateid, type, \"timestamp\")
                 values ('old', 'y', 'T', now() - interval '6 days 23 hours')",
        )
        .await;
    published(&relay, 20_003).await;

    // Transactions of other tests on the shared server hold back what counts as confirmed.
    let counted = eventually(RECOVERY, "the old rows are known to be confirmed", async || {
        let counted = prune(&outbox, &["--dry-run"]).await;
        (counted["rows_deleted"] == 20_001).then_some(counted)
    })
    .await;
    assert_eq!(counted["dry_run"], true, "{counted}");
    assert_eq!(rows(&outbox).await, 20_003, "a dry run changes nothing");
    let said = outbox.done(&["outbox", "prune", "--older-than", "7d", "--dry-run"]).await;
    assert!(said.stdout.contains("would delete") && said.stdout.contains("20001"), "{}", said.stdout);

    let done = prune(&outbox, &[]).await;
    assert_eq!(done["rows_deleted"], 20_001, "{done}");
    assert_eq!(done["tables"][0]["table"], "public.outbox");
    assert_eq!(done["slot_name"], outbox.slot());
    assert_eq!(rows(&outbox).await, 2, "the row of 6 days and 23 hours, and that of now");
    assert_eq!(prune(&outbox, &[]).await["rows_deleted"], 0);
}

#[tokio::test]
async fn what_the_slot_has_not_confirmed_stays_whatever_its_age() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    old_rows(&outbox, "old", 100).await;
    // The relay notes what is confirmed from time to time, while there is something to confirm.
    let noted =
        "select recovery_xid > (select max(xmin::text::bigint) from outbox where aggregatetype = 'old')
                   from txstream_checkpoint where recovery_xid is not null";
    eventually(RECOVERY, "the relay has noted that the old rows are confirmed", async || {
        outbox.insert("young", "1", "{}").await;
        outbox.database.query(noted).await.first()?.get::<_, bool>(0).then_some(())
    })
    .await;
    relay.sigterm().await;
    relay.wait_exit(SOON).await;
    old_rows(&outbox, "unconfirmed", 50).await;

    let done = prune(&outbox, &[]).await;
    assert_eq!(done["rows_deleted"], 100, "no relay runs, and what it noted counts: {done}");
    assert_eq!(done["tables"][0]["rows_not_confirmed"], 50, "{done}");
    let left: i64 =
        outbox.database.value("select count(*) from outbox where aggregatetype = 'unconfirmed'").await;
    assert_eq!(left, 50);

    let relay = outbox.streaming(&[], &[]).await;
    published(&relay, 51).await;
    eventually(RECOVERY, "now they are in Kafka, and go", async || {
        (prune(&outbox, &[]).await["rows_deleted"] == 50).then_some(())
    })
    .await;
}

#[tokio::test]
async fn rows_written_behind_an_open_transaction_wait_for_it() {
    // A server of its own: a transaction of any database counts.
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let relay = outbox.streaming(&[], &[]).await;
    let open = outbox.database.client().await;
    let insert = "insert into outbox (aggregatetype, aggregateid, type, \"timestamp\")
                      values ('old', 'open', 'T', now() - interval '10 days')";
    open.batch_execute(&format!("begin; {insert}")).await.unwrap();
    old_rows(&outbox, "old", 10).await;
    published(&relay, 11).await;
    let done = prune(&outbox, &[]).await;
    assert_eq!((&done["rows_deleted"], &done["tables"][0]["rows_not_confirmed"]), (&0.into(), &10.into()));
    open.batch_execute("commit").await.unwrap();
    published(&relay, 12).await;
    assert_eq!(prune(&outbox, &[]).await["rows_deleted"], 11);
}

#[tokio::test]
async fn where_the_slot_proves_nothing_nothing_is_pruned_and_it_says_why() {
    let outbox = Outbox::migrated().await;
    old_rows(&outbox, "old", 5).await;
    let says = async |parts: &[&str]| {
        let said = refused(&outbox, &[]).await;
        for part in parts {
            assert!(said.contains(part), "{part} is missing: {said}");
        }
        assert_eq!(rows(&outbox).await, 5, "{said}");
    };
    says(&["there is no slot", "txstream slot create"]).await;
    outbox.done(&["slot", "create", "--lock-timeout", "30s"]).await;
    says(&["no relay has streamed", "txstream relay"]).await;
    let checkpoint = |sql: &str| format!("update txstream_checkpoint set {sql}");
    let database = &outbox.database;
    // As a relay leaves it that was killed before it noted anything.
    database.exec(&checkpoint("instance = 'relay', clean = false")).await;
    says(&["which rows lie before that", "txstream relay"]).await;
    database.exec(&checkpoint("recovery_xid = 1::bigint << 40, recovery_lsn = 'FFFF/0'")).await;
    says(&["has passed FFFF/0"]).await;
    database.exec(&checkpoint("recovery_lsn = '0/1', backfill_pending = true")).await;
    says(&["backfill", "slot reset --backfill"]).await;
    database.exec(&checkpoint("backfill_pending = false, clean = true, confirmed_lsn = '0/1'")).await;
    says(&["was moved", "never published", "txstream relay"]).await;
    database.exec(&checkpoint("system_identifier = '1'")).await;
    says(&["cluster 1", "DATABASE_URL"]).await;
    database
        .exec(&checkpoint("system_identifier = (select system_identifier from pg_control_system())"))
        .await;
    outbox.drop_slot_behind_its_back().await;
    says(&["existed before", "slot"]).await;
    database.exec("drop table txstream_checkpoint").await;
    says(&["txstream migrate up"]).await;
}

#[tokio::test]
async fn what_is_no_outbox_of_known_age_or_may_not_be_deleted_is_refused_before_anything_goes() {
    let outbox = Outbox::with_slot().await;
    let _relay = outbox.streaming(&[], &[]).await;
    let database = &outbox.database;
    database
        .exec("create table ageless (like outbox); alter table ageless drop column \"timestamp\"; create view seen as table outbox")
        .await;
    for (table, parts) in [
        ("outbox,missing", &["public.missing does not exist", "migrate up"][..]),
        ("outbox,seen", &["public.seen is not a table"]),
        ("outbox,ageless", &["has no column timestamp", "track_commit_timestamp", "--age-column"]),
    ] {
        let said = refused(&outbox, &["--outbox-table", table]).await;
        assert!(parts.iter().all(|part| said.contains(part)), "{table}: {said}");
    }
    for (column, part) in [("nothing", "has no column nothing"), ("payload", "of type jsonb")] {
        let said = refused(&outbox, &["--age-column", column]).await;
        assert!(said.contains(part), "{said}");
    }
    let said = outbox.cli(&["outbox", "prune", "--older-than", "9999999d"]).await;
    assert!(said.code == Some(1) && said.stderr.contains("shorter"), "{}", said.stderr);
    for args in [&["outbox", "prune"][..], &["outbox", "prune", "--older-than", "7"]] {
        let said = outbox.cli(args).await;
        assert!(said.code == Some(64) && said.stderr.contains("--older-than"), "{}", said.stderr);
    }

    let role = format!("reader_{}", outbox.slot());
    database
        .exec(&format!(
            "create role {role} login password 'p'; grant select on outbox, txstream_checkpoint to {role}"
        ))
        .await;
    let url = database.url().replace("postgres:postgres@", &format!("{role}:p@"));
    let said = refused(&outbox, &["--database-url", &url]).await;
    let grant = format!("GRANT SELECT, DELETE ON \"public\".\"outbox\" TO \"{role}\";");
    assert!(said.contains(&format!("role {role} may not")) && said.contains(&grant), "{said}");
    database.exec(&grant).await;
    old_rows(&outbox, "old", 3).await;
    let able = async || {
        let said = outbox.cli(&["outbox", "prune", "--older-than", "7d", "--database-url", &url]).await;
        assert_eq!(said.code, Some(0), "the printed grant is enough: {}", said.stderr);
        (rows(&outbox).await == 1).then_some(())
    };
    eventually(SOON, "the old rows are confirmed and go", able).await;
    database.exec(&format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test]
async fn where_the_table_has_no_time_the_commits_own_counts() {
    let postgres = Postgres::start(Postgres::default_version(), &[("track_commit_timestamp", "on")]).await;
    let outbox = Outbox::bare_on(&postgres).await;
    // Debezium's own table.
    outbox
        .database
        .exec(
            "create table outbox (id uuid default gen_random_uuid() primary key, aggregatetype varchar(255) not null,
                 aggregateid varchar(255) not null, type varchar(255) not null, payload jsonb)",
        )
        .await;
    outbox.done(&["migrate", "up"]).await;
    outbox.done(&["slot", "create"]).await;
    let relay = outbox.streaming(&[], &[]).await;
    outbox.insert("old", "1", "{}").await;
    published(&relay, 2).await;
    assert_eq!(prune(&outbox, &[]).await["rows_deleted"], 0, "they are seconds old");
    let said = outbox.done(&["outbox", "prune", "--older-than", "1ms"]).await;
    assert_eq!(rows(&outbox).await, 0, "{}", said.stdout);
}

/// An outbox in partitions by week, of the last weeks and the next, and one for the rest.
async fn partitioned(postgres: &Postgres) -> Outbox {
    let outbox = Outbox::bare_on(postgres).await;
    outbox
        .database
        .exec(
            "create table outbox (id uuid default gen_random_uuid(), aggregatetype varchar(255) not null,
                 aggregateid varchar(255) not null, type varchar(255) not null, payload jsonb,
                 \"timestamp\" timestamp not null default (now() at time zone 'utc')) partition by range (\"timestamp\");
             do $$ begin for week in -6..1 loop
                 execute format('create table outbox_%s partition of outbox for values from (%L) to (%L)',
                     case when week < 0 then 'ago_' || -week else 'in_' || week end,
                     (now() at time zone 'utc')::date + 7 * week, (now() at time zone 'utc')::date + 7 * (week + 1));
             end loop; end $$;
             create table outbox_rest partition of outbox default",
        )
        .await;
    outbox.done(&["migrate", "up"]).await;
    outbox.done(&["slot", "create", "--lock-timeout", "30s"]).await;
    outbox
}

async fn insert_ago(outbox: &Outbox, days: u32) {
    outbox
        .database
        .exec(&format!(
            "insert into outbox (aggregatetype, aggregateid, type, \"timestamp\")
                 values ('old', '{days}', 'T', now() at time zone 'utc' - interval '{days} days')"
        ))
        .await;
}

async fn partitions(outbox: &Outbox) -> Vec<String> {
    let rows =
        outbox.database.query("select substr(inhrelid::regclass::text, 8) from pg_inherits order by 1").await;
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn old_partitions_go_whole_once_every_row_in_them_is_confirmed() {
    // A server of its own: the relay is away, and nobody else's transaction counts.
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = partitioned(&postgres).await;
    let relay = outbox.streaming(&[], &[]).await;
    for days in [10, 16, 17, 24, 400] {
        insert_ago(&outbox, days).await;
    }
    published(&relay, 6).await;
    let all = ["ago_1", "ago_2", "ago_3", "ago_4", "ago_5", "ago_6", "in_0", "in_1", "rest"];
    let counted = prune(&outbox, &["--dry-run"]).await;
    assert_eq!(counted["tables"][0]["partitions_dropped"].as_array().unwrap().len(), 5, "{counted}");
    assert_eq!(partitions(&outbox).await, all, "a dry run drops nothing");

    // One that is not confirmed, and one that is written to right now.
    relay.freeze().await;
    insert_ago(&outbox, 31).await;
    let writer = outbox.database.client().await;
    let insert = "insert into outbox (aggregatetype, aggregateid, type, \"timestamp\")
                      values ('old', 'open', 'T', now() at time zone 'utc' - interval '24 days')";
    writer.batch_execute(&format!("begin; {insert}")).await.unwrap();
    let stuck = outbox.cli(&["outbox", "prune", "--older-than", "7d"]).await;
    assert_eq!(stuck.code, Some(1), "nothing noted, and the relay does not confirm: {}", stuck.stderr);
    assert_eq!(partitions(&outbox).await, all);
    let before: i64 =
        outbox.database.value("select min(xmin::text::bigint) from outbox where aggregateid = '31'").await;
    outbox
        .database
        .exec(&format!(
            "update txstream_checkpoint set recovery_xid = {before}, recovery_lsn = (select confirmed_flush_lsn
                 from pg_replication_slots where slot_name = '{}')",
            outbox.slot()
        ))
        .await;
    let done = prune(&outbox, &[]).await;
    let kept = done["tables"][0]["partitions_kept"].to_string();
    assert!(kept.contains("outbox_ago_5") && kept.contains("1 of its rows are not confirmed"), "{done}");
    assert!(kept.contains("outbox_ago_4") && kept.contains("did not end"), "{done}");
    assert_eq!(done["tables"][0]["partitions_dropped"].as_array().unwrap().len(), 0, "{done}");
    assert_eq!(
        rows_left(&outbox).await,
        ["10", "16", "17", "24", "31", "ready"],
        "that of 400 days was deleted"
    );
    writer.batch_execute("commit").await.unwrap();
    prune(&outbox, &[]).await;
    assert_eq!(partitions(&outbox).await, ["ago_1", "ago_4", "ago_5", "in_0", "in_1", "rest"]);
    assert_eq!(rows_left(&outbox).await, ["31", "open", "ready"]);
    relay.thaw().await;
    published(&relay, 8).await;
    prune(&outbox, &[]).await;
    assert_eq!(
        partitions(&outbox).await,
        ["ago_1", "in_0", "in_1", "rest"],
        "the rest stays, and what is to come"
    );
}

/// What rows are left, by key; that of the relay's start is `ready`.
async fn rows_left(outbox: &Outbox) -> Vec<String> {
    let sql =
        "select case aggregatetype when 'ready' then 'ready' else aggregateid end from outbox order by 1";
    outbox.database.query(sql).await.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_partition_goes_only_by_its_owner() {
    let outbox = partitioned(Postgres::shared().await).await;
    let relay = outbox.streaming(&[], &[]).await;
    published(&relay, 1).await;
    let role = format!("pruner_{}", outbox.slot());
    outbox
        .database
        .exec(&format!(
            "create role {role} login password 'p'; grant select, delete on all tables in schema public to {role}"
        ))
        .await;
    let url = outbox.database.url().replace("postgres:postgres@", &format!("{role}:p@"));
    let said = refused(&outbox, &["--database-url", &url]).await;
    assert!(
        said.contains("may not drop partition public.outbox_ago_6") && said.contains("connect as postgres"),
        "{said}"
    );
    outbox.database.exec(&format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test]
async fn pruning_under_load_holds_nobody_up_and_loses_nothing() {
    let kafka = Kafka::shared().await;
    let postgres = Postgres::shared().await;
    let outbox = load::Outbox::new(postgres).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    // What is committed stays known when its row is gone.
    outbox
        .database
        .exec(
            "create table written (id uuid);
             create function keep() returns trigger language plpgsql as
                 $$ begin insert into written values (new.id); return null; end $$;
             create trigger keep after insert on outbox for each row execute function keep()",
        )
        .await;
    let load = Load::start(&outbox, 4);
    let mut pruned = 0;
    eventually(RECOVERY, "some hundred rows are pruned under load", async || {
        load.commits(60).await;
        let said = outbox.command(&["outbox", "prune", "--older-than", "0", "--output", "json"]).await;
        let report: Value = serde_json::from_str(&said).unwrap();
        pruned += report["rows_deleted"].as_u64().unwrap();
        (pruned > 300).then_some(())
    })
    .await;
    load.commits(60).await;
    load.stop().await;
    let mut topic = outbox.topic(kafka);
    let wanted: i64 = outbox.database.value("select count(*) from written").await;
    let wanted = usize::try_from(wanted).unwrap();
    topic.read_count(wanted).await;
    outbox.confirmed().await;
    assert_eq!(topic.read_to_end().await.len(), wanted, "each once");
}

#[tokio::test]
async fn a_transaction_id_of_32_bits_is_the_newest_that_can_be_seen() {
    let database = Postgres::shared().await.database().await;
    let client = database.client().await;
    let epoch = 1_i64 << 32;
    for (bits, last, is) in [
        (100, 100, 100),
        (99, 100, 99),
        (100, 5 * epoch + 100, 5 * epoch + 100),
        (101, 5 * epoch + 100, 4 * epoch + 101),
        (epoch - 1, 5 * epoch + 100, 5 * epoch - 1),
        (3, 5 * epoch + 2, 4 * epoch + 3),
        // Nobody has an id above the last: it counts as old.
        (101, 100, 101 - epoch),
    ] {
        let sql = format!("select {}", widened("$1::bigint", "$2::bigint"));
        let widened: i64 = client.query_one(&sql, &[&bits, &last]).await.unwrap().get(0);
        assert_eq!(widened, is, "{bits} up to {last}");
    }
}
