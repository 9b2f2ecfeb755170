//! Asks Kafka for the size limits of topics, in a task of its own: the loop hands in a name and gets
//! an answer when there is one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::kafka::limits::{Limits, TopicLimit};
use crate::kafka::{self, CreateError};

/// A topic's limit may be changed at any time; an event that grew past the old one is halted at
/// wrongly for at most this long.
const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// How soon to ask again after no answer, and for a topic that does not exist yet. Where nobody waits for the
/// answer, each further time after twice as long, up to [`REFRESH_EVERY`]: of thousands of topics that do not
/// exist, brokers would hear nothing else.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The desk.
pub(super) struct LimitDesk {
    questions: mpsc::Sender<Arc<str>>,
    answers: mpsc::Receiver<(Arc<str>, TopicLimit)>,
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
        let mut schedule = Schedule::default();
        known.for_each(|topic| schedule.answered(topic, true, Instant::now()));
        tokio::spawn(serve(limits, schedule, to_ask, to_answer));
        Ok(Self { questions, answers, asked: None })
    }

    /// Asks for a topic's limit, once however often it is called.
    pub(super) fn ask(&mut self, topic: &Arc<str>) {
        if self.asked.as_ref() != Some(topic) && self.questions.try_send(Arc::clone(topic)).is_ok() {
            self.asked = Some(Arc::clone(topic));
        }
    }

    /// The next answer, also to questions asked again by the desk itself. While there is none, the desk goes on
    /// asking.
    ///
    /// # Cancel safety
    /// May be dropped at any await.
    pub(super) async fn answered(&mut self) -> (Arc<str>, TopicLimit) {
        match self.answers.recv().await {
            Some(answer) => {
                self.asked.take_if(|asked| *asked == answer.0);
                answer
            }
            None => std::future::pending().await,
        }
    }
}

/// When which topic is asked for.
#[derive(Debug, Default)]
struct Schedule {
    due: BTreeSet<(Instant, Arc<str>)>,
    /// When each is due, and how often in a row its limit could not be had.
    known: HashMap<Arc<str>, (Instant, u32)>,
    /// What the loop waits for, and when it is asked for next.
    wanted: Option<(Arc<str>, Instant)>,
}

impl Schedule {
    /// The loop waits for the answer.
    fn want(&mut self, topic: Arc<str>, now: Instant) {
        self.wanted = Some((topic, now));
    }

    /// There is an answer: the topic's limit, or that there is no such topic.
    fn answered(&mut self, topic: &Arc<str>, exists: bool, now: Instant) {
        self.wanted.take_if(|(wanted, _)| wanted == topic);
        let misses = if exists { 0 } else { self.misses(topic) + 1 };
        self.put(topic, misses, now);
    }

    /// No answer could be had.
    fn unanswered(&mut self, topic: &Arc<str>, now: Instant) {
        if let Some((_, at)) = self.wanted.as_mut().filter(|(wanted, _)| wanted == topic) {
            *at = now + AGAIN_AFTER;
        } else {
            self.put(topic, self.misses(topic) + 1, now);
        }
    }

    fn misses(&self, topic: &Arc<str>) -> u32 {
        self.known.get(topic).map_or(0, |(_, misses)| *misses)
    }

    fn put(&mut self, topic: &Arc<str>, misses: u32, now: Instant) {
        let doublings = misses.checked_sub(1);
        let pause = doublings.map_or(REFRESH_EVERY, |n| AGAIN_AFTER * 2_u32.saturating_pow(n.min(10)));
        let at = now + pause.min(REFRESH_EVERY);
        if let Some((before, _)) = self.known.insert(Arc::clone(topic), (at, misses)) {
            self.due.remove(&(before, Arc::clone(topic)));
        }
        self.due.insert((at, Arc::clone(topic)));
    }

    /// What is asked for next, and when: what the loop waits for goes before what is only refreshed.
    fn next(&self, now: Instant) -> Option<(Arc<str>, Instant)> {
        let refreshed = self.due.first().map(|(at, topic)| (Arc::clone(topic), *at));
        let wanted = self.wanted.clone().filter(|(_, at)| {
            *at <= now || refreshed.as_ref().is_none_or(|(_, refreshed_at)| at <= refreshed_at)
        });
        wanted.or(refreshed)
    }
}

async fn serve(
    limits: Limits,
    mut schedule: Schedule,
    mut questions: mpsc::Receiver<Arc<str>>,
    answers: mpsc::Sender<(Arc<str>, TopicLimit)>,
) {
    loop {
        let next = schedule.next(Instant::now());
        let at = next.as_ref().map(|(_, at)| *at);
        let topic = tokio::select! {
            biased;
            question = questions.recv() => match question {
                Some(topic) => {
                    schedule.want(topic, Instant::now());
                    continue;
                }
                None => break,
            },
            () = sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() => match next {
                Some((topic, _)) => topic,
                None => continue,
            },
        };
        let asked = limits.topic_limit(&topic).await;
        let now = Instant::now();
        let answer = match asked {
            Ok(answer) => answer,
            Err(why) => {
                tracing::debug!(%topic, why, "the topic's size limit could not be asked for; asking again");
                schedule.unanswered(&topic, now);
                continue;
            }
        };
        schedule.answered(&topic, !matches!(answer, TopicLimit::Missing(_)), now);
        if answers.send((topic, answer)).await.is_err() {
            break;
        }
    }
    // Closing waits for a thread of librdkafka.
    tokio::task::spawn_blocking(move || limits.close());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses before the topic is asked for so many times, when every answer is the same.
    fn pauses(schedule: &mut Schedule, topic: &Arc<str>, times: usize, exists: Option<bool>) -> Vec<u64> {
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..times {
            match exists {
                Some(exists) => schedule.answered(topic, exists, now),
                None => schedule.unanswered(topic, now),
            }
            let (next, at) = schedule.next(now).unwrap();
            assert_eq!(next, *topic);
            pauses.push(at.duration_since(now).as_secs());
            now = at;
        }
        pauses
    }

    #[test]
    fn a_topic_that_does_not_exist_is_asked_for_less_and_less_often() {
        let (mut schedule, topic) = (Schedule::default(), Arc::from("t"));
        assert_eq!(pauses(&mut schedule, &topic, 8, Some(false)), [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn one_that_exists_is_asked_for_every_minute_and_what_is_waited_for_every_second() {
        let (mut schedule, topic) = (Schedule::default(), Arc::from("t"));
        assert_eq!(pauses(&mut schedule, &topic, 3, Some(true)), [60, 60, 60]);
        assert_eq!(pauses(&mut schedule, &topic, 3, None), [1, 2, 4], "a refresh can wait");
        schedule.want(Arc::from("wanted"), Instant::now());
        assert_eq!(pauses(&mut schedule, &Arc::from("wanted"), 3, None), [1, 1, 1]);
    }

    #[test]
    fn what_is_waited_for_goes_before_what_is_overdue() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        (0..3).for_each(|n| schedule.answered(&Arc::from(format!("t{n}")), true, now));
        let later = now + REFRESH_EVERY * 2;
        schedule.want(Arc::from("wanted"), later);
        assert_eq!(&*schedule.next(later).unwrap().0, "wanted");
        schedule.unanswered(&Arc::from("wanted"), later);
        assert_eq!(&*schedule.next(later).unwrap().0, "t0", "meanwhile the others");
        assert_eq!(&*schedule.next(later + AGAIN_AFTER).unwrap().0, "wanted");
        schedule.answered(&Arc::from("wanted"), true, later + AGAIN_AFTER);
        assert!(schedule.wanted.is_none());
    }
}
