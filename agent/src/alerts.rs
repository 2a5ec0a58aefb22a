//! Reports repeated check-in failures and panics to Sentry.
//!
//! The [policy] decides which of them cause an event. Sentry's client adds details of host and environment, so
//! `Reporter::filtered` copies only the listed fields. The agent's own HTTP client sends them, with the same
//! authorities and proxy as check-ins. Without an event there is no thread and no timer.

pub mod policy;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::panic::{self, PanicHookInfo};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use sentry::protocol::{ClientSdkInfo, Event, Level, Map};
use sentry::types::Dsn;
use sentry::{Client, ClientOptions, Envelope, Transport};
use ureq::http::{StatusCode, Uri};

use self::policy::{DEFECT, Policy};
use crate::bounded;
use crate::cli::{DaemonArguments, Settings, VERSION};
use crate::config::{self, Config, ConfigError};
use crate::env_vars::SENTRY_DSN;
use crate::http::{self, NoAnswer};
use crate::secret::{Redactor, Secret};

/// How long an event may delay the end of an agent that panicked.
const FLUSH_AFTER_PANIC: Duration = Duration::from_secs(2);

/// How long a stopping agent waits for an event to be sent. If the last check-in takes longer, it does not wait.
const FLUSH_AFTER_STOP: Duration = Duration::from_secs(1);

/// Sentry's maximum length of a tag's value, in characters.
const MAX_TAG_CHARS: usize = 200;

/// Longest code that is sent, in bytes; the contract's codes are far shorter.
const MAX_CODE_BYTES: usize = 64;

pub struct Alerts {
    reporter: Arc<Reporter>,
    /// The end of the wait for events in flight.
    end_by: Option<Instant>,
}

/// Written by hand, since Sentry's types print the DSN.
impl fmt::Debug for Alerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alerts([redacted])")
    }
}

impl Alerts {
    /// Starts alerts, if a DSN is set: from now on, panics are reported, and `config` redacts the DSN.
    pub fn start(
        settings: &Settings,
        arguments: &DaemonArguments,
        config: &mut Config,
    ) -> Result<Option<Self>, ConfigError> {
        let Some(dsn) = arguments.sentry_dsn.as_ref().filter(|dsn| !dsn.is_empty()) else {
            return Ok(None);
        };
        let (parsed, url) = parse(dsn).ok_or(ConfigError::SentryDsn)?;
        if http::is_exposed(&url) && !settings.allow_insecure_http {
            return Err(ConfigError::InsecureHttp(SENTRY_DSN));
        }
        let mut secrets = vec![dsn.clone(), Secret::new(parsed.public_key())];
        secrets.extend(parsed.secret_key().map(Secret::new));
        config.redactor.extend(secrets.clone());

        let redactor = Arc::new(Mutex::new(Arc::new(config.redactor.clone())));
        let policy = Arc::new(Mutex::new(Policy::new(arguments.timing().interval)));
        let ingest = Ingest {
            dsn: parsed.clone(),
            url,
            settings: settings.clone(),
            redactor: redactor.clone(),
            policy: policy.clone(),
        };
        let reporter = Arc::new(Reporter {
            client: client(parsed, redactor.clone(), ingest),
            policy,
            redactor,
            secrets,
            sandbox_id: config.sandbox_id.clone(),
            machine_id: config.machine_id.clone(),
        });
        report_panics(reporter.clone(), thread::current().id());
        Ok(Some(Self { reporter, end_by: None }))
    }

    /// Call this after a reload, which may have changed secrets.
    pub fn reloaded(&self, config: &mut Config) {
        config.redactor.extend(self.reporter.secrets.clone());
        *lock(&self.reporter.redactor) = Arc::new(config.redactor.clone());
    }

    /// A check-in was not accepted; `failures` is their number in a row. `hint` must be the agent's own text.
    pub fn failed(&self, code: &str, hint: &str, failures: u64, now: Instant) {
        let code = fit_code(code);
        if lock(&self.reporter.policy).failed(code, failures, now) {
            self.reporter.report(Event {
                level: Level::Error,
                message: Some(format!("check-ins are not accepted: {code}; {hint}")),
                fingerprint: fingerprint(["check-in", code]),
                tags: tags([("code", code), ("failures", &failures.to_string())]),
                ..Event::default()
            });
        }
    }

    pub fn stopping(&mut self, now: Instant) {
        self.end_by.get_or_insert(now + FLUSH_AFTER_STOP);
    }

