//! Simulates a fleet: thousands of sandboxes check in over a few connections.
//!
//! Each sandbox has its own gateway token, the agent's [ledger](kiloclaw_agent::report::ledger), and counters that only
//! grow. After a refusal, the next check-in reports the same deltas again. The program prints a summary. `--report`
//! writes JSON to compare with a store: the sums of each sandbox's accepted check-ins, and its check-ins without a
//! response.
//!
//! `tests/load/load.ts` runs it against the built Worker.

mod connection;
mod machine;
mod report;

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use kiloclaw_agent::http;
use kiloclaw_agent::secret::Secret;
use kiloclaw_check_in::GatewaySecrets;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use ureq::http::Uri;

use crate::connection::{Completion, Connection, Stop};
use crate::machine::{Credentials, Machine};
use crate::report::Report;

/// Stack size of a thread; there can be thousands of threads.
const STACK_BYTES: usize = 512 * 1024;

/// Simulates a fleet that checks in, and prints the results.
#[derive(Debug, Parser)]
#[command(name = "fleet")]
struct Arguments {
    /// Where to check in.
    #[arg(long, default_value = "http://127.0.0.1:8787/api/controller/checkin")]
    url: Uri,

    /// Number of sandboxes.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    sandboxes: usize,

    /// Check-ins per second, of all sandboxes together.
    #[arg(long, required_unless_present = "as_fast_as_possible")]
    rate: Option<f64>,

    /// Send the next check-in on a connection as soon as the answer arrives.
    #[arg(long, conflicts_with = "rate")]
    as_fast_as_possible: bool,

    /// Duration, such as `15s` or `10m`. SIGINT and SIGTERM end it earlier, also with a report.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "15s")]
    duration: Duration,

    /// Number of connections, each kept open for many check-ins, one at a time.
    #[arg(long, value_name = "N", default_value_t = 16)]
    connections: usize,

    /// Open a new connection for each check-in, like the agent, which checks in every five minutes.
    #[arg(long)]
    no_keep_alive: bool,

    /// How long to wait for an answer.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    timeout: Duration,

    /// Random seed: the same seed makes the same fleet.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Prefix of the sandboxes' ids.
    #[arg(long, default_value = "fleet-")]
    prefix: String,

    /// When the first sandbox changes to the next credentials; the others follow one by one.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "moved_by")]
    move_from: Option<Duration>,

    /// When the last sandbox changes to the next credentials.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "move_from")]
    moved_by: Option<Duration>,

    /// Where to write the report.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// The fleet's API key.
    #[arg(long, env = "KILOCODE_API_KEY", hide_env_values = true)]
    api_key: Secret,

    /// The secret that gateway tokens are derived from.
    #[arg(long, env = "GATEWAY_TOKEN_SECRET", hide_env_values = true)]
    gateway_token_secret: Secret,

    /// The API key after `--move-from`.
    #[arg(long, env = "NEXT_KILOCODE_API_KEY", hide_env_values = true)]
    next_api_key: Option<Secret>,

    /// The secret after `--move-from`.
    #[arg(long, env = "NEXT_GATEWAY_TOKEN_SECRET", hide_env_values = true)]
    next_gateway_token_secret: Option<Secret>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    if http::is_exposed(&arguments.url) {
        return Err("credentials go over a network in the clear: the URL must be https".into());
    }
    let machines = machines(&arguments)?;
    let stop = Arc::new(Stop::default());
    stop_on_signals(&stop)?;

    let start = Instant::now();
    let end = start + arguments.duration;
    let count = arguments.connections.clamp(1, machines.len().max(1));
    let completion = arguments.rate.map(|rate| Completion { sandboxes: arguments.sandboxes, rate });
    // Round-robin, so that no connection has only the sandboxes that move over first.
    let mut hands: Vec<Vec<Machine>> = (0..count).map(|_| Vec::new()).collect();
    for (hand, machine) in (0..count).cycle().zip(machines) {
        if let Some(hand) = hands.get_mut(hand) {
            hand.push(machine);
        }
    }
    let threads = hands.into_iter().map(|machines| {
        let connection = Connection::new(
            arguments.url.clone(),
            arguments.timeout,
            !arguments.no_keep_alive,
            Arc::clone(&stop),
        );
        thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || connection.run(machines, completion, start, end))
    });
    let threads = threads.collect::<Result<Vec<_>, _>>()?;

    let mut report = Report::default();
    for thread in threads {
        let done = thread.join().map_err(|_| "a connection's thread panicked")?;
        report.add(done)?;
    }
    report.finish(start.elapsed());
    println!("{report}");
    if let Some(path) = &arguments.report {
        serde_json::to_writer(BufWriter::new(File::create(path)?), &report)?;
    }
    Ok(())
}

fn machines(arguments: &Arguments) -> Result<Vec<Machine>, Box<dyn Error>> {
    let secrets = GatewaySecrets::new(arguments.gateway_token_secret.expose())?;
    let next = match (&arguments.next_api_key, &arguments.next_gateway_token_secret) {
        (None, None) => None,
        (key, secret) => Some((
            key.as_ref().unwrap_or(&arguments.api_key),
            GatewaySecrets::new(
                secret.as_ref().unwrap_or(&arguments.gateway_token_secret).expose(),
            )?,
        )),
    };
    let window = arguments.move_from.zip(arguments.moved_by);
    (0..arguments.sandboxes)
        .map(|i| {
            let sandbox_id = format!("{}{i:06}", arguments.prefix);
            let now = Credentials::new(&arguments.api_key, &secrets, &sandbox_id)?;
            let next = match (&next, window) {
                (Some((key, secrets)), Some((from, until))) => {
                    let at = from + share(until.saturating_sub(from), i, arguments.sandboxes);
                    Some((at, Credentials::new(key, secrets, &sandbox_id)?))
                }
                _ => None,
            };
            let seed = arguments.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i as u64);
            Ok(Machine::new(sandbox_id, seed, now, next))
        })
        .collect()
}

/// `i / n` of `whole`.
fn share(whole: Duration, i: usize, n: usize) -> Duration {
    let micros = whole.as_micros().saturating_mul(i as u128) / (n.max(1) as u128);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

fn stop_on_signals(stop: &Arc<Stop>) -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let stop = Arc::clone(stop);
    thread::Builder::new().spawn(move || {
        if signals.forever().next().is_some() {
            stop.now();
        }
    })?;
    Ok(())
}
