//! How often what lasts is mentioned in the log: at once, and then every 10 s.

use std::time::Duration;

use tokio::time::Instant;

/// Often enough for whoever has just begun to look, seldom enough for a night.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// When something was mentioned last.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    said_at: Option<Instant>,
}

impl Pacing {
    /// Whether it is mentioned now; then it counts as mentioned.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.said_at.is_none_or(|said_at| now >= said_at + SAY_EVERY);
        if due {
            self.said_at = Some(now);
        }
        due
    }

    /// What comes next is something else, and mentioned at once.
    pub(super) fn begin_anew(&mut self) {
        self.said_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_said_at_once_and_every_ten_seconds_however_often_it_comes() {
        let (mut pacing, begin) = (Pacing::default(), Instant::now());
        let at = |tenths: u64| begin + Duration::from_millis(tenths * 100);
        let said: Vec<u64> = (0..=250).filter(|tenths| pacing.is_due(at(*tenths))).collect();
        assert_eq!(said, [0, 100, 200]);
        pacing.begin_anew();
        assert!(pacing.is_due(at(251)), "news waits for nothing");
        assert!(!pacing.is_due(at(252)));
    }
}
