//! The results.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::{AdditionError, Histogram};
use serde::{Serialize, Serializer};

use crate::machine::{Account, Deltas};

/// Longer times count as this one.
const LONGEST_MICROS: u64 = 120_000_000;

/// Significant digits: two save memory, since each of a thousand connections has its own histograms.
const DIGITS: u8 = 2;

/// A histogram of durations.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u32>);

impl Default for Times {
    #[expect(clippy::expect_used, reason = "constants, which hdrhistogram takes")]
    fn default() -> Self {
        let times = Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS);
        Self(times.expect("1 is below the longest, and 2 digits are no more than 5"))
    }
}

impl Times {
    fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(LONGEST_MICROS));
    }

    fn add(&mut self, other: &Self) -> Result<(), AdditionError> {
        self.0.add(&other.0)
    }

    #[expect(clippy::cast_precision_loss, reason = "at most two minutes")]
    fn milliseconds(&self) -> Milliseconds {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1_000.0;
        Milliseconds {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.0.max() as f64 / 1_000.0,
        }
    }
}

/// Percentiles.
#[derive(Clone, Copy, Debug, Serialize)]
struct Milliseconds {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p999, max } = self;
        write!(f, "p50 {p50:.1}, p90 {p90:.1}, p99 {p99:.1}, p99.9 {p999:.1}, max {max:.1} ms")
    }
}

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.milliseconds().serialize(serializer)
    }
}

/// The results of one connection.
#[derive(Debug, Default)]
pub(crate) struct Done {
    accepted: u64,
    refusals: BTreeMap<String, u64>,
    transport_errors: BTreeMap<String, u64>,
    latency: Times,
    from_due: Times,
    pub(crate) accounts: Vec<Account>,
}

impl Done {
    pub(crate) fn accepted(&mut self) {
        self.accepted += 1;
    }

    /// `what` is status and code.
    pub(crate) fn refused(&mut self, what: String) {
        *self.refusals.entry(what).or_default() += 1;
    }

    /// There was no response.
    pub(crate) fn failed(&mut self, why: String) {
        *self.transport_errors.entry(why).or_default() += 1;
    }

    /// Records the time since the check-in was sent and, if there is a rate, since it was due.
    pub(crate) fn took(&mut self, latency: Duration, from_due: Option<Duration>) {
        self.latency.record(latency);
        if let Some(from_due) = from_due {
            self.from_due.record(from_due);
        }
    }
}

/// The results of all connections.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    seconds: f64,
    accepted: u64,
    /// By status and code.
    refusals: BTreeMap<String, u64>,
    /// By reason. The Worker may have accepted these check-ins.
    transport_errors: BTreeMap<String, u64>,
    /// From sending to the response or the timeout.
    latency: Times,
    /// From the due time: a slow response also delays the next check-in of its connection.
    from_due: Times,
    reported: Deltas,
    unreported: Deltas,
    happened: Deltas,
    sandboxes: Vec<Account>,
}

impl Report {
    pub(crate) fn add(&mut self, done: Done) -> Result<(), AdditionError> {
        self.accepted += done.accepted;
        for (all, part) in [
            (&mut self.refusals, done.refusals),
            (&mut self.transport_errors, done.transport_errors),
        ] {
            for (what, count) in part {
                *all.entry(what).or_default() += count;
            }
        }
        self.latency.add(&done.latency)?;
        self.from_due.add(&done.from_due)?;
        for account in &done.accounts {
            self.reported.add(account.reported);
            self.unreported.add(account.unreported);
            self.happened.add(account.happened);
        }
        self.sandboxes.extend(done.accounts);
        Ok(())
    }

    pub(crate) fn finish(&mut self, elapsed: Duration) {
        self.seconds = elapsed.as_secs_f64();
        self.sandboxes.sort_by(|a, b| a.sandbox_id.cmp(&b.sandbox_id));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = self.accepted as f64 / self.seconds;
        let heard = self.sandboxes.iter().filter(|account| account.accepted > 0).count();
        writeln!(
            f,
            "accepted:  {} in {:.1} s, {rate:.0}/s, of {heard} of {} sandboxes",
            self.accepted,
            self.seconds,
            self.sandboxes.len()
        )?;
        for (what, counts) in
            [("refused:  ", &self.refusals), ("no answer:", &self.transport_errors)]
        {
            for (reason, count) in counts {
                writeln!(f, "{what} {count} x {reason}")?;
            }
        }
        write!(f, "latency:   {}", self.latency.milliseconds())?;
        if !self.from_due.0.is_empty() {
            write!(f, "\nfrom due:  {}", self.from_due.milliseconds())?;
        }
        Ok(())
    }
}
