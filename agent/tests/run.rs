//! `run` with real commands: what is done with them, and what is told of them.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod harness;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use harness::{AMPLE, Agent, Machine, Server};
use kiloclaw_checkin::Refusal;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

/// Whether there is such a process.
fn is_there(pid: &str) -> bool {
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    test_kill_process(pid).is_ok()
}

/// Waits until something is so, looking again at every check-in.
fn until(server: &Server, so: impl Fn() -> bool) {
    server.check_in(|_| so());
}

#[test]
fn a_command_is_run_and_what_it_writes_passes_through() {
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
fn a_crash_is_told_and_restarted_later_each_time() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let agent = machine.run(&server, &[], "exit 3");
    // One that is sent between a start and the exit after it says `running`.
    let check_in = server.check_in(|check_in| {
        check_in["totalRestarts"] == 2 && check_in["supervisorState"] == "crashed"
    });
    assert_eq!(check_in["lastExitReason"], "code:3");
    assert_eq!(check_in["uptimeSeconds"], 0.0);
    let (_, output) = agent.stop();
    // At once, after 1 s and after 2 s.
    assert_eq!(output.matches("the command was started").count(), 3, "{output}");
}

#[test]
fn a_killed_command_is_told_by_its_signal() {
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
fn a_signal_is_passed_on_and_the_end_is_told() {
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
fn a_command_that_ignores_the_signal_is_killed_after_its_time() {
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
fn what_a_command_left_behind_in_its_group_is_gone_before_it_is_restarted() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let pids = machine.path("pids");
    // Its own output is closed: the agent waits for no pipe of it.
    let script = format!("sleep 300 >&- 2>&- & echo $! >> {}; exit 3", pids.display());
    let agent = machine.run(&server, &[], &script);
    server.check_in(|check_in| check_in["totalRestarts"] == 1);
    let pids = fs::read_to_string(&pids).unwrap();
    until(&server, || pids.lines().all(|pid| !is_there(pid)));
    agent.stop();
}

#[test]
fn a_restart_can_be_asked_for() {
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
fn what_was_not_accepted_is_in_the_next_one() {
    let machine = Machine::new();
    let server = Server::new(|n| (1..4).contains(&n).then_some(Refusal::WriteFailed));
    let agent = machine.run(&server, &[], "exit 3");
    let told = |check_in: &Value| {
        ["restartsSinceLastCheckin", "bandwidthBytesIn"].map(|key| check_in[key].as_u64().unwrap())
    };
    let mut sum = told(&server.check_in(|_| true));
    machine.transfer(5_000, 2_000);
    server.check_in(|check_in| check_in["accepted"] == false);
    machine.transfer(7_500, 2_000);
    let accepted = server.check_in(|check_in| check_in["accepted"] == true);
    sum[0] += told(&accepted)[0];
    sum[1] += told(&accepted)[1];
    assert_eq!(sum[0], accepted["totalRestarts"].as_u64().unwrap(), "{accepted}");
    assert_eq!(sum[1], 6_500, "{accepted}");
    agent.stop();
}

#[test]
fn what_an_agent_could_not_tell_the_next_one_tells() {
    let machine = Machine::new();
    let deaf = Server::new(|_| Some(Refusal::WriteFailed));
    let agent = machine.run(&deaf, &[], "exit 3");
    let told = deaf.check_in(|check_in| check_in["restartsSinceLastCheckin"] == 2);
    assert_eq!(told["totalRestarts"], 2);
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
fn the_service_manager_is_told_and_its_variables_stay_with_the_agent() {
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
        panic!("{wanted} was not told");
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

/// In a PID namespace of its own, as in a container.
#[test]
fn the_first_process_of_a_container_reaps_orphans() {
    let (machine, server) = (Machine::new(), Server::accepting());
    // The inner shell ends at once, and its child becomes one of the agent's.
    let script = "sh -c 'sleep 0.2 & exit 0'; echo ready; exec sleep 60";
    let agent = machine.command("run", &server);
    let mut command = std::process::Command::new("unshare");
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
    // What is left is the command.
    until(&server, || {
        let children = fs::read_to_string(&children).unwrap();
        let mut children = children.split_whitespace();
        children.next().is_some() && children.next().is_none()
    });
    let init = Pid::from_raw(init.parse().unwrap()).unwrap();
    kill_process(init, Signal::TERM).unwrap();
    server.check_in(|check_in| check_in["supervisorState"] == "shutting_down");
    let (status, output) = agent.ended();
    assert_eq!(status.code(), Some(0), "{output}");
}
