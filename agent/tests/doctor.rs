//! `doctor` against real sockets: each failure has its own verdict, and nothing is stored.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use kiloclaw_agent::commands::doctor::check::CheckName;
use kiloclaw_agent::state::State;
use kiloclaw_check_in::{CheckIn, Credential, Refusal};
use serde_json::Value;

mod stage;

use stage::{
    API_KEY, AUTHORITY, ConnectProxy, Machine, Request, SANDBOX_ID, Server, accepted, answer,
    answer_at, listen, older_telemetry, refuse, run, telemetry, token,
};

/// The output of `doctor --json`.
#[derive(Debug)]
struct DoctorOutput {
    code: i32,
    checks: Vec<Value>,
}

impl DoctorOutput {
    fn of(command: &mut Command) -> Self {
        let run = run(command.arg("--json"));
        assert_eq!(run.stderr, "");
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap().clone();
        let failed = checks.iter().any(|check| check["status"] == "failed");
        assert_eq!(report["ok"], !failed);
        assert_eq!(run.code, i32::from(failed));
        // Every check appears once, except `configuration`, which appears for each wrong setting.
        let mut names: Vec<_> = checks.iter().map(|check| check["name"].clone()).collect();
        names.dedup_by(|a, b| a == b && a == "configuration");
        assert_eq!(names, CheckName::ALL.map(CheckName::text).map(Value::from));
        for check in &checks {
            let texts: &[_] = match check["status"].as_str().unwrap() {
                "passed" => &["found"],
                "failed" | "warned" => &["code", "message", "fix"],
                "skipped" => &["message"],
                other => panic!("{other}"),
            };
            let members = check.as_object().unwrap();
            assert_eq!(members.len(), texts.len() + 2, "{check}");
            assert!(texts.iter().all(|text| !members[*text].as_str().unwrap().is_empty()));
        }
        Self { code: run.code, checks }
    }

    fn check(&self, name: &str) -> &Value {
        self.checks.iter().find(|check| check["name"] == name).unwrap()
    }

    fn status(&self, name: &str) -> &str {
        self.check(name)["status"].as_str().unwrap()
    }

    fn message(&self, name: &str) -> &str {
        self.check(name)["message"].as_str().unwrap()
    }

    fn fix(&self, name: &str) -> &str {
        self.check(name)["fix"].as_str().unwrap()
    }

    /// Names and codes of the failed checks.
    fn failed(&self) -> Vec<(&str, &str)> {
        let failed = self.checks.iter().filter(|check| check["status"] == "failed");
        failed.map(|c| (c["name"].as_str().unwrap(), c["code"].as_str().unwrap())).collect()
    }
}

/// `doctor` on a healthy machine, against a server with this answer.
fn against(answer: String) -> DoctorOutput {
    let server = Server::answering(answer);
    let report = DoctorOutput::of(&mut Machine::new().agent("doctor", &server.url()));
    assert!(server.seen().iter().all(harmless), "nothing that a server could write");
    report
}

/// Whether no server of any version stores the request.
fn harmless(request: &Request) -> bool {
    request.body.is_empty() || request.target().1.contains("?dry_run=1")
}

/// `doctor` against a server that answers like the Worker, after the test's change.
fn examined(change: impl FnOnce(&mut Command, &Machine)) -> DoctorOutput {
    let server = Server::start(None, telemetry);
    let machine = Machine::new();
    let mut doctor = machine.agent("doctor", &server.url());
    change(&mut doctor, &machine);
    DoctorOutput::of(&mut doctor)
}

fn with(name: &str, value: &str) -> DoctorOutput {
    examined(|doctor, _| {
        doctor.env(name, value);
    })
}

