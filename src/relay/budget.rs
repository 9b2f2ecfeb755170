//! When reading stops because too much is in flight, and when it goes on.
//!
//! Reading on as soon as a record was acknowledged would read a few rows, be full again and hand
//! them over at once: tiny requests that keep the broker busy and the budget full. So reading that
//! stopped goes on when there is room for a good burst, or when there is nothing at Kafka that could
//! make more room: what fills the budget then waits for something else, and the rest is free for others.
//!
//! Invariant: at or above the limit nothing is read (I6).

/// The bound of everything read and not acknowledged.
#[derive(Debug)]
pub(super) struct Budget {
    limit_bytes: usize,
    paused: bool,
}

impl Budget {
    /// Nothing in flight.
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, paused: false }
    }

    /// What is in flight now, and how many records of it are at the producer.
    pub(super) fn observe(&mut self, in_flight_bytes: usize, outstanding: usize) {
        let room = self.limit_bytes.saturating_sub(in_flight_bytes);
        // A quarter: some thousand small records with the default budget, while three quarters keep
        // Kafka busy until they come.
        let enough = if outstanding == 0 { 1 } else { (self.limit_bytes / 4).max(1) };
        self.paused = room == 0 || (self.paused && room < enough);
    }

    /// Whether there is room.
    pub(super) fn has_room(&self) -> bool {
        !self.paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_stops_at_the_limit_and_goes_on_with_a_quarter_free() {
        let mut budget = Budget::new(100);
        for (in_flight, has_room) in
            [(99, true), (100, false), (99, false), (76, false), (75, true), (99, true)]
        {
            budget.observe(in_flight, 1);
            assert_eq!(budget.has_room(), has_room, "{in_flight} in flight");
        }
    }

    #[test]
    fn with_nothing_at_kafka_any_room_is_used() {
        let mut budget = Budget::new(100);
        budget.observe(130, 1);
        assert!(!budget.has_room(), "one record may pass the limit");
        budget.observe(99, 0);
        assert!(budget.has_room(), "what waits for something else must not hold up the rest");
    }
}
