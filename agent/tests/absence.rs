//! `away` and `back` against real sockets: requests, output and exit codes.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod stage;

use std::process::Command;
use std::time::{Duration, SystemTime};

use kiloclaw_check_in::absence::{ABSENCE_PATH, Absence};
use kiloclaw_check_in::{CHECK_IN_PATH, Refusal};

use stage::{
    AMPLE, API_KEY, AUTHORITY, Machine, Request, Run, SANDBOX_ID, Server, accepted, answer,
    authenticate, authorize, refuse, run, token,
};

/// Answers like the Worker: the contract's checks in the same order.
fn worker(request: &Request) -> String {
    let check = || {
        assert_eq!(request.target(), ("POST", ABSENCE_PATH));
        let presented = authenticate(request)?;
        let absence = Absence::parse_str(&request.body)?;
        authorize(&absence.sandbox_id, &presented)
    };
    check().map_or_else(refuse, |()| accepted())
}

fn away(url: &str, arguments: &[&str]) -> Command {
    let mut command = Machine::new().agent("away", url);
    command.args(arguments);
    command
}

/// Runs `away` against a server that gives this answer, and asserts that it gets one request.
fn away_against(answer: String) -> Run {
    let server = Server::answering(answer);
    let run = run(&mut away(&server.url(), &["--for", "2h"]));
    assert_eq!(server.seen().len(), 1, "a retry");
    assert_eq!(run.stdout, "");
    run
}

#[test]
fn away_announces_the_absence_and_prints_its_end() {
    let server = Server::start(None, worker);
    let before = SystemTime::now();
    let run = run(&mut away(&server.url(), &["--for", "2h", "--reason", "kernel upgrade"]));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let request = server.requests.recv_timeout(AMPLE).unwrap();
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(
        request.body,
        format!(r#"{{"sandboxId":"{SANDBOX_ID}","forSeconds":7200,"reason":"kernel upgrade"}}"#)
    );
    let until = run.stdout.strip_prefix("away until ").unwrap();
    let until = until.strip_suffix(": kernel upgrade\n").unwrap();
    let left = humantime::parse_rfc3339(until).unwrap().duration_since(before).unwrap();
    // The printed time has no fractions of a second.
    let (least, most) = (Duration::from_secs(7_199), Duration::from_hours(2) + AMPLE);
    assert!((least..most).contains(&left), "{left:?}");
}

#[test]
fn away_without_a_duration_lasts_until_the_next_check_in() {
    let server = Server::start(None, worker);
    for (arguments, reason, said) in [
        (&[][..], "", "away until the next check-in\n"),
        (&["--reason", "moving"], "moving", "away until the next check-in: moving\n"),
    ] {
        let run = run(&mut away(&server.url(), arguments));
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (0, said, ""));
        let request = server.requests.recv_timeout(AMPLE).unwrap();
        let absence = Absence::parse_str(&request.body).unwrap();
        assert_eq!((absence.for_seconds, &*absence.reason), (None, reason));
    }
}

#[test]
fn back_ends_the_absence() {
    let server = Server::start(None, worker);
    let run = run(&mut Machine::new().agent("back", &server.url()));
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (0, "back\n", ""));
    let request = server.requests.recv_timeout(AMPLE).unwrap();
    assert_eq!(Absence::parse_str(&request.body).unwrap().for_seconds, Some(0));
}

#[test]
fn an_absence_goes_to_the_check_in_url_with_its_prefix_query_and_tls_settings() {
    let server = Server::start(Some(AUTHORITY.server("localhost")), |_| accepted());
    let machine = Machine::new();
    let ca_file = machine.put("ca.pem", &AUTHORITY.pem);
    let url = server.https("localhost").replace(CHECK_IN_PATH, "/p/api/controller/checkin?a=b");
    let run = run(machine.agent("away", &url).env("KILOCLAW_CA_FILE", ca_file));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let request = server.requests.recv_timeout(AMPLE).unwrap();
    assert_eq!(request.target(), ("POST", "/p/api/controller/absence?a=b"));
    assert_eq!(request.header("x-kiloclaw-gateway-token"), Some(&*token(SANDBOX_ID)));
}

#[test]
fn a_url_without_the_contracts_path_exits_64_and_sends_nothing() {
    let server = Server::answering(accepted());
    for path in ["/", "/checkin", "/api/controller/checkin/"] {
        let run = run(&mut away(&format!("http://{}{path}", server.address), &[]));
        assert_eq!(run.code, 64, "{path}");
        assert_eq!(
            run.stderr,
            "error: KILOCLAW_CHECKIN_URL must end in /api/controller/checkin: absences go to \
             /api/controller/absence beside it\n"
        );
    }
    assert!(server.seen().is_empty());
}

#[test]
fn an_invalid_duration_exits_64() {
    for duration in ["0s", "2", "31d", "500ms", "soon", ""] {
        let run = run(&mut away("http://127.0.0.1:1/", &["--for", duration]));
        assert_eq!((run.code, run.stdout.as_str()), (64, ""), "{duration:?}");
        for text in ["--for <DURATION>", "expected 1s to 30d, such as 2h"] {
            assert!(run.stderr.contains(text), "{text:?} is not in {}", run.stderr);
        }
    }
    let run = run(&mut away("http://127.0.0.1:1/", &["--for"]));
    assert_eq!(run.code, 64);
    assert!(run.stderr.contains("a value is required for '--for <DURATION>'"), "{}", run.stderr);
}

