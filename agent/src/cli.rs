//! Flags and environment variables, as given; [`config`](crate::config) checks them.

#![expect(clippy::doc_markdown, reason = "these comments are the help, which is no Markdown")]

use std::any::TypeId;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, value_parser};
use clap_complete::Shell;
use tracing::level_filters::LevelFilter;

use crate::secret::Secret;
use crate::{env_vars, exit};

/// The package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The git commit that was compiled, or `unknown`.
pub const COMMIT: &str = env!("BUILD_COMMIT");

/// Version and commit, as `--version` prints them.
pub const VERSION_AND_COMMIT: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_COMMIT"), ")");

/// Reports the health of a machine and its supervised process to Kiloclaw telemetry.
#[derive(Debug, Parser)]
#[command(version = VERSION_AND_COMMIT, after_help = exit::ALL_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command, keep it running, and check in regularly
    #[command(after_help = RUN_HELP, override_usage = RUN_USAGE)]
    Run(Box<RunArguments>),
    /// Check in regularly, on a process that something else keeps running
    #[command(after_help = WATCH_HELP)]
    Watch(Box<WatchArguments>),
    /// Send one check-in, and print what was sent and what came back
    #[command(after_help = exit::HELP)]
    Once(Box<OnceArguments>),
    /// Check everything that a check-in needs, and say how to fix what is wrong
    #[command(after_help = exit::DOCTOR_HELP)]
    Doctor(Box<DoctorArguments>),
    /// Show the health of the running agent and its process
    #[command(after_help = exit::STATUS_HELP)]
    Status(StatusArguments),
    /// Print the gateway token of a sandbox
    #[command(after_help = exit::HELP)]
    GatewayToken(GatewayTokenArguments),
    /// Print a script that completes the program's arguments in a shell
    Completions(CompletionsArguments),
    /// Print the manual page, or write those of all commands
    Man(ManArguments),
}

/// clap's own names options that need not be there, and not the `--`.
const RUN_USAGE: &str = "kiloclaw-agent run [OPTIONS] -- <COMMAND>...";

const RUN_HELP: &str = "\
Signals:
  TERM, INT  pass it on to the command, check in for the last time, end
  HUP        read the files of keys and certificates again
  USR1       restart the command
  USR2       nothing, with a line in the log
  all others that would end it are as TERM, but for those of a defect, which end it at once: ABRT,
  BUS, FPE, ILL, SEGV, SYS, TRAP

A command that crashes is restarted after 1 second, then 2, 4 and so on up to 5 minutes, and again
from 1 second once it was up for 30 seconds. One that exits with code 0 is restarted at once. What
it left behind is ended before that, wherever it went. If the agent is killed, the command is, too.
The exit code is 0 after a signal to end, 64 if a setting is missing or invalid, 71 if another agent
uses the state file or the system does not let it start.";

const WATCH_HELP: &str = "\
Signals:
  TERM, INT  check in for the last time, end
  HUP        read the files of keys and certificates again
  USR2       nothing, with a line in the log
  all others that would end it are as TERM, but for those of a defect, which end it at once: ABRT,
  BUS, FPE, ILL, SEGV, SYS, TRAP

The exit code is 0 after a signal to end, 64 if a setting is missing or invalid, 71 if another agent
uses the state file or the system does not let it start.";

/// Of `run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Everything that a check-in is made of.
    #[command(flatten)]
    pub settings: Settings,
    /// When to check in, and what to say about it.
    #[command(flatten)]
    pub daemon: DaemonArguments,

    /// How long the command may take to end before it is killed, in seconds, 0 to 3600
    #[arg(
        long,
        value_name = "SECONDS",
        env = env_vars::STOP_TIMEOUT,
        default_value_t = 10,
        value_parser = value_parser!(u64).range(0..=3600)
    )]
    pub stop_timeout: u64,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Of `watch`.
#[derive(Debug, Args)]
pub struct WatchArguments {
    /// Everything that a check-in is made of.
    #[command(flatten)]
    pub settings: Settings,
    /// Who knows about the process.
    #[command(flatten)]
    pub source: SourceArguments,
    /// When to check in, and what to say about it.
    #[command(flatten)]
    pub daemon: DaemonArguments,
}

