//! A connection, and the sandboxes that check in over it, one at a time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiloclaw_agent::http;
use kiloclaw_agent::report::send::RefusalBody;
use kiloclaw_check_in::GATEWAY_TOKEN_HEADER;
use ureq::http::{StatusCode, Uri, header};
use ureq::{Agent, Error};

use crate::machine::Machine;
use crate::report::Done;

/// Pause after a check-in without an answer, so that an unreachable server causes no tight loop.
const PAUSE: Duration = Duration::from_millis(100);

/// Largest random change of a sandbox's interval, as a fraction in either direction.
const JITTER: f64 = 0.1;

/// Ends all waiting.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub(crate) fn now(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits until `time`; returns whether to continue.
    fn wait_until(&self, time: Instant) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let timeout = time.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(stopped, timeout, |stopped| !*stopped);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// How often check-ins are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) sandboxes: usize,
    /// Check-ins per second of all sandboxes together.
    pub(crate) rate: f64,
}

impl Completion {
    /// Time between two check-ins of a sandbox.
    #[expect(clippy::cast_precision_loss, reason = "a number of sandboxes")]
    fn interval(self) -> Duration {
        Duration::try_from_secs_f64(self.sandboxes as f64 / self.rate).unwrap_or(Duration::MAX)
    }
}

/// A client with one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    agent: Agent,
    url: Uri,
    stop: Arc<Stop>,
}

impl Connection {
    pub(crate) fn new(url: Uri, timeout: Duration, keep_alive: bool, stop: Arc<Stop>) -> Self {
        let idle = usize::from(keep_alive);
        let agent = Agent::config_builder()
            .timeout_global(Some(timeout))
            .max_redirects(0)
            .proxy(None)
            .max_idle_connections(idle)
            .max_idle_connections_per_host(idle)
            .http_status_as_error(false)
            // The agent's buffer sizes.
            .input_buffer_size(16 * 1024)
            .output_buffer_size(16 * 1024)
            .user_agent(concat!("kiloclaw-fleet/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self { agent, url, stop }
    }

    /// Lets the machines check in until `end`, at the `target` rate or, without one, as soon as the previous response
    /// arrives.
    pub(crate) fn run(
        &self,
        mut machines: Vec<Machine>,
        completion: Option<Completion>,
        start: Instant,
        end: Instant,
    ) -> Done {
        let mut done = Done::default();
        let mut due = BinaryHeap::with_capacity(machines.len());
        for (i, machine) in machines.iter_mut().enumerate() {
            // Without a rate, only the order counts.
            let wait =
                completion.map(|completion| completion.interval().mul_f64(machine.rng().f64()));
            due.push(Reverse((start + wait.unwrap_or_default(), i)));
        }
        while let Some(Reverse((at, i))) = due.pop() {
            if at >= end || Instant::now() >= end || !self.stop.wait_until(at) {
                break;
            }
            let Some(machine) = machines.get_mut(i) else { break };
            let sent = Instant::now();
            let answered = self.check_in(machine, sent.duration_since(start), &mut done);
            let now = Instant::now();
            done.took(now - sent, completion.map(|_| now.saturating_duration_since(at)));
            let next = completion.map_or(now, |completion| {
                let stretched = 1.0 + JITTER * (2.0 * machine.rng().f64() - 1.0);
                // Late check-ins are not sent in a burst.
                at.checked_add(completion.interval().mul_f64(stretched)).unwrap_or(end).max(now)
            });
            due.push(Reverse((next, i)));
            if !answered && !self.stop.wait_until(now + PAUSE) {
                break;
            }
        }
        done.accounts = machines.into_iter().map(Machine::into_account).collect();
        done
    }

    /// Sends one check-in; returns whether there was an answer.
    fn check_in(&self, machine: &mut Machine, elapsed: Duration, done: &mut Done) -> bool {
        let (body, sent) = match machine.check_in() {
            Ok(check_in) => check_in,
            Err(error) => {
                done.failed(format!("no body: {error}"));
                return true;
            }
        };
        let credentials = machine.credentials(elapsed);
        let answer = self
            .agent
            .post(&self.url)
            .header(header::AUTHORIZATION, &credentials.authorization)
            .header(GATEWAY_TOKEN_HEADER, &credentials.gateway_token)
            .header("fly-region", "ams")
            .content_type("application/json")
            .send(&body);
        match answer {
            // The contract accepts with 204 only: any other 2xx is as wrong as a 500.
            Ok(response) if response.status() == StatusCode::NO_CONTENT => {
                machine.accepted(sent);
                done.accepted();
                true
            }
            Ok(mut response) => {
                let body = http::start_of(response.body_mut());
                let code = serde_json::from_slice::<RefusalBody>(&body).ok();
                let code = code.map_or_else(|| "no code".to_owned(), |body| body.code);
                done.refused(format!("{} {code}", response.status().as_u16()));
                true
            }
            Err(error) => {
                machine.lost_answer(sent);
                done.failed(reason(&error));
                false
            }
        }
    }
}

/// A short reason, by which failures are counted.
fn reason(error: &Error) -> String {
    match error {
        Error::Timeout(timeout) => format!("timeout ({timeout})"),
        Error::Io(error) => format!("io: {:?}", error.kind()),
        Error::Protocol(_) => "not HTTP".to_owned(),
        error => error.to_string(),
    }
}