    /// Waits for events in flight, up to a second after [`stopping`](Self::stopping).
    pub fn finish(&self, now: Instant) {
        let left = self.end_by.map(|end_by| end_by.saturating_duration_since(now));
        self.reporter.client.flush(Some(left.unwrap_or_default()));
    }
}

/// A DSN, and the URL for its events.
fn parse(dsn: &Secret) -> Option<(Dsn, Uri)> {
    let parsed: Dsn = dsn.expose().parse().ok()?;
    let url = parsed.envelope_api_url().as_str().parse().ok()?;
    authorization(&parsed).header_value("")?;
    Some((parsed, url))
}

/// The value of Sentry's `x-sentry-auth` header.
fn authorization(dsn: &Dsn) -> Secret {
    Secret::new(&dsn.to_auth(Some(&format!("kiloclaw-agent/{VERSION}"))).to_string())
}

/// A client that sends only filtered events. `sentry::init` would also read the environment: `SENTRY_ENVIRONMENT`,
/// `SENTRY_RELEASE`, proxies, and even whether to verify certificates.
fn client(dsn: Dsn, redactor: CurrentRedactor, ingest: Ingest) -> Client {
    let mut options = ClientOptions::new()
        .default_integrations(false)
        .release(concat!("kiloclaw-agent@", env!("CARGO_PKG_VERSION")))
        .before_send(move |event| {
            let redactor = lock(&redactor).clone();
            Some(Reporter::filtered(event, &redactor))
        })
        .transport(Arc::new(Post { ingest: Arc::new(ingest), in_flight: Arc::default() }));
    options.dsn = Some(dsn);
    Client::from(options)
}

/// Replaces a code that may hold a secret. The agent's codes and the contract's have this form; any server can send
/// others.
fn fit_code(code: &str) -> &str {
    let fit = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if (1..=MAX_CODE_BYTES).contains(&code.len()) && code.chars().all(fit) { code } else { "other" }
}

fn fingerprint(parts: [&str; 2]) -> Cow<'static, [Cow<'static, str>]> {
    ["kiloclaw-agent"].into_iter().chain(parts).map(|part| Cow::from(part.to_owned())).collect()
}

fn tags<'a>(tags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Map<String, String> {
    tags.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Replaced on a reload. No code panics while it holds the lock.
type CurrentRedactor = Arc<Mutex<Arc<Redactor>>>;

/// Ignores poisoning: an alert with a wrong count is better than none.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Reporter {
    client: Client,
    policy: Arc<Mutex<Policy>>,
    redactor: CurrentRedactor,
    /// The DSN and its keys.
    secrets: Vec<Secret>,
    sandbox_id: String,
    machine_id: Option<String>,
}

impl Reporter {
    fn report(&self, mut event: Event<'static>) {
        event.tags.insert("sandbox_id".to_owned(), self.sandbox_id.clone());
        if let Some(machine_id) = &self.machine_id {
            event.tags.insert("machine_id".to_owned(), machine_id.clone());
        }
        // Without a scope, which would add details.
        self.client.capture_event(event, None);
    }

    fn panicked(&self, info: &PanicHookInfo<'_>) {
        let worth_it = match self.policy.try_lock() {
            Ok(mut policy) => policy.panicked(Instant::now()),
            Err(TryLockError::Poisoned(policy)) => policy.into_inner().panicked(Instant::now()),
            // Does not wait, since this thread may hold the lock.
            Err(TryLockError::WouldBlock) => true,
        };
        if worth_it {
            let location = info.location().map_or_else(String::new, |location| {
                format!("{}:{}", public_path(location.file()), location.line())
            });
            let reason = info.payload_as_str().unwrap_or("no message");
            self.report(Event {
                level: Level::Fatal,
                message: Some(format!("a panic at {location}: {reason}")),
                fingerprint: fingerprint(["panic", &location]),
                tags: tags([("code", DEFECT)]),
                ..Event::default()
            });
        }
    }

