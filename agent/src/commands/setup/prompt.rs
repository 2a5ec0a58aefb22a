//! Questions on the terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use crate::secret::Secret;

/// The character of Ctrl-C.
const CTRL_C: u8 = 3;

/// Ctrl-C, or the end of the input.
#[derive(Debug)]
pub(super) struct Interrupted;

pub(super) struct Terminal {
    before: Termios,
}

impl Terminal {
    /// `None` if standard input or standard error is not a terminal.
    pub(super) fn open() -> Option<Self> {
        let is_interactive = io::stdin().is_terminal() && io::stderr().is_terminal();
        is_interactive.then(|| tcgetattr(io::stdin()).ok()).flatten().map(|before| Self { before })
    }

    /// Asks like [`line`], but does not show the answer.
    pub(super) fn secret(&mut self, question: &str) -> Result<Secret, Interrupted> {
        let mut hidden = self.before.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        // Ctrl-C ends the line, not the program: otherwise the terminal would stay without echo.
        hidden.special_codes[SpecialCodeIndex::VEOL] = CTRL_C;
        let interrupted = |_| Interrupted;
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden).map_err(interrupted)?;
        let answer = answer(&format!("{question}: "));
        tcsetattr(io::stdin(), OptionalActions::Now, &self.before).map_err(interrupted)?;
        // Without echo, Enter did not start a new line. Nobody sees an error if standard error is closed.
        let _ = writeln!(io::stderr());
        answer.map(|answer| Secret::new(&answer))
    }
}

/// Asks on standard error, as standard output is for results; an empty answer keeps `current`.
pub(super) fn line(question: &str, current: Option<&str>) -> Result<String, Interrupted> {
    let current = current.map(|current| format!(" [{current}]")).unwrap_or_default();
    answer(&format!("{question}{current}: "))
}

fn answer(question: &str) -> Result<String, Interrupted> {
    let mut line = Vec::new();
    let mut stderr = io::stderr();
    let asked = stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush());
    let read = asked.and_then(|()| read_line(&mut line));
    let is_whole = read.is_ok() && line.last() == Some(&b'\n');
    match String::from_utf8(line) {
        Ok(line) if is_whole => Ok(line.trim().to_owned()),
        _ => Err(Interrupted),
    }
}

/// Reads to the end of the line, or to Ctrl-C.
fn read_line(line: &mut Vec<u8>) -> io::Result<()> {
    let mut stdin = io::stdin().lock();
    loop {
        let available = stdin.fill_buf()?;
        let end = available.iter().position(|&byte| byte == b'\n' || byte == CTRL_C);
        let taken = end.map_or(available.len(), |end| end + 1);
        line.extend(available.iter().take(taken));
        stdin.consume(taken);
        if end.is_some() || taken == 0 {
            return Ok(());
        }
    }
}
