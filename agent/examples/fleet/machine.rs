//! One simulated sandbox: its credentials, its counters, and what it has reported.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use fastrand::Rng;
use kiloclaw_agent::collect::Readings;
use kiloclaw_agent::collect::network::{Bytes, Interfaces};
use kiloclaw_agent::collect::process::ProcessHealth;
use kiloclaw_agent::report::ledger::{Ledger, Unreported};
use kiloclaw_agent::secret::Secret;
use kiloclaw_check_in::{CheckIn, GatewaySecrets};
use serde::Serialize;
use ureq::http::HeaderValue;

/// Bounds of the traffic between check-ins, small enough that sums over millions are exact as doubles.
const MOST_BYTES_IN: u64 = 100_000;
const MOST_BYTES_OUT: u64 = 50_000;
/// On average, a restart precedes one of this many check-ins.
const RESTART_ONE_IN: u32 = 50;

/// The two credential headers of a sandbox.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) authorization: HeaderValue,
    pub(crate) gateway_token: HeaderValue,
}

impl Credentials {
    pub(crate) fn new(
        api_key: &Secret,
        secrets: &GatewaySecrets,
        sandbox_id: &str,
    ) -> Result<Self, Box<dyn Error>> {
        let token = Secret::new(secrets.token(sandbox_id).expose());
        let header = |secret: &Secret, prefix| secret.header_value(prefix);
        header(api_key, "Bearer ")
            .zip(header(&token, ""))
            .map(|(authorization, gateway_token)| Self { authorization, gateway_token })
            .ok_or_else(|| "the API key cannot be a header's value".into())
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Deltas {
    pub(crate) restarts: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl From<Unreported> for Deltas {
    fn from(unreported: Unreported) -> Self {
        Self {
            restarts: unreported.restarts,
            bytes_in: unreported.bytes_in,
            bytes_out: unreported.bytes_out,
        }
    }
}

impl Deltas {
    pub(crate) fn add(&mut self, other: Self) {
        self.restarts += other.restarts;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

/// A check-in without a response: only the store shows whether it was accepted.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LostAnswer {
    /// The reported `uptimeSeconds`.
    attempt: u64,
    #[serde(flatten)]
    reported: Deltas,
}

/// The totals of a sandbox at the end.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Account {
    pub(crate) sandbox_id: String,
    /// Number of accepted check-ins.
    pub(crate) accepted: u64,
    /// The sum of their deltas.
    pub(crate) reported: Deltas,
    /// The sum of all simulated events: without lost answers, `reported` plus `unreported`.
    pub(crate) happened: Deltas,
    pub(crate) unreported: Deltas,
    pub(crate) lost_answers: Vec<LostAnswer>,
}

#[derive(Debug)]
pub(crate) struct Machine {
    rng: Rng,
    now: Credentials,
    /// The time from which the next credentials are used.
    next: Option<(Duration, Credentials)>,
    ledger: Ledger,
    readings: Readings,
    attempts: u64,
    account: Account,
}

/// A check-in in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    unreported: Unreported,
}

impl Machine {
    /// A sandbox that changes to the credentials of `next` at their time after the start.
    pub(crate) fn new(
        sandbox_id: String,
        seed: u64,
        now: Credentials,
        next: Option<(Duration, Credentials)>,
    ) -> Self {
        let mut rng = Rng::with_seed(seed);
        let bytes =
            Bytes { bytes_in: rng.u64(..u64::from(u32::MAX)), bytes_out: rng.u64(..1_000_000) };
        let readings = Readings {
            disk: None,
            load_avg_5m: Some(f64::from(rng.u16(..400)) / 100.0),
            network: Some([("eth0".to_owned(), bytes)].into()),
            boot: None,
            openclaw: None,
            process: ProcessHealth::Unknown,
            restarts: Some(rng.u64(..100)),
        };
        let mut ledger = Ledger::default();
        // The baseline of later readings.
        ledger.observe(&readings, &Interfaces::default());
        let account = Account { sandbox_id, ..Account::default() };
        Self { rng, now, next, ledger, readings, attempts: 0, account }
    }

    pub(crate) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// The credentials at this time after the start.
    pub(crate) fn credentials(&self, elapsed: Duration) -> &Credentials {
        match &self.next {
            Some((from, next)) if elapsed >= *from => next,
            _ => &self.now,
        }
    }

    /// Simulates traffic and restarts, and builds the body of a check-in with all unreported counters.
    ///
    /// `uptimeSeconds` is the number of the attempt, so that a check-in that is stored twice is detected.
    pub(crate) fn check_in(&mut self) -> serde_json::Result<(String, Sent)> {
        let happened = Deltas {
            restarts: u64::from(self.rng.u32(..RESTART_ONE_IN) == 0),
            bytes_in: self.rng.u64(..MOST_BYTES_IN),
            bytes_out: self.rng.u64(..MOST_BYTES_OUT),
        };
        self.account.happened.add(happened);
        for bytes in self.readings.network.iter_mut().flat_map(|counters| counters.values_mut()) {
            bytes.bytes_in += happened.bytes_in;
            bytes.bytes_out += happened.bytes_out;
        }
        let restarts = self.readings.restarts.unwrap_or_default() + happened.restarts;
        self.readings.restarts = Some(restarts);
        self.ledger.observe(&self.readings, &Interfaces::default());
        let unreported = self.ledger.unreported();
        self.attempts += 1;
        let check_in = CheckIn {
            sandbox_id: Cow::Borrowed(&self.account.sandbox_id),
            machine_id: Some(Cow::Borrowed("d8917ebc0e7b58")),
            controller_version: Cow::Borrowed("2026.3.14"),
            controller_commit: Cow::Borrowed("9f8e7d6c5b4a"),
            openclaw_version: Some(Cow::Borrowed("2026.3.13")),
            openclaw_commit: Some(Cow::Borrowed("1a2b3c4d5e6f")),
            supervisor_state: Cow::Borrowed("running"),
            total_restarts: number(restarts),
            restarts_since_last_checkin: number(unreported.restarts),
            uptime_seconds: number(self.attempts),
            load_avg_5m: self.readings.load_avg_5m.unwrap_or_default(),
            bandwidth_bytes_in: number(unreported.bytes_in),
            bandwidth_bytes_out: number(unreported.bytes_out),
            last_exit_reason: Some(Cow::Borrowed("")),
            disk_used_bytes: None,
            disk_total_bytes: None,
        };
        Ok((serde_json::to_string(&check_in)?, Sent { unreported }))
    }

    pub(crate) fn accepted(&mut self, sent: Sent) {
        self.ledger.settle(sent.unreported);
        self.account.accepted += 1;
        self.account.reported.add(sent.unreported.into());
    }

    /// Without a response, the counters stay unreported.
    pub(crate) fn lost_answer(&mut self, sent: Sent) {
        let lost_answer = LostAnswer { attempt: self.attempts, reported: sent.unreported.into() };
        self.account.lost_answers.push(lost_answer);
    }

    pub(crate) fn into_account(self) -> Account {
        Account { unreported: self.ledger.unreported().into(), ..self.account }
    }
}

#[expect(clippy::cast_precision_loss, reason = "the contract's numbers are doubles")]
fn number(count: u64) -> f64 {
    count as f64
}
