//! The HTTP client, for check-ins and for the controller's status.

pub mod no_proxy;

use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::{HeaderValue, Response, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{self, DefaultResolver, ResolvedSocketAddrs};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body, Error, Proxy, RequestBuilder};

use crate::cli::VERSION;

/// Maximum size of a response body that is read, in bytes. Valid responses are far smaller.
const MAX_ANSWER_BYTES: u64 = 16 * 1024;

/// Size of ureq's buffers in bytes, which limits a response's head. ureq's default, 128 KiB each way, would be most of
/// the agent's heap.
const BUFFER_BYTES: usize = 16 * 1024;

/// An HTTP client that sends credentials only to the requested URL: it follows no redirects, and uses no proxy except
/// the configured one.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NoAnswer {
    /// The class of the reason.
    pub cause: Cause,
    /// The reason in words; a [`Redactor`](crate::secret::Redactor) must clean it before printing.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    CannotResolve,
    ConnectionRefused,
    Tls(TlsFault),
    Timeout,
    /// The proxy is unreachable, or refused to connect to the server.
    Proxy,
    NotHttp,
    /// The connection closed before the response.
    Closed,
    /// Any other network error.
    Network,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// An untrusted authority issued the certificate.
    Untrusted,
    /// The certificate has expired or is not valid yet.
    Expired,
    OtherHost,
    NotTls,
    /// The connection closed during the handshake.
    Closed,
    Other,
}

impl Cause {
    /// The code for programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::CannotResolve => "cannot_resolve",
            Self::ConnectionRefused => "connection_refused",
            Self::Tls(_) => "tls",
            Self::Timeout => "timeout",
            Self::Proxy => "proxy",
            Self::NotHttp => "not_http",
            Self::Closed => "connection_closed",
            Self::Network => "network",
        }
    }
}

impl Client {
    /// Creates a client with a timeout for each request, from name resolution to the last byte of the response.
    #[must_use]
    pub fn new(timeout: Duration, roots: RootCerts, proxy: Option<Proxy>) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .max_redirects(0)
            .proxy(proxy)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            // The next request is minutes away; the server would have closed the connection by then.
            .max_idle_connections(0)
            // A refusal is a response with a body.
            .http_status_as_error(false)
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .user_agent(format!("kiloclaw-agent/{VERSION}"))
            .build();
        Self { agent: Agent::with_parts(config, DefaultConnector::default(), Resolver) }
    }

    /// Gets `url`, within `timeout` or the client's own timeout, whichever is shorter.
    pub fn get(
        &self,
        url: &Uri,
        authorization: HeaderValue,
        timeout: Duration,
    ) -> Result<Response<Body>, NoAnswer> {
        let request = self.agent.get(url).header(header::AUTHORIZATION, authorization);
        self.within(request, timeout).call().map_err(|error| self.no_answer(error, timeout))
    }

    /// Posts a body to `url` with headers, within `timeout` or the client's own timeout, whichever is shorter.
    pub fn post(
        &self,
        url: &Uri,
        headers: &[(&str, &HeaderValue)],
        (content_type, body): (&str, &str),
        timeout: Duration,
    ) -> Result<Response<Body>, NoAnswer> {
        let mut request = self.agent.post(url).content_type(content_type);
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        self.within(request, timeout).send(body).map_err(|error| self.no_answer(error, timeout))
    }

    /// The shorter of `timeout` and the client's own.
    fn at_most(&self, timeout: Duration) -> Duration {
        self.agent.config().timeouts().global.map_or(timeout, |own| own.min(timeout))
    }

    fn within<B>(&self, request: RequestBuilder<B>, timeout: Duration) -> RequestBuilder<B> {
        // In ureq, a request with its own settings also has its own TLS settings: it parses all roots again and resumes
        // no session (`tests/agent-cost.test.ts`).
        if self.at_most(timeout) < timeout {
            return request;
        }
        request.config().timeout_global(Some(timeout)).build()
    }

    fn no_answer(&self, error: Error, timeout: Duration) -> NoAnswer {
        let (cause, reason) = match error {
            Error::Timeout(_) => {
                let seconds = self.at_most(timeout).as_secs_f64();
                (Cause::Timeout, format!("no answer within {seconds} s"))
            }
            Error::HostNotFound => (Cause::CannotResolve, "the host has no address".to_owned()),
            Error::ConnectProxyFailed(reason) => (Cause::Proxy, format!("by the proxy: {reason}")),
            Error::Rustls(error) => of_tls(&error),
            Error::Tls(reason) => (Cause::Tls(TlsFault::Other), reason.to_owned()),
            Error::Protocol(error) => {
                (Cause::NotHttp, format!("what came back is not HTTP: {error}"))
            }
            // ureq's text would be `io: Connection refused (os error 111)`.
            Error::Io(error) => of_io(&error),
            error => (Cause::Network, error.to_string()),
        };
        match cause {
            // With a proxy, only the proxy's host is resolved and connected to.
            Cause::CannotResolve | Cause::ConnectionRefused
                if self.agent.config().proxy().is_some() =>
            {
                NoAnswer { cause: Cause::Proxy, reason: format!("the proxy: {reason}") }
            }
            cause => NoAnswer { cause, reason },
        }
    }
}

