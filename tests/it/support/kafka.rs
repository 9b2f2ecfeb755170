//! A real Kafka, one node, that tests may stop, crash and freeze.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tokio::sync::OnceCell;

use super::proxy::Proxy;
use super::server::Server;
use super::topic::Topic;

/// A running broker that creates topics on first use, with 6 partitions.
pub(crate) struct Kafka {
    server: Server,
    shared: bool,
}

impl Kafka {
    /// The broker that all tests of this process use who do not stop or configure it.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Kafka> = OnceCell::const_new();
        SHARED.get_or_init(|| async { Self { shared: true, ..Self::start(&[]).await } }).await
    }

    /// A broker of one's own, with broker properties.
    pub(crate) async fn start(properties: &[(&str, &str)]) -> Self {
        Self::run(properties, Vec::new()).await
    }

    /// A broker of one's own with the heap and the JVM options that Kafka's start scripts give one: the broker of
    /// the other tests has as little as it starts with.
    pub(crate) async fn start_stock() -> Self {
        Self::run(&[], vec!["--stock-jvm".to_owned()]).await
    }

    /// A broker of one's own that the relay reaches only through the proxy (connect it to
    /// [`Proxy::address`]), while [`Kafka::bootstrap`] still goes past it.
    pub(crate) async fn start_behind_proxy(properties: &[(&str, &str)]) -> (Self, Proxy) {
        let proxy = Proxy::start().await;
        let advertise = vec!["--advertise".to_owned(), proxy.port().to_string()];
        let kafka = Self::run(properties, advertise).await;
        proxy.forward_to(kafka.server.fact("proxied").parse().unwrap());
        (kafka, proxy)
    }

    /// A broker of one's own with a second listener ([`Kafka::secured`]) that wants TLS, a SCRAM-SHA-256
    /// user and an ACL for everything; nobody has either yet.
    pub(crate) async fn start_secured(properties: &[(&str, &str)]) -> Self {
        Self::run(properties, vec!["--secure".to_owned()]).await
    }

    pub(super) async fn run(properties: &[(&str, &str)], mut options: Vec<String>) -> Self {
        for (name, value) in properties {
            options.extend(["--property".to_owned(), format!("{name}={value}")]);
        }
        Self { server: Server::run("kafka", options).await, shared: false }
    }

    /// Where its files are.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.server.dir()
    }

    /// `127.0.0.1:port`, the same after a restart.
    pub(crate) fn bootstrap(&self) -> &str {
        self.server.fact("bootstrap")
    }

    /// `localhost:port` of the listener with TLS, SCRAM and ACLs.
    pub(crate) fn secured(&self) -> &str {
        self.server.fact("secured")
    }

    /// The certificate that signed that listener's.
    pub(crate) fn root_cert(&self) -> &str {
        self.server.fact("root_cert")
    }

    /// Makes a user of [`Kafka::secured`], or changes the password.
    pub(crate) async fn set_password(&self, user: &str, password: &str) {
        let scram = format!("SCRAM-SHA-256=[iterations=4096,password={password}]");
        let user = ["--alter", "--entity-type", "users", "--entity-name", user, "--add-config", &scram];
        self.server.order("tool", &[&["kafka.admin.ConfigCommand"], &user[..]].concat()).await;
    }

    /// Gives (`--add`) or takes away (`--remove`) what a producer needs on a topic.
    pub(crate) async fn acl(&self, act: &str, user: &str, topic: &str) {
        let principal = format!("User:{user}");
        let acl = [act, "--force", "--allow-principal", &principal, "--producer", "--topic", topic];
        self.server.order("tool", &[&["org.apache.kafka.tools.AclCommand"], &acl[..]].concat()).await;
    }

    /// From now on no file of the broker grows beyond so many bytes: what a full disk is to it. A restart
    /// ends that.
    pub(crate) async fn fill_disk(&self, bytes: usize) {
        self.assert_own();
        self.server.order("fill", &[&bytes.to_string()]).await;
    }

    /// Runs a tool of the Kafka distribution: its class and arguments, without the broker.
    pub(crate) async fn tool(&self, arguments: &[&str]) {
        self.server.order("tool", arguments).await;
    }

    /// What the broker has logged, warnings and worse.
    pub(crate) fn log(&self) -> String {
        self.server.log()
    }

    /// The topic of that name, to be read from its beginning.
    pub(crate) fn topic(&self, name: &str) -> Topic {
        Topic::new(self.bootstrap(), name)
    }

    /// Creates a topic, with topic configs such as `("max.message.bytes", "2000")`.
    pub(crate) async fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Topic {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        topic.config = configs.to_vec();
        let results = self.admin().create_topics([&topic], &admin_options()).await.unwrap();
        results.into_iter().next().unwrap().unwrap();
        self.topic(name)
    }

    /// Creates a topic of one partition whose replicas are on these brokers.
    pub(crate) async fn create_topic_on(&self, brokers: &[i32], name: &str, configs: &[(&str, &str)]) {
        let assignment = [brokers];
        let mut topic = NewTopic::new(name, 1, TopicReplication::Variable(&assignment));
        topic.config = configs.to_vec();
        let results = self.admin().create_topics([&topic], &admin_options()).await.unwrap();
        results.into_iter().next().unwrap().unwrap();
    }

    /// Deletes a topic.
    pub(crate) async fn delete_topic(&self, name: &str) {
        let results = self.admin().delete_topics(&[name], &admin_options()).await.unwrap();
        results.into_iter().next().unwrap().unwrap();
    }

    /// An admin client.
    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", self.bootstrap()).create().unwrap()
    }

    /// Stops the broker in its own time and returns when it is gone.
    pub(crate) async fn stop(&self) {
        self.assert_own();
        self.server.order("stop", &[]).await;
    }

    /// Kills the broker (SIGKILL) and returns when it is gone.
    pub(crate) async fn crash(&self) {
        self.assert_own();
        self.server.order("stop", &["kill"]).await;
    }

    /// Starts the stopped broker again on the same data and port.
    pub(crate) async fn start_again(&self) {
        self.server.order("start", &[]).await;
    }

    /// Stops and starts again.
    pub(crate) async fn restart(&self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Stops the process where it is: connections stay open and say nothing.
    pub(crate) async fn freeze(&self) {
        self.assert_own();
        self.server.order("freeze", &[]).await;
    }

    /// Undoes [`Kafka::freeze`].
    pub(crate) async fn thaw(&self) {
        self.server.order("thaw", &[]).await;
    }

    fn assert_own(&self) {
        assert!(!self.shared, "other tests use the shared broker: start one of your own");
    }
}

fn admin_options() -> AdminOptions {
    AdminOptions::new()
        .operation_timeout(Some(Duration::from_secs(20)))
        .request_timeout(Some(Duration::from_secs(20)))
}
