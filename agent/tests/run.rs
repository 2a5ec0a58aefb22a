//! `run` with real commands: supervision and reports.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod harness;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{AMPLE, API_KEY, Agent, Machine, Server, eventually, fixture, is_there};
use kiloclaw_check_in::Refusal;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Waits until the condition holds, checked at every check-in.
fn until(server: &Server, so: impl Fn() -> bool) {
    server.check_in(|_| so());
}

#[test]
fn a_command_runs_and_its_output_passes_through() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let mut agent = machine.run(&server, &[], "echo to stdout; echo to stderr >&2; exec sleep 60");
    agent.line("to std");
    agent.line("to std");
    let check_in = server.check_in(|check_in| check_in["supervisorState"] == "running");
    assert_eq!((&check_in["totalRestarts"], &check_in["lastExitReason"]), (&0.into(), &"".into()));
    assert_eq!(check_in["openclawVersion"], "2026.3.13");
    let (status, output) = agent.stop();
    assert_eq!(status.code(), Some(0));
    assert_eq!(output.matches("to stdout\n").count(), 1, "{output}");
    assert_eq!(output.matches("to stderr\n").count(), 1, "{output}");
}

#[test]
fn a_clean_exit_is_restarted_at_once_and_counts() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let started = Instant::now();
    let count = machine.path("count");
    let script = format!("echo >> {0}; [ $(wc -l < {0}) -gt 3 ] && exec sleep 60", count.display());
    let agent = machine.run(&server, &[], &format!("{script}; exit 0"));
    let check_in = server.check_in(|check_in| check_in["totalRestarts"] == 3);
    assert!(started.elapsed() < Duration::from_secs(20), "without backoff");
    assert_eq!(check_in["lastExitReason"], "code:0");
    assert_eq!(check_in["supervisorState"], "running");
    assert_eq!(agent.stop().0.code(), Some(0));
}

#[test]
fn a_crash_is_reported_and_restarted_with_backoff() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let agent = machine.run(&server, &[], "exit 3");
    // A check-in between a start and the next exit reports `running`.
    let check_in = server.check_in(|check_in| {
        check_in["totalRestarts"] == 2 && check_in["supervisorState"] == "crashed"
    });
    assert_eq!(check_in["lastExitReason"], "code:3");
    assert_eq!(check_in["uptimeSeconds"], 0.0);
    let (_, output) = agent.stop();
    // The first start, and restarts after 1 s and 2 s.
    assert_eq!(output.matches("the command was started").count(), 3, "{output}");
}

#[test]
fn a_killed_command_is_reported_with_its_signal() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let agent = machine.run(&server, &[], "kill -9 $$");
    let check_in = server.check_in(|check_in| check_in["totalRestarts"] == 1);
    assert_eq!(check_in["lastExitReason"], "signal:SIGKILL");
    agent.stop();
}

#[test]
fn a_command_that_cannot_be_started_has_crashed_with_code_1() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let mut command = machine.command("run", &server);
    let mut agent = Agent::start(command.args(["--", "/does/not/exist"]));
    let check_in = server.check_in(|check_in| check_in["totalRestarts"] == 1);
    assert_eq!(check_in["supervisorState"], "crashed");
    assert_eq!(check_in["lastExitReason"], "code:1");
    agent.line("/does/not/exist");
    assert_eq!(agent.stop().0.code(), Some(0));
}

#[test]
fn a_signal_is_passed_on_and_the_shutdown_is_reported() {
    let (machine, server) = (Machine::new(), Server::accepting());
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT")] {
        let script = format!("trap 'echo got {name}; exit 7' {name}; echo ready; sleep 60 & wait");
        let mut agent = machine.run(&server, &[], &script);
        agent.line("ready");
        agent.signal(signal);
        agent.line(&format!("got {name}"));
        let last = server.check_in(|check_in| check_in["supervisorState"] == "shutting_down");
        assert_eq!(last["accepted"], true);
        let (status, output) = agent.ended();
        assert_eq!(status.code(), Some(0), "{output}");
        assert!(output.contains("reason=code:7"), "{output}");
    }
}