#[test]
fn on_a_healthy_machine_all_checks_pass_and_nothing_is_written() {
    let server = Server::start(Some(AUTHORITY.server("localhost")), telemetry);
    let machine = Machine::new();
    let mut doctor = machine.agent("doctor", &server.https("localhost"));
    doctor.arg("--ca-file").arg(machine.put("ca.pem", &AUTHORITY.pem));
    let shown = run(&mut doctor);
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""), "{}", shown.stdout);
    let lines: Vec<_> = shown.stdout.lines().collect();
    assert_eq!(lines.len(), CheckName::ALL.len() + 1);
    assert!(lines.iter().all(|line| !line.starts_with('✗')), "{}", shown.stdout);
    for line in [
        "✓ configuration: complete and valid",
        "- proxy: skipped: none is used",
        "✓ api_key: accepted",
        "✓ body: accepted, and not written",
        "✓ load: 0.07 over 5 minutes",
        "- disk: skipped: KILOCLAW_DISK_PATH is not set",
        "✓ network: bytes so far: eth0 1000 in, 2000 out",
        "✓ openclaw: 2026.3.13 (def5678)",
    ] {
        assert!(lines.contains(&line), "{line} is not in {}", shown.stdout);
    }
    assert_eq!(lines.last(), Some(&"all 14 checks passed, 3 skipped"));
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].target().1.ends_with("/checkin?dry_run=") && seen[0].body.is_empty());
    assert!(seen[1].target().1.ends_with("/checkin?dry_run=1"));
    assert_eq!(CheckIn::parse_str(&seen[1].body).unwrap().openclaw_version.unwrap(), "2026.3.13");
    assert!(!machine.path("state.json").exists(), "nothing is written here, either");

    let report = DoctorOutput::of(&mut doctor);
    assert_eq!(report.code, 0);
    assert_eq!((report.status("tls"), report.status("clock")), ("passed", "passed"));
}

#[test]
fn the_disk_is_reported_where_a_path_is_set_and_a_wrong_path_is_a_warning() {
    let found = with("KILOCLAW_DISK_PATH", "/");
    assert_eq!(found.status("disk"), "passed");
    for wrong in ["/nowhere", "/proc"] {
        let found = with("KILOCLAW_DISK_PATH", wrong);
        assert_eq!((found.status("disk"), found.failed().is_empty()), ("warned", true), "{wrong}");
    }
}

#[test]
fn an_unresolvable_host_fails_the_dns_check() {
    let machine = Machine::new();
    let report = DoctorOutput::of(&mut machine.agent("doctor", "https://telemetry.invalid/"));
    assert_eq!(report.failed(), [("dns", "cannot_resolve")]);
    assert_eq!(report.status("connection"), "skipped");
    assert_eq!(
        report.status("openclaw"),
        "passed",
        "what is on this machine is checked all the same"
    );
}

#[test]
fn a_refused_connection_fails_the_connection_check() {
    let report = DoctorOutput::of(&mut Machine::new().agent("doctor", "http://127.0.0.1:1/"));
    assert_eq!(report.failed(), [("connection", "connection_refused")]);
}

#[test]
fn every_tls_failure_is_explained() {
    for (config, trusted, reason) in [
        (AUTHORITY.server("localhost"), false, "an authority that is not trusted"),
        (AUTHORITY.server_until("localhost", 2020), true, "expired"),
        (AUTHORITY.server("example.com"), true, "not for localhost, but for example.com"),
    ] {
        let server = Server::start(Some(config), telemetry);
        let machine = Machine::new();
        let mut doctor = machine.agent("doctor", &server.https("localhost"));
        if trusted {
            doctor.arg("--ca-file").arg(machine.put("ca.pem", &AUTHORITY.pem));
        }
        let report = DoctorOutput::of(&mut doctor);
        assert_eq!(report.failed(), [("tls", "tls")]);
        assert!(report.message("tls").contains(reason), "{}", report.message("tls"));
    }
    for (said, reason) in
        [(&b"HTTP/1.1 400 Bad\r\n\r\n"[..], "does not speak TLS"), (b"", "closed")]
    {
        let address = listen(move |mut stream| {
            let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
            let _ = stream.write_all(said);
        });
        let report =
            DoctorOutput::of(&mut Machine::new().agent("doctor", &format!("https://{address}/")));
        assert_eq!(report.failed(), [("tls", "tls")]);
        assert!(report.message("tls").contains(reason), "{}", report.message("tls"));
    }
}

