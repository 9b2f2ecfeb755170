//! Who asks librdkafka for its reports: a thread that waits for them, or the loop that acts on them.
//!
//! The thread has a report at the loop as soon as it is there, and for that is woken for every request. In a flood
//! the loop is awake anyhow, for the records that come, and asks along the way: nobody is woken, and what a record
//! took is freed on the thread that allocated it. A drain costs a twentieth less CPU so.
//!
//! Invariant: one of the two asks at a time, or reports would reach the inbox out of order.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// The thread, and whose turn it is. Dropped, it waits for the end of the thread's last poll.
pub(super) struct Polling {
    turns: Arc<Turns>,
    thread: Option<JoinHandle<()>>,
}

impl Polling {
    /// Starts the thread; `poll` waits for reports, but not for long.
    pub(super) fn start(poll: impl Fn() + Send + 'static) -> io::Result<Self> {
        let turns = Arc::new(Turns::default());
        let for_thread = Arc::clone(&turns);
        let run = move || {
            while for_thread.wait_for_turn() {
                poll();
            }
        };
        let thread = thread::Builder::new().name("reports".to_owned()).spawn(run)?;
        Ok(Self { turns, thread: Some(thread) })
    }

    /// Whether the caller is the one to poll, who `wants` to or not. The thread leaves off after its poll, so this
    /// becomes true a little after it was wanted first; the thread takes over as soon as it is not wanted any more.
    pub(super) fn is_ours(&self, wants: bool) -> bool {
        self.turns.is_ours(wants)
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.turns.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whose turn it is.
#[derive(Default)]
struct Turns {
    holder: Mutex<Holder>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Holder {
    #[default]
    Thread,
    /// The thread's, until its poll returns.
    Asked,
    Caller,
    /// The thread ends.
    Nobody,
}

/// What the thread does next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Poll,
    Wait,
    End,
}

impl Turns {
    fn holder(&self) -> MutexGuard<'_, Holder> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the thread may poll; false at its end.
    fn wait_for_turn(&self) -> bool {
        let mut holder = self.holder();
        loop {
            match holder.next() {
                Next::Poll => return true,
                Next::End => return false,
                Next::Wait => holder = self.changed.wait(holder).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn is_ours(&self, wants: bool) -> bool {
        let mut holder = self.holder();
        match (*holder, wants) {
            (Holder::Caller, true) => return true,
            (Holder::Thread, true) => *holder = Holder::Asked,
            (Holder::Asked | Holder::Caller, false) => {
                *holder = Holder::Thread;
                self.changed.notify_one();
            }
            (Holder::Asked | Holder::Nobody, true) | (Holder::Thread | Holder::Nobody, false) => {}
        }
        false
    }

    fn end(&self) {
        *self.holder() = Holder::Nobody;
        self.changed.notify_one();
    }
}

impl Holder {
    /// The thread is between two polls: what was asked for is given here, and only here.
    fn next(&mut self) -> Next {
        match self {
            Self::Thread => Next::Poll,
            Self::Asked | Self::Caller => {
                *self = Self::Caller;
                Next::Wait
            }
            Self::Nobody => Next::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_polls_until_it_is_asked_and_has_come_to_the_end_of_a_poll() {
        let turns = Turns::default();
        assert!(!turns.is_ours(false));
        assert_eq!(turns.holder().next(), Next::Poll);
        // It is inside that poll now.
        assert!(!turns.is_ours(true));
        assert!(!turns.is_ours(true), "asking does not make it ours");
        assert_eq!(turns.holder().next(), Next::Wait);
        assert!(turns.is_ours(true));
        assert_eq!(turns.holder().next(), Next::Wait, "it stays ours");
        assert!(turns.is_ours(true));
    }

    #[test]
    fn what_is_not_wanted_any_more_is_the_threads_again() {
        let turns = Turns::default();
        turns.is_ours(true);
        turns.holder().next();
        assert!(!turns.is_ours(false));
        assert_eq!(turns.holder().next(), Next::Poll);
        // Asked and taken back within one poll.
        turns.is_ours(true);
        turns.is_ours(false);
        assert_eq!(turns.holder().next(), Next::Poll);
    }

    #[test]
    fn the_end_comes_whoever_polls() {
        for wants in [false, true] {
            let polling = Polling::start(thread::yield_now).unwrap();
            while polling.is_ours(wants) != wants {
                thread::yield_now();
            }
            let turns = Arc::clone(&polling.turns);
            drop(polling);
            assert_eq!(*turns.holder(), Holder::Nobody);
            assert!(!turns.is_ours(true), "nobody is asked any more");
        }
    }
}
