//! `sql/roles.sql`: each program runs as its own role, and that role can do nothing else.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;

use super::told;
use crate::support::port::free_port;
use crate::support::wait::SOON;
use crate::support::{Outbox, Relay, eventually, http, run_cli, unique};

/// What every role was given on tables and columns, as `role table privilege`.
const GRANTED: &str = "
    select concat_ws(' ', a.grantee::regrole, c.relname, a.privilege_type) as granted
      from pg_class c, aclexplode(c.relacl) a
     where c.relnamespace = 'public'::regnamespace and a.grantee <> c.relowner and c.relkind = 'r'
    union all
    select concat_ws(' ', a.grantee::regrole, c.relname || '.' || t.attname, a.privilege_type)
      from pg_class c join pg_attribute t on t.attrelid = c.oid, aclexplode(t.attacl) a
     where c.relnamespace = 'public'::regnamespace and a.grantee <> c.relowner
    order by 1";

#[tokio::test]
async fn roles_sql_gives_migrate_relay_writer_and_prune_what_they_need_and_nothing_more() {
    let outbox = Outbox::bare().await;
    let database = &outbox.database;
    let names = ["owner", "relay", "writer", "pruner"].map(|role| (role, unique(role)));
    let variables = names.each_ref().map(|(role, name)| (*role, name.as_str()));
    let [owner, relay, writer, pruner] = variables.map(|(_, name)| name);
    let url = |role: &str| database.socket_url().replace("user=postgres", &format!("user={role}"));
    let run = async |role: &str, args: &[&str]| {
        let url = url(role);
        let env = [("DATABASE_URL", url.as_str()), ("REPLICATION_SLOT", outbox.slot())];
        run_cli(args, &[&env[..], &[("KAFKA_BROKERS", outbox.kafka.bootstrap())]].concat()).await
    };
    let done = async |role: &str, args: &[&str]| {
        let output = run(role, args).await;
        assert_eq!(output.code, Some(0), "{args:?} as {role}: {}", output.stderr);
        output.stdout
    };

    let said = outbox.sql_file("roles.sql", &variables).await;
    assert!(said.contains("run txstream migrate up as the owner role"), "{said}");
    done(owner, &["migrate", "up"]).await;
    for _ in 0..2 {
        let said = outbox.sql_file("roles.sql", &variables).await;
        assert!(said.contains("roles and grants are complete"), "{said}");
    }

    // The relay's role makes the slot and streams; the writer's stores an order; it comes out at Kafka.
    done(relay, &["slot", "create", "--lock-timeout", "30s"]).await;
    let as_relay = url(relay);
    let topic = unique("roles");
    let env = [("DATABASE_URL", as_relay.as_str()), ("KAFKA_TOPIC_EVENTS", &topic)];
    let env = [&env[..], &[("OUTBOX_PLACEMENT", "type:header:type")]].concat();
    let streaming = outbox.streaming(&[], &env).await;
    let mut topic = outbox.kafka.topic(&topic);
    let port = free_port().await;
    let (as_writer, text) = (url(writer), port.to_string());
    let env = [("DATABASE_URL", as_writer.as_str()), ("SERVER_HOST", "127.0.0.1"), ("SERVER_PORT", &text)];
    let mut service = Relay::spawn(&["writer"], &env).await;
    service.wait_ready().await;
    let event = json!({"aggregatetype": "a", "aggregateid": "1", "type": "Http", "payload": {}}).to_string();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let headers = [("Content-Type", "application/json")];
    let answer = http::request(address, "POST", "/api/v1/events", &headers, &event).await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    // The writer's role may also be the application's own, deleting in the same transaction.
    let app = database.client().await;
    app.batch_execute(&format!("set role {writer}")).await.unwrap();
    app.batch_execute(
        "begin; insert into outbox (id, aggregatetype, aggregateid, type, payload)
                    values ('6ba7b810-9dad-11d1-80b4-00c04fd430c8', 'a', '2', 'Plain', '{}');
                delete from outbox where id = '6ba7b810-9dad-11d1-80b4-00c04fd430c8'; commit;
         select outbox_publish('a', '3', 'Function', '{}')",
    )
    .await
    .unwrap();
    let records = super::arrived(&outbox, &mut topic).await;
    let wanted = [("1", "Http", json!({})), ("2", "Plain", json!({})), ("3", "Function", json!({}))];
    assert_eq!(told(&records), wanted);
    assert!(done(relay, &["lag"]).await.contains(outbox.slot()));
    assert!(done(relay, &["slot", "status"]).await.contains("txstream"), "it sees who holds the slot");

    let refused = run(relay, &["outbox", "prune", "--older-than", "0"]).await;
    assert!(
        refused.code == Some(1) && refused.stderr.contains("may not read and delete"),
        "{}",
        refused.stderr
    );
    eventually(SOON, "the pruner's role empties the table", async || {
        done(pruner, &["outbox", "prune", "--older-than", "0"]).await;
        (database.value::<i64>("select count(*) from outbox").await == 0).then_some(())
    })
    .await;

    let granted = database.query(GRANTED).await;
    let granted: Vec<String> = granted.iter().map(|row| row.get(0)).collect();
    let mut wanted: Vec<String> = [
        (relay, "outbox SELECT"),
        (writer, "outbox INSERT"),
        (writer, "outbox DELETE"),
        (writer, "outbox.id SELECT"),
        (writer, "orders INSERT"),
        (writer, "orders SELECT"),
        (pruner, "outbox DELETE"),
        (pruner, "outbox SELECT"),
        (pruner, "txstream_checkpoint SELECT"),
    ]
    .map(|(role, grant)| format!("{role} {grant}"))
    .into();
    for table in ["txstream_checkpoint", "txstream_dead_letter"] {
        wanted.extend(["DELETE", "INSERT", "SELECT", "UPDATE"].map(|act| format!("{relay} {table} {act}")));
    }
    wanted.sort();
    assert_eq!(granted, wanted, "nothing more");
    let attributes = "select rolreplication, rolsuper or rolcreatedb or rolcreaterole or rolbypassrls
                        from pg_roles where rolname = ";
    for (role, replicates) in [(owner, false), (relay, true), (writer, false), (pruner, false)] {
        let row = &database.query(&format!("{attributes}'{role}'")).await[0];
        assert_eq!((row.get::<_, bool>(0), row.get::<_, bool>(1)), (replicates, false), "{role}");
    }

    // What mends a slot and what Kafka did not take is the relay's too.
    streaming.sigterm().await;
    streaming.wait_exit(SOON).await;
    done(relay, &["dead-letter", "list"]).await;
    done(relay, &["slot", "reset", "--backfill", "--yes", "--lock-timeout", "30s"]).await;

    drop(service);
    database.exec(&format!("reassign owned by {owner} to postgres")).await;
    database.exec(&format!("drop owned by {owner}, {relay}, {writer}, {pruner}")).await;
    database.exec(&format!("drop role {owner}, {relay}, {writer}, {pruner}")).await;
}
