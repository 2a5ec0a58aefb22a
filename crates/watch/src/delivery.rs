//! Turns a row of the outbox into a request, and the response into a decision.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use hmac::{Hmac, Mac};
use kiloclaw_fleet::Time;
use sha2::{Digest, Sha256};

use crate::settings::{HOUR, SettingError, Variable};

/// A destination of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// Signed after Standard Webhooks 1.0.0.
    Webhook,
    /// A Slack-compatible incoming webhook.
    Slack,
    /// PagerDuty, Events v2.
    PagerDuty,
}

impl Channel {
    pub const ALL: [Self; 3] = [Self::Webhook, Self::Slack, Self::PagerDuty];

    /// The name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Slack => "slack",
            Self::PagerDuty => "pagerduty",
        }
    }

    /// The channel with this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.name() == name)
    }
}

/// A row of the table `outbox`: a message to one channel, until it is delivered or given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Unique and stable across retries, so that receivers can detect duplicates.
    pub id: String,
    pub channel: Channel,
    /// The message's type, such as `sandbox.silent`.
    pub message_type: &'static str,
    pub created_at: Time,
    /// The time of the first attempt.
    pub next_at: Time,
    /// The body, without secrets.
    pub body: String,
    /// A row to delete: a late trigger must not open a `PagerDuty` incident that is over.
    pub supersedes: Option<String>,
}

/// The delays before the second and each further attempt, in seconds.
const DELAYS: [u64; 6] = [5, 5 * 60, 30 * 60, 2 * HOUR, 5 * HOUR, 10 * HOUR];

/// Maximum `Retry-After` that is honoured, in seconds.
const MAX_RETRY_AFTER: u64 = 24 * HOUR;

/// Timeout of a request, including its response, in milliseconds.
pub const TIMEOUT_MS: u32 = 15_000;

/// Maximum length of a text about a failure, in characters.
const MAX_FAILURE: usize = 200;

/// The number of an attempt and the time of the next one, for the shell to write before the attempt, so that the
/// attempt counts even if its result is never recorded. `None` if no attempts remain: give up and delete the row.
///
/// `jitter` is a number of 32 random bits.
#[must_use]
pub fn before_attempt(attempts: u32, now: Time, jitter: u32) -> Option<(u32, Time)> {
    let used = usize::try_from(attempts).unwrap_or(usize::MAX);
    if used > DELAYS.len() {
        return None;
    }
    // After the last attempt, the row only waits for its result.
    let delay = DELAYS.get(used).copied().unwrap_or(HOUR);
    Some((attempts + 1, Time(now.0.saturating_add(jittered(delay, jitter)))))
}

/// A delay, and up to a fifth more.
fn jittered(delay: u64, jitter: u32) -> u64 {
    delay + ((u64::from(jitter) * (delay / 5 + 1)) >> 32)
}

/// The result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// A response: its status, and its `Retry-After` in seconds, if it is a number.
    Status(u16, Option<u64>),
    /// No response, and why.
    Failed(String),
}

/// What follows an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It arrived: delete the row.
    Delivered,
    /// Write these two; the attempts are [begun](before_attempt)'s.
    Retry {
        /// The time of the next attempt.
        next_at: Time,
        /// The reason, for `/api/watcher`.
        failure: String,
    },
    /// It did not arrive, and there is no retry: log this reason and delete the row.
    GivenUp(String),
    /// The channel is gone for good (410): [`State::turn_off`](crate::State::turn_off), delete all its rows.
    Gone,
}

/// Decides what follows an attempt. `attempts` and `next_at` are from [`before_attempt`].
///
/// 2xx is delivered, 410 is gone. Anything else, including redirects, is retried, not before `Retry-After`.
#[must_use]
pub fn after_attempt(attempts: u32, next_at: Time, now: Time, answer: &Attempt) -> Delivery {
    let (failure, retry_after) = match answer {
        Attempt::Status(200..=299, _) => return Delivery::Delivered,
        Attempt::Status(410, _) => return Delivery::Gone,
        Attempt::Status(status @ 300..=399, after) => {
            (format!("answered {status}: redirects are not followed"), *after)
        }
        Attempt::Status(status, after) => (format!("answered {status}"), *after),
        Attempt::Failed(why) => (why.chars().take(MAX_FAILURE).collect(), None),
    };
    if usize::try_from(attempts).unwrap_or(usize::MAX) > DELAYS.len() {
        return Delivery::GivenUp(failure);
    }
    let wait = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
    Delivery::Retry { next_at: next_at.max(Time(now.0.saturating_add(wait))), failure }
}

/// A channel's address and secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    channel: Channel,
    url: String,
    /// A webhook's signing keys, two during a rotation; or PagerDuty's routing key.
    keys: Vec<Vec<u8>>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}([redacted])", self.channel.name())
    }
}

