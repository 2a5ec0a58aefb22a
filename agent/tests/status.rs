//! `status` of a running agent; completions and manual pages.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod harness;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use harness::{API_KEY, GATEWAY_TOKEN, Machine, Server};
use kiloclaw_check_in::Refusal;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

fn agent(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiloclaw-agent"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command.output().unwrap()
}

/// Exit code, text and JSON of a copy of the state file, since the agent may write the file between the two commands.
/// Without a state file, there is no copy.
fn status(state_file: &Path) -> (i32, String, Value) {
    let copy = state_file.with_extension("copy");
    let path = match fs::symlink_metadata(state_file) {
        Ok(metadata) if !metadata.is_file() => state_file,
        Ok(_) => {
            fs::copy(state_file, &copy).unwrap();
            &copy
        }
        Err(_) => &copy,
    };
    let path = path.to_str().unwrap();
    let words = agent(&["status", "--state-file", path]);
    let json = agent(&["status", "--json", "--state-file", path]);
    assert_eq!(words.status.code(), json.status.code(), "{words:?} {json:?}");
    let text = String::from_utf8(words.stdout).unwrap();
    (words.status.code().unwrap(), text, serde_json::from_slice(&json.stdout).unwrap())
}

#[test]
fn a_healthy_agent_exits_0_with_its_full_status() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let agent = machine.run(&server, &[], "exec sleep 60");
    server.check_in(|check_in| check_in["supervisorState"] == "running");
    // The agent saves the first check-in before it sends the second.
    server.check_in(|_| true);
    let path = machine.path("state.json");
    let (code, text, json) = status(&path);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("healthy\n  sandbox:          sandbox-1\n"), "{text}");
    for part in ["process:          running, up for", "last error:       none", "next attempt:"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(json["verdict"], "healthy");
    assert_eq!(json["sandboxId"], "sandbox-1");
    assert_eq!(json["agent"]["pid"], agent.id());
    assert_eq!(json["agent"]["failuresInARow"], 0);
    assert_eq!(json["agent"]["process"]["state"], "running");
    assert!(json["agent"]["lastAccepted"].as_str().unwrap().ends_with('Z'));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    agent.stop();
    let (code, text, json) = status(&path);
    assert_eq!((code, &json["verdict"]), (1, &"cannot_report".into()), "{text}");
    assert!(text.starts_with("the agent is not running: "), "{text}");
}

#[test]
fn an_agent_whose_check_ins_are_refused_exits_1_with_the_code() {
    let machine = Machine::new();
    let server = Server::new(|_| Some(Refusal::WrongGatewayToken));
    let agent = machine.run(&server, &[], "exec sleep 60");
    server.check_in(|_| true);
    server.check_in(|_| true);
    let (code, text, json) = status(&machine.path("state.json"));
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("cannot report: the last "), "{text}");
    assert_eq!(json["agent"]["lastError"]["code"], "wrong_gateway_token");
    let message = json["agent"]["lastError"]["message"].as_str().unwrap();
    assert!(message.contains("OPENCLAW_GATEWAY_TOKEN"), "{message}");
    assert_eq!(json["agent"]["lastAccepted"], Value::Null);
    agent.stop();
}

#[test]
fn an_unhealthy_process_exits_2_whether_or_not_check_ins_are_accepted() {
    for refusal in [None, Some(Refusal::WrongApiKey)] {
        let machine = Machine::new();
        let server = Server::new(move |_| refusal);
        let agent = machine.run(&server, &[], "exit 3");
        // After three crashes, the process is unhealthy even while it is up for a moment.
        server.check_in(|check_in| check_in["totalRestarts"] == 3);
        let (code, text, json) = status(&machine.path("state.json"));
        assert_eq!(code, 2, "{text}");
        assert!(text.starts_with("the process is unhealthy: "), "{text}");
        assert!(text.contains("last exit code:3"), "{text}");
        assert!(json["agent"]["process"]["crashesInARow"].as_u64() >= Some(3), "{json}");
        let next_start = &json["agent"]["process"]["nextStart"];
        // The state is from between two starts, or just after one.
        let crashed = json["agent"]["process"]["state"] == "crashed";
        assert_eq!(
            (next_start.is_string(), text.contains("crashed, started again at ")),
            (crashed, crashed)
        );
        assert_eq!(json["verdict"], "process_unhealthy");
        agent.stop();
    }
}

