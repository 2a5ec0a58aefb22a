//! Decides which failures cause an alert. It is pure: the clock is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Failed check-ins in a row before an alert. The next check-in makes up for a single one, and two can share a short
/// outage.
const FAILURES: u64 = 3;

/// Minimum time between alerts with the same code. Hourly repetitions would be ignored; a daily reminder is useful.
const SAME_CODE: Duration = Duration::from_hours(24);

/// Minimum time between alerts of failures with any code: a server that fails in several ways is one problem.
const ANY_CODE: Duration = Duration::from_hours(1);

/// The code of a defect of the agent itself, panics included.
pub const DEFECT: &str = "agent_defect";

#[derive(Debug)]
pub struct Policy {
    /// Minimum duration of failure. The agent retries within seconds, so without it, a server's restart would cause an
    /// alert.
    patience: Duration,
    /// When check-ins began to fail.
    failing_since: Option<Instant>,
    last: Option<Instant>,
    /// The last alert of each code within [`SAME_CODE`]: at most 24 failures, one per [`ANY_CODE`], and a panic.
    by_code: BTreeMap<String, Instant>,
}

impl Policy {
    /// `interval` is the interval between check-ins.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { patience: interval, failing_since: None, last: None, by_code: BTreeMap::new() }
    }

    /// A check-in was not accepted; `failures` is their number in a row. Returns whether to alert.
    #[must_use]
    pub fn failed(&mut self, code: &str, failures: u64, now: Instant) -> bool {
        let since = match self.failing_since {
            Some(since) if failures > 1 => since,
            _ => *self.failing_since.insert(now),
        };
        let lasts = failures >= FAILURES && now.duration_since(since) >= self.patience;
        let quiet = self.last.is_none_or(|last| now.duration_since(last) >= ANY_CODE);
        lasts && quiet && self.is_new(code, now)
    }

    /// The agent panicked. Returns whether to alert, regardless of the hourly limit: the program may be about to end.
    #[must_use]
    pub fn panicked(&mut self, now: Instant) -> bool {
        self.is_new(DEFECT, now)
    }

    /// An alert was not delivered: its code may cause another one, after the hourly limit.
    pub fn not_sent(&mut self, code: &str) {
        self.by_code.remove(code);
    }

    fn is_new(&mut self, code: &str, now: Instant) -> bool {
        self.by_code.retain(|_, at| now.duration_since(*at) < SAME_CODE);
        if self.by_code.contains_key(code) {
            return false;
        }
        self.by_code.insert(code.to_owned(), now);
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_mins(5);

    struct SimulatedFailures {
        policy: Policy,
        start: Instant,
        now: Instant,
        failures: u64,
        /// The alerts, with their times in minutes since the start.
        alerts: Vec<(u64, String)>,
    }

    impl SimulatedFailures {
        fn new() -> Self {
            let now = Instant::now();
            let policy = Policy::new(INTERVAL);
            Self { policy, start: now, now, failures: 0, alerts: Vec::new() }
        }

        fn fail(&mut self, code: &str) {
            self.failures += 1;
            if self.policy.failed(code, self.failures, self.now) {
                let minutes = self.now.duration_since(self.start).as_secs() / 60;
                self.alerts.push((minutes, code.to_owned()));
            }
        }

        /// Fails every five minutes for `duration`.
        fn fail_for(&mut self, duration: Duration, code: impl Fn(u64) -> String) {
            let end = self.now + duration;
            while self.now < end {
                self.fail(&code(self.failures));
                self.now += INTERVAL;
            }
        }

        fn alerts(&self) -> Vec<(u64, &str)> {
            self.alerts.iter().map(|(at, code)| (*at, code.as_str())).collect()
        }
    }

    #[test]
    fn alerts_on_the_third_failure_in_a_row_and_again_a_day_later() {
        let mut simulated = SimulatedFailures::new();
        simulated.fail_for(Duration::from_hours(48), |_| "timeout".to_owned());
        assert_eq!(simulated.alerts(), [(10, "timeout"), (24 * 60 + 10, "timeout")]);
    }

    #[test]
    fn two_failures_before_a_success_cause_no_alert() {
        let mut simulated = SimulatedFailures::new();
        for _ in 0..100 {
            simulated.failures = 0;
            simulated.fail_for(2 * INTERVAL, |_| "timeout".to_owned());
        }
        assert_eq!(simulated.alerts(), []);
    }

    #[test]
    fn quick_retries_cause_no_alert_within_an_interval() {
        let mut simulated = SimulatedFailures::new();
        for seconds in [0, 5, 10, 20, 40, 80, 140] {
            simulated.now += Duration::from_secs(seconds);
            simulated.fail("connection_refused");
        }
        assert_eq!(simulated.alerts(), [], "after 295 seconds");
        simulated.now += Duration::from_secs(5);
        simulated.fail("connection_refused");
        assert_eq!(simulated.alerts(), [(5, "connection_refused")]);
        // The next series of failures starts its own interval and its own day.
        simulated.now += Duration::from_hours(24);
        simulated.failures = 0;
        for _ in 0..3 {
            simulated.fail("connection_refused");
        }
        assert_eq!(simulated.alerts.len(), 1);
    }

    #[test]
    fn another_code_causes_an_alert_an_hour_later() {
        let mut simulated = SimulatedFailures::new();
        simulated.fail_for(2 * INTERVAL, |_| "timeout".to_owned());
        simulated.fail_for(INTERVAL, |_| "timeout".to_owned());
        simulated.fail_for(Duration::from_hours(3), |_| "http_502".to_owned());
        assert_eq!(simulated.alerts(), [(10, "timeout"), (70, "http_502")]);
        simulated.fail_for(Duration::from_hours(3), |_| "timeout".to_owned());
        assert_eq!(simulated.alerts.len(), 2, "within its day");
    }

    #[test]
    fn ever_new_codes_cause_one_alert_an_hour_and_bounded_memory() {
        let mut simulated = SimulatedFailures::new();
        simulated.fail_for(Duration::from_hours(24 * 10), |n| format!("code_{n}"));
        assert_eq!(simulated.alerts.len(), 240);
        assert!(simulated.policy.by_code.len() <= 24, "{}", simulated.policy.by_code.len());
    }

    #[test]
    fn a_panic_causes_an_alert_at_once_and_its_failures_cause_none() {
        let mut simulated = SimulatedFailures::new();
        simulated.fail_for(3 * INTERVAL, |_| "timeout".to_owned());
        assert_eq!(simulated.alerts.len(), 1);
        assert!(simulated.policy.panicked(simulated.now), "in the same hour");
        assert!(!simulated.policy.panicked(simulated.now));
        simulated.fail_for(Duration::from_hours(20), |_| DEFECT.to_owned());
        assert_eq!(simulated.alerts.len(), 1);
        simulated.now += Duration::from_hours(4);
        assert!(simulated.policy.panicked(simulated.now));
    }

    #[test]
    fn an_unsent_alert_is_retried_an_hour_later() {
        let mut simulated = SimulatedFailures::new();
        simulated.fail_for(3 * INTERVAL, |_| "timeout".to_owned());
        simulated.policy.not_sent("timeout");
        simulated.fail_for(Duration::from_hours(2), |_| "timeout".to_owned());
        assert_eq!(simulated.alerts(), [(10, "timeout"), (70, "timeout")]);
    }
}