#[test]
fn a_command_that_ignores_the_signal_is_killed_after_the_stop_timeout() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let script = "trap '' TERM; echo ready; while :; do sleep 60; done";
    let mut agent = machine.run(&server, &["--stop-timeout=1"], script);
    agent.line("ready");
    let started = Instant::now();
    let (status, output) = agent.stop();
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(started.elapsed() >= Duration::from_secs(1), "it was given its time");
    assert!(output.contains("reason=signal:SIGKILL"), "{output}");
}

#[test]
fn processes_left_in_the_group_end_before_the_restart() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let pids = machine.path("pids");
    // It closes its output, so that the test's pipes close with the agent.
    let script = format!("sleep 300 >&- 2>&- & echo $! >> {}; exit 3", pids.display());
    let agent = machine.run(&server, &[], &script);
    server.check_in(|check_in| check_in["totalRestarts"] == 1);
    let pids = fs::read_to_string(&pids).unwrap();
    until(&server, || pids.lines().all(|pid| !is_there(pid)));
    agent.stop();
}

#[test]
fn sigusr1_restarts_the_command() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let mut agent = machine.run(&server, &[], "echo ready; exec sleep 60");
    agent.line("ready");
    agent.signal(Signal::USR1);
    agent.line("ready");
    let check_in = server.check_in(|check_in| check_in["totalRestarts"] == 1);
    assert_eq!(check_in["lastExitReason"], "signal:SIGTERM");
    agent.stop();
}

#[test]
fn the_next_check_in_includes_counters_that_were_not_accepted() {
    let machine = Machine::new();
    let server = Server::new(|n| (1..4).contains(&n).then_some(Refusal::WriteFailed));
    let agent = machine.run(&server, &[], "exit 3");
    let counts = |check_in: &Value| {
        ["restartsSinceLastCheckin", "bandwidthBytesIn"].map(|key| check_in[key].as_u64().unwrap())
    };
    let mut sum = counts(&server.check_in(|_| true));
    machine.transfer(5_000, 2_000);
    server.check_in(|check_in| check_in["accepted"] == false);
    machine.transfer(7_500, 2_000);
    let accepted = server.check_in(|check_in| check_in["accepted"] == true);
    sum[0] += counts(&accepted)[0];
    sum[1] += counts(&accepted)[1];
    assert_eq!(sum[0], accepted["totalRestarts"].as_u64().unwrap(), "{accepted}");
    assert_eq!(sum[1], 6_500, "{accepted}");
    agent.stop();
}

#[test]
fn the_next_agent_reports_unreported_counters() {
    let machine = Machine::new();
    let deaf = Server::new(|_| Some(Refusal::WriteFailed));
    let agent = machine.run(&deaf, &[], "exit 3");
    let missed = deaf.check_in(|check_in| check_in["restartsSinceLastCheckin"] == 2);
    assert_eq!(missed["totalRestarts"], 2);
    machine.transfer(1_400, 2_000);
    agent.stop();

    let server = Server::accepting();
    machine.transfer(1_600, 2_000);
    let agent = machine.run(&server, &[], "exec sleep 60");
    let first = server.check_in(|_| true);
    assert!(first["restartsSinceLastCheckin"].as_u64() >= Some(2), "{first}");
    assert_eq!(first["totalRestarts"], first["restartsSinceLastCheckin"]);
    assert_eq!(first["bandwidthBytesIn"], 600);
    let second = server.check_in(|_| true);
    assert_eq!(second["restartsSinceLastCheckin"], 0);
    assert_eq!(second["bandwidthBytesIn"], 0);
    agent.stop();
}

