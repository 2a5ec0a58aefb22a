//! TLS, proxies, redirects, and reloaded credentials.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kiloclaw_check_in::Refusal;
use rustix::process::{Pid, Signal, kill_process};

mod stage;

use stage::{
    AMPLE, API_KEY, AUTHORITY, ConnectProxy, Machine, PROXY_PASSWORD, SANDBOX_ID, Server, accepted,
    answer, listen, proxy_authorization, run, telemetry, token,
};

const HOST: &str = "telemetry.test";

/// `once` that trusts the tests' own authority.
fn once(machine: &Machine, url: &str) -> Command {
    let mut command = machine.agent("once", url);
    command.arg("--ca-file").arg(machine.put("ca.pem", &AUTHORITY.pem));
    command
}

#[test]
fn a_private_authority_is_trusted_only_if_it_is_configured() {
    let server = Server::start(Some(AUTHORITY.server("localhost")), telemetry);
    let (machine, url) = (Machine::new(), server.https("localhost"));
    let named = run(&mut once(&machine, &url));
    assert_eq!((named.code, named.stderr.as_str()), (0, ""), "{}", named.stdout);
    assert!(server.requests.try_recv().is_ok());
    let unnamed = run(&mut machine.agent("once", &url));
    assert_eq!(unnamed.code, 69);
    assert!(unnamed.stdout.contains("an authority that is not trusted here"), "{}", unnamed.stdout);
    assert!(unnamed.stdout.contains("KILOCLAW_CA_FILE"), "{}", unnamed.stdout);
    assert!(server.seen().is_empty(), "nothing was sent to a stranger");
}

#[test]
fn the_systems_authorities_are_trusted() {
    let server = Server::start(Some(AUTHORITY.server("localhost")), telemetry);
    let machine = Machine::new();
    let system = machine.put("system.pem", &AUTHORITY.pem);
    let mut once = machine.agent("once", &server.https("localhost"));
    let run = run(once.env("SSL_CERT_FILE", system));
    assert_eq!(run.code, 0, "{}", run.stdout);
}

#[test]
fn an_expired_certificate_and_one_of_another_host_are_refused() {
    for (config, reason) in [
        (AUTHORITY.server_until("localhost", 2020), "expired"),
        (
            AUTHORITY.server("example.com"),
            "the certificate is not for localhost, but for example.com",
        ),
    ] {
        let server = Server::start(Some(config), telemetry);
        let machine = Machine::new();
        let run = run(&mut once(&machine, &server.https("localhost")));
        assert_eq!(run.code, 69);
        assert!(run.stdout.contains(reason), "{reason}: {}", run.stdout);
        assert!(server.seen().is_empty());
    }
}

#[test]
fn a_url_scheme_that_does_not_match_the_server_is_explained() {
    let machine = Machine::new();
    // An HTTP server that gets a TLS handshake.
    let plain = listen(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(answer("400 Bad Request", "", "").as_bytes());
    });
    let run_plain = run(&mut once(&machine, &format!("https://{plain}/")));
    assert!(run_plain.stdout.contains("does not speak TLS"), "{}", run_plain.stdout);
    let tls = Server::start(Some(AUTHORITY.server("localhost")), telemetry);
    let run_tls = run(&mut once(&machine, &tls.url()));
    assert_eq!((run_plain.code, run_tls.code), (69, 69));
    assert!(run_tls.stdout.contains("whether it should begin with https"), "{}", run_tls.stdout);
}

#[test]
fn https_goes_through_the_proxy_which_resolves_the_host() {
    let server = Server::start(Some(AUTHORITY.server(HOST)), telemetry);
    for variable in ["HTTPS_PROXY", "https_proxy"] {
        let proxy = ConnectProxy::to(&server);
        let (machine, url) = (Machine::new(), server.https(HOST));
        let run = run(once(&machine, &url).env(variable, proxy.url()));
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{variable}: {}", run.stdout);
        let request = proxy.requests.try_recv().unwrap();
        let port = server.address.rsplit(':').next().unwrap();
        assert_eq!(request.target(), ("CONNECT", format!("{HOST}:{port}").as_str()));
        assert_eq!(request.header("proxy-authorization"), None);
        assert_eq!(request.header("authorization"), None, "the key is for the server alone");
        assert_eq!(request.header("x-kiloclaw-gateway-token"), None);
        let behind = server.requests.try_recv().unwrap();
        assert_eq!(behind.header("proxy-authorization"), None);
        assert_eq!(behind.header("authorization"), Some(&*format!("Bearer {API_KEY}")));
    }
}

