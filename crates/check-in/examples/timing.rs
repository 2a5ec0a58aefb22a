//! Measures whether the time of a credential check reveals anything about the credential.
//!
//! ```sh
//! cargo run --release -p kiloclaw-check-in --example timing [MEASUREMENTS]
//! ```
//!
//! After dudect (Reparaz, Balasch, Verbauwhede: "Dude, is my code constant time?", 2017). A check is timed
//! with inputs of two classes in random order, and Welch's t-test asks whether the two differ in their mean
//! time. It is asked of all measurements and of those below each of [`CROPS`] thresholds, since what
//! interrupts a check from outside makes a long tail; the greatest |t| counts. Beyond [`LEAKS`] the classes
//! differ for certain.
//!
//! Comparisons that do leak are measured the same way: a test that does not find them would prove nothing.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use kiloclaw_check_in::{AcceptedKeys, GatewaySecrets};

/// Default number of measurements for each pair of classes.
const MEASUREMENTS: usize = 2_000_000;

/// Measurements before the first one that counts: they find the thresholds.
const WARM_UP: usize = 20_000;

/// How many thresholds there are.
const CROPS: usize = 100;

/// Beyond this |t| there is a leak; below 4.5 there is no sign of one.
const LEAKS: f64 = 10.0;

/// A test of fewer measurements than this in a class is not counted.
const FEWEST: f64 = 5_000.0;

const KEY: &str = "k7Qw2mZp9Xc4Vb6Nn1Ls8Dj3Hf5Gt0Ry-k7Qw2mZp9Xc4Vb6Nn1Ls8Dj3Hf5Gt0";
const SANDBOX: &str = "sandbox-1";

/// Mean and variance of a class, as it grows (Welford).
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
    fn error(&self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }
}

/// Welch's test of two classes.
#[derive(Clone, Copy, Default)]
struct Welch([Class; 2]);

impl Welch {
    /// |t|, if there is enough to say it.
    fn t(&self) -> Option<f64> {
        let Self([a, b]) = self;
        (a.count >= FEWEST && b.count >= FEWEST)
            .then(|| (a.mean - b.mean).abs() / (a.error() + b.error()).sqrt())
    }
}

/// A generator of bits that need not be good, only independent of the clock (xorshift64).
struct Chance(u64);

impl Chance {
    fn class(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::from(self.0 >> 63 == 1)
    }
}

/// What a measurement says.
struct Finding {
    t: f64,
    /// Nanoseconds: the mean of all of class A, and by how much B's is greater.
    mean: f64,
    difference: f64,
}

/// Times `check` of what is presented, by who is asked, in either class.
///
/// Both are copied to the same place first, so that nothing but their contents differs.
fn measure<S: Clone>(
    measurements: usize,
    asked: [&S; 2],
    presented: [&str; 2],
    check: impl Fn(&S, &str) -> bool,
) -> Finding {
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut asks = asked[0].clone();
    let mut place = vec![0; presented.iter().map(|class| class.len()).max().unwrap_or_default()];
    let mut time = || {
        let class = chance.class();
        let from = presented.get(class).copied().unwrap_or_default().as_bytes();
        let (to, _) = place.split_at_mut(from.len());
        to.copy_from_slice(from);
        let to = std::str::from_utf8(to).unwrap_or_default();
        if let Some(asked) = asked.get(class) {
            asks = (*asked).clone();
        }
        // What is still on its way to memory is no part of the check.
        fence(Ordering::SeqCst);
        let start = Instant::now();
        black_box(check(black_box(&asks), black_box(to)));
        (class, start.elapsed().as_nanos())
    };

    let mut first: Vec<_> = (0..WARM_UP).map(|_| time().1).collect();
    first.sort_unstable();
    // Closer to each other the closer they come to the top, as dudect has them.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a few thousand"
    )]
    let thresholds: Vec<_> = (1..=CROPS)
        .map(|crop| 1.0 - 0.5_f64.powf(10.0 * crop as f64 / CROPS as f64))
        .filter_map(|share| first.get((share * first.len() as f64) as usize).copied())
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
    // What interrupts has no say in the means that are shown.
    let Welch([a, b]) = cropped.last().copied().unwrap_or(all);
    Finding { t, mean: a.mean, difference: b.mean - a.mean }
}