    /// The fields of an event that are sent, without secrets.
    fn filtered(event: Event<'static>, redactor: &Redactor) -> Event<'static> {
        let sdk = event.sdk.map(|sdk| {
            let sdk = sdk.into_owned();
            Cow::Owned(ClientSdkInfo { packages: Vec::new(), integrations: Vec::new(), ..sdk })
        });
        let tag = |value: &str| redactor.clean(value).chars().take(MAX_TAG_CHARS).collect();
        Event {
            event_id: event.event_id,
            timestamp: event.timestamp,
            level: event.level,
            message: event.message.map(|message| redactor.clean(&message)),
            fingerprint: event.fingerprint.iter().map(|f| redactor.clean(f).into()).collect(),
            release: event.release,
            tags: event.tags.iter().map(|(name, value)| (name.clone(), tag(value))).collect(),
            sdk,
            ..Event::default()
        }
    }
}

/// The path of a source file within its package, without directories of the build machine.
fn public_path(path: &str) -> String {
    let parts: Vec<_> = path.split(['/', '\\']).collect();
    let source = parts.iter().rposition(|&part| part == "src").unwrap_or(parts.len());
    parts.iter().skip(source.saturating_sub(1)).copied().collect::<Vec<_>>().join("/")
}

/// Reports panics, after the previous hook. A panic of the thread `main` ends the program, so it waits for the event.
fn report_panics(reporter: Arc<Reporter>, main: ThreadId) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        before(info);
        reporter.panicked(info);
        if thread::current().id() == main {
            reporter.client.flush(Some(FLUSH_AFTER_PANIC));
        }
    }));
}

/// Sends events to Sentry.
struct Ingest {
    dsn: Dsn,
    url: Uri,
    /// For the HTTP client, which is built for each event.
    settings: Settings,
    redactor: CurrentRedactor,
    policy: Arc<Mutex<Policy>>,
}

#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    NoAnswer(#[from] NoAnswer),
    #[error("{0}")]
    Refused(StatusCode),
    #[error("{0}")]
    Unwritable(#[from] io::Error),
}

impl Ingest {
    fn send(&self, envelope: &Envelope) {
        let tags = envelope.event().map(|event| &event.tags);
        let code = tags.and_then(|tags| tags.get("code")).map_or("", String::as_str);
        match self.post(envelope) {
            Ok(()) => tracing::debug!(code, "reported to Sentry"),
            Err(error) => {
                lock(&self.policy).not_sent(code);
                let redactor = lock(&self.redactor).clone();
                tracing::warn!(
                    code,
                    "cannot report to Sentry: {}",
                    redactor.clean(&error.to_string())
                );
            }
        }
    }

    fn post(&self, envelope: &Envelope) -> Result<(), NotSent> {
        let mut body = Vec::new();
        envelope.to_writer(&mut body)?;
        let body = String::from_utf8_lossy(&body);
        let authorization = authorization(&self.dsn).header_value("");
        let authorization = authorization.ok_or(ConfigError::SentryDsn)?;
        let deadline = Instant::now() + bounded::PATIENCE;
        let (client, _) = config::client(&self.url, &self.settings, deadline)?;
        let response = client.post(
            &self.url,
            &[("x-sentry-auth", &authorization)],
            ("application/x-sentry-envelope", &body),
            Duration::MAX,
        )?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(NotSent::Refused(status)),
        }
    }
}

/// Sends each event from its own thread: with at most one an hour, a permanent thread would be idle.
///
/// The `sentry` crate's transport for ureq sends no content type, does not report the result, and at the end waits for
/// a request without limit.
struct Post {
    ingest: Arc<Ingest>,
    in_flight: Arc<InFlight>,
}

impl Transport for Post {
    fn send_envelope(&self, envelope: Envelope) {
        let (ingest, flight) = (self.ingest.clone(), InFlight::start(&self.in_flight));
        let sending = thread::Builder::new().name("alert".to_owned()).spawn(move || {
            ingest.send(&envelope);
            drop(flight);
        });
        if let Err(error) = sending {
            tracing::warn!("cannot report to Sentry: {error}");
        }
    }

    fn flush(&self, timeout: Duration) -> bool {
        self.in_flight.wait(timeout)
    }
}

/// Counts events in flight.
#[derive(Default)]
struct InFlight {
    count: Mutex<usize>,
    landed: Condvar,
}

/// An event in flight, until this is dropped.
struct Flight(Arc<InFlight>);

impl InFlight {
    fn start(this: &Arc<Self>) -> Flight {
        *lock(&this.count) += 1;
        Flight(this.clone())
    }