#[test]
fn a_refusal_is_logged_once_with_what_to_check() {
    let machine = Machine::new();
    let server = Server::new(|n| (n < 3).then_some(Refusal::WrongApiKey));
    let mut agent = machine.run(&server, &[], "exec sleep 60");
    server.check_in(|check_in| check_in["accepted"] == true);
    agent.line("accepted again");
    let (_, output) = agent.stop();
    assert_eq!(output.matches("wrong_api_key").count(), 2, "code and summary, once:\n{output}");
    assert!(output.contains("check KILOCODE_API_KEY"), "{output}");
}

#[test]
fn the_service_manager_is_notified_and_its_variables_stay_with_the_agent() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let socket = UnixDatagram::bind(machine.path("notify")).unwrap();
    socket.set_read_timeout(Some(AMPLE)).unwrap();
    let mut command = machine.command("run", &server);
    command.env("NOTIFY_SOCKET", machine.path("notify")).env("WATCHDOG_USEC", "400000").args([
        "--",
        "sh",
        "-c",
        "echo env: $NOTIFY_SOCKET$WATCHDOG_USEC.; exec sleep 60",
    ]);
    let mut agent = Agent::start(&mut command);
    agent.line("env: .");
    let notified = |wanted: &str| {
        let mut buffer = [0; 4_096];
        while let Ok(length) = socket.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.contains(wanted) {
                return;
            }
        }
        panic!("{wanted} did not arrive");
    };
    notified("READY=1");
    notified("STATUS=process running, last check-in accepted");
    for _ in 0..3 {
        notified("WATCHDOG=1");
    }
    agent.signal(Signal::TERM);
    notified("STOPPING=1");
    assert_eq!(agent.ended().0.code(), Some(0));
}

/// A script that holds a lock, as a server holds its port. Its first run starts a successor outside of the process
/// group, which takes the lock, as OpenClaw does without `OPENCLAW_NO_RESPAWN`.
fn replaces_itself(machine: &Machine, successor: &str) -> String {
    let (lock, pid) = (machine.path("lock"), machine.path("successor"));
    let (lock, pid) = (lock.display(), pid.display());
    format!(
        "exec 9>{lock}; flock --nonblock 9 || {{ echo the lock is taken; exit 1; }}
        [ -e {pid} ] && {{ echo restarted; exec sleep 300; }}
        {successor} sh -c 'echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 300' >&- 2>&- &
        while [ ! -e {pid} ]; do sleep 0.01; done"
    )
}

#[test]
fn a_process_that_the_command_left_outside_its_group_ends_before_the_restart() {
    for successor in ["setsid", "setsid --fork setsid", "trap '' TERM; setsid"] {
        let (machine, server) = (Machine::new(), Server::accepting());
        let mut agent =
            machine.run(&server, &["--stop-timeout=2"], &replaces_itself(&machine, successor));
        agent.line("the command has ended and left a process behind");
        agent.line("restarted");
        let check_in = server.check_in(|check_in| check_in["totalRestarts"] == 1);
        assert_eq!(check_in["lastExitReason"], "code:0");
        let pid = fs::read_to_string(machine.path("successor")).unwrap();
        assert!(!is_there(&pid), "{successor}");
        let (status, output) = agent.stop();
        assert_eq!(status.code(), Some(0), "{output}");
        assert!(!output.contains("the lock is taken"), "{output}");
    }
}

#[test]
fn processes_outside_of_the_group_end_with_the_agent() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let pid = machine.path("pid");
    let daemon = format!("setsid sh -c 'echo $$ >{0}; exec sleep 300' >&- 2>&-", pid.display());
    let mut agent = machine.run(&server, &[], &format!("{daemon} & echo ready; exec sleep 300"));
    agent.line("ready");
    eventually(|| fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n')));
    assert_eq!(agent.stop().0.code(), Some(0));
    assert!(!is_there(&fs::read_to_string(&pid).unwrap()));
}