const WEBHOOK_URL: &str = "ALERT_WEBHOOK_URL";
const WEBHOOK_SECRET: &str = "ALERT_WEBHOOK_SECRET";
const SLACK_URL: &str = "ALERT_SLACK_URL";
const PAGERDUTY_KEY: &str = "ALERT_PAGERDUTY_KEY";
const PAGERDUTY_URL: &str = "ALERT_PAGERDUTY_URL";
const HEARTBEAT_URL: &str = "WATCHER_HEARTBEAT_URL";

/// The name of an unusable setting, and a description of valid values.
type Unusable = (&'static str, &'static str);

const URL: &str = "a URL with https://, or http:// for this machine, of at most 2,048 characters";
const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";

/// Whether messages may go to a URL: HTTPS, or this machine.
#[must_use]
pub fn is_safe_url(url: &str) -> bool {
    let plain =
        url.len() <= 2_048 && url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let (encrypted, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return false,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix("[::1]") {
        Some(port) if port.is_empty() || port.starts_with(':') => "localhost",
        _ => authority.split(':').next().unwrap_or_default(),
    };
    plain
        && !host.is_empty()
        && !authority.contains('@')
        && (encrypted || matches!(host, "localhost" | "127.0.0.1"))
}

/// The dead-man URL, if there is one. An unusable one adds an error.
pub fn read_heartbeat(variable: Variable<'_>, errors: &mut Vec<SettingError>) -> Option<String> {
    let url = variable(HEARTBEAT_URL)?;
    if is_safe_url(&url) {
        return Some(url);
    }
    errors.push(SettingError { name: HEARTBEAT_URL, expected: URL.to_owned() });
    None
}

impl Target {
    /// The channels that have a setting. An unusable setting leaves its channel out, and adds an error.
    pub fn read(variable: Variable<'_>, errors: &mut Vec<SettingError>) -> Vec<Self> {
        let text = |name| variable(name).unwrap_or_default();
        let (url, secret) = (text(WEBHOOK_URL), text(WEBHOOK_SECRET));
        let webhook = (!url.is_empty() || !secret.is_empty()).then(|| Self::webhook(url, &secret));
        let url = text(SLACK_URL);
        let slack = (!url.is_empty()).then(|| Self::slack(url));
        let (key, url) = (text(PAGERDUTY_KEY), text(PAGERDUTY_URL));
        let pagerduty = (!key.is_empty() || !url.is_empty()).then(|| Self::pagerduty(&key, url));
        let mut targets = Vec::new();
        for target in [webhook, slack, pagerduty].into_iter().flatten() {
            match target {
                Ok(target) => targets.push(target),
                Err((name, expected)) => {
                    errors.push(SettingError { name, expected: expected.to_owned() });
                }
            }
        }
        targets
    }

    /// A webhook. Its secret holds one key, or two with a comma in between, the new one first.
    fn webhook(url: String, secret: &str) -> Result<Self, Unusable> {
        if !is_safe_url(&url) {
            return Err((WEBHOOK_URL, URL));
        }
        let unusable = (
            WEBHOOK_SECRET,
            "whsec_ and 24 to 64 bytes in base64, or two such secrets and a comma between them",
        );
        let mut keys = Vec::new();
        for text in secret.split(',') {
            keys.push(webhook_key(text.trim()).ok_or(unusable)?);
        }
        if keys.len() > 2 {
            return Err(unusable);
        }
        Ok(Self { channel: Channel::Webhook, url, keys })
    }

    /// A Slack-compatible incoming webhook.
    fn slack(url: String) -> Result<Self, Unusable> {
        if is_safe_url(&url) {
            Ok(Self { channel: Channel::Slack, url, keys: Vec::new() })
        } else {
            Err((SLACK_URL, URL))
        }
    }

    /// PagerDuty, or a compatible service.
    fn pagerduty(key: &str, url: String) -> Result<Self, Unusable> {
        let url = if url.is_empty() { PAGERDUTY.to_owned() } else { url };
        if !is_safe_url(&url) {
            return Err((PAGERDUTY_URL, URL));
        }
        if !(1..=64).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err((PAGERDUTY_KEY, "the integration key of a service, Events API v2"));
        }
        let keys = vec![key.as_bytes().to_vec()];
        Ok(Self { channel: Channel::PagerDuty, url, keys })
    }

    #[must_use]
    pub const fn channel(&self) -> Channel {
        self.channel
    }

    /// A digest of address and secrets, which changes if these change.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(self.channel.name());
        digest.update(&self.url);
        for key in &self.keys {
            digest.update(b"\0");
            digest.update(key);
        }
        let digest = digest.finalize();
        base64(digest.get(..12).unwrap_or_default())
    }

    /// The request for a row of the outbox: a `POST` that follows no redirects.
    #[must_use]
    pub fn request(&self, id: &str, body: &str, now: Time) -> Request {
        let mut headers = vec![("content-type", "application/json".to_owned())];
        let mut body = body.to_owned();
        match self.channel {
            Channel::Webhook => {
                let mut signatures = String::new();
                for key in &self.keys {
                    signatures += if signatures.is_empty() { "" } else { " " };
                    signatures += &sign(key, id, now, &body);
                }
                headers.push(("webhook-id", id.to_owned()));
                headers.push(("webhook-timestamp", now.0.to_string()));
                headers.push(("webhook-signature", signatures));
            }
            Channel::Slack => {}
            Channel::PagerDuty => {
                // The key is ASCII letters and digits.
                let key = self.keys.first().and_then(|key| str::from_utf8(key).ok());
                let rest = body.strip_prefix('{').unwrap_or_default();
                body = format!("{{\"routing_key\":\"{}\",{rest}", key.unwrap_or_default());
            }
        }
        Request { url: self.url.clone(), headers, body }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// The URL. Slack's is a secret: do not log it.
    pub url: String,
    /// Names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// JSON. PagerDuty's contains a secret: do not log it.
    pub body: String,
}

