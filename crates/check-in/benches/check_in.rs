//! The native cost of the contract: `cargo bench -p kiloclaw-check-in`.
//!
//! `-- count N` accepts N check-ins and prints nothing, so that callgrind can count instructions; see
//! `bench/native.ts`.

#![expect(clippy::unwrap_used, reason = "a broken benchmark may panic")]

use std::hint::black_box;

use kiloclaw_check_in::{AcceptedKeys, CheckIn, DataPoint, GatewaySecrets, Presented};

const BODY: &str = r#"{"sandboxId":"sandbox-0123456789abcdef","machineId":"3d8d9014b32d89","controllerVersion":"2026.11.1","controllerCommit":"0123456789ab","openclawVersion":"2026.3.13","openclawCommit":"def5678","supervisorState":"running","totalRestarts":7,"restartsSinceLastCheckin":0,"uptimeSeconds":86400.25,"loadAvg5m":0.42,"bandwidthBytesIn":1234567,"bandwidthBytesOut":7654321,"lastExitReason":"signal:SIGTERM"}"#;
const SANDBOX_ID: &str = "sandbox-0123456789abcdef";

struct Machine {
    api_keys: AcceptedKeys,
    gateway: GatewaySecrets,
    authorization: String,
    token: String,
}

impl Machine {
    fn new() -> Self {
        let gateway = GatewaySecrets::new("gateway-secret").unwrap();
        Self {
            api_keys: AcceptedKeys::new("kilo-key", &[7; 32]).unwrap(),
            authorization: "Bearer kilo-key".to_owned(),
            token: gateway.token(SANDBOX_ID).expose().to_owned(),
            gateway,
        }
    }

    /// All calls from the Worker into the contract for an accepted check-in.
    fn check_in(&self) -> bool {
        let authorization = Some(black_box(self.authorization.as_str()));
        let presented = Presented::from_headers(authorization, Some(&self.token)).unwrap();
        let accepted_key = self.api_keys.accept(presented.api_key);
        let check_in = CheckIn::parse_str(black_box(BODY)).unwrap();
        let accepted = self.gateway.accept(&check_in.sandbox_id, presented.gateway_token);
        black_box(DataPoint::new(&check_in, "fra"));
        accepted_key && accepted
    }
}

#[divan::bench]
fn whole_check_in(bencher: divan::Bencher<'_, '_>) {
    let machine = Machine::new();
    bencher.bench_local(|| assert!(machine.check_in()));
}

#[divan::bench]
fn parse() {
    black_box(CheckIn::parse_str(black_box(BODY)).unwrap());
}

#[divan::bench]
fn verify_api_key(bencher: divan::Bencher<'_, '_>) {
    let machine = Machine::new();
    bencher.bench_local(|| machine.api_keys.accept(black_box("kilo-key")));
}

#[divan::bench]
fn verify_gateway_token(bencher: divan::Bencher<'_, '_>) {
    let machine = Machine::new();
    bencher.bench_local(|| machine.gateway.accept(black_box(SANDBOX_ID), &machine.token));
}

#[divan::bench]
fn lay_out(bencher: divan::Bencher<'_, '_>) {
    let check_in = CheckIn::parse_str(BODY).unwrap();
    bencher.bench_local(|| {
        black_box(DataPoint::new(black_box(&check_in), "fra"));
    });
}

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "count").skip(1);
    if let Some(count) = arguments.next() {
        let machine = Machine::new();
        for _ in 0..count.parse::<u32>().unwrap() {
            assert!(machine.check_in());
        }
    } else {
        divan::main();
    }
}