#[test]
fn a_hanging_server_fails_the_server_check() {
    // The test accepts no connection, but the kernel completes it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for (scheme, tls) in [("http", "skipped"), ("https", "skipped")] {
        let url = format!("{scheme}://{address}/");
        let report =
            DoctorOutput::of(Machine::new().agent("doctor", &url).args(["--timeout", "1"]));
        assert_eq!(report.failed(), [("server", "timeout")], "{scheme}");
        assert_eq!((report.status("connection"), report.status("tls")), ("passed", tls));
    }
}

#[test]
fn a_server_that_closes_is_down_and_one_that_sends_garbage_is_not_the_endpoint() {
    assert_eq!(against(String::new()).failed(), [("server", "server_down")]);
    let garbage = "220 mail.example.com ESMTP\r\n\r\n".to_owned();
    assert_eq!(against(garbage).failed(), [("server", "not_the_endpoint")]);
    let tls = Server::start(Some(AUTHORITY.server("localhost")), telemetry);
    let report = DoctorOutput::of(&mut Machine::new().agent("doctor", &tls.url()));
    assert_eq!(report.failed(), [("server", "not_the_endpoint")]);
    assert!(report.fix("server").contains("https"), "{}", report.fix("server"));
}

#[test]
fn a_5xx_or_429_is_reported_as_down_or_misconfigured() {
    for status in ["500 Internal Server Error", "502 Bad Gateway", "429 Too Many Requests"] {
        let report = against(answer(status, "retry-after: 30\r\n", "<html>"));
        assert_eq!(report.failed(), [("server", "server_down")], "{status}");
        assert!(
            report.message("server").contains("retry after 30"),
            "{}",
            report.message("server")
        );
    }
    let report = against(refuse(Refusal::Misconfigured));
    assert_eq!(report.failed(), [("server", "misconfigured")]);
    assert_eq!(report.status("api_key"), "skipped");
}