/// The bytes of a secret in Standard Webhooks' form.
fn webhook_key(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_prefix("whsec_")?;
    let url = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let key = Base64UrlUnpadded::decode_vec(&url).ok()?;
    (base64(&key) == text && (24..=64).contains(&key.len())).then_some(key)
}

/// Base64 with padding. The Worker contains the code for base64url already, which tokens and cursors need.
fn base64(bytes: &[u8]) -> String {
    let mut text = Base64UrlUnpadded::encode_string(bytes).replace('-', "+").replace('_', "/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// A signature after Standard Webhooks 1.0.0.
fn sign(key: &[u8], id: &str, now: Time, body: &str) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(key) else { return String::new() };
    mac.update(format!("{id}.{}.", now.0).as_bytes());
    mac.update(body.as_bytes());
    format!("v1,{}", base64(&mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn webhook(secret: &str) -> Result<Target, Unusable> {
        Target::webhook("https://example.com/hook".to_owned(), secret)
    }

    #[test]
    fn reads_the_channels_that_have_a_setting() {
        let read = |pairs: &[(&str, &str)]| {
            let mut errors = Vec::new();
            let variable = |name: &'static str| {
                let found = pairs.iter().find(|(found, _)| *found == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let heartbeat = read_heartbeat(&variable, &mut errors);
            let targets = Target::read(&variable, &mut errors);
            let names: Vec<_> = targets.iter().map(|target| target.channel().name()).collect();
            let errors: Vec<_> = errors.iter().map(|error| error.name).collect();
            (names.join(" "), heartbeat, errors.join(" "))
        };
        assert_eq!(read(&[]), (String::new(), None, String::new()));
        let all = [
            (WEBHOOK_URL, "https://a/"),
            (WEBHOOK_SECRET, SECRET),
            (SLACK_URL, "https://b/"),
            (PAGERDUTY_KEY, "0123abc"),
            (HEARTBEAT_URL, "https://c/"),
        ];
        let (names, heartbeat, errors) = read(&all);
        assert_eq!(
            (&*names, heartbeat.as_deref()),
            ("webhook slack pagerduty", Some("https://c/"))
        );
        assert_eq!(errors, "");
        // Each has a part that is missing or unusable.
        let (names, heartbeat, errors) = read(&[
            (WEBHOOK_URL, "https://a/"),
            (SLACK_URL, "http://b/"),
            (PAGERDUTY_URL, "https://d/"),
            (HEARTBEAT_URL, "c"),
        ]);
        assert_eq!((&*names, heartbeat), ("", None));
        let expected = [HEARTBEAT_URL, WEBHOOK_SECRET, SLACK_URL, PAGERDUTY_KEY];
        assert_eq!(errors, expected.join(" "));
    }

    #[test]
    fn a_signature_equals_that_of_the_reference() {
        // The example of the specification's own libraries.
        let target = webhook(SECRET).unwrap();
        let request = target.request(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            r#"{"test": 2432232314}"#,
            Time(1_614_265_330),
        );
        assert_eq!(
            request.headers,
            [
                ("content-type", "application/json".to_owned()),
                ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned()),
                ("webhook-timestamp", "1614265330".to_owned()),
                ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned()),
            ]
        );
    }

    #[test]
    fn a_rotation_has_two_signatures() {
        let new = format!("whsec_{}", base64(&[7; 32]));
        let target = webhook(&format!("{new}, {SECRET}")).unwrap();
        let signature =
            |target: &Target| target.request("i", "{}", Time(1)).headers.pop().unwrap().1;
        let both = signature(&target);
        let [first, second] = both.split(' ').collect::<Vec<_>>()[..] else { panic!("{both}") };
        assert_eq!(first, signature(&webhook(&new).unwrap()));
        assert_eq!(second, signature(&webhook(SECRET).unwrap()));
    }

    #[test]
    fn refuses_unusable_secrets() {
        // 32 bytes, with `+`, `/` and padding.
        let key = "whsec_+/+/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert!(webhook(key).is_ok());
        for secret in [
            "",
            "whsec_",
            "whsec_c2hvcnQ=",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_%%",
            &key.replace('+', "-"),
            &key.replace('/', "_"),
            key.trim_end_matches('='),
            &format!("{key}="),
            &format!("{key}===="),
            &key.replace("A=", "B="), // not the only spelling of its bytes
        ] {
            assert_eq!(webhook(secret).unwrap_err().0, WEBHOOK_SECRET);
        }
        assert!(webhook(&[SECRET; 3].join(",")).is_err());
        assert!(Target::pagerduty("a\"b", String::new()).is_err());
        let target = Target::pagerduty("0123abc", String::new()).unwrap();
        assert_eq!(format!("{target:?}"), "pagerduty([redacted])");
        let request = target.request("i", r#"{"a":1}"#, Time(1));
        assert_eq!(request.body, r#"{"routing_key":"0123abc","a":1}"#);
    }

    #[test]
    fn requires_https_except_on_this_machine() {
        for url in [
            "https://a",
            "https://a.b:8443/x?y#z",
            "http://localhost:1/x",
            "http://127.0.0.1",
            "http://[::1]:80/",
        ] {
            assert!(is_safe_url(url), "{url}");
        }
        for url in [
            "",
            "a",
            "https://",
            "https:///x",
            "http://a/",
            "http://localhost.evil.com/",
            "http://127.0.0.1@evil.com/",
            "https://user@a/",
            "http://[::1].evil.com/",
            "http://localhost\\@evil.com/",
            "ftp://a/",
            "https://a b/",
            "https://ä/",
        ] {
            assert!(!is_safe_url(url), "{url}");
        }
    }

    #[test]
    fn another_secret_is_another_fingerprint() {
        let one = Target::slack("https://a/1".to_owned()).unwrap();
        assert_eq!(one.fingerprint(), one.clone().fingerprint());
        assert_ne!(
            one.fingerprint(),
            Target::slack("https://a/2".to_owned()).unwrap().fingerprint()
        );
    }

    #[test]
    fn retries_follow_the_documented_schedule() {
        let (mut attempts, mut now, mut delays) = (0, Time(1_000), vec![]);
        while let Some((next, next_at)) = before_attempt(attempts, now, 0) {
            match after_attempt(next, next_at, now, &Attempt::Status(500, None)) {
                Delivery::Retry { next_at: at, failure } => {
                    assert_eq!(failure, "answered 500");
                    delays.push(at.since(now));
                    now = at;
                }
                Delivery::GivenUp(why) => {
                    assert_eq!(why, "answered 500");
                    break;
                }
                other => panic!("{other:?}"),
            }
            attempts = next;
        }
        assert_eq!(delays, [5, 300, 1_800, 7_200, 18_000, 36_000]);
        assert_eq!(before_attempt(7, now, 0), None);
        assert_eq!(before_attempt(u32::MAX, now, 0), None);
    }

    #[test]
    fn jitter_only_delays() {
        for (jitter, most) in [(0, 300), (u32::MAX, 360)] {
            assert_eq!(before_attempt(1, Time(0), jitter), Some((2, Time(most))));
        }
        assert_eq!(before_attempt(0, Time(0), u32::MAX), Some((1, Time(6))));
    }

    #[test]
    fn an_answer_decides() {
        let settled = |answer| after_attempt(1, Time(105), Time(100), &answer);
        assert_eq!(settled(Attempt::Status(204, None)), Delivery::Delivered);
        assert_eq!(settled(Attempt::Status(410, None)), Delivery::Gone);
        let next = |answer| match settled(answer) {
            Delivery::Retry { next_at, .. } => next_at.0,
            other => panic!("{other:?}"),
        };
        assert_eq!(next(Attempt::Status(302, None)), 105);
        assert_eq!(next(Attempt::Status(429, Some(2))), 105);
        assert_eq!(next(Attempt::Status(429, Some(90))), 190);
        assert_eq!(next(Attempt::Status(503, Some(u64::MAX))), 100 + MAX_RETRY_AFTER);
        assert_eq!(next(Attempt::Failed("x".repeat(9_999))), 105);
        assert_eq!(
            after_attempt(7, Time(1), Time(0), &Attempt::Failed("no".into())),
            Delivery::GivenUp("no".into())
        );
    }
}