#[test]
fn an_invalid_reason_exits_64_and_sends_nothing() {
    let server = Server::answering(accepted());
    let long = "é".repeat(201);
    for reason in [long.as_str(), "two\nlines", "\u{1b}[2J", "\u{202e}cod"] {
        let run = run(&mut away(&server.url(), &["--reason", reason]));
        assert_eq!((run.code, run.stdout.as_str()), (64, ""), "{reason:?}");
        let expected =
            "error: reason must be a string of at most 200 characters, without control characters";
        assert!(run.stderr.starts_with(expected), "{}", run.stderr);
        assert!(!run.stderr.contains(reason), "{}", run.stderr);
    }
    let run = run(&mut away(&server.url(), &["--reason", &format!("key {API_KEY}")]));
    assert_eq!((run.code, run.stderr.as_str()), (64, "error: the reason contains a credential\n"));
    assert!(server.seen().is_empty());
}

#[test]
fn the_longest_reason_is_sent() {
    let server = Server::start(None, worker);
    let long = "é".repeat(200);
    let run = run(&mut away(&server.url(), &["--reason", &long]));
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.ends_with(&format!(": {long}\n")));
}

#[test]
fn missing_settings_exit_64_with_their_names() {
    for command in ["away", "back"] {
        let mut agent = Machine::new().agent(command, "http://127.0.0.1:1/");
        let run = run(agent.env_remove("KILOCODE_API_KEY").env_remove("KILOCLAW_SANDBOX_ID"));
        let expected = "error: not set: KILOCODE_API_KEY, KILOCLAW_SANDBOX_ID\n";
        assert_eq!((run.code, run.stderr.as_str()), (64, expected), "{command}");
    }
}

#[test]
fn a_server_without_planned_absences_is_reported_as_such() {
    let operators = r#"{"error":"Unauthorized","code":"invalid_token"}"#;
    for response in [
        answer("401 Unauthorized", "www-authenticate: Bearer\r\n", operators),
        answer("404 Not Found", "", r#"{"error":"Not found","code":"not_found"}"#),
        refuse(Refusal::MethodNotAllowed),
    ] {
        let run = away_against(response);
        assert_eq!(run.code, 77);
        let hint =
            "hint:         the server does not know planned absences: deploy a newer version\n";
        assert!(run.stderr.ends_with(hint), "{}", run.stderr);
        assert!(!run.stderr.contains("in front"), "{}", run.stderr);
    }
}

#[test]
fn a_refusal_exits_77_with_the_reason_and_a_hint() {
    let run = away_against(refuse(Refusal::WrongGatewayToken));
    assert_eq!(run.code, 77);
    for text in [
        "error: 403 Forbidden: refused\n",
        "code:         wrong_gateway_token\n",
        "hint:         check OPENCLAW_GATEWAY_TOKEN",
    ] {
        assert!(run.stderr.contains(text), "{text:?} is not in {}", run.stderr);
    }
}

#[test]
fn a_login_page_with_status_200_is_no_acceptance() {
    let run = away_against(answer("200 OK", "", "<html>Please sign in</html>"));
    assert_eq!(run.code, 77);
    assert!(
        run.stderr.contains("answered by:  something in front of the server"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_busy_or_unreachable_server_exits_69_without_a_retry() {
    let run_503 = away_against(refuse(Refusal::WriteFailed));
    assert_eq!(run_503.code, 69);
    assert!(run_503.stderr.contains("the absence is not announced\n"), "{}", run_503.stderr);
    assert_eq!(away_against(refuse(Refusal::RateLimited)).code, 69);
    let run = run(&mut away(&format!("http://127.0.0.1:1{CHECK_IN_PATH}"), &[]));
    assert_eq!((run.code, run.stdout.as_str()), (69, ""));
    assert!(run.stderr.starts_with("error: unreachable: Connection refused"), "{}", run.stderr);
}

#[test]
fn secrets_that_a_server_sends_back_are_redacted() {
    // `run` asserts it.
    let body = format!(r#"{{"error":"you sent {API_KEY}","code":"{}"}}"#, token(SANDBOX_ID));
    assert_eq!(away_against(answer("400 Bad Request", "", &body)).code, 77);
}

#[test]
fn help_has_examples_and_only_settings_that_matter() {
    for (command, example) in [
        ("away", "kiloclaw-agent away --for 2h --reason 'kernel upgrade'\n"),
        ("back", "kiloclaw-agent back\n"),
    ] {
        let run = run(Machine::new().agent(command, "").arg("--help"));
        assert_eq!(run.code, 0);
        for text in [example, "\nExit codes:\n   0  accepted", "[env: KILOCODE_API_KEY]"] {
            assert!(run.stdout.contains(text), "{}", run.stdout);
        }
        for hidden in ["OPENCLAW_COMMAND", "NET_INTERFACE", "PROC_ROOT", "CONTROLLER_"] {
            assert!(!run.stdout.contains(hidden), "{hidden} in {}", run.stdout);
        }
    }
}
