//! What people and scripts get to see: results on standard output, warnings and the log on standard
//! error.

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

/// How much of the log waits for a slow reader, in bytes. What is beyond that is lost.
const MAX_WAITING_BYTES: usize = 64 * 1024;

/// How long an agent that ends waits for what is waiting.
const FLUSH: Duration = Duration::from_millis(500);

/// Writes a result to standard output. `println!` would panic where a pipe is closed.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Writes a result that is all that the command is for.
#[must_use]
pub fn print_result(text: &str) -> Exit {
    match print(text) {
        Ok(()) => Exit::Done,
        Err(error) => unprintable(&error),
    }
}

/// Says that the result could not be written to standard output.
#[must_use]
pub fn unprintable(error: &io::Error) -> Exit {
    say(Level::ERROR, &format!("cannot write to standard output: {error}"));
    Exit::OutputFailed
}

/// Says that something is amiss and how that is dealt with.
pub fn warn(text: &str) {
    say(Level::WARN, text);
}

/// Says that the command cannot be carried out as it was given.
#[must_use]
pub fn bad_configuration(text: &str) -> Exit {
    say(Level::ERROR, text);
    Exit::BadConfiguration
}

/// Says that something failed.
pub fn error(text: &str) {
    say(Level::ERROR, text);
}

fn say(level: Level, text: &str) {
    let what = if level == Level::ERROR { "error" } else { "warning" };
    let line = format!("{what}: {text}\n");
    match LOG.get() {
        Some(log) => log.push([log.prefix(level), &line].concat().into_bytes()),
        // If standard error is closed, nobody can be warned.
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// The log of an agent that stays, once it was started.
static LOG: OnceLock<&Log> = OnceLock::new();

/// Lines on their way to standard error. They are written by a thread of its own: whoever logs never
/// waits for a reader, and nothing that happens to standard error is an error to them.
struct Log {
    lines: Mutex<Lines>,
    /// There are some, or there are none any more.
    changed: Condvar,
    /// Whether it goes to systemd's journal, which knows the time and wants a priority.
    to_journal: bool,
}

#[derive(Default)]
struct Lines {
    waiting: VecDeque<Vec<u8>>,
    /// How long they are in all.
    bytes: usize,
    /// Whether one of them was taken and is being written.
    writing: bool,
    /// How many were lost since the last one that was written.
    lost: u64,
}

/// Starts the log. `journal_stream` is what systemd calls the socket of its journal.
pub fn start_log(level: LevelFilter, journal_stream: Option<&OsStr>) -> io::Result<()> {
    let to_journal = journal_stream.is_some_and(is_standard_error);
    let log = Log { lines: Mutex::default(), changed: Condvar::new(), to_journal };
    let log: &Log = Box::leak(Box::new(log));
    thread::Builder::new().name("log".to_owned()).spawn(|| log.write_on())?;
    // It fails only where there is a log already.
    let _ = LOG.set(log);
    // It would be written to standard error by whoever panics.
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

/// Waits until all of the log is written, but not for long.
pub fn finish_log() {
    if let Some(log) = LOG.get() {
        let busy = |lines: &mut Lines| lines.writing || !lines.waiting.is_empty();
        let _ = log.changed.wait_timeout_while(log.lock(), FLUSH, busy);
    }
}

/// Whether standard error is this, by systemd's `DEVICE:INODE`.
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

    /// Writes what is to be written, for ever.
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

    /// The next line, and how many were lost before it.
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

    /// A level in the journal's words, those of syslog.
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
        // Nothing panics half way through a change.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes to standard error, and how much of it. Not through std, whose lock would be held for as long
/// as nobody reads.
fn write(text: &[u8]) -> (usize, Result<(), Errno>) {
    let stderr = io::stderr();
    let mut written = 0;
    while let Some(rest) = text.get(written..).filter(|rest| !rest.is_empty()) {
        let result = match rustix::io::write(&stderr, rest) {
            // Somebody who shares the pipe made it one that does not wait.
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

/// A line that begins with this.
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
