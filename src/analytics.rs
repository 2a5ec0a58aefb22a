//! Queries Analytics Engine in SQL: the cloud, or the endpoint that `AE_SQL_URL` names.

use std::fmt;

use js_sys::{Promise, Uint8Array};
use kiloclaw_check_in::data_point::DATASET;
use kiloclaw_fleet::list;
use kiloclaw_watch::{CANARY_DATASET, is_safe_url};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::bindings::{self, AE_ACCOUNT_ID, AE_API_TOKEN, AE_SQL_URL, ConfigError, Env};

#[wasm_bindgen(module = "/src/analytics.js")]
extern "C" {
    fn query(
        url: &str,
        token: &str,
        queries: Vec<String>,
        limit: u32,
        deadline: u32,
        datasets: Vec<String>,
    ) -> Promise;

    /// The same text in UTF-8: U+FFFD replaces invalid bytes.
    fn repaired(bytes: &Uint8Array) -> Uint8Array;

    /// What [`query`] resolves to.
    type Outcome;

    #[wasm_bindgen(method, getter)]
    fn answers(this: &Outcome) -> Option<Vec<Uint8Array>>;

    #[wasm_bindgen(method, getter)]
    fn missing(this: &Outcome) -> Option<bool>;

    #[wasm_bindgen(method, getter)]
    fn failure(this: &Outcome) -> Option<String>;

    #[wasm_bindgen(method, getter)]
    fn status(this: &Outcome) -> Option<u16>;

    #[wasm_bindgen(method, getter)]
    fn detail(this: &Outcome) -> Option<String>;
}

/// The cloud's accounts, each with its SQL endpoint.
const CLOUD: &str = "https://api.cloudflare.com/client/v4/accounts";

/// Timeout for all answers of a round, in milliseconds.
const TIMEOUT_MS: u32 = 10_000;

/// Maximum size of the answers to one round of queries, in bytes.
///
/// An isolate has 128 MiB and serves several requests at a time. While answers arrive, each byte exists up to
/// three times: in chunks, in one piece, and in wasm; that is 24 MiB. Answers that are not UTF-8 are also decoded to
/// texts and encoded again, before anything is parsed: another 24 MiB. Parsed rows take up to four times the size
/// of their text (`{"sandboxId":"a"}`, 17 bytes, becomes a `String` of 24 bytes and its heap block of 16, in a `Vec`
/// with spare capacity): 32 MiB. The report is smaller than its rows. So two of the largest rounds fit. Tests in
/// `crates/fleet` check that every report over a fleet of extreme values stays within this size.
const MAX_ANSWER_BYTES: u32 = 8 * 1024 * 1024;

/// Maximum length of a server's text in the log, in bytes.
const LONGEST_REASON: usize = 1_000;

/// `retry-after` if Analytics Engine names none, in seconds.
const DEFAULT_RETRY_AFTER: u64 = 30;

/// Maximum `retry-after` that is passed on, in seconds.
const MAX_RETRY_AFTER: u64 = 3_600;

pub(crate) struct Analytics {
    pub(crate) url: String,
    pub(crate) token: String,
}

/// Why a query failed. The texts go to the log only.
#[derive(Debug)]
pub(crate) enum QueryError {
    /// The request failed.
    Unreachable(String),
    /// No answer arrived within the timeout.
    Timeout,
    /// The answers exceed the maximum size.
    TooLarge,
    /// Analytics Engine limits the rate.
    Limited {
        /// In seconds.
        retry_after: u64,
    },
    /// Analytics Engine refuses the query or the token.
    Refused { status: u16, reason: String },
    /// The answer has an unexpected form.
    Unexpected(String),
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(reason) => write!(f, "cannot be reached: {reason}"),
            Self::Timeout => write!(f, "no answer within {} s", TIMEOUT_MS / 1_000),
            Self::TooLarge => write!(f, "the answers exceed {} MiB", MAX_ANSWER_BYTES >> 20),
            Self::Limited { retry_after } => write!(f, "limits the rate for {retry_after} s"),
            Self::Refused { status, reason } => write!(f, "refuses a query: {status}: {reason}"),
            Self::Unexpected(reason) => f.write_str(reason),
        }
    }
}

