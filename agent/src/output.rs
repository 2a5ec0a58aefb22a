//! What people and scripts get to see: results on standard output, warnings and the log on standard
//! error.

use std::io::{self, Write};

use tracing::level_filters::LevelFilter;

use crate::exit::Exit;

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
    say("error", &format!("cannot write to standard output: {error}"));
    Exit::OutputFailed
}

/// Says that something is amiss and how that is dealt with.
pub fn warn(text: &str) {
    say("warning", text);
}

/// Says that the command cannot be carried out as it was given.
#[must_use]
pub fn bad_configuration(text: &str) -> Exit {
    say("error", text);
    Exit::BadConfiguration
}

/// Says that something failed.
pub fn error(text: &str) {
    say("error", text);
}

/// Starts the log of an agent that stays.
pub fn start_log(level: LevelFilter) {
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .with_writer(io::stderr);
    // It fails only where there is a log already.
    let _ = log.try_init();
}

fn say(what: &str, text: &str) {
    // Where standard error is closed, there is nobody to tell.
    let _ = writeln!(io::stderr(), "{what}: {text}");
}