/// Of `once`.
#[derive(Debug, Args)]
pub struct OnceArguments {
    /// Print the body and do not send it; needs only the sandbox id, and asks for the state of the
    /// process if the settings say where
    #[arg(long, env = env_vars::DRY_RUN, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub dry_run: bool,

    /// File that keeps the counters of the last check-in, so that the next one can report the
    /// difference [default: none, and 0 bytes and restarts are reported]
    #[arg(long, value_name = "PATH", env = env_vars::STATE_FILE)]
    pub state_file: Option<PathBuf>,

    /// Everything that a check-in is made of.
    #[command(flatten)]
    pub settings: Settings,
    /// Who knows about the process.
    #[command(flatten)]
    pub source: SourceArguments,
}

/// Of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Print JSON
    #[arg(long, env = env_vars::JSON, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub json: bool,
    /// Everything that a check-in is made of.
    #[command(flatten)]
    pub settings: Settings,
    /// Who knows about the process.
    #[command(flatten)]
    pub source: SourceArguments,
    /// Where an agent that stays keeps its state.
    #[command(flatten)]
    pub state: StateArguments,
}

/// Of `status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Print JSON
    #[arg(long, env = env_vars::JSON, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub json: bool,
    /// Where the agent keeps its state.
    #[command(flatten)]
    pub state: StateArguments,
}

/// Of `gateway-token`.
#[derive(Debug, Args)]
pub struct GatewayTokenArguments {
    /// Id of the sandbox, 1 to 96 bytes
    pub sandbox_id: String,

    /// The secret that tokens are derived from; of several, separated by commas, the first counts.
    /// Better in the environment, as all users see flags [default: read from standard input]
    #[arg(long, value_name = "SECRET", env = env_vars::GATEWAY_TOKEN_SECRET)]
    pub gateway_token_secret: Option<Secret>,
}

/// Of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell
    pub shell: Shell,
}

/// Of `man`.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// Directory to write one page for each command to [default: print the program's own page]
    #[arg(long, value_name = "PATH")]
    pub directory: Option<PathBuf>,
}