#[test]
fn a_command_stopped_by_a_signal_is_unhealthy() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let agent = machine.run(&server, &["--stop-timeout=1"], "kill -STOP $$; exec sleep 60");
    let output_json = loop {
        server.check_in(|_| true);
        let (code, text, _) = status(&machine.path("state.json"));
        if code == 2 {
            break text;
        }
    };
    assert!(
        output_json.starts_with("the process is unhealthy: a signal has stopped it"),
        "{output_json}"
    );
    agent.stop();
}

#[test]
fn the_state_file_of_an_ended_agent_does_not_count_as_a_running_agent() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let agent = machine.run(&server, &[], "exec sleep 60");
    server.check_in(|check_in| check_in["supervisorState"] == "running");
    server.check_in(|_| true);
    let path = machine.path("state.json");
    let alive: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(status(&path).0, 0);
    let left = |change: &dyn Fn(&mut Value)| {
        let mut state = alive.clone();
        change(&mut state["agent"]);
        // In a copy, since the agent replaces its own file.
        let left = machine.path("left.json");
        fs::write(&left, state.to_string()).unwrap();
        status(&left)
    };
    assert_eq!(left(&|_| {}).0, 0, "as it is");
    let (code, text, _) = left(&|agent| agent["pid"] = std::process::id().into());
    assert_eq!(code, 1);
    let gone = format!("the agent is not running: its process {} is gone\n", std::process::id());
    assert!(text.starts_with(&gone), "{text}");
    let other_boot = "192c5281-bf1e-4712-86d7-3448f8fb3f2d";
    let (code, text, _) = left(&|agent| agent["bootId"] = other_boot.into());
    assert_eq!(code, 1);
    assert!(text.starts_with("the agent is not running: the machine has rebooted "), "{text}");
    // Control characters do not reach the terminal.
    let (_, text, _) = left(&|agent| {
        agent["process"]["state"] = "\u{1b}[31mcrashed".into();
        agent["version"] = "1\u{1b}[2J".into();
    });
    assert!(!text.contains('\u{1b}') && text.contains("[31mcrashed"), "{text}");
    agent.stop();
}

#[test]
fn a_running_agent_takes_precedence_over_the_state_file_of_an_ended_agent() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let (runtime, user) = (machine.path("runtime"), machine.path("user"));
    fs::create_dir(&runtime).unwrap();
    fs::create_dir(&user).unwrap();
    let start = |name, directory: &Path| {
        let mut command = machine.command("run", &server);
        command.env_remove("KILOCLAW_STATE_FILE").env(name, directory);
        let agent = harness::Agent::start(command.args(["--", "sleep", "60"]));
        server.check_in(|check_in| check_in["supervisorState"] == "running");
        server.check_in(|_| true);
        agent
    };
    // The agent whose directory is searched first has ended.
    start("RUNTIME_DIRECTORY", &runtime).stop();
    let agent = start("XDG_RUNTIME_DIR", &user);
    let mut status = Command::new(env!("CARGO_BIN_EXE_kiloclaw-agent"));
    status.args(["status", "--json"]).env_clear();
    status.env("RUNTIME_DIRECTORY", &runtime).env("XDG_RUNTIME_DIR", &user);
    let output = status.output().unwrap();
    let output_json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{output_json}");
    assert_eq!(output_json["agent"]["pid"], agent.id());
    let path = user.join("kiloclaw-agent/state.json");
    assert_eq!(output_json["stateFile"], path.to_str().unwrap());
    agent.stop();
}

/// Answers every request with this status.
fn controller(status: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap() > 0 && !line.ends_with("\n\r\n") {}
            let length = status.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            // The client may be gone.
            let _ = reader.into_inner().write_all(format!("{head}{status}").as_bytes());
        }
    });
    url
}

