//! Alerts from the real program and from the library, to a fake Sentry.

#![cfg(feature = "sentry")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use clap::Parser;
use kiloclaw_agent::alerts::Alerts;
use kiloclaw_agent::cli::{self, Cli, WatchArguments};
use kiloclaw_agent::config::{Checked, Config, ConfigError};
use kiloclaw_check_in::{CHECK_IN_PATH, Refusal};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const API_KEY: &str = "key-that-must-not-show";
const GATEWAY_TOKEN: &str = "token-that-must-not-show";
const DSN_KEY: &str = "0123456789abcdef0123456789abcdef";

/// Longer than any step takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// A request, and the server that received it.
struct Request {
    to: To,
    head: String,
    body: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Telemetry,
    Sentry,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The event, which must be the only item in the envelope.
    fn event(&self) -> Value {
        let lines: Vec<Value> =
            self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [envelope, item, event] = lines.try_into().unwrap();
        let event_id = event["event_id"].as_str().unwrap();
        let headers = envelope.as_object().unwrap();
        assert!(
            headers.len() == 1
                && headers["event_id"].as_str().unwrap().replace('-', "") == event_id
        );
        assert_eq!(item["type"], "event");
        event
    }

    /// Compares the event, except the fields that are unique to each event.
    fn event_as_expected(&self, expected: &Value) {
        let mut event = self.event();
        let event_id = event.as_object_mut().unwrap().remove("event_id").unwrap();
        assert!(event_id.as_str().is_some_and(|id| id.len() == 32), "{event_id}");
        let timestamp = event.as_object_mut().unwrap().remove("timestamp").unwrap();
        assert!(timestamp.as_f64().is_some_and(|seconds| seconds > 1.7e9), "{timestamp}");
        let version = event["sdk"]["version"].take();
        assert!(version.as_str().is_some_and(|version| version.starts_with("0.")), "{version}");
        assert_eq!(&event, expected);
    }
}

/// Answers every request with `answer`, and passes the request on to the test.
fn serve(to: To, answer: String, requests: Sender<Request>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            if requests.send(read(to, stream.as_ref().unwrap())).is_err() {
                return;
            }
            let _ = stream.unwrap().write_all(answer.as_bytes());
        }
    });
    address
}

