//! Asks Analytics Engine in SQL: the cloud, or whatever `AE_SQL_URL` names.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select, try_join_all};
use worker::{
    AbortController, Delay, Fetch, Headers, Method, Request, RequestInit, RequestRedirect,
};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the log keeps of the text that a query is refused with, in bytes.
const LONGEST_REASON: usize = 1_000;

/// What is told to wait if Analytics Engine does not say how long, in seconds.
const DEFAULT_RETRY_AFTER: &str = "30";

/// Where to ask, and as whom.
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
    /// It asks to wait this long: seconds, or a date.
    Limited { retry_after: String },
    /// It refuses the query, or who asks.
    Refused { status: u16, reason: String },
    /// It answers something else.
    Unexpected(String),
}

impl Analytics {
    /// Sends queries, all at a time, and returns the answers as they came.
    pub(crate) async fn ask_all(&self, queries: &[String]) -> Result<Vec<String>, Unanswered> {
        try_join_all(queries.iter().map(|query| self.ask(query))).await
    }

    async fn ask(&self, sql: &str) -> Result<String, Unanswered> {
        let abort = AbortController::default();
        let signal = abort.signal();
        let asking = pin!(async {
            let request = self.request(sql).map_err(unreachable)?;
            let mut response =
                Fetch::Request(request).send_with_signal(&signal).await.map_err(unreachable)?;
            let status = response.status_code();
            let retry_after = response.headers().get("retry-after").ok().flatten();
            let text = response.text().await.map_err(unreachable)?;
            match status {
                200 => Ok(text),
                429 => Err(Unanswered::Limited {
                    retry_after: retry_after
                        .map_or_else(|| DEFAULT_RETRY_AFTER.to_owned(), |text| self.clean(&text)),
                }),
                _ => {
                    // Cut when it is clean: half a token is not found.
                    let mut reason = self.clean(&text);
                    reason.truncate(reason.floor_char_boundary(LONGEST_REASON));
                    Err(Unanswered::Refused { status, reason })
                }
            }
        });
        match select(asking, Delay::from(TIMEOUT)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => {
                abort.abort();
                Err(Unanswered::Timeout)
            }
        }
    }

    /// What a server says, should it repeat the token that it was sent.
    fn clean(&self, text: &str) -> String {
        text.replace(&self.token, "[redacted]")
    }

    fn request(&self, sql: &str) -> worker::Result<Request> {
        let headers = Headers::new();
        headers.set("authorization", &format!("Bearer {}", self.token))?;
        headers.set("content-type", "text/plain;charset=utf-8")?;
        let mut init = RequestInit::new();
        init.with_method(Method::Post)
            .with_headers(headers)
            .with_body(Some(sql.into()))
            // The token goes nowhere else.
            .with_redirect(RequestRedirect::Manual);
        Request::new_with_init(&self.url, &init)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` takes")]
fn unreachable(error: worker::Error) -> Unanswered {
    Unanswered::Unreachable(error.to_string())
}
