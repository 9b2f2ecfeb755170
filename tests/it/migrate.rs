use txstream::migrate::{self, Done, Fate, Kind, MigrateError, Settings, State};
use txstream::outbox::{self, Preset, TableName};

use crate::support::{Database, Postgres, unique};

fn table(name: &str) -> TableName {
    let (schema, name) = name.split_once('.').unwrap_or(("public", name));
    TableName { schema: schema.into(), name: name.into() }
}

pub(crate) fn outbox(tables: &[&str]) -> outbox::Settings {
    outbox::Settings {
        tables: tables.iter().map(|name| table(name)).collect(),
        preset: Preset::Debezium,
        placement: Vec::new(),
        fixed_topic: None,
    }
}

async fn up(database: &Database, outbox: &outbox::Settings) -> Result<Vec<Done>, MigrateError> {
    migrate::up(&mut database.client().await, &settings(outbox)).await
}

async fn down(database: &Database) -> Result<Vec<Fate>, MigrateError> {
    migrate::down(&mut database.client().await).await
}

fn settings(outbox: &outbox::Settings) -> Settings<'_> {
    Settings { outbox, publication: "txstream_outbox" }
}

/// Tables, functions and publications that are not the system's.
pub(crate) async fn objects(database: &Database) -> Vec<String> {
    let rows = database
        .query(
            "select oid::regclass::text from pg_class where relkind in ('r', 'p', 'v', 'S')
                and relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
             union all select oid::regprocedure::text from pg_proc
                where pronamespace::regnamespace::text !~ '^(pg_|information_schema)'
             union all select pubname from pg_publication order by 1",
        )
        .await;
    rows.iter().map(|row| row.get(0)).collect()
}

pub(crate) async fn shared() -> Database {
    Postgres::shared().await.database().await
}