fn read(to: To, stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
    let mut request = Request { to, head, body: String::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    reader.take(length).read_to_string(&mut request.body).unwrap();
    request
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn received() -> String {
    answer("200 OK", "", r#"{"id":"0"}"#)
}

fn dsn(address: &str) -> String {
    format!("http://{DSN_KEY}@{address}/7")
}

/// `watch`, which checks in every second with a server that refuses.
struct Agent {
    child: Child,
    requests: Receiver<Request>,
    /// Number of check-ins so far.
    check_ins: usize,
    _directory: TempDir,
}

impl Agent {
    /// `sentry` gets the sender of requests, and returns Sentry's address.
    fn start(refusal: &str, sentry: impl FnOnce(Sender<Request>) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (sender, requests) = mpsc::channel();
        let sentry = sentry(sender.clone());
        let telemetry = serve(To::Telemetry, refusal.to_owned(), sender);
        let child = Command::new(env!("CARGO_BIN_EXE_kiloclaw-agent"))
            .args(["watch", "--initial-delay=0", "--interval=1", "--jitter=0", "--timeout=30"])
            .arg("--status-url=http://127.0.0.1:1/")
            .arg(format!("--state-file={}", directory.path().join("state.json").display()))
            .arg(format!("--proc-root={}", directory.path().display()))
            .env_clear()
            // tools/reap finds the agent by this variable.
            .envs(env::var_os("KILOCLAW_RUN").map(|run| ("KILOCLAW_RUN", run)))
            .env("KILOCLAW_CHECKIN_URL", format!("http://{telemetry}{CHECK_IN_PATH}"))
            .env("KILOCODE_API_KEY", API_KEY)
            .env("OPENCLAW_GATEWAY_TOKEN", GATEWAY_TOKEN)
            .env("KILOCLAW_SANDBOX_ID", "sandbox-1")
            .env("FLY_MACHINE_ID", "machine-1")
            .env("SENTRY_DSN", dsn(&sentry))
            // Variables that Sentry's client might read.
            .env("SENTRY_ENVIRONMENT", "environment-that-must-not-show")
            .env("SENTRY_RELEASE", "release-that-must-not-show")
            .env("HOSTNAME", "host-that-must-not-show")
            .env("USER", "user-that-must-not-show")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, requests, check_ins: 0, _directory: directory }
    }

    /// The next request to Sentry, if it arrives before the agent has checked in this many times in all.
    fn event_before(&mut self, check_ins: usize) -> Option<Request> {
        while self.check_ins < check_ins {
            let request = self.requests.recv_timeout(LONG).unwrap();
            if request.to == To::Sentry {
                return Some(request);
            }
            self.check_ins += 1;
        }
        None
    }

    /// Stops the agent. Returns the duration, the log, and the requests in that time.
    fn end(self) -> (Duration, String, Vec<To>) {
        let start = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let Output { status, stdout, stderr } = self.child.wait_with_output().unwrap();
        let took = start.elapsed();
        let log = String::from_utf8(stderr).unwrap();
        assert!(status.success() && stdout.is_empty(), "{log}");
        for secret in [API_KEY, GATEWAY_TOKEN, DSN_KEY] {
            assert!(!log.contains(secret), "{log}");
        }
        (took, log, self.requests.try_iter().map(|request| request.to).collect())
    }
}

#[test]
fn repeated_failures_send_one_event_with_ids_and_the_reason() {
    let refusal = answer(
        "403 Forbidden",
        &format!("location: http://10.0.0.1/?key={API_KEY}\r\n"),
        &Refusal::WrongGatewayToken.body().to_json(),
    );
    let mut agent = Agent::start(&refusal, |requests| serve(To::Sentry, received(), requests));
    let event = agent.event_before(6).unwrap();
    assert!(agent.check_ins >= 3, "{}", agent.check_ins);

    assert!(event.head.starts_with("POST /api/7/envelope/ HTTP/1.1\r\n"), "{}", event.head);
    let user_agent = concat!("kiloclaw-agent/", env!("CARGO_PKG_VERSION"));
    assert_eq!(event.header("user-agent"), Some(user_agent));
    assert_eq!(event.header("content-type"), Some("application/x-sentry-envelope"));
    let authorization = event.header("x-sentry-auth").unwrap();
    assert!(authorization.starts_with(&format!("Sentry sentry_key={DSN_KEY}, sentry_version=7")));
    assert!(authorization.ends_with(&format!("sentry_client={user_agent}")), "{authorization}");
    let mut names: Vec<_> =
        event.head.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    names.sort_unstable();
    let all = ["accept", "content-length", "content-type", "host", "user-agent", "x-sentry-auth"];
    assert_eq!(names, all);

    // The whole event: no host name, user, address, environment, system or module, and no secret.
    event.event_as_expected(&json!({
        "message": "check-ins are not accepted: wrong_gateway_token; check OPENCLAW_GATEWAY_TOKEN \
            and KILOCLAW_SANDBOX_ID: the token is not this sandbox's; \
            `kiloclaw-agent gateway-token` prints the right one",
        "fingerprint": ["kiloclaw-agent", "check-in", "wrong_gateway_token"],
        "release": concat!("kiloclaw-agent@", env!("CARGO_PKG_VERSION")),
        "tags": {
            "code": "wrong_gateway_token",
            "failures": "3",
            "machine_id": "machine-1",
            "sandbox_id": "sandbox-1",
        },
        "sdk": { "name": "sentry.rust", "version": null },
    }));
    assert!(!event.body.contains("must-not-show") && !event.body.contains(DSN_KEY));

    assert!(agent.event_before(6).is_none(), "one is enough");
    let (_, log, rest) = agent.end();
    assert!(!rest.contains(&To::Sentry));
    assert!(!log.contains("Sentry"), "{log}");
}

#[test]
fn secrets_in_a_servers_code_are_not_sent_to_sentry() {
    let body = format!(r#"{{"error":"{API_KEY}","code":"{GATEWAY_TOKEN}"}}"#);
    let refusal = answer("403 Forbidden", "", &body);
    let mut agent = Agent::start(&refusal, |requests| serve(To::Sentry, received(), requests));
    let event = agent.event_before(6).unwrap();
    assert!(!event.body.contains("must-not-show"), "{}", event.body);
    assert_eq!(event.event()["tags"]["code"], "other");
    agent.end();
}

#[test]
fn a_hanging_sentry_delays_neither_check_ins_nor_the_exit() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusal = answer("403 Forbidden", "", "");
    let mut agent = Agent::start(&refusal, |_| listener.local_addr().unwrap().to_string());
    assert!(agent.event_before(3).is_none());
    let third = Instant::now();
    let connection = listener.accept().unwrap();
    assert!(agent.event_before(6).is_none());
    // Check-ins continue every second while a request of up to 30 seconds hangs.
    assert!(third.elapsed() < Duration::from_secs(10), "{:?}", third.elapsed());
    let (took, ..) = agent.end();
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(connection);
}

#[test]
fn an_unreachable_sentry_is_logged_once() {
    // No program listens on port 1. A port that was free a moment ago could be in use again.
    let closed = "127.0.0.1:1".to_owned();
    let refusal = answer("404 Not Found", "", "");
    let mut agent = Agent::start(&refusal, |_| closed);
    assert!(agent.event_before(6).is_none());
    let (_, log, _) = agent.end();
    let expected = "cannot report to Sentry: Connection refused (os error 111)";
    assert_eq!(log.matches("cannot report to Sentry").count(), 1, "once an hour: {log}");
    assert!(log.contains(expected), "{log}");
}

#[test]
fn a_sentry_that_refuses_gets_one_event_and_is_logged() {
    let refusal = answer("404 Not Found", "", "");
    let echo = answer("401 Unauthorized", "", DSN_KEY);
    let mut agent = Agent::start(&refusal, |requests| serve(To::Sentry, echo, requests));
    assert!(agent.event_before(6).is_some());
    assert!(agent.event_before(6).is_none());
    let (_, log, _) = agent.end();
    assert!(log.contains("cannot report to Sentry: 401 Unauthorized"), "{log}");
}

/// The arguments of `watch` with these flags.
fn watch(flags: &[&str]) -> Box<WatchArguments> {
    let fixed = ["kiloclaw-agent", "watch", "--sandbox-id=sandbox-1", "--interval=60"];
    let given = [&fixed, flags].concat();
    match Cli::try_parse_from(given).unwrap().command {
        cli::Command::Watch(arguments) => arguments,
        command => unreachable!("{command:?}"),
    }
}

fn start(arguments: &WatchArguments) -> Result<(Option<Alerts>, Config), ConfigError> {
    let WatchArguments { settings, source, daemon } = arguments;
    let mut config = Checked::new(settings, source, false).config()?;
    Ok((Alerts::start(settings, daemon, &mut config)?, config))
}

/// Two failures, and a third a minute later.
fn fail_three_times(alerts: &Alerts) {
    let now = Instant::now();
    alerts.failed("timeout", "hint", 1, now);
    alerts.failed("timeout", "hint", 2, now);
    alerts.failed("timeout", "hint", 3, now + Duration::from_mins(1));
}

#[test]
fn panics_are_reported_once_without_secrets_and_before_the_program_ends() {
    let (sender, requests) = mpsc::channel();
    let address = serve(To::Sentry, received(), sender);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "old-token-that-must-not-show").unwrap();
    let arguments = watch(&[
        &format!("--sentry-dsn={}", dsn(&address)),
        &format!("--api-key={API_KEY}"),
        &format!("--gateway-token-file={}", file.display()),
    ]);
    let (alerts, _) = start(&arguments).unwrap();
    let alerts = alerts.unwrap();
    // A reload makes new secrets known.
    fs::write(&file, GATEWAY_TOKEN).unwrap();
    let WatchArguments { settings, source, .. } = &*arguments;
    alerts.reloaded(&mut Checked::new(settings, source, false).config().unwrap());

    // The thread that started the alerts counts as the main thread.
    let (line, text) = (line!() + 1, format!("{API_KEY}, {GATEWAY_TOKEN} and {}", dsn(&address)));
    let panicked = catch_unwind(AssertUnwindSafe(|| panic!("{text}")));
    assert!(panicked.is_err());
    let event = requests.try_recv().unwrap();
    let location = format!("agent/tests/sentry.rs:{line}");
    let location = location.rsplit_once('/').unwrap().1;
    event.event_as_expected(&json!({
        "level": "fatal",
        "message": format!("a panic at {location}: [redacted], [redacted] and [redacted]"),
        "fingerprint": ["kiloclaw-agent", "panic", location],
        "release": concat!("kiloclaw-agent@", env!("CARGO_PKG_VERSION")),
        "tags": { "code": "agent_defect", "sandbox_id": "sandbox-1" },
        "sdk": { "name": "sentry.rust", "version": null },
    }));

    // That event also covers a check-in thread that panics at every check-in.
    for failures in 1..=5 {
        assert!(thread::spawn(|| panic!("again")).join().is_err());
        alerts.failed("agent_defect", "hint", failures, Instant::now() + LONG * 10);
    }
    alerts.finish(Instant::now());
    assert!(requests.try_recv().is_err());
}

#[test]
fn events_go_through_the_proxy_of_the_check_ins() {
    let (sender, requests) = mpsc::channel();
    let proxy = serve(To::Sentry, answer("403 Forbidden", "", ""), sender);
    let arguments = watch(&[
        &format!("--sentry-dsn=https://{DSN_KEY}@sentry.invalid/7"),
        &format!("--https-proxy=http://{proxy}"),
    ]);
    let alerts = start(&arguments).unwrap().0.unwrap();
    fail_three_times(&alerts);
    let request = requests.recv_timeout(LONG).unwrap();
    assert!(request.head.starts_with("CONNECT sentry.invalid:443 "), "{}", request.head);
    assert!(!request.head.contains(DSN_KEY));
}

#[test]
fn without_a_dsn_there_are_no_alerts() {
    assert!(start(&watch(&[])).unwrap().0.is_none());
    assert!(start(&watch(&["--sentry-dsn="])).unwrap().0.is_none());
}

#[test]
fn an_invalid_dsn_is_refused_without_its_value() {
    for dsn in
        ["secret", "https://sentry.example.com/1", "https://secret@host/", "ftp://secret@h/1"]
    {
        let error = start(&watch(&[&format!("--sentry-dsn={dsn}")])).unwrap_err().to_string();
        assert_eq!(error, "SENTRY_DSN must be a DSN such as https://key@sentry.example.com/1");
    }
}

#[test]
fn an_unencrypted_dsn_of_another_host_must_be_allowed() {
    let dsn = format!("--sentry-dsn={}", dsn("sentry.invalid"));
    let error = start(&watch(&[&dsn])).unwrap_err().to_string();
    assert!(error.starts_with("SENTRY_DSN would send credentials unencrypted"), "{error}");
    assert!(start(&watch(&[&dsn, "--allow-insecure-http"])).unwrap().0.is_some());
}

#[test]
fn a_dsn_is_a_secret() {
    let (_, config) =
        start(&watch(&["--sentry-dsn=https://abcdef:fedcba@sentry.invalid/1"])).unwrap();
    let clean = config.redactor.clean("https://abcdef:fedcba@sentry.invalid/1, abcdef and fedcba");
    assert_eq!(clean, "[redacted], [redacted] and [redacted]");
}
