//! How topics and brokers are set up, as DescribeConfigs tells it; how large a record they take, [`super::limits`] asks.

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;

use super::{CreateError, Settings, config};

/// A topic's settings; those that could not be had are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicSettings {
    /// `min.insync.replicas`.
    pub min_insync_replicas: Option<u64>,
    /// `cleanup.policy`.
    pub cleanup_policy: Option<String>,
}

/// Asks brokers how things are set up.
pub struct Describer {
    admin: AdminClient<DefaultClientContext>,
    options: AdminOptions,
}

impl Describer {
    /// Prepares to ask; connects with the first question.
    ///
    /// # Errors
    /// [`CreateError`] when the settings make no client.
    pub fn new(settings: &Settings) -> Result<Self, CreateError> {
        let admin = AdminClient::from_config(&config::admin(settings)).map_err(|e| CreateError::new(&e))?;
        Ok(Self { admin, options: AdminOptions::new().request_timeout(Some(settings.request_timeout)) })
    }

    /// A topic's settings. Without the right to ask, or without an answer, all are none.
    pub async fn topic(&self, name: &str) -> TopicSettings {
        let Some(resource) = self.ask(ResourceSpecifier::Topic(name)).await else {
            return TopicSettings::default();
        };
        let value = |name: &str| resource.get(name).and_then(|entry| entry.value.as_deref());
        let number = |name: &str| value(name).and_then(|value| value.parse().ok());
        TopicSettings {
            min_insync_replicas: number("min.insync.replicas"),
            cleanup_policy: value("cleanup.policy").map(str::to_owned),
        }
    }

    /// Whether this broker creates topics on first use, if it says.
    pub async fn creates_topics(&self, broker: i32) -> Option<bool> {
        let resource = self.ask(ResourceSpecifier::Broker(broker)).await?;
        resource.get("auto.create.topics.enable")?.value.as_deref()?.parse().ok()
    }

    async fn ask(&self, resource: ResourceSpecifier<'_>) -> Option<ConfigResource> {
        self.admin.describe_configs(&[resource], &self.options).await.ok()?.pop()?.ok()
    }
}
