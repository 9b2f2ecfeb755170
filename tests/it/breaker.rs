//! `breaker`: the circuit breaker of a running relay, by command.

use crate::support::port::free_port;
use crate::support::relay::{Output, Relay};
use crate::support::wait::SOON;
use crate::support::{Cluster, Outbox, eventually, published, run_cli, unique};

pub(crate) const TOKEN: &str = "open-sesame";

/// `txstream breaker <args>` for that relay, with that token.
pub(crate) async fn breaker(relay: &Relay, args: &[&str], token: Option<&str>) -> Output {
    let url = format!("http://{}", relay.admin());
    let args = [&["breaker", "--admin-url", &url], args].concat();
    let token = token.map(|token| ("METRICS_ADMIN_TOKEN", token));
    run_cli(&args, &Vec::from_iter(token)).await
}

async fn standing(relay: &Relay) -> serde_json::Value {
    let said = breaker(relay, &["status", "--output", "json"], None).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    serde_json::from_str(&said.stdout).expect("JSON")
}

#[tokio::test]
async fn the_breaker_is_opened_and_closed_by_command() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[("METRICS_ADMIN_TOKEN", TOKEN)]).await;
    let before = standing(&relay).await;
    assert_eq!((&before["state"], &before["forced"]), (&"CLOSED".into(), &false.into()));

    let opened = breaker(&relay, &["open"], Some(TOKEN)).await;
    assert_eq!(opened.code, Some(0), "{}", opened.stderr);
    let open = standing(&relay).await;
    assert_eq!((&open["state"], &open["forced"]), (&"OPEN".into(), &true.into()));
    let table = breaker(&relay, &["status"], None).await.stdout;
    assert!(table.contains("OPEN") && table.contains("by hand"), "{table}");
    outbox.insert("ready", "2", "{}").await;

    let closed = breaker(&relay, &["close"], Some(TOKEN)).await;
    assert_eq!(closed.code, Some(0), "{}", closed.stderr);
    assert_eq!(standing(&relay).await["state"], "CLOSED");
    published(&relay, 2).await;
}

/// librdkafka tries on with a record whose partition has no leader, and reports nothing of it.
#[tokio::test]
async fn a_partition_that_is_away_opens_it_and_holds_up_no_other_topic() {
    let cluster = Cluster::start().await;
    let outbox = Outbox::with_slot().await;
    let (away, there) = (unique("away"), unique("there"));
    let [first, _, third] = cluster.nodes() else { panic!("three nodes") };
    for (kind, node) in [(&away, 3), (&there, 1)] {
        let alone = ("min.insync.replicas", "1");
        first.create_topic_on(&[node], &format!("outbox.event.{kind}"), &[alone]).await;
    }
    let impatient = [
        ("KAFKA_FAILURE_THRESHOLD", "1"),
        ("KAFKA_TIMEOUT_DURATION", "1s"),
        ("KAFKA_RESET_TIMEOUT", "1s"),
        ("KAFKA_SUCCESS_THRESHOLD", "1"),
        ("METRICS_ADMIN_TOKEN", TOKEN),
    ];
    let mut relay =
        outbox.relay(&[], &[&[("KAFKA_BROKERS", &*cluster.bootstrap())][..], &impatient].concat()).await;
    relay.wait_ready().await;
    for kind in [&away, &there] {
        outbox.insert(kind, "1", "{}").await;
    }
    published(&relay, 2).await;

    third.stop().await;
    outbox.insert(&away, "1", "{}").await;
    eventually(SOON, "it opens", async || (standing(&relay).await["state"] == "OPEN").then_some(())).await;
    for n in 0..5 {
        outbox.insert(&there, &n.to_string(), "{}").await;
    }
    published(&relay, 7).await;
    third.start_again().await;
    published(&relay, 8).await;
    let closed = async || (standing(&relay).await["state"] == "CLOSED").then_some(());
    eventually(SOON, "it closes", closed).await;
    assert_eq!(cluster.topic(&format!("outbox.event.{away}")).read_to_end().await.len(), 2);
}