#[test]
fn secrets_that_a_controller_sends_back_reach_neither_systemd_nor_a_file() {
    let injected = "running\\nWATCHDOG=trigger";
    for state in [&format!("Bearer {GATEWAY_TOKEN}"), GATEWAY_TOKEN, API_KEY, injected] {
        let (machine, server) = (Machine::new(), Server::accepting());
        let socket = UnixDatagram::bind(machine.path("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut watch = machine.command("watch", &server);
        let answer = format!(
            r#"{{"state":"{state}","uptime":1,"restarts":2,"lastExit":{{"signal":"{state}"}}}}"#
        );
        watch.env("KILOCLAW_STATUS_URL", controller(answer));
        watch.env("NOTIFY_SOCKET", machine.path("notify"));
        let agent = harness::Agent::start(&mut watch);
        let check_in = server.check_in(|check_in| check_in["totalRestarts"] == 2);
        assert_eq!(check_in["supervisorState"], "unknown");
        assert_eq!(check_in.get("lastExitReason"), None);
        server.check_in(|_| true);
        let path = machine.path("state.json");
        let (_, text, json) = status(&path);
        let file = fs::read_to_string(&path).unwrap();
        agent.stop();
        let mut notified = vec![0; 65_536];
        let mut output_json = String::new();
        while let Ok(length) = socket.recv(&mut notified) {
            output_json.push_str(&String::from_utf8_lossy(&notified[..length]));
        }
        assert!(output_json.contains("READY=1"), "{output_json}");
        for shown in [text, json.to_string(), file, output_json, check_in.to_string()] {
            for secret in [GATEWAY_TOKEN, API_KEY, "WATCHDOG"] {
                assert!(!shown.contains(secret), "{secret} in {shown}");
            }
        }
    }
}

#[test]
fn without_a_valid_state_file_the_verdict_is_cannot_report() {
    let machine = Machine::new();
    let path = machine.path("state.json");
    let (code, text, json) = status(&path);
    assert_eq!(code, 1);
    let missing = path.with_extension("copy");
    let expected = format!("there is no state file {}: no agent has run, or ", missing.display());
    assert!(text.starts_with(&expected), "{text}");
    assert_eq!(json["verdict"], "cannot_report");
    fs::write(&path, "nonsense").unwrap();
    let (code, text, _) = status(&path);
    assert_eq!(code, 1);
    assert!(text.starts_with("not a state file: "), "{text}");
}

#[test]
fn the_default_state_file_is_found_where_the_agent_keeps_it() {
    let machine = Machine::new();
    let (runtime, user) = (machine.path("runtime"), machine.path("user"));
    fs::create_dir(&runtime).unwrap();
    for (name, directory, file) in [
        ("RUNTIME_DIRECTORY", &runtime, "state.json"),
        ("XDG_RUNTIME_DIR", &user, "kiloclaw-agent/state.json"),
    ] {
        // One server per agent: the last check-in of one is not the first of the next.
        let server = Server::accepting();
        let mut command = machine.command("run", &server);
        command.env_remove("KILOCLAW_STATE_FILE").env(name, directory);
        let agent = harness::Agent::start(command.args(["--", "sleep", "60"]));
        server.check_in(|_| true);
        server.check_in(|_| true);
        assert!(directory.join(file).exists(), "{name}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiloclaw-agent"));
        let output = command.arg("status").env_clear().env(name, directory).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}");
        agent.stop();
    }
}

#[test]
fn an_unwritable_state_file_is_logged_once_and_check_ins_continue() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let mut command = machine.command("run", &server);
    command.env("KILOCLAW_STATE_FILE", machine.path("missing/state.json"));
    let agent = harness::Agent::start(command.args(["--", "sleep", "60"]));
    for _ in 0..3 {
        assert_eq!(server.check_in(|_| true)["accepted"], true);
    }
    let (exit, output) = agent.stop();
    assert_eq!(exit.code(), Some(0));
    assert_eq!(output.matches("cannot write the state file ").count(), 1, "{output}");
}

