//! The real program against real sockets: exit codes, output and requests.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use kiloclaw_check_in::limits::MAX_SANDBOX_ID_BYTES;
use kiloclaw_check_in::{CHECK_IN_PATH, CheckIn, Refusal};

mod stage;

use stage::{API_KEY, Machine, Run, Server, accepted, answer};

/// `printf %s sandbox-1 | openssl dgst -sha256 -hmac secret-that-must-not-show`
const GATEWAY_TOKEN: &str = "d66bc92596a1f22485d48b2674fb97263bd3c336bd9a60fd19fec8f646e5c364";
const TOKEN_SECRET: &str = "current-secret";

/// `printf %s sandbox-1 | openssl dgst -sha256 -hmac current-secret`
const TOKEN_OF_SANDBOX_1: &str = "761eea8f95464ed192a728536f140c157e887fe47d7bc6d67b02f163e615a4ae";

/// The program with an empty environment.
fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiloclaw-agent"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// Runs the program, and asserts that it prints no secret.
fn run(command: &mut Command) -> Run {
    let run = stage::run(command);
    assert!(!run.stdout.contains(TOKEN_SECRET) && !run.stderr.contains(TOKEN_SECRET));
    run
}

/// `once` on this machine, with valid settings and no state file.
fn once(machine: &Machine, url: &str) -> Command {
    let mut command = machine.agent("once", url);
    command.env_remove("KILOCLAW_STATE_FILE").env("FLY_MACHINE_ID", "machine-1");
    command
}

/// Runs `once` against a server that gives one answer.
fn once_against(answer: String) -> Run {
    let server = Server::answering_each([answer]);
    run(&mut once(&Machine::new(), &server.url()))
}

#[test]
fn an_accepted_check_in_exits_0_and_prints_what_was_sent() {
    let server = Server::answering_each([accepted()]);
    let run = run(&mut once(&Machine::new(), &server.url()));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));

    let request = server.requests.recv().unwrap();
    assert!(request.head.starts_with(&format!("POST {CHECK_IN_PATH} HTTP/1.1\r\n")));
    assert_eq!(request.header("authorization"), Some(&*format!("Bearer {API_KEY}")));
    assert_eq!(request.header("x-kiloclaw-gateway-token"), Some(GATEWAY_TOKEN));
    assert_eq!(request.header("content-type"), Some("application/json"));
    let user_agent = concat!("kiloclaw-agent/", env!("CARGO_PKG_VERSION"));
    assert_eq!(request.header("user-agent"), Some(user_agent));

    let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    let expected = serde_json::json!({
        "sandboxId": "sandbox-1",
        "machineId": "machine-1",
        "controllerVersion": env!("CARGO_PKG_VERSION"),
        "controllerCommit": env!("BUILD_COMMIT"),
        "openclawVersion": "2026.3.13",
        "openclawCommit": "def5678",
        "supervisorState": "stopped",
        "totalRestarts": 0,
        "restartsSinceLastCheckin": 0,
        "uptimeSeconds": 0,
        "loadAvg5m": 0.07,
        "bandwidthBytesIn": 0,
        "bandwidthBytesOut": 0,
        "lastExitReason": "",
    });
    assert_eq!(body, expected);
    CheckIn::parse_str(&request.body).unwrap();

    let said = format!("POST {}\n{}\n204 No Content: accepted\n", server.url(), request.body);
    assert_eq!(run.stdout, said);
}

#[test]
fn a_refused_check_in_exits_77_with_the_reason_and_a_hint() {
    let run =
        once_against(answer("403 Forbidden", "", &Refusal::WrongGatewayToken.body().to_json()));
    assert_eq!(run.code, 77);
    for text in [
        "403 Forbidden: refused\n",
        "error:        Forbidden\n",
        "code:         wrong_gateway_token\n",
        "hint:         check OPENCLAW_GATEWAY_TOKEN and KILOCLAW_SANDBOX_ID",
    ] {
        assert!(run.stdout.contains(text), "{text:?} is not in {}", run.stdout);
    }
}