#[tokio::test]
async fn without_the_token_the_breaker_stays_and_the_variable_is_named() {
    let outbox = Outbox::with_slot().await;
    let guarded = outbox.streaming(&[], &[("METRICS_ADMIN_TOKEN", TOKEN)]).await;
    let unguarded = outbox.relay(&[], &[]).await;
    for (relay, token) in [(&guarded, None), (&guarded, Some("wrong")), (&unguarded, None)] {
        let refused = breaker(relay, &["open"], token).await;
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        let remedy = refused.stderr.lines().find(|line| line.starts_with("what to do: "));
        assert!(remedy.is_some_and(|line| line.contains("METRICS_ADMIN_TOKEN")), "{}", refused.stderr);
        assert!(!refused.stderr.contains(TOKEN), "{}", refused.stderr);
    }
    assert_eq!(standing(&guarded).await["state"], "CLOSED");
}

#[tokio::test]
async fn a_relay_that_does_not_stream_refuses_an_order_and_says_in_which_state_it_is() {
    let outbox = Outbox::with_slot().await;
    let env = [("METRICS_ADMIN_TOKEN", TOKEN)];
    let holder = outbox.streaming(&[], &env).await;
    let mut standby = outbox.relay(&[], &env).await;
    standby.wait_ready().await;
    assert_eq!(standby.status().await["state"], "standby");
    for order in ["open", "close"] {
        let refused = breaker(&standby, &[order], Some(TOKEN)).await;
        assert_eq!(refused.code, Some(1), "{}", refused.stdout);
        assert!(refused.stderr.contains("409") && refused.stderr.contains("standby"), "{}", refused.stderr);
        assert!(refused.stderr.contains("try again when it is streaming"), "{}", refused.stderr);
    }
    // Nor does the refused order lie in wait.
    assert_eq!(breaker(&standby, &["open"], Some(TOKEN)).await.code, Some(1));
    holder.sigterm().await;
    assert_eq!(holder.wait_exit(SOON).await.status.code(), Some(0));
    eventually(SOON, "it streams", async || (standby.status().await["state"] == "streaming").then_some(()))
        .await;
    outbox.insert("ready", "1", "{}").await;
    published(&standby, 1).await;
    assert_eq!(standing(&standby).await["state"], "CLOSED");
}

#[tokio::test]
async fn without_a_relay_the_breaker_says_that_nobody_answers_and_what_to_do() {
    let url = format!("http://127.0.0.1:{}", free_port().await);
    for action in ["status", "open", "close"] {
        let said = run_cli(&["breaker", "--admin-url", &url, action], &[]).await;
        assert_eq!(said.code, Some(1), "{}", said.stderr);
        assert!(said.stderr.contains("onnection refused"), "{}", said.stderr);
        assert!(said.stderr.contains("what to do: check that the relay runs"), "{}", said.stderr);
    }
}

#[tokio::test]
async fn a_relay_that_is_not_there_yet_is_waited_for_as_long_as_asked() {
    let outbox = Outbox::with_slot().await;
    let port = free_port().await.to_string();
    let env = [("METRICS_PORT", port.as_str()), ("METRICS_ADMIN_TOKEN", TOKEN)];
    let waiting = Relay::spawn(&["breaker", "status", "--wait", "60s"], &env).await;
    waiting.wait_for_log("it waits", SOON, |line| line.contains("waiting for the relay")).await;
    let _relay = outbox.relay(&[], &env).await;
    let exit = waiting.wait_exit(SOON).await;
    assert_eq!(exit.status.code(), Some(0), "{}", exit.stderr);

    let url = format!("http://127.0.0.1:{}", free_port().await);
    let begin = tokio::time::Instant::now();
    let said = run_cli(&["breaker", "--admin-url", &url, "close", "--wait", "1s"], &[]).await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(begin.elapsed() >= std::time::Duration::from_secs(1), "it gave up before the time was over");
    assert!(said.stderr.contains("what to do: check that the relay runs"), "{}", said.stderr);
}