impl Analytics {
    /// Reads the token and the endpoint: `AE_SQL_URL`, or the cloud's for the account.
    pub(crate) fn new(env: &Env) -> Result<Self, ConfigError> {
        let token = bindings::text(env, AE_API_TOKEN)?;
        let url = match bindings::text(env, AE_SQL_URL) {
            Ok(url) if is_safe_url(&url) => url,
            Ok(_) => {
                let fault = "is not the https:// URL of an SQL endpoint";
                return Err(ConfigError { name: AE_SQL_URL, fault });
            }
            Err(_) => {
                let account = bindings::text(env, AE_ACCOUNT_ID)?;
                format!("{CLOUD}/{account}/analytics_engine/sql")
            }
        };
        Ok(Self { url, token })
    }

    /// Sends queries concurrently. Returns their answers in order, which have no rows before a query's dataset exists, and
    /// whether all datasets exist.
    pub(crate) async fn ask(
        &self,
        queries: Vec<String>,
    ) -> Result<(Vec<String>, bool), QueryError> {
        let datasets = vec![DATASET.to_owned()];
        let promise =
            query(&self.url, &self.token, queries, MAX_ANSWER_BYTES, TIMEOUT_MS, datasets);
        let outcome = JsFuture::from(promise).await.unwrap_or_default();
        let missing = outcome.unchecked_ref::<Outcome>().missing();
        Ok((self.read(outcome)?, missing.is_none()))
    }

    /// The arguments of [`query`] for queries of several datasets. Pass its result to [`read`](Self::read).
    pub(crate) fn arguments(&self, queries: Vec<String>) -> Vec<JsValue> {
        let datasets = vec![DATASET.to_owned(), CANARY_DATASET.to_owned()];
        let (limit, deadline) = (MAX_ANSWER_BYTES.into(), TIMEOUT_MS.into());
        let (url, token) = ((&*self.url).into(), (&*self.token).into());
        vec![url, token, queries.into(), limit, deadline, datasets.into()]
    }

    /// The answers to queries, or the first failure.
    pub(crate) fn read(&self, outcome: JsValue) -> Result<Vec<String>, QueryError> {
        let outcome: Outcome = outcome.unchecked_into();
        if let Some(answers) = outcome.answers() {
            return Ok(list(answers.iter().map(|bytes| {
                // As bytes: the runtime copies a text into three times its length.
                let text = String::from_utf8(bytes.to_vec()).ok();
                text.unwrap_or_else(|| {
                    String::from_utf8(repaired(bytes).to_vec()).unwrap_or_default()
                })
            })));
        }
        let detail = outcome.detail().unwrap_or_default();
        Err(match outcome.failure().as_deref() {
            Some("timeout") => QueryError::Timeout,
            Some("too_large") => QueryError::TooLarge,
            Some("limited") => {
                let seconds = retry_after(&detail).filter(|seconds| *seconds <= MAX_RETRY_AFTER);
                QueryError::Limited { retry_after: seconds.unwrap_or(DEFAULT_RETRY_AFTER) }
            }
            Some("refused") => QueryError::Refused {
                status: outcome.status().unwrap_or_default(),
                reason: self.for_log(detail),
            },
            _ => QueryError::Unreachable(self.for_log(detail)),
        })
    }

    /// A server's text for the log: without the token, and truncated.
    pub(crate) fn for_log(&self, text: String) -> String {
        // Truncates last: the search would miss half a token.
        let mut text = self.clean(text);
        text.truncate(text.floor_char_boundary(LONGEST_REASON));
        text
    }

    /// A text without the token, in case a server echoes it: plain, or escaped as in JSON (and in Rust's
    /// `Debug`) or in a URL.
    pub(crate) fn clean(&self, text: String) -> String {
        let json = kiloclaw_json::to_string(&self.token);
        let url = String::from(js_sys::encode_uri_component(&self.token));
        let mut text = text;
        for token in [&*self.token, json.trim_matches('"'), &*url] {
            if text.contains(token) {
                text = text.replace(token, "[redacted]");
            }
        }
        text
    }
}

/// The seconds of a `retry-after`, which holds seconds or a date (RFC 9110, 10.2.3); `None` if it is neither.
pub(crate) fn retry_after(value: &str) -> Option<u64> {
    let is_seconds = value.bytes().all(|byte| byte.is_ascii_digit());
    if is_seconds { value.parse().ok() } else { seconds_until(value) }
}

/// The seconds until an HTTP date, 0 when it is past.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn seconds_until(date: &str) -> Option<u64> {
    let time = js_sys::Date::new(&date.into());
    // The runtime also parses other formats, but prints only this one.
    if time.get_time().is_nan() || time.to_utc_string() != date {
        return None;
    }
    let milliseconds = time.get_time() - js_sys::Date::now();
    Some((milliseconds / 1_000.0).ceil() as u64)
}
