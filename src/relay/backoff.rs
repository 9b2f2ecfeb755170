//! How long to wait before trying again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::settings;

/// Share of a delay by which jitter moves it, up or down.
const JITTER: f64 = 0.2;

/// Delays that grow and differ between instances, or a constant.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    settings: settings::Backoff,
    seed: u64,
}

impl Backoff {
    /// A backoff whose jitter differs from every other process's.
    pub(super) fn new(settings: settings::Backoff) -> Self {
        Self::seeded(settings, RandomState::new().hash_one(0_u8))
    }

    /// A backoff with a known jitter.
    pub(super) fn seeded(settings: settings::Backoff, seed: u64) -> Self {
        Self { settings, seed }
    }

    /// Reconnects to Postgres: 100 ms to 2 s. Small, since the slot is ours and a takeover has to
    /// be quick; jittered, since a restarted server meets all its clients at once.
    pub(super) fn reconnect() -> Self {
        Self::new(settings::Backoff {
            enabled: true,
            base: Duration::from_millis(100),
            max: Duration::from_secs(2),
            multiplier: 2.0,
            constant: Duration::from_secs(1),
        })
    }

    /// The wait before resend `attempt`, counted from 0: `min(max, base × multiplier^attempt)`, then
    /// jitter, so that capped delays differ too. Without growth it is the constant and nothing else:
    /// who asks for that wants to know when the next try comes.
    pub(super) fn delay(&mut self, attempt: u32) -> Duration {
        let settings = &self.settings;
        if !settings.enabled {
            return settings.constant;
        }
        let exponent = i32::try_from(attempt).unwrap_or(i32::MAX);
        let grown = settings.base.as_secs_f64() * settings.multiplier.powi(exponent);
        let plain = grown.min(settings.max.as_secs_f64());
        let factor = 1.0 + JITTER * (2.0 * self.uniform() - 1.0);
        Duration::from_secs_f64(plain * factor)
    }

    /// The next of a uniform sequence in [0, 1): splitmix64, plenty for jitter.
    fn uniform(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backoff(multiplier: f64) -> Backoff {
        let settings = settings::Backoff {
            enabled: true,
            base: Duration::from_secs(1),
            max: Duration::from_secs(30),
            multiplier,
            constant: Duration::from_secs(3),
        };
        Backoff::seeded(settings, 1)
    }

    #[track_caller]
    fn near(delay: Duration, seconds: f64) {
        let (low, high) = (seconds * (1.0 - JITTER), seconds * (1.0 + JITTER));
        assert!((low..=high).contains(&delay.as_secs_f64()), "{delay:?} is not near {seconds} s");
    }

    #[test]
    fn delays_double_up_to_the_cap() {
        let mut backoff = backoff(2.0);
        for (attempt, seconds) in
            [(0, 1.0), (1, 2.0), (2, 4.0), (4, 16.0), (5, 30.0), (1000, 30.0), (u32::MAX, 30.0)]
        {
            near(backoff.delay(attempt), seconds);
        }
    }

    #[test]
    fn another_multiplier_grows_otherwise() {
        near(backoff(3.0).delay(2), 9.0);
        near(backoff(1.0).delay(9), 1.0);
    }

    #[test]
    fn disabled_means_a_constant_delay() {
        let mut backoff = backoff(2.0);
        backoff.settings.enabled = false;
        for attempt in [0, 1, 5, 1000] {
            assert_eq!(backoff.delay(attempt), Duration::from_secs(3), "no growth, no jitter");
        }
    }

    #[test]
    fn capped_delays_are_spread() {
        let mut backoff = backoff(2.0);
        let delays: std::collections::HashSet<_> = (0..100).map(|_| backoff.delay(10)).collect();
        assert!(delays.len() > 90);
    }

    proptest! {
        #[test]
        fn no_delay_leaves_its_bounds(attempt in any::<u32>(), seed in any::<u64>(), multiplier in 1.0..10.0_f64) {
            let mut backoff = Backoff { seed, ..backoff(multiplier) };
            let delay = backoff.delay(attempt).as_secs_f64();
            prop_assert!((1.0 - JITTER..=30.0 * (1.0 + JITTER)).contains(&delay));
        }
    }
}