#[test]
fn a_proxy_password_is_sent_to_the_proxy_and_never_printed() {
    let server = Server::start(Some(AUTHORITY.server(HOST)), telemetry);
    let proxy = ConnectProxy::to(&server);
    let (machine, url) = (Machine::new(), server.https(HOST));
    // `run` asserts that the password is not printed.
    let through = run(once(&machine, &url).env("HTTPS_PROXY", proxy.with_password()));
    assert_eq!(through.code, 0, "{}", through.stdout);
    let request = proxy.requests.try_recv().unwrap();
    assert_eq!(request.header("proxy-authorization"), Some(&*proxy_authorization()));

    for status in ["407 Proxy Authentication Required", "403 Forbidden"] {
        let proxy = ConnectProxy::refusing(status);
        let run = run(once(&machine, &url).env("HTTPS_PROXY", proxy.with_password()));
        assert_eq!(run.code, 69);
        assert!(run.stdout.contains("unreachable: by the proxy: "), "{}", run.stdout);
        assert!(run.stdout.contains("check HTTPS_PROXY"), "{}", run.stdout);
    }
    assert_eq!(server.seen().len(), 1);
    let nobody = format!("http://me:{PROXY_PASSWORD}@127.0.0.1:1");
    let run = run(once(&machine, &url).env("HTTPS_PROXY", nobody));
    assert_eq!(run.code, 69);
    assert!(run.stdout.contains("unreachable: the proxy: Connection refused"), "{}", run.stdout);
    assert!(run.stdout.contains("check HTTPS_PROXY"), "{}", run.stdout);
}

#[test]
fn no_proxy_hosts_and_plain_http_bypass_the_proxy() {
    let tls = Server::start(Some(AUTHORITY.server("localhost")), telemetry);
    let plain = Server::start(None, telemetry);
    let proxy = ConnectProxy::to(&tls);
    let machine = Machine::new();
    for (name, value) in [("NO_PROXY", "localhost"), ("no_proxy", "example.com, localhost")] {
        let mut once = once(&machine, &tls.https("localhost"));
        assert_eq!(run(once.env("HTTPS_PROXY", proxy.url()).env(name, value)).code, 0, "{name}");
    }
    let port = tls.address.rsplit(':').next().unwrap();
    let mut with_port = once(&machine, &tls.https("localhost"));
    with_port.env("HTTPS_PROXY", proxy.url());
    let odd = run(with_port.env("NO_PROXY", format!("10.0.0.0/8,<local>,localhost:{port}")));
    assert_eq!(odd.code, 0);
    let warning =
        "warning: entry 2 of NO_PROXY is not honoured: it is no host, address or network\n";
    assert_eq!(odd.stderr, warning);
    assert_eq!(run(once(&machine, &plain.url()).env("HTTPS_PROXY", proxy.url())).code, 0);
    assert!(proxy.requests.try_recv().is_err());
    assert_eq!((tls.seen().len(), plain.seen().len()), (3, 1));
}

#[test]
fn plain_http_to_other_hosts_is_refused_without_a_look_up() {
    let machine = Machine::new();
    let run = run(&mut once(&machine, "http://telemetry.invalid/api/controller/checkin"));
    assert_eq!((run.code, run.stdout.as_str()), (64, ""));
    assert!(run.stderr.contains("would send credentials unencrypted"), "{}", run.stderr);
}

#[test]
fn credentials_do_not_follow_a_redirect() {
    let machine = Machine::new();
    let elsewhere = Server::answering(accepted());
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let location = format!("location: {}\r\n", elsewhere.url());
        let redirect = answer(status, &location, "");
        let server = Server::start(Some(AUTHORITY.server("localhost")), move |_| redirect.clone());
        let run = run(&mut once(&machine, &server.https("localhost")));
        assert_eq!(run.code, 77, "{status}: {}", run.stdout);
        assert!(run.stdout.contains(&elsewhere.address), "{}", run.stdout);
    }
    assert!(elsewhere.seen().is_empty());
}

