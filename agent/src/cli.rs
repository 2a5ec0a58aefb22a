//! Flags and environment variables, as given; [`config`](crate::config) checks them.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::secret::Secret;
use crate::{exit, variables};

/// The package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The git commit that was compiled, or `unknown`.
pub const COMMIT: &str = env!("BUILD_COMMIT");

/// Reports the health of a machine and its supervised process to Kiloclaw telemetry.
#[derive(Debug, Parser)]
#[command(
    version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_COMMIT"), ")"),
    after_help = exit::HELP
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send one check-in, and print what was sent and what came back
    #[command(after_help = exit::HELP)]
    Once(Box<OnceArguments>),
    /// Print the gateway token of a sandbox
    #[command(after_help = exit::HELP)]
    GatewayToken(GatewayTokenArguments),
}

/// Of `once`.
#[derive(Debug, Args)]
pub struct OnceArguments {
    /// Print the body and do not send it; needs only the sandbox id, and asks --status-url if given
    #[arg(long)]
    pub dry_run: bool,
    /// Everything that a check-in is made of.
    #[command(flatten)]
    pub settings: Settings,
}

/// Everything that a check-in is made of.
///
/// What clap reports as invalid, it quotes. So what is or may hold a secret, the URLs included, is
/// taken here as it comes.
#[derive(Debug, Args)]
pub struct Settings {
    /// URL of the check-in endpoint, http or https, ending in /api/controller/checkin
    #[arg(long, value_name = "URL", env = variables::CHECKIN_URL)]
    pub checkin_url: Option<String>,

    /// The fleet's API key; better in the environment, as all users see flags
    #[arg(long, value_name = "KEY", env = variables::API_KEY)]
    pub api_key: Option<Secret>,

    /// The sandbox's gateway token; better in the environment, as all users see flags
    #[arg(long, value_name = "TOKEN", env = variables::GATEWAY_TOKEN)]
    pub gateway_token: Option<Secret>,

    /// Id of the sandbox that reports, 1 to 96 bytes
    #[arg(long, value_name = "ID", env = variables::SANDBOX_ID)]
    pub sandbox_id: Option<String>,

    /// Id of the machine that runs the sandbox [default: left out]
    #[arg(long, value_name = "ID", env = variables::MACHINE_ID)]
    pub machine_id: Option<String>,

    /// URL that tells the state of the supervised process as JSON; the gateway token goes along as
    /// bearer [default: none, and the state is reported as `stopped`]
    #[arg(long, value_name = "URL", env = variables::STATUS_URL)]
    pub status_url: Option<String>,

    /// Program that prints OpenClaw's version when run with `--version`; it is given 5 seconds
    #[arg(
        long,
        value_name = "PROGRAM",
        env = variables::OPENCLAW_COMMAND,
        default_value = "openclaw"
    )]
    pub openclaw_command: OsString,

    /// Reported as the version of the controller
    #[arg(
        long,
        value_name = "VERSION",
        env = variables::CONTROLLER_VERSION,
        default_value = VERSION
    )]
    pub controller_version: String,

    /// Reported as the git commit of the controller
    #[arg(long, value_name = "COMMIT", env = variables::CONTROLLER_COMMIT, default_value = COMMIT)]
    pub controller_commit: String,

    /// Network interface whose bytes count; repeat it for more, or separate them by commas
    /// [default: eth0 if there is one, else all but lo]
    #[arg(
        long = "net-interface",
        value_name = "NAME",
        env = variables::NET_INTERFACE,
        value_delimiter = ','
    )]
    pub net_interfaces: Vec<String>,

    /// File that keeps the counters of the last accepted check-in, so that the next one can tell
    /// the difference [default: none, and 0 bytes and restarts are reported]
    #[arg(long, value_name = "PATH", env = variables::STATE_FILE)]
    pub state_file: Option<PathBuf>,

    /// How long each request may take, in seconds, 1 to 3600
    #[arg(
        long,
        value_name = "SECONDS",
        env = variables::TIMEOUT,
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub timeout: u64,

    /// Directory of the kernel's files, for tests
    #[arg(
        long,
        value_name = "PATH",
        env = variables::PROC_ROOT,
        default_value = "/proc",
        hide_short_help = true
    )]
    pub proc_root: PathBuf,
}

/// Of `gateway-token`.
#[derive(Debug, Args)]
pub struct GatewayTokenArguments {
    /// Id of the sandbox, 1 to 96 bytes
    pub sandbox_id: String,

    /// The secret that tokens are derived from; of several, separated by commas, the first counts.
    /// Better in the environment, as all users see flags [default: read from standard input]
    #[arg(long, value_name = "SECRET", env = variables::GATEWAY_TOKEN_SECRET)]
    pub gateway_token_secret: Option<Secret>,
}

impl Cli {
    /// Reads the process's arguments and environment.
    pub fn from_process() -> Result<Self, clap::Error> {
        let mut command = command();
        let matches = command.try_get_matches_from_mut(std::env::args_os())?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

/// The command line, with what holds for every variable.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|subcommand| {
        subcommand.mut_args(|argument| {
            // An empty variable counts as unset: deployments often can only empty one.
            let empty = argument
                .get_env()
                .and_then(std::env::var_os)
                .is_some_and(|value| value.as_os_str() == OsStr::new(""));
            let argument = if empty { argument.env(None) } else { argument };
            // Help says which variables there are, never what is in them.
            argument.hide_env_values(true)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
