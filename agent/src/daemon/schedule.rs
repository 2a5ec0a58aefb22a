//! When the next check-in is due. It is pure: clock and random numbers are arguments.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use fastrand::Rng;

/// Upper bound of the delay after a first failure; it doubles with each further failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(5);

/// Longest honoured `Retry-After`.
pub const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub initial_delay: Duration,
    pub interval: Duration,
    /// Random deviation of both, in percent, at most 50.
    pub jitter_percent: u8,
}

/// How a check-in ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    Accepted,
    /// Refused: a retry before the next interval would not help.
    Refused,
    /// Network error, 429 or 5xx: retry sooner, at a random time, and not before `Retry-After`.
    TryLater(Option<Duration>),
}

/// Plans the next check-in when the last one has ended. There is always exactly one due time, so a clock jump or a
/// sleeping machine causes no burst.
#[derive(Debug)]
pub struct Schedule {
    timing: Timing,
    rng: Rng,
    due: Instant,
    /// Upper bounds of the next delays.
    backoff: ExponentialBackoff,
}

impl Schedule {
    #[must_use]
    pub fn new(timing: Timing, rng: Rng, now: Instant) -> Self {
        let mut schedule = Self { timing, rng, due: now, backoff: backoff(timing.interval) };
        schedule.due = now + schedule.jittered(timing.initial_delay);
        schedule
    }

    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Plans the next check-in; the last one ended at `now`.
    pub fn plan(&mut self, completion: Completion, now: Instant) {
        let delay = match completion {
            Completion::Accepted | Completion::Refused => {
                self.backoff = backoff(self.timing.interval);
                self.jittered(self.timing.interval)
            }
            Completion::TryLater(retry_after) => {
                let ceiling = self.backoff.next().unwrap_or(self.timing.interval);
                let wanted = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
                // The jitter is added: otherwise all clients with the same `Retry-After` would return in one second.
                wanted + ceiling.mul_f64(self.rng.f64())
            }
        };
        self.due = now + delay;
    }

    /// Brings the next check-in forward, as the cause of the last failures may be fixed. The jitter spreads a fleet
    /// that reloads at once.
    pub fn hasten(&mut self, now: Instant) {
        self.due = self.due.min(now + FIRST_BACKOFF.mul_f64(self.rng.f64()));
    }

    fn jittered(&mut self, delay: Duration) -> Duration {
        let jitter = f64::from(self.timing.jitter_percent) / 100.0;
        delay.mul_f64(1.0 + jitter * (2.0 * self.rng.f64() - 1.0))
    }
}