/// Everything that a check-in is made of, but for the state of the process.
///
/// What clap reports as invalid, it quotes. So what is or may hold a secret, the URLs included, is
/// taken here as it comes.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// URL of the check-in endpoint, ending in /api/controller/checkin; https, or http on this
    /// machine
    #[arg(long = "checkin-url", value_name = "URL", env = env_vars::CHECKIN_URL)]
    pub check_in_url: Option<String>,

    /// The fleet's API key; better in a file or in the environment, as all users see flags
    #[arg(long, value_name = "KEY", env = env_vars::API_KEY)]
    pub api_key: Option<Secret>,

    /// File that holds the API key, read again on SIGHUP; goes before --api-key
    /// [default: the systemd credential KILOCODE_API_KEY, if there is no --api-key]
    #[arg(long, value_name = "PATH", env = env_vars::API_KEY_FILE)]
    pub api_key_file: Option<PathBuf>,

    /// The sandbox's gateway token; better in a file or in the environment, as all users see flags
    #[arg(long, value_name = "TOKEN", env = env_vars::GATEWAY_TOKEN)]
    pub gateway_token: Option<Secret>,

    /// File that holds the gateway token, read again on SIGHUP; goes before --gateway-token
    /// [default: the systemd credential OPENCLAW_GATEWAY_TOKEN, if there is no --gateway-token]
    #[arg(long, value_name = "PATH", env = env_vars::GATEWAY_TOKEN_FILE)]
    pub gateway_token_file: Option<PathBuf>,

    /// Where systemd puts a service's credentials; it says so itself.
    #[arg(long, hide = true, env = env_vars::CREDENTIALS_DIRECTORY)]
    pub credentials_directory: Option<PathBuf>,

    /// Id of the sandbox that reports, 1 to 96 bytes
    #[arg(long, value_name = "ID", env = env_vars::SANDBOX_ID)]
    pub sandbox_id: Option<String>,

    /// Id of the machine that runs the sandbox [default: left out]
    #[arg(long, value_name = "ID", env = env_vars::MACHINE_ID)]
    pub machine_id: Option<String>,

    /// Program that prints OpenClaw's version when run with `--version`; it is given 15 seconds
    #[arg(
        long,
        value_name = "PROGRAM",
        env = env_vars::OPENCLAW_COMMAND,
        default_value = "openclaw"
    )]
    pub openclaw_command: OsString,

    /// Reported as the version of the controller
    #[arg(
        long,
        value_name = "VERSION",
        env = env_vars::CONTROLLER_VERSION,
        default_value = VERSION
    )]
    pub controller_version: String,

    /// Reported as the git commit of the controller
    #[arg(long, value_name = "COMMIT", env = env_vars::CONTROLLER_COMMIT, default_value = COMMIT)]
    pub controller_commit: String,

    /// Network interface whose bytes count, or with `!` before its name, one whose bytes do not; a
    /// `*` at its end stands for any rest; repeat it for more, or separate them by commas
    /// [default: eth0 if there is one, else all but lo]
    #[arg(
        long = "net-interface",
        value_name = "NAME",
        env = env_vars::NET_INTERFACE,
        value_delimiter = ','
    )]
    pub net_interfaces: Vec<String>,

    /// How long each request may take, in seconds, 1 to 3600
    #[arg(
        long,
        value_name = "SECONDS",
        env = env_vars::TIMEOUT,
        default_value_t = 10,
        value_parser = value_parser!(u64).range(1..=3600)
    )]
    pub timeout: u64,

    /// File of the certificate authorities to trust, as PEM, read again on SIGHUP
    /// [default: the system's; Mozilla's if the system has none]
    #[arg(long, value_name = "PATH", env = env_vars::CA_FILE)]
    pub ca_file: Option<PathBuf>,

    /// Proxy to check in through, such as `http://proxy.example.com:3128`; for https alone
    /// [default: none]
    #[arg(long, value_name = "URL", env = env_vars::HTTPS_PROXY)]
    pub https_proxy: Option<Secret>,

    /// Hosts that are not asked through the proxy, separated by commas: example.com,
    /// .example.com for all below it, 10.0.0.1, 10.0.0.0/8, each also with a port, or *
    /// [default: none]
    #[arg(long, value_name = "HOSTS", env = env_vars::NO_PROXY)]
    pub no_proxy: Option<String>,

    /// Send credentials unencrypted, to http:// URLs of other machines
    #[arg(long, env = env_vars::ALLOW_INSECURE_HTTP, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub allow_insecure_http: bool,

    /// Directory of the kernel's files, for tests
    #[arg(
        long,
        value_name = "PATH",
        env = env_vars::PROC_ROOT,
        default_value = "/proc",
        hide_short_help = true
    )]
    pub proc_root: PathBuf,
}

/// Who knows the state of the process.
#[derive(Clone, Debug, Default, Args)]
pub struct SourceArguments {
    /// URL that returns the state of the process as JSON; the request carries the gateway token as bearer
    /// [default: none]
    #[arg(long, value_name = "URL", env = env_vars::STATUS_URL)]
    pub status_url: Option<String>,

    /// systemd unit that is the process, asked for through `systemctl show`: the system's, or else one
    /// of the agent's user [default: none]
    #[arg(long, value_name = "NAME", env = env_vars::SYSTEMD_UNIT)]
    pub systemd_unit: Option<String>,
}

/// When to check in, and what to say about it.
#[derive(Clone, Debug, Args)]
pub struct DaemonArguments {
    /// Time before the first check-in, in seconds, 0 to 86400
    #[arg(
        long,
        value_name = "SECONDS",
        env = env_vars::INITIAL_DELAY,
        default_value_t = 120,
        value_parser = value_parser!(u64).range(0..=86400)
    )]
    pub initial_delay: u64,

    /// Time between check-ins, in seconds, 1 to 86400
    #[arg(
        long,
        value_name = "SECONDS",
        env = env_vars::INTERVAL,
        default_value_t = 300,
        value_parser = value_parser!(u64).range(1..=86400)
    )]
    pub interval: u64,

    /// How far both are stretched or shortened by chance, in percent, 0 to 50: a fleet that starts
    /// together must not knock together
    #[arg(
        long,
        value_name = "PERCENT",
        env = env_vars::JITTER,
        default_value_t = 10,
        value_parser = value_parser!(u8).range(0..=50)
    )]
    pub jitter: u8,

    /// How much to log on standard error: off, error, warn, info, debug or trace
    #[arg(
        long,
        value_name = "LEVEL",
        env = env_vars::LOG_LEVEL,
        default_value = "info",
        value_parser = value_parser!(LevelFilter)
    )]
    pub log_level: LevelFilter,

    /// Which socket is the journal; systemd says so itself.
    #[arg(long, hide = true, env = env_vars::JOURNAL_STREAM)]
    pub journal_stream: Option<OsString>,

    /// DSN of the Sentry project that repeated failures to check in, and panics, are reported to;
    /// better in the environment, as all users see flags [default: none]
    #[cfg(feature = "sentry")]
    #[arg(long, value_name = "DSN", env = env_vars::SENTRY_DSN)]
    pub sentry_dsn: Option<Secret>,

    /// Where the agent keeps its state.
    #[command(flatten)]
    pub state: StateArguments,
}