#[test]
fn leftover_processes_get_one_signal_and_the_stop_timeout_to_end() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let done = machine.path("done");
    // The outer shell ends at the first signal; after that, only the agent waits for the inner shell.
    let inner = format!(
        "trap 'sleep 1; echo >>{}; exit' TERM; echo ready; sleep 300 & wait",
        done.display()
    );
    let mut agent =
        machine.run(&server, &["--stop-timeout=60"], &format!("sh -c \"{inner}\" & wait"));
    agent.line("ready");
    let (status, output) = agent.stop();
    assert_eq!(status.code(), Some(0), "{output}");
    assert_eq!(fs::read_to_string(&done).unwrap(), "\n", "once");
    assert!(!output.contains("left a process behind"), "it was asked already: {output}");
}

#[test]
fn a_command_knows_that_it_is_supervised_and_gets_none_of_the_agents_secrets() {
    let (machine, server) = (Machine::new(), Server::accepting());
    fs::write(machine.path("api-key"), API_KEY).unwrap();
    fs::write(machine.path("token"), harness::GATEWAY_TOKEN).unwrap();
    let mut command = machine.command("run", &server);
    command
        .env("KILOCODE_API_KEY_FILE", machine.path("api-key"))
        .env("OPENCLAW_GATEWAY_TOKEN_FILE", machine.path("token"))
        .env("CREDENTIALS_DIRECTORY", machine.path("."))
        .env("GATEWAY_TOKEN_SECRET", "secret")
        .env("SENTRY_DSN", "https://key@127.0.0.1:1/1")
        .env("HTTPS_PROXY", "http://me:password@127.0.0.1:1")
        .env("WATCHDOG_PID", "1")
        .env("OPENCLAW_STATE_DIR", "/srv/openclaw")
        // Only names, since the output must not contain secrets.
        .args([
            "--",
            "sh",
            "-c",
            "env | cut -d= -f1; echo no respawn: $OPENCLAW_NO_RESPAWN; exec sleep 60",
        ]);
    let mut agent = Agent::start(&mut command);
    agent.line("no respawn: 1");
    let (_, output) = agent.stop();
    let has = |name: &str| output.lines().any(|line| line == name);
    for name in ["KILOCODE_API_KEY", "OPENCLAW_GATEWAY_TOKEN", "HTTPS_PROXY", "OPENCLAW_STATE_DIR"]
    {
        assert!(has(name), "OpenClaw uses {name}: {output}");
    }
    for name in kiloclaw_agent::env_vars::NOT_FOR_THE_COMMAND {
        assert!(!has(name), "{name} in {output}");
    }
}

#[test]
fn the_version_command_gets_no_secrets() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let program = machine.path("openclaw");
    symlink(fixture("openclaw-environment"), &program).unwrap();
    let mut command = machine.command("run", &server);
    command
        .env("KILOCLAW_OPENCLAW_COMMAND", &program)
        .env("HTTPS_PROXY", "http://me:password@127.0.0.1:1")
        .env("HOME", "/srv")
        .args(["--", "sleep", "300"]);
    let agent = Agent::start(&mut command);
    let check_in = server.check_in(|_| true);
    assert_eq!(check_in["openclawVersion"], "2026.3.13");
    let environment = fs::read_to_string(machine.path("openclaw.environment")).unwrap();
    assert!(environment.contains("HOME=/srv\n"), "{environment}");
    for secret in [API_KEY, harness::GATEWAY_TOKEN, "password"] {
        assert!(!environment.contains(secret), "{environment}");
    }
    agent.stop();
}

#[test]
fn an_exit_is_logged_with_what_follows() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let (once, twice) = (machine.path("once"), machine.path("twice"));
    let script = format!(
        "[ -e {0} ] || {{ echo >{0}; exit 0; }}; [ -e {1} ] || {{ echo >{1}; exit 3; }}; exec sleep 60",
        once.display(),
        twice.display()
    );
    let mut agent = machine.run(&server, &[], &script);
    let clean = agent.line("the command has ended");
    assert!(clean.contains(" INFO ") && clean.contains("; starting it again reason="), "{clean}");
    let crash = agent.line("the command has ended");
    assert!(crash.contains(" WARN ") && crash.contains("; starting it again in 1 s "), "{crash}");
    agent.line("the command was started");
    agent.signal(Signal::TERM);
    let end = agent.line("the command has ended");
    assert!(end.contains(" INFO ") && !end.contains("again"), "{end}");
    agent.ended();
}