/// The text with the character at `at` replaced by another one.
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

/// Measures, prints and evaluates.
struct Report {
    measurements: usize,
    is_right: bool,
}

impl Report {
    fn report<S: Clone>(
        &mut self,
        (name, should_leak): (&str, Option<bool>),
        asked: [&S; 2],
        presented: [&str; 2],
        check: impl Fn(&S, &str) -> bool,
    ) {
        let found = measure(self.measurements, asked, presented, check);
        let is_right = should_leak.is_none_or(|should| should == (found.t > LEAKS));
        self.is_right &= is_right;
        let Finding { t, mean, difference } = found;
        let verdict = if is_right { "" } else { "  <-- WRONG" };
        println!("| {name} | {t:.1} | {mean:.0} | {difference:+.2} |{verdict}");
    }

    fn api_key(&mut self, name: &str, asked: [&AcceptedKeys; 2], presented: [&str; 2]) {
        let check = |keys: &AcceptedKeys, presented: &str| keys.accept(presented);
        self.report((&format!("API key: {name}"), Some(false)), asked, presented, check);
    }

    fn gateway_token(&mut self, name: &str, asked: &GatewaySecrets, presented: [&str; 2]) {
        // How long a token is says the contract, and how long a wrong one is knows who sends it.
        let is_known = presented[0].len() != presented[1].len();
        let check = |secrets: &GatewaySecrets, presented: &str| secrets.accept(SANDBOX, presented);
        let should_leak = (!is_known).then_some(false);
        self.report((&format!("gateway token: {name}"), should_leak), [asked; 2], presented, check);
    }

    fn control<S: Clone>(
        &mut self,
        name: &str,
        asked: &S,
        presented: [&str; 2],
        check: impl Fn(&S, &str) -> bool,
    ) {
        self.report((&format!("control: {name}"), Some(true)), [asked; 2], presented, check);
    }
}

fn keys(secret: &str) -> Option<AcceptedKeys> {
    AcceptedKeys::new(secret, &[7; 32]).ok()
}

/// Everything that is measured; `None` if a secret of its own were empty.
fn run(report: &mut Report) -> Option<()> {
    let (first, last) = (changed(KEY, 0), changed(KEY, KEY.len() - 1));
    let one = keys(KEY)?;
    report.api_key("the same wrong one twice", [&one; 2], [&first, &first]);
    report.api_key("its first byte is wrong, or its last", [&one; 2], [&first, &last]);
    report.api_key("its first byte is wrong, or none", [&one; 2], [&first, KEY]);
    // What is presented keeps its length, which is no secret; the accepted key has it or another one.
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
        |key: &&str, presented: &str| key.bytes().zip(presented.bytes()).all(|(a, b)| a == b);
    report.control(
        "byte by byte, the first is wrong, or the last",
        &KEY,
        [&first, &last],
        bytewise,
    );
    let long = KEY.repeat(64);
    let (first, last) = (changed(&long, 0), changed(&long, long.len() - 1));
    let equal = |key: &&str, presented: &str| *key == presented;
    report.control(
        "`==` of 4 KiB, the first byte is wrong, or the last",
        &long.as_str(),
        [&first, &last],
        equal,
    );
    let each: Vec<_> = many.iter().filter_map(|key| keys(key)).collect();
    let until =
        |each: &Vec<AcceptedKeys>, presented: &str| each.iter().any(|keys| keys.accept(presented));
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
    let mut report = Report { measurements, is_right: true };
    match run(&mut report) {
        Some(()) if report.is_right => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
