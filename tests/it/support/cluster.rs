//! A real Kafka cluster of three nodes, each of which may stop, crash and freeze.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::kafka::Kafka;
use super::port::free_port;
use super::topic::Topic;
use super::wait::{SOON, eventually};

/// Three nodes; topics are created on first use, with 6 partitions on all three, of which two must have
/// a record before it is acknowledged. Leaders go back to a node that returns.
pub(crate) struct Cluster {
    nodes: Vec<Kafka>,
}

impl Cluster {
    /// Starts it.
    pub(crate) async fn start() -> Self {
        let mut voters = Vec::new();
        for node in 1..=3 {
            voters.push(format!("{node}@127.0.0.1:{}", free_port().await));
        }
        let voters = voters.join(",");
        let node = |number: u32| {
            let options = ["--node", &number.to_string(), "--voters", &voters].map(str::to_owned);
            Kafka::run(
                &[
                    ("default.replication.factor", "3"),
                    ("min.insync.replicas", "2"),
                    ("leader.imbalance.check.interval.seconds", "1"),
                    ("leader.imbalance.per.broker.percentage", "0"),
                ],
                options.to_vec(),
            )
        };
        let (first, second, third) = tokio::join!(node(1), node(2), node(3));
        let cluster = Self { nodes: vec![first, second, third] };
        eventually(SOON, "all three nodes are in the cluster", async || {
            let metadata = cluster.client().fetch_metadata(None, Duration::from_secs(2)).ok()?;
            (metadata.brokers().len() == 3).then_some(())
        })
        .await;
        cluster
    }

    /// All nodes, comma-separated.
    pub(crate) fn bootstrap(&self) -> String {
        self.nodes.iter().map(Kafka::bootstrap).collect::<Vec<_>>().join(",")
    }

    /// The nodes, numbered from 1 in this order.
    pub(crate) fn nodes(&self) -> &[Kafka] {
        &self.nodes
    }

    /// The topic of that name, to be read from its beginning.
    pub(crate) fn topic(&self, name: &str) -> Topic {
        Topic::new(&self.bootstrap(), name)
    }

    /// The number of each partition's leader, by partition; -1 is none.
    pub(crate) fn leaders(&self, topic: &str) -> Option<Vec<i32>> {
        let metadata = self.client().fetch_metadata(Some(topic), Duration::from_secs(2)).ok()?;
        let mut partitions: Vec<_> =
            metadata.topics().first()?.partitions().iter().map(|p| (p.id(), p.leader())).collect();
        partitions.sort_unstable();
        Some(partitions.into_iter().map(|(_, leader)| leader).collect())
    }

    fn client(&self) -> BaseConsumer {
        ClientConfig::new().set("bootstrap.servers", self.bootstrap()).create().unwrap()
    }
}
