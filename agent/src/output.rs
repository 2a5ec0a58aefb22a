//! What people and scripts get to see: results on standard output, warnings on standard error.

use std::io::{self, Write};

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
        Err(error) => {
            say("error", &format!("cannot write to standard output: {error}"));
            Exit::OutputFailed
        }
    }
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

fn say(what: &str, text: &str) {
    // Where standard error is closed, there is nobody to tell.
    let _ = writeln!(io::stderr(), "{what}: {text}");
}