/// Ceilings without jitter: `plan` applies full jitter with a random source that tests can seed.
fn backoff(interval: Duration) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_BACKOFF.min(interval))
        .with_max_delay(interval)
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use std::iter;

    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;

    const TIMING: Timing = Timing {
        initial_delay: Duration::from_mins(2),
        interval: Duration::from_mins(5),
        jitter_percent: 10,
    };

    /// The initial delay, and the delay after each completion, in seconds.
    fn delays(timing: Timing, seed: u64, completions: &[Completion]) -> Vec<f64> {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(timing, Rng::with_seed(seed), now);
        iter::once(None)
            .chain(completions.iter().map(Some))
            .map(|completion| {
                if let Some(&completion) = completion {
                    schedule.plan(completion, now);
                }
                let delay = schedule.due() - now;
                now = schedule.due();
                delay.as_secs_f64()
            })
            .collect()
    }

    #[test]
    fn without_jitter_the_interval_is_exact() {
        let timing = Timing { jitter_percent: 0, ..TIMING };
        let delays = delays(timing, 1, &[Completion::Accepted, Completion::Refused]);
        assert_eq!(delays, [120.0, 300.0, 300.0]);
    }

    #[test]
    fn jitter_covers_exactly_its_range() {
        let all: Vec<_> =
            (0..2_000).map(|seed| delays(TIMING, seed, &[Completion::Accepted])).collect();
        for (index, (low, high)) in [(108.0, 132.0), (270.0, 330.0)].into_iter().enumerate() {
            let range = |(min, max): (f64, f64), delays: &Vec<f64>| {
                (min.min(delays[index]), max.max(delays[index]))
            };
            let (min, max) = all.iter().fold((f64::MAX, f64::MIN), range);
            assert!(low <= min && max <= high, "{min} to {max}");
            assert!(min < low + 1.0 && high - 1.0 < max, "{min} to {max}");
        }
    }

    #[test]
    fn failures_back_off_with_full_jitter_up_to_the_interval() {
        let later = [Completion::TryLater(None); 10];
        let all: Vec<_> = (0..2_000).map(|seed| delays(TIMING, seed, &later)).collect();
        let ceilings = [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0, 300.0];
        for (index, ceiling) in ceilings.into_iter().enumerate() {
            let delays = all.iter().map(|delays| delays[index + 1]);
            let max = delays.clone().fold(f64::MIN, f64::max);
            let min = delays.clone().fold(f64::MAX, f64::min);
            assert!(max <= ceiling && max > ceiling * 0.98, "{max} of {ceiling}");
            assert!(min < ceiling * 0.02, "jitter is lost at {ceiling}: {min}");
        }
    }

    #[test]
    fn an_interval_below_the_first_backoff_is_the_ceiling() {
        let timing = Timing { interval: Duration::from_secs(2), ..TIMING };
        for seed in 0..200 {
            let delays = delays(timing, seed, &[Completion::TryLater(None); 4]);
            assert!(delays[1..].iter().all(|&delay| delay <= 2.0), "{delays:?}");
        }
    }

    #[test]
    fn acceptance_and_refusal_end_a_backoff() {
        for completion in [Completion::Accepted, Completion::Refused] {
            let completions = [
                [Completion::TryLater(None); 4].as_slice(),
                &[completion, Completion::TryLater(None)],
            ];
            for seed in 0..200 {
                assert!(delays(TIMING, seed, &completions.concat())[6] <= 5.0);
            }
        }
    }

    #[test]
    fn retry_after_is_honoured_with_jitter_up_to_an_hour() {
        let later = |seconds| [Completion::TryLater(Some(Duration::from_secs(seconds)))];
        let delays_of =
            |seconds| (0..200).map(move |seed| delays(TIMING, seed, &later(seconds))[1]);
        assert!(delays_of(30).all(|delay| (30.0..=35.0).contains(&delay)));
        assert!(delays_of(30).any(|delay| delay > 34.0));
        // A server cannot silence agents for a day.
        assert!(delays_of(86_400).all(|delay| (3_600.0..=3_605.0).contains(&delay)));
    }

    #[test]
    fn hasten_brings_a_check_in_forward_and_never_delays_it() {
        let now = Instant::now();
        let mut schedule = Schedule::new(TIMING, Rng::with_seed(1), now);
        schedule.hasten(now);
        let due = schedule.due();
        assert!(due <= now + FIRST_BACKOFF);
        schedule.hasten(now + Duration::from_mins(1));
        assert_eq!(schedule.due(), due);
    }

    proptest! {
        #[test]
        fn delays_stay_within_bounds_for_any_timing_and_completion(
            interval in 1_u32..86_400,
            jitter_percent in 0_u8..=50,
            seed: u64,
            retry_after: Option<u32>,
        ) {
            let timing = Timing {
                initial_delay: Duration::ZERO,
                interval: Duration::from_secs(interval.into()),
                jitter_percent,
            };
            let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds.into()));
            let completions = [Completion::TryLater(retry_after), Completion::Accepted];
            let delays = delays(timing, seed, &completions);
            let (interval, jitter) = (f64::from(interval), f64::from(jitter_percent) / 100.0);
            prop_assert!(delays[0].abs() < f64::EPSILON);
            prop_assert!(delays[1] <= 3_600.0 + interval);
            let slack = 1e-6;
            prop_assert!(delays[2] >= interval * (1.0 - jitter) - slack);
            prop_assert!(delays[2] <= interval * (1.0 + jitter) + slack);
        }
    }
}
