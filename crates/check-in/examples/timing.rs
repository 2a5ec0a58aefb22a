//! Measures whether the time of a credential check reveals anything about the credential.
//!
//! ```sh
//! cargo run --release -p kiloclaw-check-in --example timing [MEASUREMENTS]
//! ```
//!
//! The method is dudect's (Reparaz, Balasch, Verbauwhede: "Dude, is my code constant time?", 2017): it times a check
//! with inputs of two classes in random order, and Welch's t-test decides whether their mean times differ. The test
//! runs over all measurements, and over those below each of [`CROPS`] thresholds, since interrupts cause a long tail;
//! the greatest |t| counts. Beyond [`LEAKS`], the classes certainly differ.
//!
//! Controls are comparisons that leak: a test that did not detect them would prove nothing.

#![expect(clippy::print_stdout, reason = "prints its results")]

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use kiloclaw_check_in::{AcceptedKeys, GatewaySecrets};

/// Default number of measurements for each pair of classes.
const MEASUREMENTS: usize = 2_000_000;

/// Measurements that determine the thresholds, before the first one that counts.
const WARM_UP: usize = 20_000;

/// Number of thresholds.
const CROPS: usize = 100;

/// Beyond this |t| there is a leak; below 4.5 there is no sign of a leak.
const LEAKS: f64 = 10.0;

/// Minimum number of measurements in each class for a test to count.
const MIN_CLASS_SIZE: f64 = 5_000.0;

const KEY: &str = "k7Qw2mZp9Xc4Vb6Nn1Ls8Dj3Hf5Gt0Ry-k7Qw2mZp9Xc4Vb6Nn1Ls8Dj3Hf5Gt0";
const SANDBOX: &str = "sandbox-1";

/// Running mean and variance of a class (Welford).
#[derive(Clone, Copy, Default)]
struct Class {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Class {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let delta = value - self.mean;
        self.mean += delta / self.count;
        self.squares += delta * (value - self.mean);
    }

    /// The squared standard error of the mean.
    fn squared_error(&self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }
}

/// Welch's t-test of two classes.
#[derive(Clone, Copy, Default)]
struct Welch([Class; 2]);

impl Welch {
    /// |t|, if both classes have enough measurements.
    fn t(&self) -> Option<f64> {
        let Self([a, b]) = self;
        (a.count >= MIN_CLASS_SIZE && b.count >= MIN_CLASS_SIZE)
            .then(|| (a.mean - b.mean).abs() / (a.squared_error() + b.squared_error()).sqrt())
    }
}

/// A random bit generator (xorshift64). The bits need not be good, only independent of the clock.
struct Xorshift(u64);

impl Xorshift {
    fn class(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::from(self.0 >> 63 == 1)
    }
}

struct TestResult {
    /// The greatest |t|.
    t: f64,
    /// The mean of class A, in nanoseconds.
    mean: f64,
    /// The mean of class B minus the mean of class A, in nanoseconds.
    difference: f64,
}

