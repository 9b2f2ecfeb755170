//! What keeps a relay from working, or will one day: one check per file, each with what it found, why
//! that matters, and the command or SQL that mends it.
//!
//! Looks only, and changes nothing. Whether the relay would stream is judged by the functions that the
//! relay itself asks. A check that cannot be made says why; it is never left out.

mod acknowledgements;
mod checkpoint;
mod connection;
mod encryption;
mod failover;
mod finding;
mod grants;
mod idle_timeout;
mod keep_size;
mod message_size;
mod open_transaction;
mod other_slots;
mod outbox_table;
mod payloads;
mod publication;
mod publication_age;
mod replica_identity;
mod replication;
mod sender_timeout;
mod senders;
mod server;
mod slot;
mod slots;
mod standby;
mod standby_names;
mod synchronized_slots;
mod topic;
mod variables;
mod wal_level;

use std::future::ready;
use std::pin::Pin;
use std::time::Duration;

pub use finding::{Finding, Status};

use self::server::Server;
use crate::kafka::{self, config::Group};
use crate::outbox;
use crate::postgres::{ConnInfo, PgError};

/// What is examined: the settings of a relay.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Where applications write.
    pub database: ConnInfo,
    /// The server to replicate from.
    pub replication: ConnInfo,
    /// What the relay calls itself.
    pub application_name: String,
    /// The slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// The outbox tables and their records.
    pub outbox: outbox::Settings,
    /// Where records go.
    pub kafka: kafka::Settings,
    /// Who asks Kafka.
    pub group: Group,
    /// What is odd about the settings, as the configuration said it.
    pub oddities: Vec<String>,
    /// How long an absent server is waited for.
    pub wait: Duration,
}

/// What a check came to; an error means that it could not be made.
type Checked = Result<Vec<Finding>, PgError>;

type Check<'a> = (&'static str, Pin<Box<dyn Future<Output = Checked> + Send + 'a>>);

/// The names of the checks that need Postgres, in order.
const AT_POSTGRES: [&str; 19] = [
    replication::NAME,
    encryption::NAME,
    wal_level::NAME,
    standby::NAME,
    slots::NAME,
    senders::NAME,
    keep_size::NAME,
    idle_timeout::NAME,
    sender_timeout::NAME,
    standby_names::NAME,
    open_transaction::NAME,
    grants::NAME,
    checkpoint::NAME,
    outbox_table::NAME,
    publication::NAME,
    replica_identity::NAME,
    slot::NAME,
    publication_age::NAME,
    other_slots::NAME,
];

/// Makes every check, in the order in which a person would mend what they find.
pub async fn examine(subject: &Subject) -> Vec<Finding> {
    let mut findings = variables::check(subject);
    let (client, connected) = connection::connect(subject).await;
    findings.extend(connected);
    let server = match &client {
        Some(client) => Server::look(client, subject).await.map_err(|error| error.report()),
        None => Err("Postgres cannot be reached".to_owned()),
    };
    let payloads = match &server {
        Ok(server) => {
            for (name, check) in at_postgres(server) {
                findings.extend(check.await.unwrap_or_else(|error| vec![Finding::failed(name, &error)]));
            }
            payloads::look(server).await.map_err(|error| Finding::failed(payloads::NAME, &error))
        }
        Err(why) => {
            let rest = AT_POSTGRES.iter().chain(&[failover::NAME, synchronized_slots::NAME]);
            findings.extend(rest.map(|name| Finding::unchecked(name, why)));
            Err(Finding::unchecked(payloads::NAME, why))
        }
    };
    findings.extend(topic::examine(subject, payloads).await);
    findings
}

fn at_postgres<'a>(server: &'a Server<'a>) -> Vec<Check<'a>> {
    vec![
        (replication::NAME, Box::pin(replication::check(server))),
        (encryption::NAME, Box::pin(encryption::check(server))),
        (wal_level::NAME, Box::pin(wal_level::check(server))),
        (standby::NAME, Box::pin(standby::check(server))),
        (slots::NAME, Box::pin(slots::check(server))),
        (senders::NAME, Box::pin(senders::check(server))),
        (keep_size::NAME, Box::pin(keep_size::check(server))),
        (idle_timeout::NAME, Box::pin(idle_timeout::check(server))),
        (sender_timeout::NAME, Box::pin(sender_timeout::check(server))),
        (standby_names::NAME, Box::pin(standby_names::check(server))),
        (open_transaction::NAME, Box::pin(ready(open_transaction::check(server)))),
        (grants::NAME, Box::pin(grants::check(server))),
        (checkpoint::NAME, Box::pin(checkpoint::check(server))),
        (outbox_table::NAME, Box::pin(ready(outbox_table::check(server)))),
        (publication::NAME, Box::pin(ready(publication::check(server)))),
        (replica_identity::NAME, Box::pin(replica_identity::check(server))),
        (slot::NAME, Box::pin(slot::check(server))),
        (publication_age::NAME, Box::pin(publication_age::check(server))),
        (failover::NAME, Box::pin(failover::check(server))),
        (synchronized_slots::NAME, Box::pin(synchronized_slots::check(server))),
        (other_slots::NAME, Box::pin(other_slots::check(server))),
    ]
}