/// Resolves names on a separate thread, since the system's resolver has no timeout. An address needs no thread; and
/// where no thread can start, it resolves on the calling one, where ureq's own resolver would panic.
#[derive(Debug)]
struct Resolver;

impl resolver::Resolver for Resolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let look_up = {
            let (uri, config) = (uri.clone(), config.clone());
            // Without a timeout, ureq's resolver starts no thread of its own.
            move || DefaultResolver::default().resolve(&uri, &config, NextTimeout::default())
        };
        if address_in(uri).is_some() {
            return look_up();
        }
        let (sender, answer) = mpsc::sync_channel(1);
        let on_thread = {
            let look_up = look_up.clone();
            // After the timeout, the receiver is gone.
            move || drop(sender.send(look_up()))
        };
        match thread::Builder::new().name("look-up".to_owned()).spawn(on_thread) {
            Ok(_) => {
                answer.recv_timeout(*timeout.after).unwrap_or(Err(Error::Timeout(timeout.reason)))
            }
            Err(_) => look_up(),
        }
    }
}

/// The IP address in a URL's host, if it is one.
fn address_in(url: &Uri) -> Option<IpAddr> {
    let host = url.host()?;
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

fn of_io(error: &io::Error) -> (Cause, String) {
    let reason = error.to_string();
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return of_tls(error);
    }
    // std has no error kind for failed resolution.
    if reason.starts_with("failed to lookup address information") {
        return (Cause::CannotResolve, reason);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => (Cause::ConnectionRefused, reason),
        io::ErrorKind::TimedOut => (Cause::Timeout, reason),
        // From rustls: ureq's own error after the handshake only has text.
        io::ErrorKind::UnexpectedEof if error.get_ref().is_none() => (
            Cause::Tls(TlsFault::Closed),
            "the connection was closed during the TLS handshake".to_owned(),
        ),
        io::ErrorKind::UnexpectedEof => {
            (Cause::Closed, "the connection was closed without an answer".to_owned())
        }
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => (Cause::Closed, reason),
        _ => (Cause::Network, reason),
    }
}

fn of_tls(error: &rustls::Error) -> (Cause, String) {
    use rustls::{CertificateError as Certificate, Error};

    let (fault, reason) = match error {
        Error::InvalidCertificate(Certificate::UnknownIssuer) => (
            TlsFault::Untrusted,
            "the certificate is of an authority that is not trusted here".to_owned(),
        ),
        Error::InvalidCertificate(
            error @ (Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. }),
        ) => (TlsFault::Expired, error.to_string()),
        Error::InvalidCertificate(Certificate::NotValidForNameContext { expected, presented }) => (
            TlsFault::OtherHost,
            format!(
                "the certificate is not for {}, but for {}",
                expected.to_str(),
                list(presented)
            ),
        ),
        Error::InvalidCertificate(Certificate::NotValidForName) => {
            (TlsFault::OtherHost, "the certificate is not for this host".to_owned())
        }
        Error::InvalidMessage(_) => {
            (TlsFault::NotTls, "what listens there does not speak TLS".to_owned())
        }
        error => (TlsFault::Other, error.to_string()),
    };
    (Cause::Tls(fault), reason)
}

/// The names in a certificate. rustls prints each as `DnsName("example.com")`.
fn list(presented: &[String]) -> String {
    let name = |text: &String| text.split('"').nth(1).unwrap_or(text).to_owned();
    match presented {
        [] => "no host".to_owned(),
        names => names.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}

/// The system's certificate authorities. If it has none, as many containers, Mozilla's, which are compiled in.
#[must_use]
pub fn system_roots() -> RootCerts {
    let system = rustls_native_certs::load_native_certs().certs;
    if system.is_empty() {
        RootCerts::WebPki
    } else {
        system.iter().map(|der| Certificate::from_der(der).to_owned()).into()
    }
}

/// The certificate authorities in a PEM file; `None` if it has none or is malformed.
#[must_use]
pub fn roots_in(pem: &[u8]) -> Option<RootCerts> {
    let mut roots = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.ok()? {
            roots.push(certificate);
        }
    }
    (!roots.is_empty()).then(|| roots.into_iter().into())
}

/// The beginning of a response body.
///
/// A body that breaks off is returned as far as it came: the status has already decided.
pub fn start_of(body: &mut Body) -> Vec<u8> {
    let mut start = Vec::new();
    let _ = body.as_reader().take(MAX_ANSWER_BYTES).read_to_end(&mut start);
    start
}

/// Whether `url` would send credentials unencrypted over a network.
#[must_use]
pub fn is_exposed(url: &Uri) -> bool {
    let loopback = url.host().is_some_and(|host| host.eq_ignore_ascii_case("localhost"))
        || address_in(url).is_some_and(|address| address.is_loopback());
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

    #[test]
    fn a_file_without_certificates_has_no_roots() {
        for pem in ["", "hello", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
            assert!(roots_in(pem.as_bytes()).is_none(), "{pem}");
        }
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(roots_in(key.as_bytes()).is_none());
    }
}