/// Times `check(verifier, credential)` for the verifiers and credentials of the two classes.
///
/// Copies both to the same address first, so that only their contents differ.
fn measure<S: Clone>(
    measurements: usize,
    verifiers: [&S; 2],
    credentials: [&str; 2],
    check: impl Fn(&S, &str) -> bool,
) -> TestResult {
    let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
    let mut verifier = verifiers[0].clone();
    let mut buffer = vec![0; credentials.iter().map(|class| class.len()).max().unwrap_or_default()];
    let mut time = || {
        let class = random.class();
        let source = credentials.get(class).copied().unwrap_or_default().as_bytes();
        let (credential, _) = buffer.split_at_mut(source.len());
        credential.copy_from_slice(source);
        let credential = std::str::from_utf8(credential).unwrap_or_default();
        if let Some(source) = verifiers.get(class) {
            verifier = (*source).clone();
        }
        // Pending writes to memory are not part of the check.
        fence(Ordering::SeqCst);
        let start = Instant::now();
        black_box(check(black_box(&verifier), black_box(credential)));
        (class, start.elapsed().as_nanos())
    };

    let mut warm_up: Vec<_> = (0..WARM_UP).map(|_| time().1).collect();
    warm_up.sort_unstable();
    // Denser towards the top, as in dudect.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a few thousand"
    )]
    let thresholds: Vec<_> = (1..=CROPS)
        .map(|crop| 1.0 - 0.5_f64.powf(10.0 * crop as f64 / CROPS as f64))
        .filter_map(|share| warm_up.get((share * warm_up.len() as f64) as usize).copied())
        .collect();

    let mut all = Welch::default();
    let mut cropped = vec![Welch::default(); thresholds.len()];
    for _ in 0..measurements {
        let (class, nanoseconds) = time();
        #[expect(clippy::cast_precision_loss, reason = "less than a day")]
        let value = nanoseconds as f64;
        let below = thresholds.iter().zip(&mut cropped).filter(|(top, _)| nanoseconds < **top);
        for test in below.map(|(_, test)| test).chain([&mut all]) {
            if let Some(class) = test.0.get_mut(class) {
                class.add(value);
            }
        }
    }
    let t = cropped.iter().chain([&all]).filter_map(Welch::t).fold(0.0, f64::max);
    // The printed means exclude interrupted measurements.
    let Welch([a, b]) = cropped.last().copied().unwrap_or(all);
    TestResult { t, mean: a.mean, difference: b.mean - a.mean }
}

/// `text` with a different character at `at`.
fn changed(text: &str, at: usize) -> String {
    let change = |(i, c)| {
        if i != at {
            c
        } else if c == '0' {
            '1'
        } else {
            '0'
        }
    };
    text.chars().enumerate().map(change).collect()
}

/// Measures each check, prints the result and compares it with the expectation.
struct Report {
    measurements: usize,
    passed: bool,
}

impl Report {
    fn report<S: Clone>(
        &mut self,
        (name, should_leak): (&str, Option<bool>),
        verifiers: [&S; 2],
        credentials: [&str; 2],
        check: impl Fn(&S, &str) -> bool,
    ) {
        let result = measure(self.measurements, verifiers, credentials, check);
        let passed = should_leak.is_none_or(|should| should == (result.t > LEAKS));
        self.passed &= passed;
        let TestResult { t, mean, difference } = result;
        let verdict = if passed { "" } else { "  <-- WRONG" };
        println!("| {name} | {t:.1} | {mean:.0} | {difference:+.2} |{verdict}");
    }

    fn api_key(&mut self, name: &str, keys: [&AcceptedKeys; 2], credentials: [&str; 2]) {
        let check = |keys: &AcceptedKeys, key: &str| keys.accept(key);
        self.report((&format!("API key: {name}"), Some(false)), keys, credentials, check);
    }

    fn gateway_token(&mut self, name: &str, secrets: &GatewaySecrets, tokens: [&str; 2]) {
        // Lengths are not secret: the contract publishes a token's length, and the sender knows what it sent.
        let lengths_differ = tokens[0].len() != tokens[1].len();
        let check = |secrets: &GatewaySecrets, token: &str| secrets.accept(SANDBOX, token);
        let should_leak = (!lengths_differ).then_some(false);
        self.report((&format!("gateway token: {name}"), should_leak), [secrets; 2], tokens, check);
    }

    fn control<S: Clone>(
        &mut self,
        name: &str,
        verifier: &S,
        credentials: [&str; 2],
        check: impl Fn(&S, &str) -> bool,
    ) {
        self.report((&format!("control: {name}"), Some(true)), [verifier; 2], credentials, check);
    }
}

fn keys(secret: &str) -> Option<AcceptedKeys> {
    AcceptedKeys::new(secret, &[7; 32]).ok()
}

