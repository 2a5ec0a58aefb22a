//! Problems with the log do not affect the agent.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod harness;

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use harness::{Agent, Machine, Server};
use rustix::io::ioctl_fionbio;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

/// The text before the number of lost lines.
const LOST: &str = "lines of the log that could not be written are lost: ";

/// Asserts that an agent with this log checks in, restarts its command, and shuts down.
fn assert_agent_survives(what: &str, wrap: &[&str], log: impl Into<Stdio>) {
    let (machine, server) = (Machine::new(), Server::accepting());
    let agent = machine.command("run", &server);
    let mut command = Command::new("env");
    command.args(wrap).arg(agent.get_program()).args(agent.get_args());
    command.args(["--", "sh", "-c", "echo ready; exec sleep 60"]).env_clear();
    command.envs(agent.get_envs().map(|(name, value)| (name, value.unwrap())));
    let mut agent = Agent::logging_to(&mut command, log);
    agent.line("ready");
    server.check_in(|check_in| check_in["supervisorState"] == "running");
    agent.signal(Signal::USR1);
    agent.line("ready");
    server.check_in(|check_in| check_in["totalRestarts"] == 1);
    agent.signal(Signal::TERM);
    server.check_in(|check_in| check_in["supervisorState"] == "shutting_down");
    assert_eq!(agent.ended().0.code(), Some(0), "{what}");
}

#[test]
fn a_log_to_a_closed_pipe_does_not_end_the_agent() {
    let (reader, log) = io::pipe().unwrap();
    drop(reader);
    assert_agent_survives("EPIPE", &[], log);
}

#[test]
fn a_log_on_a_full_disk_does_not_end_the_agent() {
    assert_agent_survives("ENOSPC", &[], File::options().write(true).open("/dev/full").unwrap());
}

#[test]
fn a_log_file_at_its_size_limit_does_not_end_the_agent() {
    let machine = Machine::new();
    let log = File::create(machine.path("log")).unwrap();
    // By default, SIGXFSZ would end the process at the limit.
    assert_agent_survives("EFBIG", &["prlimit", "--fsize=100"], log);
    assert_eq!(fs::metadata(machine.path("log")).unwrap().len(), 100);
}

#[test]
fn a_log_to_a_closed_terminal_does_not_end_the_agent() {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&controller).unwrap();
    let log = ioctl_tiocgptpeer(&controller, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    drop(controller);
    assert_agent_survives("EIO", &[], log);
}

#[test]
fn a_missing_standard_error_does_not_end_the_agent() {
    assert_agent_survives("EBADF", &["sh", "-c", "exec \"$0\" \"$@\" 2>&-"], Stdio::null());
}

fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    ioctl_fionbio(&writer, true).unwrap();
    for block in [&[b'.'; 4_096][..], b"."] {
        while writer.write(block).is_ok() {}
    }
    (reader, writer)
}

#[test]
fn a_stalled_log_reader_delays_nothing_and_later_gets_the_number_of_lost_lines() {
    // Another user of the pipe may have made it non-blocking.
    for waits in [true, false] {
        let (machine, server) = (Machine::new(), Server::accepting());
        let (mut reader, writer) = full_pipe();
        ioctl_fionbio(&writer, !waits).unwrap();
        let mut command = machine.command("run", &server);
        // Each start logs a path of 4 kB, so 30 starts exceed the queue of 64 KiB.
        let shell = format!("/bin/{}sh", "./".repeat(2_000));
        command.args(["--", &shell, "-c", "echo ready; exec sleep 300"]);
        let mut agent = Agent::logging_to(&mut command, OwnedFd::from(writer));
        agent.line("ready");
        for _ in 0..30 {
            agent.signal(Signal::USR1);
            agent.line("ready");
        }
        server.check_in(|check_in| check_in["totalRestarts"] == 30);

        // The reader resumes.
        let mut log = String::new();
        let mut block = [0; 4_096];
        while !log.contains(LOST) {
            let count = reader.read(&mut block).unwrap();
            log.push_str(std::str::from_utf8(&block[..count]).unwrap());
        }
        agent.signal(Signal::TERM);
        server.check_in(|check_in| check_in["supervisorState"] == "shutting_down");
        reader.read_to_string(&mut log).unwrap();
        assert_eq!(agent.ended().0.code(), Some(0));
        assert_eq!(log.matches(LOST).count(), 1, "{log}");
        assert!(log.ends_with(" INFO ended\n"), "{log}");
        let lost = log.split_once(LOST).unwrap().1.lines().next().unwrap();
        let written = log.matches("the command was started").count();
        assert!(lost.parse::<usize>().unwrap() >= 31 - written && written > 1, "{lost} {written}");
    }
}

#[test]
fn shutdown_does_not_wait_for_a_log_reader_that_never_reads_again() {
    let (reader, writer) = full_pipe();
    ioctl_fionbio(&writer, false).unwrap();
    assert_agent_survives("a full pipe", &[], writer);
    drop(reader);
}

#[test]
fn a_service_manager_that_does_not_read_does_not_stop_the_agent() {
    let (machine, server) = (Machine::new(), Server::accepting());
    let socket = machine.path("notify");
    let _manager = UnixDatagram::bind(&socket).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(b"STATUS=", &socket).is_ok() {}
    let mut command = machine.command("run", &server);
    command.env("NOTIFY_SOCKET", &socket).args(["--", "sleep", "60"]);
    let agent = Agent::start(&mut command);
    for _ in 0..3 {
        server.check_in(|_| true);
    }
    assert_eq!(agent.stop().0.code(), Some(0));
}

#[test]
fn the_journal_gets_priorities_and_no_second_timestamp() {
    let (machine, server) = (Machine::new(), Server::accepting());
    for is_journal in [true, false] {
        let (mut reader, writer) = io::pipe().unwrap();
        let stat = rustix::fs::fstat(writer.as_fd()).unwrap();
        let inode = stat.st_ino + u64::from(!is_journal);
        let mut command = machine.command("run", &server);
        command.env("JOURNAL_STREAM", format!("{}:{inode}", stat.st_dev));
        command.args(["--", "sh", "-c", "echo ready; exec sleep 60"]);
        let mut agent = Agent::logging_to(&mut command, writer);
        agent.line("ready");
        agent.signal(Signal::USR2);
        agent.signal(Signal::TERM);
        agent.ended();
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        assert_eq!(log.contains("\n<4>SIGUSR2 "), is_journal, "{log}");
        for line in log.lines() {
            assert_eq!(line.starts_with("<6>") || line.starts_with("<4>"), is_journal, "{line}");
            assert_eq!(line.contains("Z  INFO ") || line.contains("Z  WARN "), !is_journal);
        }
    }
}

#[test]
fn short_commands_exit_cleanly_if_nobody_reads_their_output() {
    let machine = Machine::new();
    let server = Server::accepting();
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["status", "--json"],
        &["doctor"],
        &["once", "--dry-run"],
        &["completions", "bash"],
        &["man"],
        &["no-such-command"],
    ] {
        let (reader, out) = io::pipe().unwrap();
        drop(reader);
        let mut command = machine.command(arguments[0], &server);
        let options =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.unwrap().to_owned()));
        let options: Vec<_> = options.collect();
        command = Command::new(env!("CARGO_BIN_EXE_kiloclaw-agent"));
        command.args(arguments).env_clear().envs(options).stdin(Stdio::null());
        command.stderr(out.try_clone().unwrap()).stdout(out);
        let code = command.status().unwrap().code();
        assert!(matches!(code, Some(64 | 74)), "{arguments:?}: {code:?}");
    }
}
