//! Whether the database answers: asked once a second, and whenever somebody asks for `/health`.
//!
//! The question has a connection of its own, so that a pool in full use does not look like a database
//! that is away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Halt;
use super::session::{NoOrders, Session, SessionError};
use super::store::Store;

/// A database that takes longer for an empty statement does not serve anybody.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How often it is said that the database is still awaited.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// While the database is awaited at the start.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// A loop that makes no turn for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// What is known of the database and of the process itself.
pub(super) struct Health {
    kept: tokio::sync::Mutex<Kept>,
    /// Since when it is so, and what is wrong, for everybody.
    latest: Mutex<(SystemTime, Result<(), String>)>,
    started: Instant,
    last_turn_millis: AtomicU64,
}

/// What one question leaves to the next.
#[derive(Default)]
struct Kept {
    session: Option<Session>,
    /// When the last question that has an answer was asked.
    asked: Option<Instant>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            kept: tokio::sync::Mutex::default(),
            latest: Mutex::new((SystemTime::now(), Err("the database was not reached yet".to_owned()))),
            started: Instant::now(),
            last_turn_millis: AtomicU64::new(0),
        }
    }

    /// How long the process has been running.
    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The last answer, without waiting, and since when it is so.
    pub(super) fn latest(&self) -> (SystemTime, Result<(), String>) {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the database now. Without an answer by `deadline` the last known one counts, if it was none either.
    ///
    /// # Errors
    /// What is wrong, for everybody.
    pub(super) async fn ask_by(&self, store: &Store, deadline: Instant) -> Result<(), String> {
        let Ok(answer) = timeout_at(deadline, self.ask(store)).await else {
            let (_, latest) = self.latest();
            return latest
                .and_then(|()| Err("the database does not answer within SERVER_TIMEOUT".to_owned()));
        };
        answer
    }

    /// Asks the database now; of those who come while it is being asked, the first asks again for all.
    ///
    /// # Errors
    /// What is wrong, for everybody.
    ///
    /// # Cancel safety
    /// May be dropped at any await; the connection is made anew then.
    async fn ask(&self, store: &Store) -> Result<(), String> {
        let came = Instant::now();
        let mut kept = self.kept.lock().await;
        if kept.asked.is_some_and(|asked| asked >= came) {
            return self.latest().1;
        }
        let begun = Instant::now();
        let asked = timeout(ANSWER_WITHIN, async {
            if let Some(session) = kept.session.take()
                && session.client.simple_query("").await.is_ok()
            {
                return Ok(session);
            }
            store.connector().connect().await
        });
        let answer = match asked.await {
            Ok(Ok(session)) => {
                kept.session = Some(session);
                Ok(())
            }
            Ok(Err(error)) => Err((error.public(), error.report())),
            Err(_) => {
                let reason = format!("the database does not answer within {ANSWER_WITHIN:?}");
                Err((reason.clone(), reason))
            }
        };
        kept.asked = Some(begun);
        self.note(answer)
    }

    /// Keeps the answer, and says when it became another.
    fn note(&self, answer: Result<(), (String, String)>) -> Result<(), String> {
        let public = answer.as_ref().copied().map_err(|(reason, _)| reason.clone());
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let was_up = latest.1.is_ok();
        if was_up != public.is_ok() {
            latest.0 = SystemTime::now();
            match &answer {
                Ok(()) => tracing::info!("the database answers"),
                Err((_, cause)) => {
                    tracing::warn!(error = %cause, "the database is away; requests are answered with 503")
                }
            }
        }
        latest.1.clone_from(&public);
        public
    }

    /// Waits for the database, then watches it for ever.
    ///
    /// # Errors
    /// Only at the start: what a person must mend before the writer can work.
    pub(super) async fn watch(&self, store: &Store) -> Halt {
        if let Err(halt) = self.await_database(store).await {
            return halt;
        }
        loop {
            // Whoever asks is told; what changed was logged.
            let _ = self.ask(store).await;
            sleep(ASK_EVERY).await;
        }
    }

    async fn await_database(&self, store: &Store) -> Result<(), Halt> {
        let mut said: Option<Instant> = None;
        loop {
            let error = match timeout(ANSWER_WITHIN, store.connector().connect()).await {
                Ok(Ok(session)) => {
                    if session.orders.as_ref().is_err_and(|why| *why == NoOrders::Missing) {
                        return Err(Halt {
                            what: "table public.orders does not exist".to_owned(),
                            remedy: "run txstream migrate up".to_owned(),
                        });
                    }
                    self.kept.lock().await.session = Some(session);
                    let _ = self.note(Ok(()));
                    return Ok(());
                }
                Ok(Err(error)) => error,
                Err(_) => SessionError::Pg(crate::postgres::PgError::Timeout {
                    doing: "connect to the database".to_owned(),
                    limit: ANSWER_WITHIN,
                }),
            };
            if error.is_final() {
                return Err(Halt { what: error.report(), remedy: error.remedy() });
            }
            if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                said = Some(Instant::now());
                tracing::warn!(error = %error.report(), "waiting for the database");
            }
            let _ = self.note(Err((error.public(), error.report())));
            sleep(RETRY_EVERY).await;
        }
    }

    /// Makes a turn a second, for ever: proof that the runtime is not stuck.
    pub(super) async fn turn(&self) -> std::convert::Infallible {
        loop {
            let millis = u64::try_from(self.uptime().as_millis()).unwrap_or(u64::MAX);
            self.last_turn_millis.store(millis, Ordering::Relaxed);
            sleep(ASK_EVERY).await;
        }
    }

    /// Whether the runtime makes turns.
    ///
    /// # Errors
    /// That it does not.
    pub(super) fn live(&self) -> Result<(), String> {
        let last = Duration::from_millis(self.last_turn_millis.load(Ordering::Relaxed));
        let age = self.uptime().saturating_sub(last);
        if age < STUCK_AFTER { Ok(()) } else { Err(format!("no turn of the loop for {} s", age.as_secs())) }
    }
}