    /// Whether no event is left in flight.
    fn wait(&self, timeout: Duration) -> bool {
        let waited = self.landed.wait_timeout_while(lock(&self.count), timeout, |count| *count > 0);
        let (count, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *count == 0
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        *lock(&self.0.count) -= 1;
        self.0.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sentry::protocol::{Context, OsContext, User};

    use super::*;

    #[test]
    fn an_event_has_only_the_listed_members_and_no_secrets() {
        let full = Event {
            message: Some("hunter2 is wrong".to_owned()),
            fingerprint: fingerprint(["panic", "hunter2"]),
            tags: tags([("code", "hunter2"), ("machine_id", &"m".repeat(1_024))]),
            release: Some("kiloclaw-agent@1".into()),
            sdk: Some(Cow::Owned(ClientSdkInfo {
                name: "sentry.rust".to_owned(),
                version: "1".to_owned(),
                integrations: vec!["panic".to_owned()],
                packages: Vec::new(),
            })),
            // Members that this or a later version of Sentry's client may add.
            culprit: Some("culprit".to_owned()),
            modules: tags([("module", "1")]),
            platform: "native".into(),
            server_name: Some("host".into()),
            environment: Some("production".into()),
            user: Some(User { username: Some("root".to_owned()), ..User::default() }),
            contexts: [("os".to_owned(), Context::from(OsContext::default()))].into(),
            extra: [("extra".to_owned(), 1.into())].into(),
            ..Event::default()
        };
        let sent = Reporter::filtered(full, &Redactor::new([Secret::new("hunter2")]));
        let mut json = serde_json::to_value(sent).unwrap();
        let object = json.as_object_mut().unwrap();
        assert!(object.remove("event_id").is_some() && object.remove("timestamp").is_some());
        let expected = serde_json::json!({
            "message": "[redacted] is wrong",
            "fingerprint": ["kiloclaw-agent", "panic", "[redacted]"],
            "release": "kiloclaw-agent@1",
            "tags": { "code": "[redacted]", "machine_id": "m".repeat(MAX_TAG_CHARS) },
            "sdk": { "name": "sentry.rust", "version": "1" },
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_code_is_one_word_or_other() {
        for code in ["wrong_api_key", "http_502", "agent_defect", "E2"] {
            assert_eq!(fit_code(code), code);
        }
        for code in ["", "[redacted]", "10.0.0.1", "host-1.example.com", "a b", &"x".repeat(65)] {
            assert_eq!(fit_code(code), "other", "{code}");
        }
    }

    #[test]
    fn a_location_hides_the_build_directory() {
        for (path, public) in [
            ("agent/src/config.rs", "agent/src/config.rs"),
            (
                "/home/me/registry/src/index-1/ureq-3.5.0/src/body/mod.rs",
                "ureq-3.5.0/src/body/mod.rs",
            ),
            ("/rustc/0a1b2c/library/core/src/option.rs", "core/src/option.rs"),
            ("src/main.rs", "src/main.rs"),
            ("C:\\me\\x\\src\\lib.rs", "x/src/lib.rs"),
            ("/home/me/build.rs", "build.rs"),
        ] {
            assert_eq!(public_path(path), public);
        }
    }

    fn url(dsn: &str) -> Option<String> {
        parse(&Secret::new(dsn)).map(|(_, url)| url.to_string())
    }

    #[test]
    fn a_dsn_gives_the_url_for_events() {
        let url_of_1 = Some("https://sentry.example.com/api/1/envelope/".to_owned());
        assert_eq!(url("https://key@sentry.example.com/1"), url_of_1);
        assert_eq!(url("https://key:secret@sentry.example.com/1"), url_of_1);
        let below = Some("http://127.0.0.1:9000/below/api/2/envelope/".to_owned());
        assert_eq!(url("http://key@127.0.0.1:9000/below/2"), below);
        for dsn in [
            "https://sentry.example.com/1",
            "https://key@sentry.example.com/",
            "ftp://key@sentry.example.com/1",
            "key@sentry.example.com/1",
            "1",
        ] {
            assert_eq!(url(dsn), None, "{dsn}");
        }
    }

    #[test]
    fn wait_returns_when_no_event_is_in_flight() {
        let in_flight = Arc::new(InFlight::default());
        assert!(in_flight.wait(Duration::ZERO));
        let flight = InFlight::start(&in_flight);
        assert!(!in_flight.wait(Duration::ZERO));
        let waiting = thread::spawn(move || in_flight.wait(Duration::from_mins(1)));
        drop(flight);
        assert!(waiting.join().unwrap());
    }

    proptest! {
        #[test]
        fn no_dsn_panics(text: String, host in "[ -~]{0,20}", path in "[ -~]{0,20}") {
            let _ = (url(&text), url(&format!("https://k@{host}/{path}")));
        }

        #[test]
        fn no_path_panics(path: String) {
            let _ = public_path(&path);
        }
    }
}
