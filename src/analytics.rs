//! Asks Analytics Engine in SQL: the cloud, or whatever `AE_SQL_URL` names.

use kiloclaw_check_in::data_point::DATASET;
use worker::js_sys::{self, Promise, Uint8Array};
use worker::wasm_bindgen::prelude::*;
use worker::wasm_bindgen_futures::JsFuture;

#[wasm_bindgen(module = "/src/analytics.js")]
extern "C" {
    fn query(url: &str, token: &str, queries: Vec<String>, limit: u32, deadline: u32) -> Promise;

    /// What [`query`] resolves to.
    type Outcome;

    #[wasm_bindgen(method, getter)]
    fn answers(this: &Outcome) -> Option<Vec<Uint8Array>>;

    #[wasm_bindgen(method, getter)]
    fn failure(this: &Outcome) -> Option<String>;

    #[wasm_bindgen(method, getter)]
    fn status(this: &Outcome) -> Option<u16>;

    #[wasm_bindgen(method, getter)]
    fn detail(this: &Outcome) -> Option<String>;
}

/// How long an answer may take, in milliseconds.
const TIMEOUT_MS: u32 = 10_000;

/// What the answers to queries that are sent together may measure, in bytes.
///
/// An isolate has 128 MiB and answers several requests at a time. While answers arrive, each byte of them is
/// there up to three times: as chunks, in one piece, and in wasm; that is 24 MiB. Their rows take up to four
/// times as much as their text (`{"sandboxId":"a"}`, 17 bytes, is a `String` of 24 and its heap block of 16 in
/// a `Vec` with room to grow), 32 MiB, and the reply takes less than its rows. So one of the largest fits
/// twice. `crates/fleet` asks for no more: its tests hold every report of a fleet of extremes to it.
const MAX_ANSWER_BYTES: u32 = 8 * 1024 * 1024;

/// What the log keeps of a text from elsewhere, in bytes.
const LONGEST_REASON: usize = 1_000;

/// How long to wait if Analytics Engine does not say so, in seconds.
const DEFAULT_RETRY_AFTER: u64 = 30;

/// The longest time to wait that is passed on, in seconds.
const MAX_RETRY_AFTER: u64 = 3_600;

/// Where to ask for a report, and as whom.
pub(crate) struct Analytics {
    pub(crate) url: String,
    pub(crate) token: String,
}

/// Why there is no answer. The texts are for the log.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// It cannot be reached.
    Unreachable(String),
    /// It did not answer in time.
    Timeout,
    /// Its answers are larger than what is read.
    TooLarge,
    /// It asks to wait this long, in seconds.
    Limited { retry_after: u64 },
    /// It refuses the query, or who asks.
    Refused { status: u16, reason: String },
    /// It answers something else.
    Unexpected(String),
}

impl Analytics {
    /// Sends queries, all at a time, and returns the answers as they came; none if there is no dataset yet.
    pub(crate) async fn ask(
        &self,
        queries: Vec<String>,
    ) -> Result<Option<Vec<String>>, Unanswered> {
        match self.query(queries).await {
            Ok(answers) => Ok(Some(answers)),
            Err(Unanswered::Refused { status: 400 | 404 | 422, reason })
                if self.is_no_dataset(&reason).await =>
            {
                Ok(None)
            }
            Err(unanswered) => Err(unanswered),
        }
    }

    async fn query(&self, queries: Vec<String>) -> Result<Vec<String>, Unanswered> {
        let asking = query(&self.url, &self.token, queries, MAX_ANSWER_BYTES, TIMEOUT_MS);
        let outcome = JsFuture::from(asking).await;
        let outcome: Outcome = outcome.unwrap_or_default().unchecked_into();
        if let Some(answers) = outcome.answers() {
            return Ok(answers.iter().map(|bytes| text(bytes.to_vec())).collect());
        }
        let detail = outcome.detail().unwrap_or_default();
        Err(match outcome.failure().as_deref() {
            Some("timeout") => Unanswered::Timeout,
            Some("too_large") => Unanswered::TooLarge,
            Some("limited") => Unanswered::Limited { retry_after: retry_after(&detail) },
            Some("refused") => Unanswered::Refused {
                status: outcome.status().unwrap_or_default(),
                reason: self.for_log(detail),
            },
            _ => Unanswered::Unreachable(self.for_log(detail)),
        })
    }

    /// Whether a query was refused because the dataset does not exist: it begins with the first check-in.
    ///
    /// What Analytics Engine says then is documented nowhere. The cloud was seen to call the table unknown, or
    /// a column of the query one without a type. It says the latter of mistakes in a query as well, so there
    /// the list of datasets decides.
    async fn is_no_dataset(&self, reason: &str) -> bool {
        let text = reason.split_once("Input was invalid: ").map_or(reason, |(_, text)| text);
        // The local one may say where in the query.
        let text = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':' || c == ' ');
        if text.starts_with("unknown table")
            || text.starts_with(&format!("there is no dataset {DATASET}"))
        {
            return true;
        }
        if !text.starts_with("unable to find type of column") && !text.starts_with("unknown column")
        {
            return false;
        }
        let datasets = self.query(vec!["SHOW TABLES".to_owned()]).await.unwrap_or_default();
        datasets.first().is_some_and(|datasets| {
            datasets.contains("\"data\"") && !datasets.contains(&format!("\"{DATASET}\""))
        })
    }

    /// A text from elsewhere for the log: without the token, and cut off where it is long.
    pub(crate) fn for_log(&self, text: String) -> String {
        // Cut when it is clean: half a token is not found.
        let mut text = self.clean(text);
        text.truncate(text.floor_char_boundary(LONGEST_REASON));
        text
    }

    /// A text without the token, should a server repeat what it was sent: as it is, or as it stands in JSON
    /// (and in what Rust prints) or in a URL.
    pub(crate) fn clean(&self, text: String) -> String {
        let json = serde_json::to_string(&self.token).unwrap_or_default();
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

/// What the runtime would decode a text to: U+FFFD stands for what is not UTF-8.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// How long to wait, by a `retry-after` of seconds or of a date (RFC 9110, 10.2.3). One that is neither, or
/// further away than is passed on, is none.
fn retry_after(value: &str) -> u64 {
    let is_seconds = value.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = if is_seconds { value.parse().ok() } else { seconds_until(value) };
    seconds.filter(|seconds| *seconds <= MAX_RETRY_AFTER).unwrap_or(DEFAULT_RETRY_AFTER)
}

/// The seconds until a date as HTTP writes it, and 0 when it is past.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn seconds_until(date: &str) -> Option<u64> {
    let time = js_sys::Date::new(&date.into());
    // The runtime reads other dates, too, and writes none but these.
    if time.get_time().is_nan() || time.to_utc_string() != date {
        return None;
    }
    let milliseconds = time.get_time() - js_sys::Date::now();
    Some((milliseconds / 1_000.0).ceil() as u64)
}