#[test]
fn secrets_can_come_from_systemd_credentials() {
    let server = Server::start(None, telemetry);
    let machine = Machine::new();
    machine.put("credentials/KILOCODE_API_KEY", &format!("{API_KEY}\n"));
    machine.put("credentials/OPENCLAW_GATEWAY_TOKEN", &format!("{}\n", token(SANDBOX_ID)));
    let mut once = machine.agent("once", &server.url());
    once.env_remove("KILOCODE_API_KEY").env_remove("OPENCLAW_GATEWAY_TOKEN");
    assert_eq!(run(&mut once).code, 64);
    let run = run(once.env("CREDENTIALS_DIRECTORY", machine.path("credentials")));
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
}

#[test]
fn secrets_and_authorities_can_come_from_pipes() {
    let server = Server::start(Some(AUTHORITY.server("localhost")), telemetry);
    let machine = Machine::new();
    let ca = machine.put("ca.pem", &AUTHORITY.pem);
    let mut once = machine.agent("once", &server.https("localhost"));
    once.env_remove("KILOCODE_API_KEY");
    let mut bash = Command::new("bash");
    bash.args([
        "-c",
        r#"exec "$0" once --api-key-file <(sleep 0.2; echo "$KEY") --ca-file <(cat "$CA")"#,
    ])
    .arg(once.get_program())
    .env_clear()
    .envs(once.get_envs().filter_map(|(name, value)| Some((name, value?))))
    .env("PATH", "/usr/bin:/bin")
    .env("KEY", API_KEY)
    .env("CA", ca);
    let run = run(&mut bash);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
}

#[test]
fn a_file_that_never_ends_is_an_error() {
    let machine = Machine::new();
    let fifo = machine.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let (zero, fifo) = (Path::new("/dev/zero"), fifo.as_path());
    for (variable, path, why) in [
        ("KILOCODE_API_KEY_FILE", zero, "it is too large: more than 64 KiB"),
        ("OPENCLAW_GATEWAY_TOKEN_FILE", fifo, "nothing came within 5 s"),
        ("KILOCLAW_CA_FILE", zero, "it is too large: more than 1024 KiB"),
    ] {
        let mut once = machine.agent("once", "https://localhost/");
        let run = run(once.env(variable, path));
        assert_eq!(run.code, 64, "{}", run.stderr);
        let expected = format!("{variable}: cannot read {}: {why}", path.display());
        assert!(run.stderr.contains(&expected), "{}", run.stderr);
    }
}

/// Kills its process when the test ends, even if it fails.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn sighup_reloads_the_key() {
    let status = r#"{"state":"running","pid":42,"uptime":12.5,"restarts":0,"lastExit":null}"#;
    let controller = Server::answering(answer("200 OK", "", status));
    let server = Server::start(None, telemetry);
    let machine = Machine::new();
    let file = machine.put("key", "key-of-yesterday\n");
    let mut watch = machine.agent("watch", &server.url());
    watch
        .args(["--initial-delay", "0", "--interval", "86400", "--jitter", "0"])
        .args(["--log-level", "off", "--status-url", &format!("http://{}/", controller.address)])
        .env("KILOCODE_API_KEY_FILE", &file)
        .stdout(Stdio::null());
    let mut daemon = Daemon(watch.spawn().unwrap());
    let refused = server.requests.recv_timeout(AMPLE).unwrap();
    assert_eq!(refused.header("authorization"), Some("Bearer key-of-yesterday"));

    fs::write(&file, format!("{API_KEY}\n")).unwrap();
    let pid = Pid::from_child(&daemon.0);
    kill_process(pid, Signal::HUP).unwrap();
    let with_new_key = server.requests.recv_timeout(AMPLE).unwrap();
    assert_eq!(with_new_key.header("authorization"), Some(&*format!("Bearer {API_KEY}")));
    assert_eq!(telemetry(&with_new_key), accepted());
    assert_ne!(telemetry(&refused), accepted());
    assert!(telemetry(&refused).contains(Refusal::WrongApiKey.code()));

    kill_process(pid, Signal::TERM).unwrap();
    let last = server.requests.recv_timeout(AMPLE).unwrap();
    assert!(last.body.contains("shutting_down"), "{}", last.body);
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
}
