//! Credentials or certificates that Kafka refuses: said once, and named until they are taken.

use std::time::Duration;

use tokio::time::Instant;

/// librdkafka repeats what it said of a broker every 30 s at most. One that is silent for three times as long
/// has let us in, or there is nothing to bring it.
const REPEATED_WITHIN: Duration = Duration::from_secs(90);

/// Texts that were said and are not said again. They name no broker, so a few are all there are.
const MOST_TOLD: usize = 8;

/// That Kafka refuses us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What it says, as it came last, without the broker's name.
    pub(super) message: String,
    /// Since when.
    pub(super) since: Instant,
}

/// What Kafka thinks of us.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    refused: Option<Refused>,
}

#[derive(Debug)]
struct Refused {
    refusal: Refusal,
    heard_at: Instant,
    /// Something was acknowledged after that.
    acknowledged: bool,
    told: Vec<String>,
}

impl Credentials {
    /// Kafka refuses us; returns whether that is news for a person.
    pub(super) fn refused(&mut self, message: &str, now: Instant) -> bool {
        let refused = self.refused.get_or_insert_with(|| Refused {
            refusal: Refusal { message: String::new(), since: now },
            heard_at: now,
            acknowledged: false,
            told: Vec::new(),
        });
        (refused.heard_at, refused.acknowledged) = (now, false);
        let gist = gist(message);
        gist.clone_into(&mut refused.refusal.message);
        let news = refused.told.len() < MOST_TOLD && refused.told.iter().all(|told| told != gist);
        if news {
            refused.told.push(gist.to_owned());
        }
        news
    }

    /// Kafka has taken a record.
    pub(super) fn acknowledged(&mut self) {
        if let Some(refused) = &mut self.refused {
            refused.acknowledged = true;
        }
    }

    /// That Kafka refuses us, while it does. A broker that takes records does not speak for the others: it is
    /// over when nothing is left of what was read before it was heard last. `oldest` is when the oldest record
    /// was read that still waits.
    pub(super) fn refusal(&mut self, oldest: Option<Instant>, now: Instant) -> Option<&Refusal> {
        self.refused.take_if(|refused| {
            let taken = refused.acknowledged && oldest.is_none_or(|taken_at| taken_at > refused.heard_at);
            taken || now >= refused.heard_at + REPEATED_WITHIN
        });
        self.refused.as_ref().map(|refused| &refused.refusal)
    }
}

/// What stays the same of an error of a connection from broker to broker and from attempt to attempt.
pub(super) fn gist(message: &str) -> &str {
    let reason = message.split_once(": ").map_or(message, |(_broker, reason)| reason);
    reason.split_once(" (after ").map_or(reason, |(reason, _time)| reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn said(broker: u32, after: u32) -> String {
        format!("sasl_ssl://k:{broker}/{broker}: SASL authentication failed (after {after}ms in state AUTH)")
    }

    #[test]
    fn a_refusal_is_news_once_whatever_the_broker_and_the_attempt() {
        let (mut credentials, now) = (Credentials::default(), Instant::now());
        assert!(credentials.refused(&said(1, 5), now));
        assert!(!credentials.refused(&said(2, 7), now + SECOND));
        assert!(credentials.refused("ssl://k:1/1: certificate verify failed (after 2ms)", now + SECOND));
        assert!(!credentials.refused(&said(1, 9), now + SECOND * 2));
        let refusal = credentials.refusal(None, now + SECOND * 2).unwrap();
        assert_eq!((refusal.message.as_str(), refusal.since), ("SASL authentication failed", now));
    }

    #[test]
    fn it_is_over_when_what_waited_for_it_is_acknowledged_or_nobody_repeats_it() {
        let (mut credentials, now) = (Credentials::default(), Instant::now());
        credentials.refused(&said(1, 5), now);
        credentials.acknowledged();
        assert!(credentials.refusal(Some(now), now + SECOND).is_some(), "another broker took something");
        credentials.refused(&said(1, 5), now + SECOND * 30);
        assert!(credentials.refusal(None, now + SECOND * 31).is_some(), "nothing was taken since");
        credentials.acknowledged();
        assert_eq!(credentials.refusal(Some(now + SECOND * 31), now + SECOND * 32), None);
        assert!(credentials.refused(&said(1, 5), now + SECOND * 40), "again is news");
        assert!(credentials.refusal(None, now + SECOND * 129).is_some());
        assert_eq!(credentials.refusal(None, now + SECOND * 130), None);
    }
}