/// Where an agent that stays keeps its state.
#[derive(Clone, Debug, Args)]
pub struct StateArguments {
    /// File that keeps unreported counters, and what `status` shows
    /// [default: state.json in $RUNTIME_DIRECTORY, or in kiloclaw-agent/ in $XDG_RUNTIME_DIR or
    /// /run]
    #[arg(long, value_name = "PATH", env = env_vars::STATE_FILE)]
    pub state_file: Option<PathBuf>,

    /// Where systemd wants a service's run-time files; it says so itself.
    #[arg(long, hide = true, env = env_vars::RUNTIME_DIRECTORY)]
    pub runtime_directory: Option<PathBuf>,

    /// Where a user's run-time files go; the login says so.
    #[arg(long, hide = true, env = env_vars::XDG_RUNTIME_DIR)]
    pub xdg_runtime_dir: Option<PathBuf>,
}

impl Cli {
    /// Reads the process's arguments and environment.
    pub fn from_process() -> Result<Self, clap::Error> {
        let mut command = command();
        let matches = match command.try_get_matches_from_mut(std::env::args_os()) {
            Err(error) if error.kind() == ErrorKind::InvalidUtf8 => {
                return Err(not_utf8(&mut command).unwrap_or(error));
            }
            matches => matches?,
        };
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

/// The command line, with what holds for every variable.
#[must_use]
pub fn command() -> clap::Command {
    let empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let there = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    Cli::command().mut_subcommands(|subcommand| {
        subcommand.mut_args(|argument| {
            // Most programs read the proxy's variables in lower case, many in both.
            let lower = LOWER_CASE_TOO.into_iter().find(|(upper, lower)| {
                argument.get_env() == Some(OsStr::new(upper)) && !there(upper) && there(lower)
            });
            let argument = match lower {
                Some((_, lower)) => argument.env(lower),
                None => argument,
            };
            // An empty variable counts as unset: deployments often can only empty one.
            let emptied = argument.get_env().is_some_and(empty);
            let argument = if emptied { argument.env(None) } else { argument };
            // Help says which variables there are, never what is in them.
            argument.hide_env_values(true)
        })
    })
}

/// Names the variables that are not UTF-8 and have to be, which clap does not; `None` if it was an
/// argument.
fn not_utf8(command: &mut clap::Command) -> Option<clap::Error> {
    let any_bytes = [TypeId::of::<PathBuf>(), TypeId::of::<OsString>()];
    let arguments = command.get_subcommands().flat_map(clap::Command::get_arguments);
    let names: BTreeSet<_> = arguments
        .filter(|argument| !any_bytes.iter().any(|id| argument.get_value_parser().type_id() == *id))
        .filter_map(clap::Arg::get_env)
        .filter(|name| std::env::var_os(name).is_some_and(|value| value.to_str().is_none()))
        .map(|name| name.display().to_string())
        .collect();
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    let text = format!("not valid UTF-8: {names}");
    (!names.is_empty()).then(|| command.error(ErrorKind::InvalidUtf8, text))
}

const LOWER_CASE_TOO: [(&str, &str); 2] =
    [(env_vars::HTTPS_PROXY, "https_proxy"), (env_vars::NO_PROXY, "no_proxy")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable_and_a_line_of_help() {
        for subcommand in Cli::command().get_subcommands() {
            for argument in subcommand.get_arguments().filter(|argument| !argument.is_positional())
            {
                let (id, of) = (argument.get_id(), subcommand.get_name());
                assert!(argument.get_help().is_some(), "{id} of {of}");
                let once = ["directory"].contains(&id.as_str());
                assert!(argument.get_env().is_some() || once, "{id} of {of}");
            }
        }
    }
}
