//! For tests of commands that run to their end, such as `once` and `doctor`: a machine, and servers with the test's
//! responses, with and without TLS or a proxy. `harness` is for tests of the daemon.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, SystemTime};

use kiloclaw_check_in::{
    CHECK_IN_PATH, CheckIn, DRY_RUN_PARAMETER, GatewaySecrets, Presented, Refusal, is_dry_run,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

pub(crate) const API_KEY: &str = "key-that-must-not-show";
pub(crate) const TOKEN_SECRET: &str = "secret-that-must-not-show";
pub(crate) const SANDBOX_ID: &str = "sandbox-1";

/// Long enough for a busy machine.
pub(crate) const AMPLE: Duration = Duration::from_secs(30);

pub(crate) fn token(sandbox_id: &str) -> String {
    GatewaySecrets::new(TOKEN_SECRET).unwrap().token(sandbox_id).expose().to_owned()
}

/// Exit code and output.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the program, and asserts that it prints no secret.
pub(crate) fn run(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    let run = Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    for secret in [API_KEY, TOKEN_SECRET, &token(SANDBOX_ID), PROXY_PASSWORD] {
        assert!(!run.stdout.contains(secret), "{secret} in {}", run.stdout);
        assert!(!run.stderr.contains(secret), "{secret} in {}", run.stderr);
    }
    run
}

/// A machine: its `/proc` files, and the files of its test.
pub(crate) struct Machine {
    directory: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let machine = Self { directory: tempfile::tempdir().unwrap() };
        machine.put("loadavg", "0.50 0.07 1.42 3/4280 2496732\n");
        machine.transfer(1_000, 2_000);
        machine
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Sets the counters of eth0.
    pub(crate) fn transfer(&self, bytes_in: u64, bytes_out: u64) {
        let text = format!(
            "Inter-| Receive | Transmit\n face |bytes\n    \
             lo: 5 5 0 0 0 0 0 0 5 5 0 0 0 0 0 0\n  \
             eth0: {bytes_in} 9 0 0 0 0 0 0 {bytes_out} 9 0 0 0 0 0 0\n"
        );
        self.put("net/dev", &text);
    }

    /// The program on this machine, with valid settings.
    pub(crate) fn agent(&self, subcommand: &str, url: &str) -> Command {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiloclaw-agent"));
        command
            .arg(subcommand)
            .env_clear()
            .stdin(Stdio::null())
            .env("KILOCLAW_TIMEOUT_SECONDS", AMPLE.as_secs().to_string())
            .env("KILOCLAW_CHECKIN_URL", url)
            .env("KILOCODE_API_KEY", API_KEY)
            .env("OPENCLAW_GATEWAY_TOKEN", token(SANDBOX_ID))
            .env("KILOCLAW_SANDBOX_ID", SANDBOX_ID)
            .env("KILOCLAW_PROC_ROOT", self.directory.path())
            .env("KILOCLAW_STATE_FILE", self.path("state.json"))
            .env("KILOCLAW_OPENCLAW_COMMAND", fixtures.join("openclaw"));
        command
    }
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Request {
    /// `None` if the connection closes first, or does not carry HTTP.
    fn read(stream: &mut impl Read) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return None;
            }
        }
        let mut request = Self { head, body: String::new() };
        let length = request.header("content-length").map_or(0, |n| n.parse().unwrap());
        reader.take(length).read_to_string(&mut request.body).ok()?;
        Some(request)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The method and the request target.
    pub(crate) fn target(&self) -> (&str, &str) {
        let mut words = self.head.split(' ');
        (words.next().unwrap(), words.next().unwrap())
    }

    /// The first value of a query parameter, as the Worker reads it.
    fn parameter(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target().1.split_once('?')?;
        query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find_map(|(key, value)| (key == name).then_some(value))
    }
}

/// Answers every request, each on its own connection.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) requests: Receiver<Request>,
}

impl Server {
    pub(crate) fn start(
        tls: Option<Arc<ServerConfig>>,
        mut answer: impl FnMut(&Request) -> String + Send + 'static,
    ) -> Self {
        let (sender, requests) = mpsc::channel();
        let address = listen(move |stream| {
            let mut stream: Box<dyn Stream> = match &tls {
                None => Box::new(stream),
                Some(config) => Box::new(StreamOwned::new(
                    ServerConnection::new(config.clone()).unwrap(),
                    stream,
                )),
            };
            let Some(request) = Request::read(&mut stream) else { return };
            let answer = answer(&request);
            let _ = sender.send(request);
            // The client may be gone.
            let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
        });
        Self { address, requests }
    }

    pub(crate) fn answering(answer: String) -> Self {
        Self::start(None, move |_| answer.clone())
    }

    /// Answers each request with the next of these.
    pub(crate) fn answering_each<const N: usize>(answers: [String; N]) -> Self {
        let mut answers = answers.into_iter();
        Self::start(None, move |_| answers.next().unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}{CHECK_IN_PATH}", self.address)
    }

    /// The https URL under this host name.
    pub(crate) fn https(&self, host: &str) -> String {
        let port = self.address.rsplit(':').next().unwrap();
        format!("https://{host}:{port}{CHECK_IN_PATH}")
    }