#[test]
fn a_response_without_the_contracts_codes_is_not_the_endpoint() {
    for (status, body) in [
        ("200 OK", "<html>Welcome to nginx!</html>"),
        ("404 Not Found", "<html>"),
        ("404 Not Found", r#"{"error":"Not found","code":"not_found"}"#),
        ("403 Forbidden", "<html>Blocked</html>"),
        ("403 Forbidden", r#"{"error":"Nope"}"#),
        ("403 Forbidden", r#"{"error":"Nope","code":"waf_blocked"}"#),
        // The contract's texts without its codes.
        ("403 Forbidden", r#"{"error":"Forbidden"}"#),
        ("400 Bad Request", r#"{"error":"Invalid body"}"#),
        ("400 Bad Request", r#"{"error":"Invalid query"}"#),
        ("401 Unauthorized", ""),
        ("204 No Content", ""),
    ] {
        let report = against(answer(status, "", body));
        assert_eq!(report.failed(), [("server", "not_the_endpoint")], "{status} {body}");
        assert!(report.message("server").contains(status), "{}", report.message("server"));
        let fix = report.fix("server");
        assert!(fix.contains("KILOCLAW_CHECKIN_URL") && !fix.contains("; "), "{fix}");
        assert!(!fix.contains("should be"), "the path is right: {fix}");

        let elsewhere = Server::answering(answer(status, "", body));
        let url = elsewhere.url().replace("/api/controller/checkin", "/api");
        let report = with("KILOCLAW_CHECKIN_URL", &url);
        assert_eq!(report.failed(), [("server", "not_the_endpoint")], "{status} {body}");
        let fix = report.fix("server");
        assert_eq!(fix.matches("should be /api/controller/checkin").count(), 1, "{fix}");
        assert!(!fix.starts_with(';') && !fix.contains("; ;"), "{fix}");
    }
    let report = against(answer("403 Forbidden", "cf-mitigated: challenge\r\n", "<html>"));
    assert_eq!(report.failed(), [("server", "not_the_endpoint")]);
    assert!(report.message("server").contains("cf-mitigated challenge"));
    assert!(report.fix("server").contains("Cloudflare"), "{}", report.fix("server"));
}

#[test]
fn a_redirect_is_shown_and_not_followed() {
    let elsewhere = Server::answering(accepted());
    let location = format!("location: {}\r\n", elsewhere.url());
    let report = against(answer("308 Permanent Redirect", &location, ""));
    assert_eq!(report.failed(), [("server", "redirected")]);
    let shown = format!(": to http://{}", elsewhere.address);
    assert!(report.message("server").ends_with(&shown), "{}", report.message("server"));
    assert!(elsewhere.seen().is_empty());
}

#[test]
fn a_wrong_key_fails_the_api_key_check() {
    let report = with("KILOCODE_API_KEY", "another-key");
    assert_eq!(report.failed(), [("api_key", "wrong_api_key")]);
    assert!(report.message("api_key").contains("wrong_api_key"));
    for name in ["gateway_token", "sandbox_id", "body"] {
        assert_eq!(report.status(name), "skipped", "{name}");
    }
    assert!(!report.fix("api_key").contains("comma"));
    let pasted = with("KILOCODE_API_KEY", &format!("new-key,{}", API_KEY.to_uppercase()));
    assert!(pasted.fix("api_key").contains("comma"), "{}", pasted.fix("api_key"));
}

#[test]
fn credentials_removed_by_a_proxy_fail_the_api_key_check() {
    for credential in [Credential::Authorization, Credential::Bearer, Credential::GatewayToken] {
        let refusal = Refusal::MissingCredential(credential);
        assert_eq!(against(refuse(refusal)).failed(), [("api_key", refusal.code())]);
    }
}

#[test]
fn a_malformed_token_is_explained_without_its_value() {
    let token = token(SANDBOX_ID);
    for (wrong, reason) in [
        (token.to_uppercase(), "upper case"),
        (token[1..].to_owned(), "63 characters"),
        (format!("{} {}", &token[..32], &token[33..]), "white space"),
        (format!("\"{token}\""), "66 characters, quotation marks"),
        (format!("Bearer {token}"), "other than hex digits"),
        (format!("g{}", &token[1..]), "other than hex digits"),
        (format!("ü{}", &token[1..]), "other than hex digits"),
    ] {
        let report = with("OPENCLAW_GATEWAY_TOKEN", &wrong);
        assert_eq!(report.failed(), [("gateway_token", "wrong_gateway_token")], "{reason}");
        let message = report.message("gateway_token");
        assert!(message.contains("malformed") && message.contains(reason), "{message}");
        assert!(!message.contains(&wrong) && !message.contains(&token[34..]), "{message}");
        assert_eq!((report.status("sandbox_id"), report.status("body")), ("skipped", "passed"));
    }
    // A malformed token is found without a server.
    let machine = Machine::new();
    let mut doctor = machine.agent("doctor", "http://127.0.0.1:1/");
    let report = DoctorOutput::of(doctor.env("OPENCLAW_GATEWAY_TOKEN", "short"));
    let both = [("connection", "connection_refused"), ("gateway_token", "wrong_gateway_token")];
    assert_eq!(report.failed(), both);
}

#[test]
fn a_wrong_token_fails_the_gateway_token_check() {
    let report = with("OPENCLAW_GATEWAY_TOKEN", &"0".repeat(64));
    assert_eq!(report.failed(), [("gateway_token", "wrong_gateway_token")]);
    assert_eq!((report.status("sandbox_id"), report.status("body")), ("skipped", "passed"));
    assert!(report.message("gateway_token").contains("wrong_gateway_token"));
    for text in ["OPENCLAW_GATEWAY_TOKEN", "KILOCLAW_SANDBOX_ID", "kiloclaw-agent gateway-token"] {
        assert!(report.fix("gateway_token").contains(text), "{}", report.fix("gateway_token"));
    }
}

#[test]
fn a_token_of_another_known_sandbox_names_that_sandbox() {
    type Place = fn(&mut Command, &Machine);
    let places: [(&str, &str, Place); 6] = [
        ("sandbox-1\n", "sandbox-1", |_, _| {}),
        ("Sandbox-1 ", "sandbox-1", |_, _| {}),
        ("x", "of-machine", |doctor, _| {
            doctor.env("FLY_MACHINE_ID", "of-machine");
        }),
        ("x", "of-host", |_, machine| {
            machine.put("sys/kernel/hostname", "of-host\n");
        }),
        ("x", "of-state", |_, machine| {
            State::new("of-state").save(&machine.path("state.json")).unwrap();
        }),
        (&"x".repeat(97), "of-machine", |doctor, _| {
            doctor.env("FLY_MACHINE_ID", "of-machine");
        }),
    ];
    for (configured, owner, place) in places {
        let report = examined(|doctor, machine| {
            doctor.env("KILOCLAW_SANDBOX_ID", configured);
            doctor.env("OPENCLAW_GATEWAY_TOKEN", token(owner));
            place(doctor, machine);
        });
        let failed = report.failed();
        let invalid = configured.len() > 96 || configured.trim() != configured;
        let both = [("configuration", "wrong_sandbox_id"), ("sandbox_id", "wrong_sandbox_id")];
        assert_eq!(failed, both[usize::from(!invalid)..]);
        let message = report.message("sandbox_id");
        assert!(message.contains(&format!("the token belongs to `{owner}`")), "{message}");
        assert_eq!((report.status("gateway_token"), report.status("body")), ("passed", "passed"));
    }
}

#[test]
fn a_missing_or_too_long_sandbox_id_fails_the_configuration_check() {
    for id in [String::new(), "s".repeat(97)] {
        let report = with("KILOCLAW_SANDBOX_ID", &id);
        assert_eq!(report.failed(), [("configuration", "wrong_sandbox_id")], "{id}");
        assert_eq!(report.status("api_key"), "passed");
        assert_eq!(report.status("sandbox_id"), "skipped");
    }
}

#[test]
fn a_refused_body_names_the_invalid_field() {
    let report = with("FLY_MACHINE_ID", &"m".repeat(1025));
    assert_eq!(report.failed(), [("body", "invalid_field")]);
    assert!(report.message("body").contains("field machineId"), "{}", report.message("body"));
    assert_eq!((report.status("api_key"), report.status("gateway_token")), ("passed", "skipped"));
    // Without a server, `doctor` checks the body against the contract.
    let machine = Machine::new();
    let mut doctor = machine.agent("doctor", "http://127.0.0.1:1/");
    let report = DoctorOutput::of(doctor.env("FLY_MACHINE_ID", "m".repeat(1025)));
    assert_eq!(report.failed(), [("connection", "connection_refused"), ("body", "invalid_field")]);
}

#[test]
fn a_server_that_fails_at_the_second_request_fails_the_body_check() {
    for (second, code) in [
        (refuse(Refusal::Misconfigured), "misconfigured"),
        (answer("500 Internal Server Error", "", ""), "server_down"),
        (refuse(Refusal::BodyTooLarge), "body_too_large"),
        (String::new(), "connection_closed"),
    ] {
        let server = Server::start(None, move |request| {
            if request.body.is_empty() { telemetry(request) } else { second.clone() }
        });
        let report = DoctorOutput::of(&mut Machine::new().agent("doctor", &server.url()));
        assert_eq!(report.failed(), [("body", code)]);
        assert_eq!(report.status("gateway_token"), "skipped");
    }
}

#[test]
fn a_server_without_the_dry_run_never_gets_a_check_in() {
    let server = Server::start(None, older_telemetry);
    let machine = Machine::new();
    let report = DoctorOutput::of(&mut machine.agent("doctor", &server.url()));
    assert_eq!(report.failed(), []);
    assert_eq!(report.status("api_key"), "passed");
    for name in ["gateway_token", "sandbox_id", "body"] {
        assert_eq!(report.status(name), "skipped", "{name}");
    }
    assert!(report.message("body").contains("has no dry run"), "{}", report.message("body"));
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen.iter().all(|request| CheckIn::parse_str(&request.body).is_err()));
    let wrong =
        DoctorOutput::of(machine.agent("doctor", &server.url()).env("KILOCODE_API_KEY", "other"));
    assert_eq!(wrong.failed(), [("api_key", "wrong_api_key")]);
}

#[test]
fn the_urls_own_query_follows_the_dry_run_parameter() {
    let server = Server::start(None, telemetry);
    let url = format!("{}?region=a&b", server.url());
    assert_eq!(DoctorOutput::of(&mut Machine::new().agent("doctor", &url)).failed(), []);
    let targets: Vec<_> = server.seen().iter().map(|r| r.target().1.to_owned()).collect();
    assert!(targets[0].ends_with("?dry_run=&region=a&b"), "{targets:?}");
    assert!(targets[1].ends_with("?dry_run=1&region=a&b"), "{targets:?}");
    // A URL with the dry-run parameter is a configuration error.
    let url = format!("{}?dry_run=1", server.url());
    let report = DoctorOutput::of(&mut Machine::new().agent("doctor", &url));
    assert_eq!(report.failed(), [("configuration", "dry_run_url")]);
}

#[test]
fn a_wrong_clock_fails_the_clock_check() {
    let day = Duration::from_hours(24);
    let now = SystemTime::now();
    for (theirs, direction) in [(now - day, "ahead of"), (now + day, "behind")] {
        let refusal = Refusal::WrongApiKey;
        let report = against(answer_at(theirs, "403 Forbidden", "", &refusal.body().to_json()));
        assert_eq!(report.failed(), [("clock", "clock_skew"), ("api_key", "wrong_api_key")]);
        assert!(report.message("clock").contains(direction), "{}", report.message("clock"));
        assert!(report.fix("clock").contains("timedatectl"), "{}", report.fix("clock"));
    }
    let report = against(refuse(Refusal::InvalidQuery));
    assert_eq!(report.status("clock"), "passed");
}

#[test]
fn every_proxy_failure_is_explained() {
    let server = Server::start(Some(AUTHORITY.server("telemetry.test")), telemetry);
    let machine = Machine::new();
    let ca = machine.put("ca.pem", &AUTHORITY.pem);
    let doctor = |proxy: &str| {
        let mut doctor = machine.agent("doctor", &server.https("telemetry.test"));
        DoctorOutput::of(doctor.env("KILOCLAW_CA_FILE", &ca).env("HTTPS_PROXY", proxy))
    };
    // `doctor` resolves the proxy's name, not the server's.
    let through = doctor(&ConnectProxy::to(&server).with_password());
    assert_eq!(through.failed(), []);
    assert_eq!((through.status("proxy"), through.status("tls")), ("passed", "passed"));
    let refused = doctor(&ConnectProxy::refusing("407 Authenticate").with_password());
    assert_eq!(refused.failed(), [("proxy", "proxy")]);
    assert!(refused.fix("proxy").contains("requires a user and a password"), "{refused:?}");
    let forbidden = doctor(&ConnectProxy::refusing("403 Forbidden").url());
    assert!(forbidden.fix("proxy").contains("allows this host"), "{forbidden:?}");
    let nobody = doctor("http://127.0.0.1:1");
    assert_eq!(nobody.failed(), [("connection", "connection_refused")]);
    assert!(nobody.fix("connection").contains("HTTPS_PROXY"), "{}", nobody.fix("connection"));
    assert_eq!(doctor("http://proxy.invalid").failed(), [("dns", "cannot_resolve")]);
}

#[test]
fn all_wrong_settings_are_reported_at_once() {
    let machine = Machine::new();
    let mut doctor = machine.agent("doctor", "http://telemetry.example.com/");
    doctor
        .env("KILOCODE_API_KEY_FILE", "/nowhere")
        .env("OPENCLAW_GATEWAY_TOKEN", "")
        .env("KILOCLAW_SANDBOX_ID", "")
        .env("KILOCLAW_NET_INTERFACE", "a b")
        .env("KILOCLAW_STATUS_URL", "nonsense")
        .env("KILOCLAW_SYSTEMD_UNIT", "a.service");
    let report = DoctorOutput::of(&mut doctor);
    let codes: Vec<_> = report.failed().into_iter().map(|(_, code)| code).collect();
    let expected = [
        "not_set",
        "wrong_sandbox_id",
        "unreadable_file",
        "insecure_http",
        "two_sources",
        "invalid_interface",
    ];
    assert_eq!(codes, expected);
    assert_eq!((report.status("load"), report.status("openclaw")), ("passed", "passed"));
    assert_eq!((report.status("network"), report.status("process")), ("skipped", "skipped"));

    for (name, value, code) in [
        ("KILOCLAW_CHECKIN_URL", "", "not_set"),
        ("KILOCLAW_CHECKIN_URL", "telemetry.example.com", "invalid_url"),
        ("KILOCODE_API_KEY", "", "not_set"),
        ("KILOCODE_API_KEY", "a\nb", "invalid_value"),
        ("KILOCLAW_CONTROLLER_VERSION", "\"1.2.3\"", "invalid_value"),
        ("KILOCLAW_CONTROLLER_COMMIT", " abcdef", "invalid_value"),
        ("OPENCLAW_GATEWAY_TOKEN", "", "not_set"),
        ("KILOCLAW_SYSTEMD_UNIT", "*", "invalid_unit"),
    ] {
        assert_eq!(with(name, value).failed(), [("configuration", code)], "{name}={value:?}");
    }
    // Control characters also break the contract.
    assert_eq!(
        with("FLY_MACHINE_ID", "machine-1\r").failed(),
        [("configuration", "invalid_value"), ("body", "invalid_field")]
    );
    for (name, value, code) in [
        ("KILOCLAW_CA_FILE", "/nowhere", "unreadable_file"),
        ("KILOCLAW_CA_FILE", "/dev/null", "no_certificate"),
        ("HTTPS_PROXY", "socks5://proxy", "invalid_proxy"),
    ] {
        let mut doctor = machine.agent("doctor", "https://127.0.0.1:1/");
        assert_eq!(
            DoctorOutput::of(doctor.env(name, value)).failed(),
            [("configuration", code)],
            "{name}"
        );
    }
}

#[test]
fn the_server_is_checked_even_without_credentials() {
    let report = with("KILOCODE_API_KEY", "");
    assert_eq!((report.status("server"), report.status("api_key")), ("passed", "skipped"));
    let report = with("OPENCLAW_GATEWAY_TOKEN", "");
    assert_eq!((report.status("api_key"), report.status("gateway_token")), ("passed", "skipped"));
    assert_eq!(report.status("body"), "passed");
}

#[test]
fn failed_readings_do_not_fail_the_body_check() {
    let report = with("KILOCLAW_PROC_ROOT", "/nowhere");
    assert_eq!(report.failed(), [("load", "unreadable"), ("network", "unreadable")]);
    assert_eq!(report.status("body"), "passed", "they cost no check-in");
    for interface in ["wg0", "!eth0"] {
        let report = with("KILOCLAW_NET_INTERFACE", interface);
        assert_eq!(report.failed(), [("network", "no_interface")], "{interface}");
        assert!(report.fix("network").contains("there are eth0"), "{}", report.fix("network"));
    }
    // A machine without OpenClaw checks in without a version.
    for (program, hint) in [
        ("/nowhere", "KILOCLAW_OPENCLAW_COMMAND"),
        ("/bin/true", "KILOCLAW_OPENCLAW_COMMAND"),
        ("/bin/false", "by hand"),
        ("/etc/passwd", "execute it"),
    ] {
        let report = with("KILOCLAW_OPENCLAW_COMMAND", program);
        assert_eq!((report.failed(), report.code), (Vec::new(), 0), "{program}");
        assert_eq!(report.status("openclaw"), "warned", "{program}");
        assert_eq!(report.check("openclaw")["code"], "no_version");
        assert!(report.fix("openclaw").contains(hint), "{}", report.fix("openclaw"));
    }
}

#[test]
fn the_process_check_queries_the_controller() {
    let status = r#"{"state":"crashed","pid":null,"uptime":0,"restarts":7,"lastExit":null}"#;
    let controller = Server::answering(answer("200 OK", "", status));
    let report = with("KILOCLAW_STATUS_URL", &controller.url());
    assert_eq!(report.failed(), []);
    let found = report.check("process")["found"].as_str().unwrap();
    assert!(found.contains("crashed") && found.contains("restarts 7"), "{found}");
    let incomplete = r#"{"state":"running\nWATCHDOG=trigger","uptime":-1,"lastExit":null}"#;
    let controller = Server::answering(answer("200 OK", "", incomplete));
    let report = with("KILOCLAW_STATUS_URL", &controller.url());
    assert_eq!((report.failed(), report.status("process")), (Vec::new(), "warned"));
    assert!(report.message("process").ends_with("no valid state, restarts"));
    for (reply, code) in [
        (answer("401 Unauthorized", "", ""), "http_401"),
        (answer("200 OK", "", "<html>"), "not_a_status"),
        (String::new(), "connection_closed"),
    ] {
        let controller = Server::answering(reply);
        let report = with("KILOCLAW_STATUS_URL", &controller.url());
        assert_eq!(report.failed(), [("process", code)]);
        assert_eq!(report.status("body"), "passed");
    }
    let report = with("KILOCLAW_STATUS_URL", "http://127.0.0.1:1/");
    assert_eq!(report.failed(), [("process", "connection_refused")]);
    assert!(report.fix("process").contains("KILOCLAW_STATUS_URL"), "{}", report.fix("process"));
    let report = examined(|doctor, _| {
        doctor.env("KILOCLAW_SYSTEMD_UNIT", "a").env("PATH", "/nowhere");
    });
    assert_eq!(report.failed(), [("process", "no_systemd")]);
}

#[test]
fn an_unusable_state_file_fails_its_check() {
    for place in ["/nowhere/state.json", "/proc/state.json", "/dev/null", "/"] {
        let report = with("KILOCLAW_STATE_FILE", place);
        assert_eq!(report.failed(), [("state_file", "not_writable")], "{place}");
    }
    let report = examined(|_, machine| {
        machine.put("state.json", "{");
    });
    assert_eq!(report.failed(), [("state_file", "unreadable")]);
    // `doctor` does not create the default state file.
    let (runtime, machine) = (tempfile::tempdir().unwrap(), Machine::new());
    let mut doctor = machine.agent("doctor", "http://127.0.0.1:1/");
    doctor.env_remove("KILOCLAW_STATE_FILE").env("XDG_RUNTIME_DIR", runtime.path());
    assert_eq!(DoctorOutput::of(&mut doctor).status("state_file"), "passed");
    assert_eq!(runtime.path().read_dir().unwrap().count(), 0);
}

#[test]
fn secrets_that_a_server_sends_back_are_not_printed() {
    let token = token(SANDBOX_ID);
    let body = format!(r#"{{"error":"{API_KEY}","code":"{token}","field":"{API_KEY}"}}"#);
    for status in ["403 Forbidden", "302 Found", "500 Internal Server Error"] {
        // `run` asserts that they are not printed.
        let report = against(answer(status, &format!("location: /{API_KEY}\r\n"), &body));
        assert!(report.message("server").contains("[redacted]"), "{}", report.message("server"));
    }
    // The same for the response to the dry run, whose code goes into the JSON.
    let server = Server::start(None, move |request| {
        if request.body.is_empty() { telemetry(request) } else { answer("400 Bad", "", &body) }
    });
    let report = DoctorOutput::of(&mut Machine::new().agent("doctor", &server.url()));
    assert_eq!(report.failed(), [("body", "[redacted]")]);
}

#[test]
fn a_report_that_cannot_be_printed_exits_74() {
    for arguments in [&[][..], &["--json"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let machine = Machine::new();
        let mut doctor = machine.agent("doctor", "http://127.0.0.1:1/");
        doctor.args(arguments).stdout(full).stderr(Stdio::null());
        assert_eq!(doctor.status().unwrap().code(), Some(74));
    }
}
