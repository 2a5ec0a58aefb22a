//! Signals that the agent inherits blocked or ignored, and signals that end it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

mod harness;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use harness::{Agent, Machine, Server, eventually, is_there};
use rustix::process::{Pid, Signal, geteuid};
use serde_json::Value;

/// Runs the agent through another program.
fn behind(program: &[&str], agent: &Command) -> Command {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).arg(agent.get_program()).args(agent.get_args()).env_clear();
    command.envs(agent.get_envs().map(|(name, value)| (name, value.unwrap())));
    command
}

/// Starts a program with signals blocked and ignored.
const DEAF: [&str; 3] = [
    "env",
    "--block-signal",
    "--ignore-signal=HUP,INT,QUIT,USR1,USR2,PIPE,ALRM,TERM,CHLD,TSTP,TTIN,TTOU,WINCH,RTMAX",
];

#[test]
fn inherited_signal_blocks_and_ignores_are_reset() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let mut agent = machine.command("run", &server);
    agent.args(["--", "sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status; exit 3"]);
    let mut agent = Agent::start(&mut behind(&DEAF, &agent));
    for line in ["SigBlk", "SigIgn"] {
        let line = agent.line(line);
        let signals = u64::from_str_radix(line.split_once('\t').unwrap().1, 16).unwrap();
        // The C library reserves signals 32 and 33.
        assert_eq!(signals & !(0b11 << 31), 0, "{line}");
    }
    let check_in = server.check_in(|check_in| check_in["supervisorState"] == "crashed");
    assert_eq!(check_in["lastExitReason"], "code:3");
    agent.signal(Signal::TERM);
    server.check_in(|check_in| check_in["supervisorState"] == "shutting_down");
    assert_eq!(agent.ended().0.code(), Some(0));
}

#[test]
fn the_version_command_is_waited_for_even_if_sigchld_is_ignored() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let mut once = machine.command("once", &server);
    once = {
        let mut command = Command::new(once.get_program());
        command.args(["once", "--dry-run"]).env_clear();
        command.envs(
            once.get_envs().map(|(name, value)| (name.to_owned(), value.unwrap().to_owned())),
        );
        command
    };
    let output = behind(&DEAF, &once).output().unwrap();
    let body: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(body["openclawVersion"], "2026.3.13", "{output:?}");
}

#[test]
fn a_command_ends_when_its_agent_is_killed() {
    for signal in [Signal::KILL, Signal::ABORT] {
        let (machine, server) = (Machine::new(), Server::accepting());
        let mut agent =
            machine.run(&server, &[], "trap '' TERM HUP; echo pid $$; while :; do sleep 1; done");
        let pid = agent.line("pid ").split_whitespace().last().unwrap().to_owned();
        agent.signal(signal);
        eventually(|| !is_there(&pid));
    }
}

#[test]
fn every_terminating_signal_causes_a_graceful_shutdown() {
    let (machine, server) = (Machine::new(), Server::accepting());
    // 37 is SIGRTMIN+3, which stops systemd's containers; SIGPWR stops LXC's.
    for signal in ["INT", "QUIT", "ALRM", "VTALRM", "PROF", "IO", "PWR", "XCPU", "37", "64"] {
        let mut agent = machine.run(&server, &[], "echo pid $$; exec sleep 60");
        let pid = agent.line("pid ").split_whitespace().last().unwrap().to_owned();
        let kill = ["kill", "-s", signal, &agent.id().to_string()].join(" ");
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{signal}");
        server.check_in(|check_in| check_in["supervisorState"] == "shutting_down");
        let (status, output) = agent.ended();
        assert_eq!(status.code(), Some(0), "{signal}: {output}");
        assert!(!is_there(&pid), "{signal}");
    }
}

#[test]
fn a_signal_without_a_meaning_is_logged() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let mut agent = machine.run(&server, &[], "exec sleep 60");
    server.check_in(|check_in| check_in["supervisorState"] == "running");
    agent.signal(Signal::USR2);
    agent.line("SIGUSR2 has no meaning here");
    let check_in = server.check_in(|check_in| check_in["supervisorState"] == "running");
    assert_eq!(check_in["totalRestarts"], 0);
    agent.stop();
}

/// Runs the agent as an unprivileged user: `nobody` if the test runs as root.
fn without_privileges(machine: &Machine, agent: &Command) -> Command {
    if !geteuid().is_root() {
        return behind(&["env"], agent);
    }
    fs::set_permissions(machine.path("."), fs::Permissions::from_mode(0o777)).unwrap();
    behind(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], agent)
}

#[test]
fn check_ins_continue_when_no_process_can_be_started() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let mut agent = machine.command("run", &server);
    // A host name that must be resolved.
    let url = server.url().replace("127.0.0.1", "localhost");
    agent.env("KILOCLAW_CHECKIN_URL", url).args(["--", "sh", "-c"]);
    agent.arg(
        "read wait <$HOME/limit; prlimit --nproc=1:1 --pid $PPID; echo limited; exec sleep 60",
    );
    agent.env("HOME", machine.path("."));
    let limit = machine.path("limit");
    assert!(Command::new("mkfifo").arg(&limit).status().unwrap().success());
    fs::set_permissions(&limit, fs::Permissions::from_mode(0o666)).unwrap();
    let mut agent = Agent::start(&mut without_privileges(&machine, &agent));
    // From now on the version is cached; reading it would need a process.
    server.check_in(|check_in| check_in["openclawVersion"] == "2026.3.13");
    fs::write(&limit, "now\n").unwrap();
    agent.line("limited");
    for _ in 0..3 {
        server.check_in(|check_in| check_in["supervisorState"] == "running");
    }
    // The command cannot be restarted either, and the log has the reason.
    agent.signal(Signal::USR1);
    agent.line("cannot be started: Resource temporarily unavailable");
    server.check_in(|check_in| check_in["supervisorState"] == "crashed");
    let (status, output) = agent.stop();
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(!output.contains("defect"), "{output}");
}

#[test]
fn an_agent_that_cannot_start_a_thread_exits_71_with_the_reason() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let mut agent = machine.command("run", &server);
    agent.args(["--", "sleep", "60"]);
    let agent = behind(&["prlimit", "--nproc=1:1"], &agent);
    let output = without_privileges(&machine, &agent).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(71), "{errors}");
    assert!(errors.starts_with("error: cannot start: Resource temporarily"), "{errors}");
}

#[test]
fn an_agent_stops_even_if_it_may_not_signal_its_command() {
    if !geteuid().is_root() {
        // Only root can create a setuid program of another user.
        return;
    }
    let (machine, server) = (Machine::new(), Server::accepting());
    let setpriv = machine.path("setpriv");
    fs::copy("/usr/bin/setpriv", &setpriv).unwrap();
    fs::set_permissions(&setpriv, fs::Permissions::from_mode(0o4755)).unwrap();
    let mut agent = machine.command("run", &server);
    agent.args(["--stop-timeout=1", "--"]).arg(&setpriv);
    agent.args([
        "--reuid=0",
        "--regid=0",
        "--clear-groups",
        "sh",
        "-c",
        "echo pid $$; exec sleep 300",
    ]);
    agent.args([">&-", "2>&-"]);
    let mut agent = Agent::start(&mut without_privileges(&machine, &agent));
    let pid = agent.line("pid ").split_whitespace().last().unwrap().to_owned();
    agent.signal(Signal::TERM);
    server.check_in(|check_in| check_in["supervisorState"] == "shutting_down");
    agent.line("cannot kill the command");
    agent.line("ended");
    assert!(is_there(&pid), "it was not this test's subject");
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(agent.ended().0.code(), Some(0));
}
