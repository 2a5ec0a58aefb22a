//! `kiloclaw-agent completions` and `man`: shell completions and manual pages.

use std::io::{self, Write};

use crate::cli::{CompletionsArguments, ManArguments, command};
use crate::exit::Exit;
use crate::output;

const NAME: &str = "kiloclaw-agent";

#[must_use]
pub fn completions(arguments: &CompletionsArguments) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), NAME, &mut script);
    print(&script)
}

#[must_use]
pub fn pages(arguments: &ManArguments) -> Exit {
    let Some(directory) = &arguments.directory else {
        let mut page = Vec::new();
        // Writing to memory cannot fail.
        let _ = clap_mangen::Man::new(command()).render(&mut page);
        return print(&page);
    };
    match clap_mangen::generate_to(command(), directory) {
        Ok(()) => Exit::Done,
        Err(error) => {
            output::error(&format!("cannot write to {}: {error}", directory.display()));
            Exit::OutputFailed
        }
    }
}

fn print(text: &[u8]) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Exit::Done,
        Err(error) => output::unprintable(&error),
    }
}
