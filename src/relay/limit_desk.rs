//! Asks Kafka for the size limits of topics, in a task of its own: the loop hands in a name and gets
//! an answer when there is one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::kafka::limits::{LimitAnswer, Limits};
use crate::kafka::{self, CreateError};

/// A topic's limit may be changed at any time; an event that grew past the old one is halted at
/// wrongly for at most this long.
const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// How soon to ask again after no answer, and for a topic that does not exist yet.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The desk.
pub(super) struct LimitDesk {
    questions: mpsc::Sender<Arc<str>>,
    answers: mpsc::Receiver<(Arc<str>, LimitAnswer)>,
    asked: Option<Arc<str>>,
}

impl LimitDesk {
    /// Opens the desk; nothing is connected before the first question. `known` topics are asked for
    /// again when their time comes.
    ///
    /// # Errors
    /// [`CreateError`] when the settings make no client.
    pub(super) fn open<'a>(
        settings: &kafka::Settings,
        known: impl Iterator<Item = &'a Arc<str>>,
    ) -> Result<Self, CreateError> {
        let limits = Limits::new(settings)?;
        let (questions, to_ask) = mpsc::channel(8);
        let (to_answer, answers) = mpsc::channel(8);
        let due = known.map(|topic| (Arc::clone(topic), Instant::now() + REFRESH_EVERY)).collect();
        tokio::spawn(serve(limits, due, to_ask, to_answer));
        Ok(Self { questions, answers, asked: None })
    }

    /// Asks for a topic's limit, once however often it is called.
    pub(super) fn ask(&mut self, topic: &Arc<str>) {
        if self.asked.as_ref() != Some(topic) && self.questions.try_send(Arc::clone(topic)).is_ok() {
            self.asked = Some(Arc::clone(topic));
        }
    }

    /// The next answer, also to questions asked again by the desk itself. Never one that says
    /// "unavailable": the desk goes on asking.
    ///
    /// # Cancel safety
    /// May be dropped at any await.
    pub(super) async fn answered(&mut self) -> (Arc<str>, LimitAnswer) {
        match self.answers.recv().await {
            Some(answer) => {
                self.asked.take_if(|asked| *asked == answer.0);
                answer
            }
            None => std::future::pending().await,
        }
    }
}

async fn serve(
    limits: Limits,
    mut due: BTreeMap<Arc<str>, Instant>,
    mut questions: mpsc::Receiver<Arc<str>>,
    answers: mpsc::Sender<(Arc<str>, LimitAnswer)>,
) {
    loop {
        let next = due.iter().min_by_key(|(_, at)| **at).map(|(topic, at)| (Arc::clone(topic), *at));
        let wait = async {
            match &next {
                Some((_, at)) => sleep_until(*at).await,
                None => std::future::pending().await,
            }
        };
        let topic = tokio::select! {
            question = questions.recv() => match question {
                Some(topic) => topic,
                None => break,
            },
            () = wait => match next {
                Some((topic, _)) => topic,
                None => continue,
            },
        };
        let answer = limits.topic_limit(&topic).await;
        let again = match &answer {
            LimitAnswer::Known(_) | LimitAnswer::NotAllowed => REFRESH_EVERY,
            LimitAnswer::UnknownTopic | LimitAnswer::Unavailable(_) => AGAIN_AFTER,
        };
        due.insert(Arc::clone(&topic), Instant::now() + again);
        if let LimitAnswer::Unavailable(why) = &answer {
            tracing::debug!(%topic, why, "the topic's size limit could not be asked for; asking again");
        } else if answers.send((topic, answer)).await.is_err() {
            break;
        }
    }
    // Closing waits for a thread of librdkafka.
    tokio::task::spawn_blocking(move || limits.close());
}
