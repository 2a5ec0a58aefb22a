//! How this program speaks HTTP: once for check-ins and for asking the controller.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderValue, Response, Uri, header};
use ureq::{Agent, Body, Error};

use crate::cli::VERSION;

/// How much of an answer's body is read, in bytes. The answers of either contract are far smaller.
const MAX_ANSWER_BYTES: u64 = 16 * 1024;

/// An HTTP client that goes to the URL that it is given and nowhere else: credentials follow no
/// redirect and no `HTTP_PROXY` that happens to be in the environment.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    timeout: Duration,
}

impl Client {
    /// A client whose requests take at most `timeout` each, from the name's resolution to the last
    /// byte of the answer.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        let agent = Agent::config_builder()
            .timeout_global(Some(timeout))
            .max_redirects(0)
            .proxy(None)
            // A refusal is an answer, too; what it says is wanted.
            .http_status_as_error(false)
            .user_agent(format!("kiloclaw-agent/{VERSION}"))
            .build()
            .new_agent();
        Self { agent, timeout }
    }

    /// Gets `url`. The error says why there is no answer.
    pub fn get(&self, url: &Uri, authorization: HeaderValue) -> Result<Response<Body>, String> {
        self.agent
            .get(url)
            .header(header::AUTHORIZATION, authorization)
            .call()
            .map_err(|error| self.reason(&error))
    }

    /// Posts JSON to `url` with some headers. The error says why there is no answer.
    pub fn post(
        &self,
        url: &Uri,
        headers: &[(&str, &HeaderValue)],
        json: &str,
    ) -> Result<Response<Body>, String> {
        let mut request = self.agent.post(url).content_type("application/json");
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        request.send(json).map_err(|error| self.reason(&error))
    }

    fn reason(&self, error: &Error) -> String {
        match error {
            Error::Timeout(_) => format!("no answer within {} s", self.timeout.as_secs_f64()),
            // ureq writes `io: Connection refused (os error 111)`.
            Error::Io(error) => error.to_string(),
            error => error.to_string(),
        }
    }
}

/// The start of an answer's body.
///
/// What breaks off in the middle is as short as it is: the status came first and has decided.
pub fn start_of(body: &mut Body) -> Vec<u8> {
    let mut start = Vec::new();
    let _ = body.as_reader().take(MAX_ANSWER_BYTES).read_to_end(&mut start);
    start
}

/// Whether `url` would carry credentials over a network in the clear.
#[must_use]
pub fn is_exposed(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let loopback = host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    url.scheme_str() == Some("http") && !loopback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_to_another_host_is_exposed() {
        for url in ["http://example.com/", "http://10.0.0.1:80/", "http://[fdaa::3]/"] {
            assert!(is_exposed(&url.parse().unwrap()), "{url}");
        }
        for url in [
            "https://example.com/",
            "http://localhost:8787/",
            "http://LOCALHOST/",
            "http://127.0.0.1/",
            "http://127.8.9.1:1/",
            "http://[::1]:8787/",
        ] {
            assert!(!is_exposed(&url.parse().unwrap()), "{url}");
        }
    }
}