async fn up_and_down(version: u32) {
    let postgres = Postgres::start(version, &[]).await;
    let database = postgres.database().await;
    let outbox = outbox(&["outbox", "second"]);
    let before = objects(&database).await;
    let done = up(&database, &outbox).await.unwrap();
    assert!(done.iter().all(|done| matches!(done, Done::Created(..))), "{done:?}");
    assert!(matches!(done.last(), Some(Done::Created(Kind::Publication, _))), "the publication comes last");

    let columns: String = database
        .value(
            "select string_agg(column_name || ' ' || data_type || coalesce(character_maximum_length::text, '')
                 || ' ' || is_nullable, ', ' order by ordinal_position)
               from information_schema.columns where table_schema = 'public' and table_name = 'outbox'",
        )
        .await;
    assert_eq!(
        columns,
        "id uuid NO, aggregatetype character varying255 NO, aggregateid character varying255 NO, \
         type character varying255 NO, payload jsonb YES, headers jsonb YES, \
         tracingspancontext character varying256 YES, timestamp timestamp without time zone NO"
    );
    let publication: String = database
        .value(
            "select concat_ws(' ', pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot) from pg_publication
              where pubname = 'txstream_outbox'",
        )
        .await;
    assert_eq!(publication, "t f f f t");
    database.exec("insert into second (aggregatetype, aggregateid, type) values ('a', '1', 't')").await;

    assert_eq!(up(&database, &outbox).await.unwrap(), [], "twice does nothing");
    let status = migrate::status(&database.client().await, &settings(&outbox)).await.unwrap();
    assert!(status.iter().all(|item| item.state == State::Created && item.problems.is_empty()), "{status:?}");

    let remains = migrate::remains(&database.client().await).await.unwrap();
    assert_eq!(remains.rows, [(r#""public"."second""#.to_owned(), 1)]);
    let fates = down(&database).await.unwrap();
    assert!(fates.iter().all(|fate| matches!(fate, Fate::Dropped(..))), "{fates:?}");
    assert_eq!(objects(&database).await, before, "nothing of ours is left");
    assert_eq!(down(&database).await.unwrap(), []);
    assert!(!migrate::remains(&database.client().await).await.unwrap().migrated);
}

#[tokio::test]
async fn up_makes_and_down_undoes_everything_on_14() {
    up_and_down(14).await;
}

#[tokio::test]
async fn up_makes_and_down_undoes_everything_on_18() {
    up_and_down(18).await;
}

#[tokio::test]
async fn two_at_once_do_it_once() {
    let database = shared().await;
    let outbox = outbox(&["outbox"]);
    let (one, two) = tokio::join!(up(&database, &outbox), up(&database, &outbox));
    let created = |done: Vec<Done>| done.iter().filter(|done| matches!(done, Done::Created(..))).count();
    assert_eq!(created(one.unwrap()) + created(two.unwrap()), 6);
}

#[tokio::test]
async fn outbox_publish_inserts_a_row_with_no_right_but_insert() {
    let database = shared().await;
    up(&database, &outbox(&["outbox"])).await.unwrap();
    let writer = format!("{}_writer", database.name());
    database.exec(&format!("create role {writer}; grant insert on outbox to {writer}")).await;
    let client = database.client().await;
    client.batch_execute(&format!("set role {writer}")).await.unwrap();
    let row = client
        .query_one(
            "select outbox_publish(aggregatetype => 'order', aggregateid => '42', type => 'Created',
                                   payload => '{\"a\": 1}', headers => '{\"h\": \"x\"}')::text",
            &[],
        )
        .await
        .unwrap();
    let id: String = row.get(0);
    client.query_one("select outbox_publish('order', '43', 'Created', null)", &[]).await.unwrap();
    client
        .batch_execute(&format!("reset role; revoke all on outbox from {writer}; drop role {writer}"))
        .await
        .unwrap();
    let stored: String =
        database.value("select concat_ws('|', id, aggregatetype, type, payload, headers) from outbox where aggregateid = '42'").await;
    assert_eq!(stored, format!(r#"{id}|order|Created|{{"a": 1}}|{{"h": "x"}}"#));
}

const FOREIGN: &str =
    "create table outbox (id text, aggregatetype text, aggregateid text, type text, payload text,
    at timestamptz default now(), primary key (id, at)) partition by range (at);
    create table outbox_all partition of outbox for values from ('2000-01-01') to (maxvalue)";

#[tokio::test]
async fn a_table_that_was_there_is_published_and_never_altered_nor_dropped() {
    let database = shared().await;
    database.exec(FOREIGN).await;
    let shape = "select string_agg(attrelid::regclass || '.' || attname, ',' order by attrelid, attnum)
                   from pg_attribute where attrelid in ('outbox'::regclass, 'outbox_all'::regclass)";
    let before: String = database.value(shape).await;
    let outbox = outbox(&["outbox"]);
    let done = up(&database, &outbox).await.unwrap();
    assert!(done.contains(&Done::Adopted(Kind::Table, r#""public"."outbox""#.into())), "{done:?}");
    assert!(done.iter().any(|done| matches!(done, Done::Skipped(why) if why.contains("outbox_publish"))));
    let published: String = database.value("select tablename::text from pg_publication_tables").await;
    assert_eq!(published, "outbox", "via the root");
    assert!(up(&database, &outbox).await.unwrap().iter().all(|done| matches!(done, Done::Skipped(_))));

    database.exec("insert into outbox values ('1', 'a', 'b', 'c', 'd')").await;
    assert_eq!(
        migrate::remains(&database.client().await).await.unwrap().rows,
        [],
        "nothing of it is in danger"
    );
    let fates = down(&database).await.unwrap();
    assert!(fates.contains(&Fate::Kept(Kind::Table, r#""public"."outbox""#.into())), "{fates:?}");
    assert_eq!(database.value::<String>(shape).await, before);
    assert_eq!(database.value::<i64>("select count(*) from outbox").await, 1);
}

#[tokio::test]
async fn a_table_that_took_the_name_of_ours_is_not_dropped() {
    let database = shared().await;
    let outbox = outbox(&["outbox"]);
    up(&database, &outbox).await.unwrap();
    database.exec(&format!("drop table outbox; {FOREIGN}")).await;
    let fates = down(&database).await.unwrap();
    assert!(fates.contains(&Fate::Kept(Kind::Table, r#""public"."outbox""#.into())), "{fates:?}");
    assert_eq!(objects(&database).await, ["outbox", "outbox_all"]);
}

#[tokio::test]
async fn what_is_wrong_is_said_at_once_and_nothing_is_changed() {
    let database = shared().await;
    database
        .exec(
            "create table outbox (id uuid, aggregatetype text, payload jsonb);
             create unlogged table fast (id int, aggregatetype int, aggregateid int, type int, payload int);
             create view txstream_checkpoint as select 1 as slot",
        )
        .await;
    let before = objects(&database).await;
    let error = up(&database, &outbox(&["outbox", "fast", "nowhere.outbox"])).await.unwrap_err();
    let text = error.to_string();
    for part in [
        "public.outbox exists and has no column aggregateid (preset debezium), type (preset debezium)",
        "public.fast is a view, a temporary or an unlogged table",
        "schema nowhere of table nowhere.outbox does not exist",
        "public.txstream_checkpoint exists and has no column system_identifier",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(error.remedy().contains(r#"CREATE SCHEMA "nowhere""#), "{}", error.remedy());
    assert_eq!(objects(&database).await, before);
}

#[tokio::test]
async fn the_ancestors_table_is_published_and_never_created() {
    let database = shared().await;
    let outbox = outbox::Settings { preset: Preset::Txstream, ..outbox(&["outbox_events"]) };
    let error = up(&database, &outbox).await.unwrap_err();
    assert!(error.to_string().contains("public.outbox_events does not exist"), "{error}");
    database
        .exec(
            "create table outbox_events (id uuid primary key, aggregate_id text, aggregate_type text, event_type text,
                 event_data jsonb, event_metadata jsonb, status text, created_at timestamptz)",
        )
        .await;
    up(&database, &outbox).await.unwrap();
    let published: String = database.value("select tablename::text from pg_publication_tables").await;
    assert_eq!(published, "outbox_events");
    assert!(!objects(&database).await.iter().any(|name| name.starts_with("outbox_publish")));
}

#[tokio::test]
async fn our_own_publication_comes_to_cover_every_table_whatever_was_done_to_it() {
    // Column lists and row filters came with PostgreSQL 15.
    if Postgres::default_version() < 15 {
        return;
    }
    let database = shared().await;
    up(&database, &outbox(&["outbox"])).await.unwrap();
    database
        .exec(
            "alter publication txstream_outbox set (publish = 'update', publish_via_partition_root = false);
             alter publication txstream_outbox set table outbox (id, type) where (type <> 'x')",
        )
        .await;
    let both = outbox(&["outbox", "second"]);
    let status = migrate::status(&database.client().await, &settings(&both)).await.unwrap();
    let publication = status.iter().find(|item| item.kind == Kind::Publication).unwrap();
    assert_eq!(publication.state, State::Pending);
    assert!(publication.problems.len() >= 3, "{publication:?}");
    let done = up(&database, &both).await.unwrap();
    assert!(done.iter().any(|done| matches!(done, Done::Altered(_))), "{done:?}");
    let shown: String = database
        .value(
            "select string_agg(tablename || cardinality(attnames) || coalesce(rowfilter, ''), ' ' order by tablename)
               from pg_publication_tables where (select pubinsert and pubviaroot from pg_publication)",
        )
        .await;
    assert_eq!(shown, "outbox8 second8");
    assert_eq!(up(&database, &both).await.unwrap(), []);
}

#[tokio::test]
async fn a_foreign_publication_is_never_altered() {
    let database = shared().await;
    database.exec("create table other (id int); create publication txstream_outbox for table other").await;
    let outbox = outbox(&["outbox"]);
    let error = up(&database, &outbox).await.unwrap_err();
    assert!(
        error.remedy().contains(r#"ALTER PUBLICATION "txstream_outbox" ADD TABLE "public"."outbox""#),
        "{}",
        error.remedy()
    );
    assert_eq!(objects(&database).await, ["other", "txstream_outbox"], "nothing was changed");

    database
        .exec("drop publication txstream_outbox; create publication txstream_outbox for all tables")
        .await;
    let done = up(&database, &outbox).await.unwrap();
    assert!(done.contains(&Done::Adopted(Kind::Publication, r#""txstream_outbox""#.into())), "{done:?}");
    down(&database).await.unwrap();
    assert_eq!(objects(&database).await, ["other", "txstream_outbox"]);
}

#[tokio::test]
async fn what_depends_on_our_tables_is_named_and_nothing_is_dropped() {
    let database = shared().await;
    up(&database, &outbox(&["outbox"])).await.unwrap();
    database.exec("create view report as select * from outbox").await;
    let before = objects(&database).await;
    let error = down(&database).await.unwrap_err();
    assert!(error.to_string().contains("view report depends on table"), "{error}");
    assert_eq!(objects(&database).await, before);
}

#[tokio::test]
async fn a_role_without_rights_is_told_what_it_may_not_do() {
    let database = shared().await;
    let role = format!("{}_nobody", database.name());
    // Before PostgreSQL 15 everyone may create tables in a new database.
    database.exec(&format!("revoke create on schema public from public; create role {role}")).await;
    let mut client = database.client().await;
    client.batch_execute(&format!("set role {role}")).await.unwrap();
    let error = migrate::up(&mut client, &settings(&outbox(&["outbox"]))).await.unwrap_err();
    assert!(error.to_string().contains(&format!("role {role} may not create table")), "{error}");
    database.exec(&format!("drop role {role}")).await;
}

/// Runs a file of `sql/`; names are variables of psql.
fn psql(database: &Database, user: &str, file: &str, variables: &[(&str, &str)]) -> String {
    let mut command = std::process::Command::new("psql");
    command.args(["--no-psqlrc", "--set=ON_ERROR_STOP=1", "--file"]);
    command.arg(format!("{}/sql/{file}", env!("CARGO_MANIFEST_DIR")));
    for (name, value) in variables {
        command.arg(format!("--set={name}={value}"));
    }
    let output = command
        .arg(database.socket_url().replace("user=postgres", &format!("user={user}")))
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{file} as {user}: {said}");
    said
}

#[tokio::test]
async fn the_roles_of_roles_sql_suffice_for_everything() {
    let postgres = Postgres::start(15, &[]).await;
    let database = postgres.database().await;
    let (owner, relay, writer) = (unique("owner"), unique("relay"), unique("writer"));
    let pruner = unique("pruner");
    let names = [
        ("owner", owner.as_str()),
        ("relay", relay.as_str()),
        ("writer", writer.as_str()),
        ("pruner", pruner.as_str()),
    ];
    psql(&database, "postgres", "roles.sql", &names);
    let outbox = outbox(&["outbox"]);
    let mut client = database.client().await;
    client.batch_execute(&format!("set role {owner}")).await.unwrap();
    migrate::up(&mut client, &settings(&outbox)).await.unwrap();
    psql(&database, "postgres", "roles.sql", &names);

    let as_relay = database.client().await;
    as_relay.batch_execute(&format!("set session authorization {relay}")).await.unwrap();
    let slot = txstream::relay::slot_life::CreateSlot {
        slot: database.name(),
        publication: "txstream_outbox",
        outbox: &outbox,
        failover: false,
        lock_timeout: std::time::Duration::from_secs(10),
        first_only: true,
    };
    txstream::relay::slot_life::create(&as_relay, &slot).await.unwrap();
    psql(&database, &writer, "publish.sql", &[]);
    let seen = psql(&database, &relay, "monitoring.sql", &[("slot", database.name())]);
    assert!(seen.contains("reserved") && seen.contains("public.outbox"), "{seen}");
    as_relay
        .batch_execute(
            "insert into txstream_dead_letter (slot, table_name, row_id, commit_lsn, ordinal, topic, key, reason, error)
                                values ('s', 't', '1', '0/1', 0, 't', '', 'r', 'e'); delete from txstream_dead_letter",
        )
        .await
        .unwrap();
    assert_eq!(as_relay.query_one("select count(*) from outbox", &[]).await.unwrap().get::<_, i64>(0), 12);
    txstream::relay::slot_life::drop(&as_relay, database.name()).await.unwrap();
    migrate::down(&mut client).await.unwrap();
}
