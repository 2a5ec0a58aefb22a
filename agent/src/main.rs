//! The program: reads its arguments, runs one subcommand, exits with its code.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use kiloclaw_agent::cli::{Cli, Command};
use kiloclaw_agent::commands::{absence, doctor, gateway_token, manual, once, setup, status};
use kiloclaw_agent::daemon::{service, signals};
use kiloclaw_agent::exit::Exit;
use kiloclaw_agent::output;
use kiloclaw_agent::process::launch;

fn main() -> ExitCode {
    if let Some(failed) = launch::requested() {
        return failed;
    }
    if let Err(error) = signals::reset_own() {
        output::warn(&format!("cannot reset inherited signal state: {error}"));
    }
    let exit = match Cli::from_process() {
        Ok(cli) => match cli.command {
            Command::Run(arguments) => service::run(&arguments),
            Command::Watch(arguments) => service::watch(&arguments),
            Command::Once(arguments) => once::run(&arguments),
            Command::Away(arguments) => absence::away(&arguments),
            Command::Back(arguments) => absence::back(&arguments),
            Command::Setup(arguments) => setup::run(&arguments),
            Command::Doctor(arguments) => doctor::run(&arguments),
            Command::Status(arguments) => status::run(&arguments),
            Command::GatewayToken(arguments) => gateway_token::run(&arguments),
            Command::Completions(arguments) => manual::completions(&arguments),
            Command::Man(arguments) => manual::pages(&arguments),
        },
        // clap also returns help and version as errors, but prints them to standard output.
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