    /// All requests until now.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.requests.try_iter().collect()
    }
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// Accepts connections until the test ends, one at a time; returns the address.
pub(crate) fn listen(mut take: impl FnMut(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_read_timeout(Some(AMPLE)).unwrap();
            take(stream);
        }
    });
    address
}

/// An answer with the current time.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    answer_at(SystemTime::now(), status, headers, body)
}

pub(crate) fn answer_at(now: SystemTime, status: &str, headers: &str, body: &str) -> String {
    let (length, date) = (body.len(), httpdate::fmt_http_date(now));
    format!(
        "HTTP/1.1 {status}\r\ndate: {date}\r\n{headers}content-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
}

pub(crate) fn accepted() -> String {
    "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_owned()
}

pub(crate) fn refuse(refusal: Refusal) -> String {
    let headers = refusal.header().map(|(name, value)| format!("{name}: {value}\r\n"));
    let status = format!("{} Refused", refusal.status());
    answer(&status, &headers.unwrap_or_default(), &refusal.body().to_json())
}

/// Answers like the Worker: the contract's checks in the same order.
pub(crate) fn telemetry(request: &Request) -> String {
    worker(request, request.parameter(DRY_RUN_PARAMETER)).map_or_else(refuse, |()| accepted())
}

/// Answers like an older Worker, without the dry run.
pub(crate) fn older_telemetry(request: &Request) -> String {
    worker(request, None).map_or_else(refuse, |()| accepted())
}

fn worker(request: &Request, dry_run: Option<&str>) -> Result<(), Refusal> {
    let presented = authenticate(request)?;
    is_dry_run(dry_run)?;
    let check_in = CheckIn::parse_str(&request.body)?;
    authorize(&check_in.sandbox_id, &presented)
}

/// The contract's checks ahead of the body.
pub(crate) fn authenticate(request: &Request) -> Result<Presented<'_>, Refusal> {
    let presented = Presented::from_headers(
        request.header("authorization"),
        request.header("x-kiloclaw-gateway-token"),
    )?;
    if presented.api_key == API_KEY { Ok(presented) } else { Err(Refusal::WrongApiKey) }
}

/// The contract's check of the gateway token.
pub(crate) fn authorize(sandbox_id: &str, presented: &Presented<'_>) -> Result<(), Refusal> {
    let secrets = GatewaySecrets::new(TOKEN_SECRET).unwrap();
    let is_accepted = secrets.accept(sandbox_id, presented.gateway_token);
    is_accepted.then_some(()).ok_or(Refusal::WrongGatewayToken)
}

/// The tests' own certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

pub(crate) static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let pem = pem(certificate.der());
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The TLS configuration of a server for `host`.
    pub(crate) fn server(&self, host: &str) -> Arc<ServerConfig> {
        self.server_until(host, 4096)
    }

    /// The certificate expires at the end of `year`.
    pub(crate) fn server_until(&self, host: &str, year: i32) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    }
}

/// rcgen's own PEM support needs another package.
fn pem(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", base64(der, "\n"))
}

/// Base64, in lines that end with `end`.
fn base64(bytes: &[u8], end: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for line in bytes.chunks(48) {
        for three in line.chunks(3) {
            let bits = three.iter().fold(0_usize, |bits, &byte| bits << 8 | usize::from(byte));
            let bits = bits << (8 * (3 - three.len()));
            for digit in 0..4 {
                let padded = digit > three.len();
                let digit = *DIGITS.get(bits >> (18 - 6 * digit) & 63).unwrap();
                text.push(if padded { '=' } else { char::from(digit) });
            }
        }
        text.push_str(end);
    }
    text
}

pub(crate) const PROXY_PASSWORD: &str = "password-that-must-not-show";

/// The header value that the proxy requires.
pub(crate) fn proxy_authorization() -> String {
    format!("Basic {}", base64(format!("me:{PROXY_PASSWORD}").as_bytes(), ""))
}

/// A proxy that connects every request to one server, or refuses it with a status.
pub(crate) struct ConnectProxy {
    pub(crate) address: String,
    pub(crate) requests: Receiver<Request>,
}

impl ConnectProxy {
    pub(crate) fn to(server: &Server) -> Self {
        let server = server.address.clone();
        Self::start(move |mut client| {
            let mut server = TcpStream::connect(&server)?;
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
            thread::spawn(move || io::copy(&mut from_client, &mut to_server));
            io::copy(&mut server, &mut client)?;
            Ok(())
        })
    }

    pub(crate) fn refusing(status: &'static str) -> Self {
        Self::start(move |mut client| {
            client.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())
        })
    }

    fn start(connect: impl Fn(TcpStream) -> io::Result<()> + Send + 'static) -> Self {
        let (sender, requests) = mpsc::channel();
        let address = listen(move |mut client| {
            let Some(request) = Request::read(&mut client) else { return };
            let _ = sender.send(request);
            // An error means that one side has closed the connection.
            let _ = connect(client);
        });
        Self { address, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn with_password(&self) -> String {
        format!("http://me:{PROXY_PASSWORD}@{}", self.address)
    }
}

#[test]
fn base64_matches_rfc_4648() {
    for (text, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(text.as_bytes(), "").trim(), expected);
    }
}