/// Measures every check; `None` if one of the example's own secrets is empty, which cannot happen.
fn run(report: &mut Report) -> Option<()> {
    let (first, last) = (changed(KEY, 0), changed(KEY, KEY.len() - 1));
    let one = keys(KEY)?;
    report.api_key("the same wrong one twice", [&one; 2], [&first, &first]);
    report.api_key("its first byte is wrong, or its last", [&one; 2], [&first, &last]);
    report.api_key("its first byte is wrong, or none", [&one; 2], [&first, KEY]);
    // The presented key keeps its length, which is not secret; the accepted key is as long, or shorter.
    let short = keys("short")?;
    report.api_key("the accepted one is as long, or shorter", [&one, &short], [&first, &first]);
    let many: Vec<_> = (0..8).map(|at| changed(KEY, at)).collect();
    let (of_first, of_last) = (many.first()?, many.last()?);
    let eight = keys(&many.join(","))?;
    report.api_key("the first of eight, or the last", [&eight; 2], [of_first, of_last]);
    report.api_key("one of eight, or none", [&eight; 2], [of_first, KEY]);

    let secrets = GatewaySecrets::new(KEY).ok()?;
    let token = secrets.token(SANDBOX).expose().to_owned();
    let (first, last) = (changed(&token, 0), changed(&token, token.len() - 1));
    report.gateway_token("its first digit is wrong, or its last", &secrets, [&first, &last]);
    report.gateway_token("its first digit is wrong, or none", &secrets, [&first, &token]);
    let long = format!("{first}0");
    report.gateway_token("wrong and as long as a token, or longer", &secrets, [&first, &long]);
    report.gateway_token(
        "wrong and as long as a token, or half as long",
        &secrets,
        [&first, first.get(..32)?],
    );
    let several = GatewaySecrets::new(&many.join(",")).ok()?;
    let token_of =
        |secret| Some(GatewaySecrets::new(secret).ok()?.token(SANDBOX).expose().to_owned());
    let (of_first, of_last) = (token_of(of_first)?, token_of(of_last)?);
    report.gateway_token(
        "of the first of eight secrets, or the last",
        &several,
        [&of_first, &of_last],
    );

    let (first, last) = (changed(KEY, 0), changed(KEY, KEY.len() - 1));
    let bytewise =
        |key: &&str, candidate: &str| key.bytes().zip(candidate.bytes()).all(|(a, b)| a == b);
    report.control(
        "byte by byte, the first is wrong, or the last",
        &KEY,
        [&first, &last],
        bytewise,
    );
    let long = KEY.repeat(64);
    let (first, last) = (changed(&long, 0), changed(&long, long.len() - 1));
    let equal = |key: &&str, candidate: &str| *key == candidate;
    report.control(
        "`==` of 4 KiB, the first byte is wrong, or the last",
        &long.as_str(),
        [&first, &last],
        equal,
    );
    let each: Vec<_> = many.iter().filter_map(|key| keys(key)).collect();
    let until = |each: &Vec<AcceptedKeys>, key: &str| each.iter().any(|keys| keys.accept(key));
    let (of_first, of_last) = (many.first()?, many.last()?);
    report.control(
        "eight API keys until one is right, the first or the last",
        &each,
        [of_first, of_last],
        until,
    );
    Some(())
}

fn main() -> ExitCode {
    let measurements =
        std::env::args().nth(1).map_or(Some(MEASUREMENTS), |count| count.parse().ok());
    let Some(measurements) = measurements else {
        println!("usage: timing [MEASUREMENTS]");
        return ExitCode::from(64);
    };
    println!("| {measurements} measurements each | greatest \\|t\\| | mean, ns | difference, ns |");
    println!("| --- | ---: | ---: | ---: |");
    let mut report = Report { measurements, passed: true };
    match run(&mut report) {
        Some(()) if report.passed => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