#[test]
fn a_command_stopped_by_a_signal_is_not_reported_as_running() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let mut agent = machine.run(&server, &[], "kill -TTOU $$; echo went on; exec sleep 60");
    agent.line("the command was stopped by SIGTTOU");
    let check_in = server.check_in(|check_in| check_in["supervisorState"] == "stopped");
    assert_eq!(check_in["totalRestarts"], 0);
    let children = format!("/proc/{0}/task/{0}/children", agent.id());
    let command: i32 = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(command).unwrap(), Signal::CONT).unwrap();
    agent.line("went on");
    server.check_in(|check_in| check_in["supervisorState"] == "running");
    agent.stop();
}

/// The agent is the first process of a PID namespace, as in a container.
#[test]
fn the_first_process_of_a_container_reaps_orphans() {
    let (machine, server) = (Machine::new(), Server::accepting());
    // The inner shell ends at once, so the agent adopts its child.
    let script = "sh -c 'sleep 0.2 & exit 0'; echo ready; exec sleep 60";
    let agent = machine.command("run", &server);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.arg(agent.get_program()).args(agent.get_args()).args(["--", "sh", "-c", script]);
    command.env_clear();
    for (name, value) in agent.get_envs() {
        command.env(name, value.unwrap());
    }
    let mut agent = Agent::start(&mut command);
    agent.line("ready");
    let children = format!("/proc/{0}/task/{0}/children", agent.id());
    let init = fs::read_to_string(children).unwrap().trim().to_owned();
    let children = format!("/proc/{init}/task/{init}/children");
    // Only the command is left.
    until(&server, || {
        let children = fs::read_to_string(&children).unwrap();
        let mut children = children.split_whitespace();
        children.next().is_some() && children.next().is_none()
    });
    // A process that `docker exec` starts does not belong to the command.
    let strange = machine.path("stranger");
    let stranger = format!("setsid sh -c 'echo >{}; exec sleep 300' >&- 2>&- &", strange.display());
    let mut enter = Command::new("nsenter");
    enter.args(["--preserve-credentials", "--user", "--pid", "--target", &init]);
    enter.args(["sh", "-c", &stranger]).env_clear();
    assert!(enter.env("PATH", "/usr/bin:/bin").status().unwrap().success());
    eventually(|| strange.exists());
    let pid = Pid::from_raw(init.parse().unwrap()).unwrap();
    kill_process(pid, Signal::USR1).unwrap();
    agent.line("ready");
    let names = || {
        let children = fs::read_to_string(&children).unwrap();
        let name = |pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        children.split_whitespace().filter(|&pid| name(pid).contains("sleep\u{0}300")).count()
    };
    eventually(|| names() == 1);
    server.check_in(|check_in| check_in["totalRestarts"] == 1);
    kill_process(pid, Signal::TERM).unwrap();
    server.check_in(|check_in| check_in["supervisorState"] == "shutting_down");
    let (status, output) = agent.ended();
    assert_eq!(status.code(), Some(0), "{output}");
}

/// Creates a program that writes its process id to a file and then sleeps; returns the file.
fn slow_program(machine: &Machine, name: &str) -> PathBuf {
    let (program, pid) = (machine.path(name), machine.path(&format!("{name}.pid")));
    let script =
        format!("#!/bin/sh\necho $$ >{0}.new; mv {0}.new {0}\nexec sleep 60\n", pid.display());
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    pid
}

