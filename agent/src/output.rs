//! Output for people and scripts: results on standard output, warnings and the log on standard error.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::panic;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::exit::Exit;

/// Maximum size of queued log lines, in bytes; further lines are dropped.
const MAX_WAITING_BYTES: usize = 64 * 1024;

/// How long a stopping agent waits until the log is written.
const FLUSH: Duration = Duration::from_millis(500);

/// Writes a line to standard output. `println!` would panic on a closed pipe.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints the result of a command, and returns the exit code.
#[must_use]
pub fn print_result(text: &str) -> Exit {
    match print(text) {
        Ok(()) => Exit::Done,
        Err(error) => unprintable(&error),
    }
}

#[must_use]
pub fn unprintable(error: &io::Error) -> Exit {
    say(Level::ERROR, &format!("cannot write to standard output: {error}"));
    Exit::OutputFailed
}

pub fn warn(text: &str) {
    say(Level::WARN, text);
}

#[must_use]
pub fn bad_configuration(text: &str) -> Exit {
    say(Level::ERROR, text);
    Exit::BadConfiguration
}

pub fn error(text: &str) {
    say(Level::ERROR, text);
}

fn say(level: Level, text: &str) {
    let what = if level == Level::ERROR { "error" } else { "warning" };
    let line = format!("{what}: {text}\n");
    match LOG.get() {
        Some(log) => log.push([log.prefix(level), &line].concat().into_bytes()),
        // If standard error is closed, there is nowhere to report it.
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

static LOG: OnceLock<&Log> = OnceLock::new();

/// Lines for standard error. A separate thread writes them, so logging never blocks and never fails.
struct Log {
    lines: Mutex<Lines>,
    /// Signals that a line was added or written.
    changed: Condvar,
    /// Whether the log goes to systemd's journal, which adds the time and expects a priority.
    to_journal: bool,
}

#[derive(Default)]
struct Lines {
    waiting: VecDeque<Vec<u8>>,
    /// Total size of the lines in bytes.
    bytes: usize,
    /// Whether a line is being written.
    writing: bool,
    /// Number of lines dropped since the last written one.
    lost: u64,
}

/// Starts the log. `journal_stream` is systemd's `JOURNAL_STREAM`.
pub fn start_log(level: LevelFilter, journal_stream: Option<&OsStr>) -> io::Result<()> {
    let to_journal = journal_stream.is_some_and(is_standard_error);
    let log = Log { lines: Mutex::default(), changed: Condvar::new(), to_journal };
    let log: &Log = Box::leak(Box::new(log));
    thread::Builder::new().name("log".to_owned()).spawn(|| log.write_on())?;
    // This fails only if a log exists already.
    let _ = LOG.set(log);
    // The default hook would write to standard error directly.
    panic::set_hook(Box::new(|info| {
        tracing::error!("{info}");
        finish_log();
    }));
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(log);
    let _ = if to_journal {
        subscriber.without_time().with_level(false).try_init()
    } else {
        subscriber.try_init()
    };
    Ok(())
}

/// Waits until the log is written, for at most half a second.
pub fn finish_log() {
    if let Some(log) = LOG.get() {
        let busy = |lines: &mut Lines| lines.writing || !lines.waiting.is_empty();
        let _ = log.changed.wait_timeout_while(log.lock(), FLUSH, busy);
    }
}

/// Whether standard error is this file, given as `DEVICE:INODE`.
fn is_standard_error(stream: &OsStr) -> bool {
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|stat| *stream == *format!("{}:{}", stat.st_dev, stat.st_ino))
}

impl Log {
    fn push(&self, line: Vec<u8>) {
        let mut lines = self.lock();
        if lines.bytes + line.len() > MAX_WAITING_BYTES {
            lines.lost += 1;
            return;
        }
        lines.bytes += line.len();
        lines.waiting.push_back(line);
        self.changed.notify_all();
    }

    /// Writes lines until the process ends.
    fn write_on(&self) {
        let mut torn = false;
        loop {
            let (line, lost) = self.take();
            let mut text = Vec::new();
            if torn {
                text.push(b'\n');
            }
            if lost > 0 {
                text.extend(self.report(lost).into_bytes());
            }
            text.extend(&line);
            let (written, result) = write(&text);
            torn = result.is_err() && (torn || written > 0);
            let mut lines = self.lock();
            lines.bytes -= line.len();
            lines.writing = false;
            match result {
                Ok(()) => lines.lost -= lost,
                Err(_) => lines.lost += 1,
            }
            self.changed.notify_all();
        }
    }

    /// The next line, and the number of lines dropped before it.
    fn take(&self) -> (Vec<u8>, u64) {
        let mut lines = self.lock();
        loop {
            if let Some(line) = lines.waiting.pop_front() {
                lines.writing = true;
                return (line, lines.lost);
            }
            lines = self.changed.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn report(&self, lost: u64) -> String {
        let mut line = String::new();
        if !self.to_journal {
            let _ = write!(line, "{}  WARN ", humantime::format_rfc3339_micros(SystemTime::now()));
        }
        let _ = writeln!(line, "lines of the log that could not be written are lost: {lost}");
        [self.prefix(Level::WARN), &line].concat()
    }

    /// A level as a syslog priority, which the journal expects.
    fn prefix(&self, level: Level) -> &'static str {
        match level {
            _ if !self.to_journal => "",
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            _ => "<7>",
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // The lock is never poisoned: no code panics while it holds the lock.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes to standard error; returns the number of written bytes. It bypasses std, whose lock would be held while no
/// reader reads.
fn write(text: &[u8]) -> (usize, Result<(), Errno>) {
    let stderr = io::stderr();
    let mut written = 0;
    while let Some(rest) = text.get(written..).filter(|rest| !rest.is_empty()) {
        let result = match rustix::io::write(&stderr, rest) {
            // Another process that shares the pipe has made it non-blocking.
            Err(Errno::AGAIN) => poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None).map(|_| 0),
            result => result,
        };
        match result {
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Writes a line with this prefix to the log.
struct Line(&'static Log, &'static str);

impl Write for Line {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.push([self.1.as_bytes(), text].concat());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for &'static Log {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(self, "")
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> Line {
        Line(self, self.prefix(*metadata.level()))
    }
}