#[test]
fn a_fifo_as_state_file_neither_blocks_the_agent_nor_is_replaced() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let path = machine.path("state.json");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut agent = machine.run(&server, &[], "echo started; exec sleep 60");
    agent.line("started");
    assert_eq!(server.check_in(|_| true)["accepted"], true);
    server.check_in(|_| true);
    let (code, text, _) = status(&path);
    assert_eq!(code, 1);
    assert!(text.contains("no regular file"), "{text}");
    let (exit, output) = agent.stop();
    assert_eq!(exit.code(), Some(0));
    assert!(output.contains("cannot write the state file "), "{output}");
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_fifo());
}

#[test]
fn two_agents_do_not_share_a_state_file() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let first = machine.run(&server, &[], "exec sleep 60");
    server.check_in(|_| true);
    // The agent saves the first check-in before it sends the second.
    server.check_in(|_| true);
    let in_use = format!("in use by another agent (process {})", first.id());
    let (exit, output) = machine.run(&server, &[], "echo must not run").ended();
    assert_eq!(exit.code(), Some(71), "{output}");
    assert!(output.contains(&in_use) && !output.contains("must not run"), "{output}");
    let mut once = machine.command("run", &server);
    let mut other = Command::new(once.get_program());
    other.arg("once").env_clear();
    other.envs(once.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let other = other.output().unwrap();
    assert_eq!(other.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&other.stderr).contains(&in_use), "{other:?}");
    assert_eq!(status(&machine.path("state.json")).0, 0);
    // A killed agent holds no lock.
    first.signal(rustix::process::Signal::KILL);
    drop(first);
    let next = harness::Agent::start(once.args(["--", "sleep", "60"]));
    server.check_in(|_| true);
    assert_eq!(next.stop().0.code(), Some(0));
}

#[test]
fn a_state_file_that_cannot_be_locked_is_reported() {
    let long = format!("{}.json", "x".repeat(252 - ".json".len()));
    for (name, what) in
        [("state.json", "a directory"), ("state.json", "a link"), (&*long, "a name too long")]
    {
        let (machine, server) = (Machine::new(), Server::accepting());
        let path = machine.path(name);
        let lock = machine.path(&format!("{name}.lock"));
        match what {
            "a directory" => fs::create_dir(&lock).unwrap(),
            "a link" => std::os::unix::fs::symlink("/nowhere", &lock).unwrap(),
            _ => {}
        }
        let output_json =
            "the state file cannot be locked, so nothing keeps another agent from using it, too";
        let mut command = machine.command("run", &server);
        command.env("KILOCLAW_STATE_FILE", &path).args(["--", "sleep", "60"]);
        let agent = harness::Agent::start(&mut command);
        for _ in 0..2 {
            assert_eq!(server.check_in(|_| true)["accepted"], true);
        }
        let (exit, output) = agent.stop();
        assert_eq!(exit.code(), Some(0), "{what}");
        assert_eq!(output.matches(output_json).count(), 1, "{what}: {output}");
        for subcommand in ["once", "doctor"] {
            let mut other = Command::new(command.get_program());
            other.arg(subcommand).env_clear();
            other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let other = if subcommand == "once" {
                String::from_utf8(other.output().unwrap().stderr).unwrap()
            } else {
                // This test needs no server.
                other.env("KILOCLAW_CHECKIN_URL", "http://127.0.0.1:1/");
                String::from_utf8(other.output().unwrap().stdout).unwrap()
            };
            assert_eq!(other.matches(output_json).count(), 1, "{what}, {subcommand}: {other}");
        }
    }
}

/// Forbids the command to write to files, as on a full disk, until [`make_space`].
fn on_a_full_disk(command: &Command) -> Command {
    // By default, SIGXFSZ would end the agent at its first write.
    let script = r#"trap "" XFSZ; ulimit -S -f 0; exec "$0" "$@""#;
    let mut full = Command::new("/bin/sh");
    full.args(["-c", script]).arg(command.get_program()).args(command.get_args()).env_clear();
    full.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    full
}

fn make_space(pid: u32) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let none = Rlimit { current: None, maximum: None };
    prlimit(Some(pid), Resource::Fsize, none).unwrap();
}

