//! The command line program: reads its arguments, runs one command, exits with its code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use kiloclaw_agent::cli::{Cli, Command};
use kiloclaw_agent::exit::Exit;
use kiloclaw_agent::{gateway_token, once};

fn main() -> ExitCode {
    let exit = match Cli::from_process() {
        Ok(Cli { command: Command::Once(arguments) }) => once::run(&arguments),
        Ok(Cli { command: Command::GatewayToken(arguments) }) => gateway_token::run(&arguments),
        // Help and version are errors to clap; where it prints them tells them from mistakes.
        Err(error) => {
            let printed = error.print();
            match (error.use_stderr(), printed) {
                (true, _) => Exit::BadConfiguration,
                (false, Ok(())) => Exit::Done,
                (false, Err(_)) => Exit::OutputFailed,
            }
        }
    };
    exit.into()
}