#[test]
fn a_slow_version_command_does_not_prevent_the_last_check_in() {
    for subcommand in ["run", "watch"] {
        let (machine, server) = (Machine::new(), Server::accepting());
        let asked = slow_program(&machine, "openclaw");
        let mut agent = machine.command(subcommand, &server);
        agent.env("KILOCLAW_OPENCLAW_COMMAND", machine.path("openclaw"));
        match subcommand {
            "run" => agent.args(["--", "sleep", "60"]),
            _ => agent.args(["--status-url", "http://127.0.0.1:1/"]),
        };
        let mut agent = Agent::start(&mut agent);
        eventually(|| asked.exists());
        agent.signal(Signal::TERM);
        server.check_in(|check_in| check_in["supervisorState"] == "shutting_down");
        let (exit, output) = agent.ended();
        assert_eq!(exit.code(), Some(0), "{output}");
        assert!(!output.contains("cannot read OpenClaw's version"), "{output}");
        assert!(!is_there(&fs::read_to_string(asked).unwrap()));
    }
}

#[test]
fn a_slow_systemctl_does_not_prevent_the_last_check_in() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let asked = slow_program(&machine, "systemctl");
    let mut agent = machine.command("watch", &server);
    agent.args(["--systemd-unit", "openclaw"]);
    agent.env("PATH", format!("{}:/usr/bin:/bin", machine.path(".").display()));
    let mut agent = Agent::start(&mut agent);
    eventually(|| asked.exists());
    agent.signal(Signal::TERM);
    server.check_in(|check_in| check_in["supervisorState"] == "shutting_down");
    let (exit, output) = agent.ended();
    assert_eq!(exit.code(), Some(0), "{output}");
}

#[test]
fn the_version_command_ends_when_its_agent_is_killed() {
    let once = ["once", "--dry-run"];
    let run = ["run", "--initial-delay=0", "--", "sleep", "60"];
    let watch = ["watch", "--initial-delay=0", "--status-url=http://127.0.0.1:1/"];
    for (arguments, signal) in [
        (&run[..], Signal::KILL),
        (&watch[..], Signal::KILL),
        (&once[..], Signal::INT),
        (&["doctor"][..], Signal::INT),
    ] {
        let (machine, server) = (Machine::new(), Server::accepting());
        let pid = slow_program(&machine, "openclaw");
        let daemon = machine.command("run", &server);
        let mut agent = Command::new(daemon.get_program());
        agent.args(arguments).env_clear();
        agent.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
        agent.env("KILOCLAW_OPENCLAW_COMMAND", machine.path("openclaw"));
        let mut agent = Agent::start(&mut agent);
        eventually(|| pid.exists());
        agent.signal(signal);
        agent.ended();
        let pid = fs::read_to_string(pid).unwrap();
        eventually(|| !is_there(&pid));
    }
}

#[test]
fn a_reload_with_an_endless_key_file_keeps_the_key_and_check_ins_continue() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let key = machine.path("key");
    fs::write(&key, API_KEY).unwrap();
    let mut agent = machine.command("run", &server);
    agent.env("KILOCODE_API_KEY_FILE", &key).args(["--", "sleep", "60"]);
    let mut agent = Agent::start(&mut agent);
    server.check_in(|check_in| check_in["supervisorState"] == "running");
    let kept = "keeping the configuration as it was: KILOCODE_API_KEY_FILE: cannot read ";

    fs::remove_file(&key).unwrap();
    assert!(Command::new("mkfifo").arg(&key).status().unwrap().success());
    agent.signal(Signal::HUP);
    let line = agent.line(kept);
    assert!(line.ends_with("nothing came within 5 s"), "{line}");

    fs::remove_file(&key).unwrap();
    symlink("/dev/zero", &key).unwrap();
    agent.signal(Signal::HUP);
    let line = agent.line(kept);
    assert!(line.ends_with("it is too large: more than 64 KiB"), "{line}");

    server.check_in(|check_in| check_in["supervisorState"] == "running");
    agent.signal(Signal::TERM);
    server.check_in(|check_in| check_in["supervisorState"] == "shutting_down");
    assert_eq!(agent.ended().0.code(), Some(0));
}