#[test]
fn a_full_disk_loses_no_check_in_and_the_state_is_written_once_there_is_space() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let mut command = machine.command("run", &server);
    command.args(["--", "sleep", "60"]);
    let mut agent = harness::Agent::start(&mut on_a_full_disk(&command));
    for _ in 0..3 {
        assert_eq!(server.check_in(|_| true)["accepted"], true);
    }
    let path = machine.path("state.json");
    assert!(!path.exists());
    make_space(agent.id());
    agent.line("is written again");
    assert_eq!(status(&path).0, 0);
    let (exit, output) = agent.stop();
    assert_eq!(exit.code(), Some(0));
    assert_eq!(output.matches("cannot write the state file ").count(), 1, "{output}");
    assert_eq!(output.matches("is written again").count(), 1, "{output}");
    let left = fs::read_dir(path.parent().unwrap()).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with(".tmp")), "{left:?}");
}

#[test]
fn the_doctor_recognises_a_full_disk_that_still_accepts_empty_files() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let doctor = machine.command("doctor", &server);
    let mut output_json = Command::new(doctor.get_program());
    output_json.args(["doctor", "--json"]).env_clear();
    output_json.envs(doctor.get_envs().filter_map(|(name, value)| Some((name, value?))));
    // This test needs no server.
    output_json.env("KILOCLAW_CHECKIN_URL", "http://127.0.0.1:1/");
    let output = on_a_full_disk(&output_json).stdin(Stdio::null()).output().unwrap();
    let output_json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = output_json["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "state_file").unwrap();
    assert_eq!((&check["status"], &check["code"]), (&"failed".into(), &"not_writable".into()));
}

#[test]
fn a_state_file_broken_by_a_power_cut_is_reported_and_replaced() {
    for broken in [&b""[..], b"{\"sandboxId\": \"sandbox-1\", \"led", &[0; 4_096], &[0xff; 100]] {
        let (machine, server) = (Machine::new(), Server::accepting());
        let path = machine.path("state.json");
        fs::write(&path, broken).unwrap();
        let mut agent = machine.run(&server, &[], "exec sleep 60");
        agent.line("starting over without the state file ");
        assert_eq!(server.check_in(|_| true)["accepted"], true);
        server.check_in(|_| true);
        assert_eq!(status(&path).0, 0);
        let (exit, output) = agent.stop();
        assert_eq!(exit.code(), Some(0));
        assert_eq!(output.matches("starting over").count(), 1, "{output}");
    }
}

#[test]
fn completions_and_manual_pages_come_from_the_program_itself() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = agent(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("gateway-token"), "{shell}");
    }
    let page = agent(&["man"]);
    assert!(String::from_utf8_lossy(&page.stdout).contains(".TH kiloclaw-agent 1"));
    let directory = tempfile::tempdir().unwrap();
    let pages = agent(&["man", "--directory", directory.path().to_str().unwrap()]);
    assert_eq!(pages.status.code(), Some(0));
    for name in ["kiloclaw-agent.1", "kiloclaw-agent-run.1", "kiloclaw-agent-doctor.1"] {
        let page = fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(page.contains("KILOCLAW_CHECKIN_URL") || name == "kiloclaw-agent.1", "{page}");
    }
    assert_eq!(agent(&["man", "--directory", "/does/not/exist"]).status.code(), Some(74));
}

#[test]
fn a_daemon_with_missing_or_wrong_settings_exits_64() {
    let run = |arguments: &[&str]| {
        let output = agent(arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let missing = "error: not set: KILOCLAW_CHECKIN_URL, KILOCODE_API_KEY, \
                   OPENCLAW_GATEWAY_TOKEN, KILOCLAW_SANDBOX_ID\n";
    assert_eq!(run(&["run", "--", "true"]), (64, missing.to_owned()));
    let (code, error) = run(&["watch"]);
    assert_eq!(code, 64);
    assert!(error.contains("KILOCLAW_STATUS_URL or KILOCLAW_SYSTEMD_UNIT"), "{error}");
    let (code, error) = run(&["watch", "--status-url=http://[::1]/", "--systemd-unit=a.service"]);
    assert_eq!(code, 64, "{error}");
    assert_eq!(run(&["run"]).0, 64);
    assert_eq!(run(&["run", "--jitter=51", "--", "true"]).0, 64);
    assert_eq!(run(&["watch", "--log-level=loud"]).0, 64);
}
