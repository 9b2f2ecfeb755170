//! How many copies an acknowledgement stands for: replication factor and `min.insync.replicas`.

use super::Finding;
use crate::kafka::describe::TopicSettings;
use crate::kafka::error::quoted;
use crate::kafka::reader::Partition;

pub(super) const NAME: &str = "min_insync_replicas";

/// The number of copies.
const REPLICATION: &str = "replication_factor";

/// Old records of a key are thrown away.
const CLEANUP: &str = "cleanup_policy";

pub(super) fn judge(
    topic: &str,
    partitions: &[Partition],
    settings: &TopicSettings,
    brokers: usize,
    bootstrap: &str,
) -> Vec<Finding> {
    let replicas = partitions.iter().map(|partition| partition.replicas).min().unwrap_or_default() as u64;
    let in_sync = partitions.iter().map(|partition| partition.in_sync).min().unwrap_or_default() as u64;
    let set = |config: String| {
        format!(
            "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {} --add-config {config}",
            quoted(bootstrap),
            quoted(topic)
        )
    };
    let mut findings = Vec::new();
    if let Some(headless) = partitions.iter().find(|partition| !partition.has_leader) {
        findings.push(Finding::fail(
            NAME,
            format!("partition {} of topic {topic} has no leader: its records wait; start the brokers that keep it", headless.id),
        ));
    }
    findings.push(match replicas {
        0 | 1 if brokers > 1 => Finding::warn(
            REPLICATION,
            format!("topic {topic} has one copy: what that broker loses is lost; add replicas with kafka-reassign-partitions.sh"),
        ),
        0 | 1 => Finding::warn(
            REPLICATION,
            format!("topic {topic} has one copy, as there is one broker: what it loses is lost; run three brokers"),
        ),
        _ => Finding::ok(REPLICATION, format!("topic {topic} has {replicas} copies")),
    });
    findings.push(match settings.min_insync_replicas {
        None => Finding::unchecked(NAME, &format!("the settings of topic {topic} cannot be asked for")),
        Some(least) if least > replicas => Finding::fail(
            NAME,
            format!("topic {topic} has {replicas} copies and min.insync.replicas={least}: it takes no record"),
        )
        .mended_by(set(format!("min.insync.replicas={}", replicas.saturating_sub(1).max(1)))),
        Some(least) if least > in_sync => Finding::fail(
            NAME,
            format!(
                "topic {topic} has {in_sync} complete copies and min.insync.replicas={least}: it takes no record until \
                 a broker is back; start the brokers that are down"
            ),
        ),
        Some(least) if least < 2 && replicas > 1 => Finding::warn(
            NAME,
            format!("topic {topic} has min.insync.replicas={least}: an acknowledgement may stand for one copy"),
        )
        .mended_by(set("min.insync.replicas=2".to_owned())),
        Some(least) => Finding::ok(NAME, format!("topic {topic} acknowledges with {least} of {replicas} copies at least")),
    });
    if settings.cleanup_policy.as_deref().is_some_and(|policy| policy.contains("compact")) {
        findings.push(
            Finding::warn(
                CLEANUP,
                format!("topic {topic} is compacted: of each aggregate only its last event is kept"),
            )
            .mended_by(set("cleanup.policy=delete".to_owned())),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    fn judged(replicas: usize, in_sync: usize, least: Option<u64>) -> Vec<(Status, bool)> {
        let partition = Partition { id: 0, replicas, in_sync, has_leader: true };
        let settings = TopicSettings { min_insync_replicas: least, ..TopicSettings::default() };
        judge("t", &[partition], &settings, 3, "b:9092")
            .into_iter()
            .map(|finding| (finding.status, finding.mend.is_some()))
            .collect()
    }

    #[test]
    fn copies_and_what_an_acknowledgement_stands_for_are_judged_apart() {
        use Status::{Fail, Ok, Warn};
        for (replicas, in_sync, least, expected) in [
            (3, 3, Some(2), [(Ok, false), (Ok, false)]),
            (3, 3, Some(1), [(Ok, false), (Warn, true)]),
            (3, 1, Some(2), [(Ok, false), (Fail, false)]),
            (1, 1, Some(1), [(Warn, false), (Ok, false)]),
            (1, 1, Some(2), [(Warn, false), (Fail, true)]),
            (2, 2, None, [(Ok, false), (Warn, false)]),
        ] {
            assert_eq!(judged(replicas, in_sync, least), expected, "{replicas} {in_sync} {least:?}");
        }
    }
}
