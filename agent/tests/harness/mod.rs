//! For tests of the daemon (`run` and `watch`): an agent that keeps running, with its log, and a server that records
//! its check-ins. `stage` is for tests of commands that run to their end.

#![expect(unreachable_pub, reason = "public to the tests that share it")]
#![allow(dead_code, reason = "not every test needs all of it")]
#![expect(clippy::indexing_slicing, clippy::panic, reason = "a panic in a test is a failed test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use kiloclaw_check_in::{CHECK_IN_PATH, Refusal};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub const API_KEY: &str = "key-that-must-not-show";
pub const GATEWAY_TOKEN: &str = "token-that-must-not-show";

/// Longer than any step takes on a busy machine.
pub const AMPLE: Duration = Duration::from_mins(1);

/// A server that records check-ins until the test ends.
pub struct Server {
    url: String,
    check_ins: Receiver<Value>,
}

impl Server {
    /// `refuse` gets the number of the check-in, from 0; `None` accepts it with a 204.
    pub fn new(refuse: impl Fn(usize) -> Option<Refusal> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}{CHECK_IN_PATH}", listener.local_addr().unwrap());
        let (sender, check_ins) = mpsc::channel();
        thread::spawn(move || {
            for n in 0.. {
                let Ok((stream, _)) = listener.accept() else { return };
                let mut reader = BufReader::new(stream);
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let refusal = refuse(n);
                let accepted = refusal.is_none();
                let (status, text) =
                    refusal.map_or((204, String::new()), |r| (r.status(), r.body().to_json()));
                let length = text.len();
                let head = format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\n\r\n");
                let mut body: Value = serde_json::from_slice(&body).unwrap();
                body["accepted"] = accepted.into();
                // The test may be over.
                let _ = sender.send(body);
                let _ = reader.into_inner().write_all(format!("{head}{text}").as_bytes());
            }
        });
        Self { url, check_ins }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn accepting() -> Self {
        Self::new(|_| None)
    }

    /// The next matching check-in, with an additional field `accepted`.
    pub fn check_in(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + AMPLE;
        let mut last = Value::Null;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(check_in) = self.check_ins.recv_timeout(left) else {
                panic!("no such check-in; the last was {last}");
            };
            if wanted(&check_in) {
                return check_in;
            }
            last = check_in;
        }
    }
}

/// A machine with the files of one agent.
pub struct Machine {
    directory: TempDir,
}

impl Machine {
    pub fn new() -> Self {
        let machine = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.path("net")).unwrap();
        fs::write(machine.path("loadavg"), "0.50 0.07 1.42 3/4280 2496732\n").unwrap();
        machine.transfer(1_000, 2_000);
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Sets the counters of eth0 atomically, since the agent may be reading them.
    pub fn transfer(&self, bytes_in: u64, bytes_out: u64) {
        let text = format!(
            "Inter-| Receive | Transmit\n face |bytes\n    \
             lo: 5 5 0 0 0 0 0 0 5 5 0 0 0 0 0 0\n  \
             eth0: {bytes_in} 9 0 0 0 0 0 0 {bytes_out} 9 0 0 0 0 0 0\n"
        );
        fs::write(self.path("net/new"), text).unwrap();
        fs::rename(self.path("net/new"), self.path("net/dev")).unwrap();
    }

    /// The command line of an agent that checks in at once and every second.
    pub fn command(&self, command: &str, server: &Server) -> Command {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_kiloclaw-agent"));
        agent
            .arg(command)
            .args(["--initial-delay=0", "--interval=1", "--jitter=0"])
            .env_clear()
            // tools/reap finds the agent by this variable.
            .envs(env::var_os("KILOCLAW_RUN").map(|run| ("KILOCLAW_RUN", run)))
            .env("PATH", "/usr/bin:/bin")
            .env("KILOCLAW_CHECKIN_URL", &server.url)
            .env("KILOCODE_API_KEY", API_KEY)
            .env("OPENCLAW_GATEWAY_TOKEN", GATEWAY_TOKEN)
            .env("KILOCLAW_SANDBOX_ID", "sandbox-1")
            .env("KILOCLAW_PROC_ROOT", self.directory.path())
            .env("KILOCLAW_STATE_FILE", self.path("state.json"))
            .env("KILOCLAW_OPENCLAW_COMMAND", fixture("openclaw"));
        agent
    }

    /// The agent running a shell script.
    pub fn run(&self, server: &Server, options: &[&str], script: &str) -> Agent {
        let mut command = self.command("run", server);
        command.args(options).args(["--", "sh", "-c", script]);
        Agent::start(&mut command)
    }
}

/// Whether the process exists and is no zombie.
pub fn is_there(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

/// Waits until the condition holds.
pub fn eventually(so: impl Fn() -> bool) {
    let deadline = Instant::now() + AMPLE;
    let (_sender, never) = mpsc::channel::<()>();
    while !so() {
        assert!(Instant::now() < deadline, "it did not come to that");
        let _ = never.recv_timeout(Duration::from_millis(20));
    }
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A running agent, killed if the test fails.
pub struct Agent {
    child: Child,
    lines: Receiver<String>,
    /// Output of the agent and its command so far.
    pub output: String,
}

impl Agent {
    pub fn start(command: &mut Command) -> Self {
        Self::logging_to(command, Stdio::piped())
    }

    /// Redirects standard error.
    pub fn logging_to(command: &mut Command, errors: impl Into<Stdio>) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().unwrap();
        // The test's copy would keep the pipe open after the agent's end.
        command.stderr(Stdio::null());
        let (sender, lines) = mpsc::channel();
        let pass = |pipe: Box<dyn Read + Send>, to: mpsc::Sender<String>| {
            thread::spawn(move || {
                BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|l| to.send(l))
            });
        };
        if let Some(stderr) = child.stderr.take() {
            pass(Box::new(stderr), sender.clone());
        }
        pass(Box::new(child.stdout.take().unwrap()), sender);
        Self { child, lines, output: String::new() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of the log or the command's output that contains `wanted`.
    pub fn line(&mut self, wanted: &str) -> String {
        let deadline = Instant::now() + AMPLE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no line with {wanted:?} in:\n{}", self.output);
            };
            self.output.push_str(&line);
            self.output.push('\n');
            if line.contains(wanted) {
                return line;
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends SIGTERM and waits, as [`ended`](Self::ended) does.
    pub fn stop(mut self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits for the agent's end, and asserts that it printed no secret.
    pub fn ended(&mut self) -> (ExitStatus, String) {
        // Both pipes close when the agent and its command are gone.
        while let Ok(line) = self.lines.recv_timeout(AMPLE) {
            self.output.push_str(&line);
            self.output.push('\n');
        }
        let status = self.child.wait().unwrap();
        let output = std::mem::take(&mut self.output);
        for secret in [API_KEY, GATEWAY_TOKEN] {
            assert!(!output.contains(secret), "{secret} in {output}");
        }
        (status, output)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The agent may have ended; no other process gets its id before `wait`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