#[test]
fn a_refusal_names_the_field_and_its_rule() {
    let body =
        r#"{"error":"Invalid body","code":"invalid_field","field":"f","expected":"a thing"}"#;
    let run = once_against(answer("400 Bad Request", "", body));
    assert_eq!(run.code, 77);
    assert!(run.stdout.contains("field:        f\n  expected:     a thing\n"), "{}", run.stdout);
}

#[test]
fn a_failing_or_busy_server_exits_69() {
    for status in ["500 Internal Server Error", "503 Service Unavailable", "429 Too Many Requests"]
    {
        let run = once_against(answer(status, "retry-after: 30\r\n", "oops"));
        assert_eq!(run.code, 69, "{status}");
        assert!(run.stdout.contains(&format!("{status}: not accepted for the moment\n")));
        assert!(run.stdout.contains("retry after:  30\n"), "{}", run.stdout);
    }
}

#[test]
fn a_redirect_is_refused_and_not_followed() {
    for status in ["302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        elsewhere.set_nonblocking(true).unwrap();
        let location = format!("http://{}/elsewhere", elsewhere.local_addr().unwrap());
        let run = once_against(answer(status, &format!("location: {location}\r\n"), ""));
        assert_eq!(run.code, 77, "{status}");
        assert!(run.stdout.contains(&format!("{status}: redirected, and not followed\n")));
        let shown = location.trim_end_matches("/elsewhere");
        assert!(run.stdout.contains(&format!(" {shown}\n")), "{}", run.stdout);
        assert_eq!(elsewhere.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn a_page_in_place_of_the_server_is_no_acceptance_and_loses_no_bytes() {
    let machine = Machine::new();
    let state_file = machine.path("state.json");
    let page = |status, headers| answer(status, headers, "<html>Please sign in</html>");
    let server = Server::answering_each([
        accepted(),
        page("200 OK", ""),
        page("302 Found", "location: https://login.example.net/cdn-cgi/access\r\n"),
        page("403 Forbidden", "cf-mitigated: challenge\r\n"),
        answer("202 Accepted", "", ""),
        accepted(),
    ]);
    let check_in = |bytes_in| {
        machine.transfer(bytes_in, 0);
        let run = run(once(&machine, &server.url()).arg("--state-file").arg(&state_file));
        let body: serde_json::Value =
            serde_json::from_str(&server.requests.recv().unwrap().body).unwrap();
        (run.code, body["bandwidthBytesIn"].as_u64().unwrap(), run.stdout)
    };
    assert_eq!(check_in(1_000).0, 0);
    for (bytes_in, named) in [
        (1_010, "200 OK: refused\n"),
        (1_020, "location:     https://login.example.net"),
        (1_030, "cf-mitigated: challenge\n"),
        (1_040, "202 Accepted: refused\n"),
    ] {
        let (code, delta, stdout) = check_in(bytes_in);
        assert_eq!((code, delta), (77, bytes_in - 1_000), "{stdout}");
        let answered_by = "answered by:  something in front of the server, or another one\n";
        assert!(stdout.contains(named) && stdout.contains(answered_by), "{stdout}");
        let (_, hint) = stdout.split_once("hint:").unwrap();
        assert!(!hint.contains("KEY") && !hint.contains("TOKEN"), "{hint}");
    }
    let (code, delta, _) = check_in(1_050);
    assert_eq!((code, delta), (0, 50));
}

#[test]
fn a_server_that_hangs_exits_69_after_the_timeout() {
    // The test accepts no connection, but the kernel completes it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let run = run(once(&Machine::new(), &url).args(["--timeout", "1"]));
    assert_eq!(run.code, 69);
    assert!(run.stdout.contains("unreachable: no answer within 1 s\n"), "{}", run.stdout);
}

#[test]
fn a_closed_port_exits_69() {
    // No program listens on port 1. A port that was free a moment ago could be in use again.
    let run = run(&mut once(&Machine::new(), "http://127.0.0.1:1/"));
    assert_eq!(run.code, 69);
    assert!(run.stdout.contains("unreachable: Connection refused"), "{}", run.stdout);
}

#[test]
fn a_server_that_speaks_no_tls_exits_69() {
    let server = Server::answering_each([accepted()]);
    let run = run(&mut once(&Machine::new(), &server.url().replace("http:", "https:")));
    assert_eq!(run.code, 69);
    assert!(run.stdout.contains("unreachable: "), "{}", run.stdout);
}

#[test]
fn an_answer_that_is_not_http_exits_69() {
    assert_eq!(once_against("220 mail.example.com ESMTP\r\n\r\n".to_owned()).code, 69);
}

#[test]
fn a_truncated_body_does_not_hide_the_status() {
    let run = once_against("HTTP/1.1 403 Forbidden\r\ncontent-length: 99\r\n\r\n{".to_owned());
    assert_eq!(run.code, 77);
    assert!(run.stdout.contains("403 Forbidden: refused\n"), "{}", run.stdout);
}

#[test]
fn secrets_that_a_server_sends_back_are_not_printed() {
    let body = format!(r#"{{"error":"Bearer {API_KEY}","code":"{GATEWAY_TOKEN}"}}"#);
    let location = format!("location: /?key={API_KEY}\r\n");
    for status in ["403 Forbidden", "302 Found", "500 Internal Server Error"] {
        // `run` asserts that they are not printed.
        let run = once_against(answer(status, &location, &body));
        assert!(run.stdout.contains("error:        Bearer [redacted]\n"), "{}", run.stdout);
    }
}

#[test]
fn a_proxy_in_the_environment_is_not_used() {
    let server = Server::answering_each([accepted()]);
    let machine = Machine::new();
    let mut once = once(&machine, &server.url());
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"] {
        once.env(name, "http://127.0.0.1:1/");
    }
    assert_eq!(run(&mut once).code, 0);
}

#[test]
fn plain_http_to_another_host_must_be_allowed() {
    // 0.0.0.0 is this host to Linux, but no loopback address.
    let server = Server::answering_each([accepted()]);
    let url = server.url().replace("127.0.0.1", "0.0.0.0");
    let machine = Machine::new();
    let refused = run(&mut once(&machine, &url));
    assert_eq!((refused.code, refused.stdout.as_str()), (64, ""));
    let expected = "error: KILOCLAW_CHECKIN_URL would send credentials unencrypted: use https, ";
    assert!(refused.stderr.starts_with(expected), "{}", refused.stderr);
    // For a flag's variable, clap reads these values as false.
    for no in ["", "0", "false", "no"] {
        assert_eq!(
            run(once(&machine, &url).env("KILOCLAW_ALLOW_INSECURE_HTTP", no)).code,
            64,
            "{no}"
        );
    }
    let allowed = run(once(&machine, &url).env("KILOCLAW_ALLOW_INSECURE_HTTP", "1"));
    assert_eq!((allowed.code, allowed.stderr.as_str()), (0, ""));
}

#[test]
fn all_missing_settings_are_reported_at_once() {
    let run = run(&mut agent(&["once"]));
    assert_eq!((run.code, run.stdout.as_str()), (64, ""));
    let expected = "error: not set: KILOCLAW_CHECKIN_URL, KILOCODE_API_KEY, \
                    OPENCLAW_GATEWAY_TOKEN, KILOCLAW_SANDBOX_ID\n";
    assert_eq!(run.stderr, expected);
}

#[test]
fn all_wrong_settings_are_reported_at_once() {
    let machine = Machine::new();
    let mut once = once(&machine, "http://127.0.0.1:1/?dry_run=1");
    once.env("KILOCODE_API_KEY", "").env("FLY_MACHINE_ID", "m\r");
    once.env("KILOCLAW_NET_INTERFACE", "a b").env("KILOCLAW_STATUS_URL", "nonsense");
    let run = run(&mut once);
    assert_eq!((run.code, run.stdout.as_str()), (64, ""));
    let expected = [
        "error: not set: KILOCODE_API_KEY; ",
        "FLY_MACHINE_ID has a carriage return",
        "KILOCLAW_CHECKIN_URL asks for dry runs",
        "KILOCLAW_STATUS_URL must be",
        "--net-interface (KILOCLAW_NET_INTERFACE)",
    ];
    let places: Vec<_> = expected.iter().map(|text| run.stderr.find(text)).collect();
    assert!(places.is_sorted() && places[0] == Some(0), "{places:?} in {}", run.stderr);
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let machine = Machine::new();
    for name in ["KILOCLAW_CHECKIN_URL", "KILOCODE_API_KEY", "KILOCLAW_SANDBOX_ID"] {
        let run = run(once(&machine, "http://127.0.0.1:1/").env(name, ""));
        assert_eq!(run.code, 64, "{name}");
        assert_eq!(run.stderr, format!("error: not set: {name}\n"));
    }

    // An empty optional variable means the default.
    let mut once = agent(&["once", "--dry-run", "--sandbox-id", "sandbox-1"]);
    once.env("KILOCLAW_PROC_ROOT", machine.path(""));
    let unset = run(&mut once);
    for name in [
        "FLY_MACHINE_ID",
        "KILOCLAW_STATUS_URL",
        "KILOCLAW_OPENCLAW_COMMAND",
        "KILOCLAW_CONTROLLER_VERSION",
        "KILOCLAW_CONTROLLER_COMMIT",
        "KILOCLAW_NET_INTERFACE",
        "KILOCLAW_STATE_FILE",
        "KILOCLAW_TIMEOUT_SECONDS",
    ] {
        once.env(name, "");
    }
    let empty = run(&mut once);
    assert_eq!(empty.code, 0, "{}", empty.stderr);
    assert_eq!((empty.stdout, empty.stderr), (unset.stdout, unset.stderr));
}

#[test]
fn bad_settings_exit_64_and_name_the_variable_but_not_its_value() {
    let machine = Machine::new();
    let broken_key = format!("{API_KEY}\n{API_KEY}");
    let broken_url = format!("http://user:{API_KEY}@127.0.0.1/");
    for (name, value) in [
        ("KILOCODE_API_KEY", broken_key.as_str()),
        ("OPENCLAW_GATEWAY_TOKEN", &broken_key),
        ("KILOCLAW_CHECKIN_URL", &broken_url),
        ("KILOCLAW_CHECKIN_URL", "/api/controller/checkin"),
        ("KILOCLAW_STATUS_URL", &broken_url),
    ] {
        let run = run(once(&machine, "http://127.0.0.1:1/").env(name, value));
        assert_eq!((run.code, run.stdout.as_str()), (64, ""), "{name}");
        assert!(run.stderr.starts_with(&format!("error: {name} must")), "{}", run.stderr);
        assert!(!run.stderr.contains(value), "{}", run.stderr);
    }
    for (name, value, expected) in [
        ("KILOCLAW_TIMEOUT_SECONDS", "soon", "--timeout"),
        ("KILOCLAW_TIMEOUT_SECONDS", "0", "--timeout"),
        ("KILOCLAW_SANDBOX_ID", &"s".repeat(97), "1 to 96 bytes"),
        ("KILOCLAW_SANDBOX_ID", "sandbox-1\r", "the sandbox id has a carriage return"),
        ("FLY_MACHINE_ID", "\"m\"", "FLY_MACHINE_ID has quotation marks"),
        ("FLY_MACHINE_ID", &"m".repeat(1025), "machineId must be"),
    ] {
        let run = run(once(&machine, "http://127.0.0.1:1/").env(name, value));
        assert_eq!((run.code, run.stdout.as_str()), (64, ""), "{name}");
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    }
}

#[test]
fn bad_flags_exit_64_and_help_and_version_exit_0() {
    for arguments in [&[][..], &["twice"], &["once", "--loud"], &["once", "--timeout", "x"]] {
        assert_eq!(run(&mut agent(arguments)).code, 64, "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["once", "-h"], &["gateway-token", "--help"], &["help"]] {
        assert_eq!(run(&mut agent(arguments)).code, 0, "{arguments:?}");
    }
    let run = run(&mut agent(&["--version"]));
    assert_eq!(run.code, 0);
    let version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_COMMIT"), ")");
    assert_eq!(run.stdout, format!("kiloclaw-agent {version}\n"));
}

#[test]
fn a_variable_that_is_not_utf8_is_named() {
    let odd = OsStr::from_bytes(b"key-\xff");
    let mut once = once(&Machine::new(), "http://127.0.0.1:1/");
    // A program's path may have any bytes.
    once.env("KILOCODE_API_KEY", odd).env("FLY_MACHINE_ID", odd);
    once.env("KILOCLAW_OPENCLAW_COMMAND", odd);
    let run = run(&mut once);
    assert_eq!(run.code, 64);
    let expected = "error: not valid UTF-8: FLY_MACHINE_ID, KILOCODE_API_KEY\n";
    assert!(run.stderr.starts_with(expected), "{}", run.stderr);
    assert!(!run.stderr.contains("key-"), "{}", run.stderr);
}

#[test]
fn run_without_a_command_prints_its_usage() {
    let run = run(&mut agent(&["run"]));
    assert_eq!(run.code, 64);
    let usage = "\nUsage: kiloclaw-agent run [OPTIONS] -- <COMMAND>...\n";
    assert!(run.stderr.contains(usage), "{}", run.stderr);
}

#[test]
fn help_names_every_variable_and_shows_no_value() {
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        run(agent(arguments).envs(environment.iter().copied())).stdout
    };
    let secrets = [
        ("KILOCODE_API_KEY", API_KEY),
        ("OPENCLAW_GATEWAY_TOKEN", GATEWAY_TOKEN),
        ("KILOCLAW_CHECKIN_URL", API_KEY),
    ];
    let help = run(&["once", "--help"], &secrets);
    for name in [
        "KILOCLAW_CHECKIN_URL",
        "KILOCODE_API_KEY",
        "OPENCLAW_GATEWAY_TOKEN",
        "KILOCLAW_SANDBOX_ID",
        "FLY_MACHINE_ID",
        "KILOCLAW_STATUS_URL",
        "KILOCLAW_OPENCLAW_COMMAND",
        "KILOCLAW_CONTROLLER_VERSION",
        "KILOCLAW_CONTROLLER_COMMIT",
        "KILOCLAW_NET_INTERFACE",
        "KILOCLAW_STATE_FILE",
        "KILOCLAW_TIMEOUT_SECONDS",
        "KILOCLAW_PROC_ROOT",
    ] {
        assert!(help.contains(&format!("[env: {name}]")), "{name} is not in {help}");
    }
    assert!(
        help.contains(CHECK_IN_PATH) && help.contains(&format!("1 to {MAX_SANDBOX_ID_BYTES} "))
    );
    assert!(!run(&["once", "-h"], &[]).contains("--proc-root"));
    let help = run(&["gateway-token", "--help"], &[("GATEWAY_TOKEN_SECRET", TOKEN_SECRET)]);
    assert!(help.contains("[env: GATEWAY_TOKEN_SECRET]"), "{help}");
    for arguments in [&["--help"][..], &["once", "--help"], &["gateway-token", "-h"]] {
        assert!(run(arguments, &[]).contains("\nExit codes:\n   0  accepted"), "{arguments:?}");
    }
}

#[test]
fn a_flag_wins_over_its_variable() {
    let server = Server::answering_each([accepted()]);
    let machine = Machine::new();
    let mut once = once(&machine, "http://127.0.0.1:1/");
    once.args(["--checkin-url", &server.url(), "--api-key", "other", "--sandbox-id", "sandbox-2"]);
    assert_eq!(run(&mut once).code, 0);
    let request = server.requests.recv().unwrap();
    assert_eq!(request.header("authorization"), Some("Bearer other"));
    assert!(request.body.contains("sandbox-2"));
}

#[test]
fn a_dry_run_prints_only_the_body_and_sends_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let machine = Machine::new();
    let mut once = once(&machine, &format!("http://{}/", listener.local_addr().unwrap()));
    let state_file = machine.path("state.json");
    let run = run(once.arg("--dry-run").env("KILOCLAW_STATE_FILE", &state_file));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert_eq!(CheckIn::parse_str(&run.stdout).unwrap().sandbox_id, "sandbox-1");
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(!state_file.exists());
}

#[test]
fn a_dry_run_needs_only_a_sandbox_id() {
    let run_with = |name: &str, value: &str| {
        run(agent(&["once", "--dry-run", "--openclaw-command=/does/not/exist"]).env(name, value))
    };
    let run = run_with("KILOCLAW_SANDBOX_ID", "sandbox-1");
    assert_eq!(run.code, 0);
    let body = CheckIn::parse_str(&run.stdout).unwrap();
    assert_eq!((body.machine_id, body.openclaw_version), (None, None));
    assert!(run.stderr.contains("`/does/not/exist --version` could not be run"), "{}", run.stderr);

    let run = run_with("KILOCODE_API_KEY", API_KEY);
    assert_eq!((run.code, run.stderr.as_str()), (64, "error: not set: KILOCLAW_SANDBOX_ID\n"));
}

#[test]
fn a_failed_reading_is_a_warning_and_affects_nothing_else() {
    let server = Server::answering_each([accepted()]);
    let machine = Machine::new();
    fs::write(machine.path("loadavg"), "nonsense").unwrap();
    fs::remove_file(machine.path("net/dev")).unwrap();
    let run = run(&mut once(&machine, &server.url()));
    assert_eq!(run.code, 0);
    let warnings: Vec<_> = run.stderr.lines().collect();
    assert_eq!(warnings.len(), 2, "{}", run.stderr);
    assert!(warnings[0].starts_with("warning: cannot read the load, reporting 0: "));
    assert!(warnings[1].starts_with("warning: cannot read network traffic, reporting 0: "));
    let request = server.requests.recv().unwrap();
    assert!(request.body.contains(r#""loadAvg5m": 0,"#), "{}", request.body);
    assert!(request.body.contains("2026.3.13"));
}

#[test]
fn a_missing_interface_is_a_warning() {
    let machine = Machine::new();
    let mut once = once(&machine, "http://127.0.0.1:1/");
    let run = run(once.args(["--dry-run", "--net-interface", "eth0", "--net-interface", "wg7"]));
    assert_eq!(run.code, 0);
    assert_eq!(run.stderr, "warning: there is no network interface wg7; counting without it\n");
}

#[test]
fn deltas_are_since_the_last_accepted_check_in() {
    let unavailable =
        || answer("503 Service Unavailable", "", &Refusal::WriteFailed.body().to_json());
    let server = Server::answering_each([accepted(), unavailable(), accepted(), accepted()]);
    let machine = Machine::new();
    let state_file = machine.path("state.json");
    let check_in = |bytes_in, bytes_out| {
        machine.transfer(bytes_in, bytes_out);
        let run = run(once(&machine, &server.url()).arg("--state-file").arg(&state_file));
        assert_eq!(run.stderr, "");
        let request = server.requests.recv().unwrap();
        let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
        (run.code, body["bandwidthBytesIn"].as_u64(), body["bandwidthBytesOut"].as_u64())
    };
    // The first check-in has no baseline.
    assert_eq!(check_in(1_000, 2_000), (0, Some(0), Some(0)));
    assert_eq!(check_in(1_100, 2_001), (69, Some(100), Some(1)));
    // The next check-in includes the deltas that were not accepted.
    assert_eq!(check_in(1_150, 2_002), (0, Some(150), Some(2)));
    // A reboot resets the counters.
    assert_eq!(check_in(30, 9_000), (0, Some(30), Some(6_998)));
}

#[test]
fn a_corrupt_state_file_is_a_warning_and_is_replaced() {
    let server = Server::answering_each([accepted(), accepted()]);
    let machine = Machine::new();
    let state_file = machine.path("state.json");
    fs::write(&state_file, "not JSON").unwrap();
    let first = run(once(&machine, &server.url()).env("KILOCLAW_STATE_FILE", &state_file));
    assert_eq!(first.code, 0);
    assert!(first.stderr.starts_with("warning: starting over without the state file "));
    let second = run(once(&machine, &server.url()).env("KILOCLAW_STATE_FILE", &state_file));
    assert_eq!((second.code, second.stderr.as_str()), (0, ""));
}

#[test]
fn a_state_file_that_cannot_be_written_does_not_undo_acceptance() {
    let server = Server::answering_each([accepted()]);
    let machine = Machine::new();
    let missing = machine.path("missing/state.json");
    let run = run(once(&machine, &server.url()).arg("--state-file").arg(missing));
    assert_eq!(run.code, 0);
    assert!(run.stderr.starts_with("warning: cannot write the state file "), "{}", run.stderr);
}

#[test]
fn the_supervisor_is_queried_with_the_gateway_token() {
    let status = r#"{"state":"running","pid":42,"uptime":12.5,"restarts":3,
        "lastExit":{"code":1,"signal":null,"at":"2026-01-01T00:00:00.000Z"}}"#;
    let supervisor = Server::answering_each([answer("200 OK", "", status)]);
    let machine = Machine::new();
    let mut once = once(&machine, "http://127.0.0.1:1/");
    let url = format!("http://{}/_kilo/gateway/status", supervisor.address);
    let run = run(once.args(["--dry-run", "--status-url", &url]));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let request = supervisor.requests.recv().unwrap();
    assert!(request.head.starts_with("GET /_kilo/gateway/status HTTP/1.1\r\n"));
    assert_eq!(request.header("authorization"), Some(&*format!("Bearer {GATEWAY_TOKEN}")));
    let body: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(body["supervisorState"], "running");
    assert_eq!(body["totalRestarts"], 3);
    assert_eq!(body["uptimeSeconds"], 12.5);
    assert_eq!(body["lastExitReason"], "code:1");
}

#[test]
fn a_supervisor_without_a_valid_status_is_reported_as_unknown() {
    let forbidden = answer("403 Forbidden", "", "");
    let echo = answer("200 OK", "", &format!(r#"["{GATEWAY_TOKEN}"]"#));
    let redirect = answer("302 Found", "location: /\r\n", "");
    for (reply, reason) in [
        (forbidden, "answered 403 Forbidden"),
        (redirect, "answered 302 Found"),
        (echo, "did not answer with a status"),
    ] {
        let supervisor = Server::answering_each([reply]);
        let machine = Machine::new();
        let mut once = once(&machine, "http://127.0.0.1:1/");
        let url = format!("http://{}/", supervisor.address);
        let run = run(once.args(["--dry-run", "--status-url", &url]));
        assert_eq!(run.code, 0);
        assert!(run.stderr.contains(&format!("reporting `unknown`: {url} {reason}")));
        let body: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(body["supervisorState"], "unknown");
        assert_eq!((&body["totalRestarts"], &body["uptimeSeconds"]), (&0.into(), &0.into()));
        assert_eq!(body.get("lastExitReason"), None);
    }
}

#[test]
fn a_state_with_secrets_or_control_characters_is_reported_as_unknown() {
    for state in [&format!("Bearer {GATEWAY_TOKEN}"), GATEWAY_TOKEN, "running\\nWATCHDOG=trigger"] {
        let status = format!(r#"{{"state":"{state}","pid":42,"uptime":-1,"restarts":3.0}}"#);
        let supervisor = Server::answering_each([answer("200 OK", "", &status)]);
        let machine = Machine::new();
        let mut once = once(&machine, "http://127.0.0.1:1/");
        let url = format!("http://{}/", supervisor.address);
        // `run` asserts that the printed body has no secrets.
        let run = run(once.args(["--dry-run", "--status-url", &url]));
        let warning = format!("warning: {url} did not answer with a valid state, reporting ");
        assert!(run.stderr.starts_with(&warning), "{}", run.stderr);
        let body: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(
            (&body["supervisorState"], &body["totalRestarts"]),
            (&"unknown".into(), &3.into())
        );
        assert_eq!((&body["uptimeSeconds"], &body["lastExitReason"]), (&0.into(), &"".into()));
    }
}

#[test]
fn a_gateway_token_is_the_hmac_of_the_sandbox_id() {
    let token = |secret: &str| {
        run(agent(&["gateway-token", "sandbox-1"]).env("GATEWAY_TOKEN_SECRET", secret))
    };
    for secrets in [TOKEN_SECRET, &format!(" {TOKEN_SECRET}\n"), "current-secret,previous-secret"] {
        let run = token(secrets);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        assert_eq!(run.stdout, format!("{TOKEN_OF_SANDBOX_1}\n"));
    }
}

#[test]
fn a_gateway_tokens_secret_can_come_from_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    fs::write(&path, format!("{TOKEN_SECRET}\n")).unwrap();
    for secret_in_environment in [None, Some("")] {
        let mut command = agent(&["gateway-token", "sandbox-1"]);
        command.envs(secret_in_environment.map(|secret| ("GATEWAY_TOKEN_SECRET", secret)));
        let run = run(command.stdin(File::open(&path).unwrap()));
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        assert_eq!(run.stdout, format!("{TOKEN_OF_SANDBOX_1}\n"));
    }
}

#[test]
fn a_gateway_token_needs_a_secret_and_a_valid_sandbox_id() {
    let long = "s".repeat(97);
    for (sandbox_id, secret, expected) in [
        ("", TOKEN_SECRET, "1 to 96 bytes"),
        (long.as_str(), TOKEN_SECRET, "1 to 96 bytes"),
        ("sandbox-1", "", "the secret is empty"),
        ("sandbox-1", " , ", "the secret is empty"),
    ] {
        let mut command = agent(&["gateway-token", sandbox_id]);
        let run = run(command.env("GATEWAY_TOKEN_SECRET", secret));
        assert_eq!((run.code, run.stdout.as_str()), (64, ""));
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    }
}

#[test]
fn a_token_that_cannot_be_printed_exits_74() {
    let mut command = agent(&["gateway-token", "sandbox-1"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    command.env("GATEWAY_TOKEN_SECRET", TOKEN_SECRET).stdout(full).stderr(Stdio::null());
    assert_eq!(command.status().unwrap().code(), Some(74));
}

#[test]
fn a_full_standard_output_does_not_prevent_a_check_in() {
    let server = Server::answering_each([accepted()]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let machine = Machine::new();
    assert_eq!(once(&machine, &server.url()).stdout(full).status().unwrap().code(), Some(0));
    assert!(server.requests.recv().unwrap().body.contains("sandbox-1"));
}

/// `tests/sentry.rs` tests the feature itself.
#[test]
fn help_mentions_sentry_only_if_it_is_compiled_in() {
    for command in ["run", "watch"] {
        let help = run(&mut agent(&[command, "--help"])).stdout;
        assert_eq!(help.contains("SENTRY_DSN"), cfg!(feature = "sentry"), "{command}");
    }
}

#[cfg(not(feature = "sentry"))]
#[test]
fn without_the_feature_sentry_dsn_is_ignored() {
    let mut watch = agent(&["watch"]);
    let run = run(watch.env("SENTRY_DSN", "no DSN").env("KILOCLAW_STATUS_URL", "http://127.0.0.1"));
    assert_eq!(run.code, 64);
    assert!(run.stderr.starts_with("error: not set: KILOCLAW_CHECKIN_URL"), "{}", run.stderr);
}
