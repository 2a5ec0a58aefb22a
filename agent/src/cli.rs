//! Flags and environment variables, unchecked; [`config`](crate::config) validates them.

#![expect(clippy::doc_markdown, reason = "these comments are the help text, which is not Markdown")]

use std::any::TypeId;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, value_parser};
use clap_complete::Shell;
use kiloclaw_check_in::limits::MAX_ABSENCE_SECONDS;
use tracing::level_filters::LevelFilter;

use crate::secret::Secret;
use crate::{env_vars, exit};

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
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Supervise a command and check in regularly
    #[command(after_help = RUN_HELP, override_usage = RUN_USAGE)]
    Run(Box<RunArguments>),
    /// Check in regularly for a process that something else supervises
    #[command(after_help = WATCH_HELP)]
    Watch(Box<WatchArguments>),
    /// Send one check-in and print the request and the response
    #[command(after_help = exit::HELP)]
    Once(Box<OnceArguments>),
    /// Announce that this machine will be away, so that its silence raises no alert
    #[command(after_help = format!("{AWAY_HELP}\n\n{}", exit::HELP), mut_args = hide_what_only_check_ins_need)]
    Away(Box<AwayArguments>),
    /// End the absence that `away` announced
    #[command(after_help = format!("{BACK_HELP}\n\n{}", exit::HELP), mut_args = hide_what_only_check_ins_need)]
    Back(Box<BackArguments>),
    /// Write the service's settings, check them and start the service
    #[command(after_help = format!("{SETUP_HELP}\n\n{}", exit::SETUP_HELP))]
    Setup(Box<SetupArguments>),
    /// Check everything that a check-in needs, with hints how to fix problems
    #[command(after_help = exit::DOCTOR_HELP)]
    Doctor(Box<DoctorArguments>),
    /// Show the health of the running agent and its process
    #[command(after_help = exit::STATUS_HELP)]
    Status(StatusArguments),
    /// Print the gateway token of a sandbox
    #[command(after_help = exit::HELP)]
    GatewayToken(GatewayTokenArguments),
    /// Print a shell completion script
    Completions(CompletionsArguments),
    /// Print the manual page, or write one for each command
    Man(ManArguments),
}

/// Replaces clap's usage, which lists optional flags and omits the `--`.
const RUN_USAGE: &str = "kiloclaw-agent run [OPTIONS] -- <COMMAND>...";

const RUN_HELP: &str = "\
Signals:
  TERM, INT  stop: forward the signal to the command, send the last check-in, exit
  HUP        reload key and certificate files
  USR1       restart the command
  USR2       only log the signal
  ABRT, BUS, FPE, ILL, SEGV, SYS and TRAP end the agent at once; other signals that would end a
  process act as TERM

After a crash, the agent restarts the command after 1 second, then 2, 4 and so on up to 5 minutes;
a command that was up for 30 seconds starts again at 1 second. After exit code 0, it restarts the
command at once. Before a restart, it ends all processes that the command left behind. If the agent
is killed, the kernel kills the command.
Exit code: 0 after a signal to stop, 64 if a setting is missing or invalid, 71 if another agent uses
the state file or the system prevents the start.";

const WATCH_HELP: &str = "\
Signals:
  TERM, INT  stop: send the last check-in, exit
  HUP        reload key and certificate files
  USR2       only log the signal
  ABRT, BUS, FPE, ILL, SEGV, SYS and TRAP end the agent at once; other signals that would end a
  process act as TERM

Exit code: 0 after a signal to stop, 64 if a setting is missing or invalid, 71 if another agent uses
the state file or the system prevents the start.";

const AWAY_HELP: &str = "\
Sends one request, without a retry. An absence that was announced before is replaced.

Examples:
  kiloclaw-agent away --for 2h --reason 'kernel upgrade'
  kiloclaw-agent away --reason 'switched off by its owner'";

const BACK_HELP: &str = "\
Sends one request, without a retry. If the machine does not check in, it counts as silent again.

Example:
  kiloclaw-agent back";

const SETUP_HELP: &str = "\
On a terminal, asks for missing values; without one, a missing value is an error. Values that an earlier
run wrote stay unless new ones are given. Before it writes anything, it runs `doctor` with the
environment that the service will have. It never prints keys.

Examples:
  kiloclaw-agent setup
  kiloclaw-agent setup --checkin-url https://telemetry.example.com/api/controller/checkin \\
    --sandbox-id sandbox-1 --systemd-unit openclaw.service \\
    --api-key-file /run/secrets/api-key --gateway-token-file /run/secrets/gateway-token";

#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    pub daemon: DaemonArguments,

    /// Seconds that the command may take to exit before it is killed, 0 to 3600
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

#[derive(Debug, Args)]
pub struct WatchArguments {
    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    pub source: SourceArguments,
    #[command(flatten)]
    pub daemon: DaemonArguments,
}

#[derive(Debug, Args)]
pub struct OnceArguments {
    /// Print the body without sending it; requires only the sandbox id, and reads the state of the
    /// process if a source is set
    #[arg(long, env = env_vars::DRY_RUN, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub dry_run: bool,

    /// File that keeps the counters of the last check-in, so that the next one can report the
    /// difference [default: none; bytes and restarts are reported as 0]
    #[arg(long, value_name = "PATH", env = env_vars::STATE_FILE)]
    pub state_file: Option<PathBuf>,

    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    pub source: SourceArguments,
}

#[derive(Debug, Args)]
pub struct AwayArguments {
    /// Time until the machine is back, 1s to 30d, such as 2h, 90m or 1d12h; if it is not back by
    /// then, it is overdue [default: until the next check-in]
    #[arg(long = "for", value_name = "DURATION", value_parser = absence_seconds)]
    pub duration: Option<u64>,

    /// Reason, for the people who would be alerted: at most 200 characters
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,

    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Args)]
pub struct BackArguments {
    #[command(flatten)]
    pub settings: Settings,
}

/// Parses the duration of an absence. A fraction of a second is an error.
fn absence_seconds(text: &str) -> Result<u64, &'static str> {
    let whole = humantime::parse_duration(text).ok().filter(|found| found.subsec_nanos() == 0);
    whole
        .map(|duration| duration.as_secs())
        .filter(|seconds| (1..=MAX_ABSENCE_SECONDS).contains(seconds))
        .ok_or("expected 1s to 30d, such as 2h, 90m or 1d12h")
}

/// Hides settings without an effect on an absence. The commands still accept them, so that all take the same settings.
fn hide_what_only_check_ins_need(argument: clap::Arg) -> clap::Arg {
    let hidden = [
        "machine_id",
        "openclaw_command",
        "controller_version",
        "controller_commit",
        "net_interfaces",
        "disk_path",
        "proc_root",
    ];
    let hide = hidden.contains(&argument.get_id().as_str());
    if hide { argument.hide(true) } else { argument }
}

#[derive(Debug, Args)]
pub struct SetupArguments {
    /// URL of the check-in endpoint, ending in /api/controller/checkin
    #[arg(long = "checkin-url", value_name = "URL", env = env_vars::CHECKIN_URL)]
    pub check_in_url: Option<String>,

    /// Id of the sandbox that reports, 1 to 96 bytes
    #[arg(long, value_name = "ID", env = env_vars::SANDBOX_ID)]
    pub sandbox_id: Option<String>,

    /// Id of the machine that runs the sandbox [default: not reported]
    #[arg(long, value_name = "ID", env = env_vars::MACHINE_ID)]
    pub machine_id: Option<String>,

    /// systemd unit of OpenClaw; this or --status-url is required
    #[arg(long, value_name = "NAME", env = env_vars::SYSTEMD_UNIT)]
    pub systemd_unit: Option<String>,

    /// URL of a controller that returns the state of OpenClaw
    #[arg(long, value_name = "URL", env = env_vars::STATUS_URL)]
    pub status_url: Option<String>,

    /// Path of openclaw, if it is not in /usr/local/bin or /usr/bin
    #[arg(long, value_name = "PROGRAM", env = env_vars::OPENCLAW_COMMAND)]
    pub openclaw_command: Option<OsString>,

    /// The fleet's API key; prefer a file or the environment, since all users see flags
    #[arg(long, value_name = "KEY", env = env_vars::API_KEY)]
    pub api_key: Option<Secret>,

    /// File to copy the API key from; takes precedence over --api-key
    #[arg(long, value_name = "PATH", env = env_vars::API_KEY_FILE)]
    pub api_key_file: Option<PathBuf>,

    /// The sandbox's gateway token; prefer a file or the environment, since all users see flags
    #[arg(long, value_name = "TOKEN", env = env_vars::GATEWAY_TOKEN)]
    pub gateway_token: Option<Secret>,

    /// File to copy the gateway token from; takes precedence over --gateway-token
    #[arg(long, value_name = "PATH", env = env_vars::GATEWAY_TOKEN_FILE)]
    pub gateway_token_file: Option<PathBuf>,

    /// Directory of the settings and keys that the service reads
    #[arg(long, value_name = "PATH", default_value = "/etc/kiloclaw-agent")]
    pub directory: PathBuf,

    /// Write the settings even if a check fails
    #[arg(long)]
    pub force: bool,

    /// Only write the settings, and do not start the service
    #[arg(long)]
    pub no_start: bool,
}

#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Print JSON
    #[arg(long, env = env_vars::JSON, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub json: bool,
    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    pub source: SourceArguments,
    #[command(flatten)]
    pub state: StateArguments,
}

#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Print JSON
    #[arg(long, env = env_vars::JSON, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub json: bool,
    #[command(flatten)]
    pub state: StateArguments,
}

#[derive(Debug, Args)]
pub struct GatewayTokenArguments {
    /// Id of the sandbox, 1 to 96 bytes
    pub sandbox_id: String,

    /// The secret that tokens are derived from; of several values, separated by commas, the first one.
    /// Prefer the environment, since all users see flags [default: read from standard input]
    #[arg(long, value_name = "SECRET", env = env_vars::GATEWAY_TOKEN_SECRET)]
    pub gateway_token_secret: Option<Secret>,
}

#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManArguments {
    /// Directory to write one page for each command to [default: print the program's own page]
    #[arg(long, value_name = "PATH")]
    pub directory: Option<PathBuf>,
}

/// The settings of a check-in, except for the source of the process's state.
///
/// clap's errors quote invalid values. So `config`, not clap, validates values that may hold a secret, such as URLs.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// URL of the check-in endpoint, ending in /api/controller/checkin; https, or http on this
    /// machine
    #[arg(long = "checkin-url", value_name = "URL", env = env_vars::CHECKIN_URL)]
    pub check_in_url: Option<String>,

    /// The fleet's API key; prefer a file or the environment, since all users see flags
    #[arg(long, value_name = "KEY", env = env_vars::API_KEY)]
    pub api_key: Option<Secret>,

    /// File with the API key, reloaded on SIGHUP; takes precedence over --api-key
    /// [default: the systemd credential KILOCODE_API_KEY, if there is no --api-key]
    #[arg(long, value_name = "PATH", env = env_vars::API_KEY_FILE)]
    pub api_key_file: Option<PathBuf>,

    /// The sandbox's gateway token; prefer a file or the environment, since all users see flags
    #[arg(long, value_name = "TOKEN", env = env_vars::GATEWAY_TOKEN)]
    pub gateway_token: Option<Secret>,

    /// File with the gateway token, reloaded on SIGHUP; takes precedence over --gateway-token
    /// [default: the systemd credential OPENCLAW_GATEWAY_TOKEN, if there is no --gateway-token]
    #[arg(long, value_name = "PATH", env = env_vars::GATEWAY_TOKEN_FILE)]
    pub gateway_token_file: Option<PathBuf>,

    /// Where systemd puts a service's credentials; systemd sets the variable
    #[arg(long, hide = true, env = env_vars::CREDENTIALS_DIRECTORY)]
    pub credentials_directory: Option<PathBuf>,

    /// Id of the sandbox that reports, 1 to 96 bytes
    #[arg(long, value_name = "ID", env = env_vars::SANDBOX_ID)]
    pub sandbox_id: Option<String>,

    /// Id of the machine that runs the sandbox [default: not reported]
    #[arg(long, value_name = "ID", env = env_vars::MACHINE_ID)]
    pub machine_id: Option<String>,

    /// Program that prints OpenClaw's version when run with `--version`, within 15 seconds
    #[arg(
        long,
        value_name = "PROGRAM",
        env = env_vars::OPENCLAW_COMMAND,
        default_value = "openclaw"
    )]
    pub openclaw_command: OsString,

    /// Controller version to report
    #[arg(
        long,
        value_name = "VERSION",
        env = env_vars::CONTROLLER_VERSION,
        default_value = VERSION
    )]
    pub controller_version: String,

    /// Git commit of the controller to report
    #[arg(long, value_name = "COMMIT", env = env_vars::CONTROLLER_COMMIT, default_value = COMMIT)]
    pub controller_commit: String,

    /// Network interface to count, or with `!` before its name, to exclude; a `*` at the end matches
    /// any rest; repeat the flag, or separate names by commas
    /// [default: eth0 if there is one, else all but lo]
    #[arg(
        long = "net-interface",
        value_name = "NAME",
        env = env_vars::NET_INTERFACE,
        value_delimiter = ','
    )]
    pub net_interfaces: Vec<String>,

    /// Timeout of each request, in seconds, 1 to 3600
    #[arg(
        long,
        value_name = "SECONDS",
        env = env_vars::TIMEOUT,
        default_value_t = 10,
        value_parser = value_parser!(u64).range(1..=3600)
    )]
    pub timeout: u64,

    /// File with the certificate authorities to trust, as PEM, reloaded on SIGHUP
    /// [default: the system's; Mozilla's if the system has none]
    #[arg(long, value_name = "PATH", env = env_vars::CA_FILE)]
    pub ca_file: Option<PathBuf>,

    /// Proxy for https URLs, such as `http://proxy.example.com:3128`
    /// [default: none]
    #[arg(long, value_name = "URL", env = env_vars::HTTPS_PROXY)]
    pub https_proxy: Option<Secret>,

    /// Hosts to reach without the proxy, separated by commas: example.com, .example.com for all
    /// subdomains, 10.0.0.1, 10.0.0.0/8, each optionally with a port, or *
    /// [default: none]
    #[arg(long, value_name = "HOSTS", env = env_vars::NO_PROXY)]
    pub no_proxy: Option<String>,

    /// Send credentials unencrypted, to http:// URLs of other machines
    #[arg(long, env = env_vars::ALLOW_INSECURE_HTTP, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub allow_insecure_http: bool,

    /// Report the use and size of the file system that holds this path, such as / or /data
    /// [default: none]
    #[arg(long, value_name = "PATH", env = env_vars::DISK_PATH)]
    pub disk_path: Option<PathBuf>,

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

#[derive(Clone, Debug, Default, Args)]
pub struct SourceArguments {
    /// URL that returns the state of the process as JSON; the request carries the gateway token as a
    /// bearer token [default: none]
    #[arg(long, value_name = "URL", env = env_vars::STATUS_URL)]
    pub status_url: Option<String>,

    /// systemd unit of the process, read by `systemctl show`: a system unit, or else one of the
    /// agent's user [default: none]
    #[arg(long, value_name = "NAME", env = env_vars::SYSTEMD_UNIT)]
    pub systemd_unit: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct DaemonArguments {
    /// Delay of the first check-in, in seconds, 0 to 86400
    #[arg(
        long,
        value_name = "SECONDS",
        env = env_vars::INITIAL_DELAY,
        default_value_t = 120,
        value_parser = value_parser!(u64).range(0..=86400)
    )]
    pub initial_delay: u64,

    /// Interval between check-ins, in seconds, 1 to 86400
    #[arg(
        long,
        value_name = "SECONDS",
        env = env_vars::INTERVAL,
        default_value_t = 300,
        value_parser = value_parser!(u64).range(1..=86400)
    )]
    pub interval: u64,

    /// Random jitter of delay and interval, in percent, 0 to 50, so that machines that start together
    /// do not check in together
    #[arg(
        long,
        value_name = "PERCENT",
        env = env_vars::JITTER,
        default_value_t = 10,
        value_parser = value_parser!(u8).range(0..=50)
    )]
    pub jitter: u8,

    /// Log level on standard error: off, error, warn, info, debug or trace
    #[arg(
        long,
        value_name = "LEVEL",
        env = env_vars::LOG_LEVEL,
        default_value = "info",
        value_parser = value_parser!(LevelFilter)
    )]
    pub log_level: LevelFilter,

    /// Which socket is the journal; systemd sets the variable
    #[arg(long, hide = true, env = env_vars::JOURNAL_STREAM)]
    pub journal_stream: Option<OsString>,

    /// DSN of the Sentry project to report repeated check-in failures and panics to; prefer the
    /// environment, since all users see flags [default: none]
    #[cfg(feature = "sentry")]
    #[arg(long, value_name = "DSN", env = env_vars::SENTRY_DSN)]
    pub sentry_dsn: Option<Secret>,

    #[command(flatten)]
    pub state: StateArguments,
}

#[derive(Clone, Debug, Args)]
pub struct StateArguments {
    /// File that keeps unreported counters, and what `status` shows
    /// [default: state.json in $RUNTIME_DIRECTORY, or in kiloclaw-agent/ in $XDG_RUNTIME_DIR or
    /// /run]
    #[arg(long, value_name = "PATH", env = env_vars::STATE_FILE)]
    pub state_file: Option<PathBuf>,

    /// Where systemd wants a service's run-time files; systemd sets the variable
    #[arg(long, hide = true, env = env_vars::RUNTIME_DIRECTORY)]
    pub runtime_directory: Option<PathBuf>,

    /// Where a user's run-time files go; the login session sets the variable
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

/// The command line, with the rules for all environment variables.
#[must_use]
pub fn command() -> clap::Command {
    let empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let there = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    Cli::command().mut_subcommands(|subcommand| {
        subcommand.mut_args(|argument| {
            // Most programs read the proxy variables in lower case, many in both cases.
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
            // Help shows the names of variables, never their values.
            argument.hide_env_values(true)
        })
    })
}

/// An error that names the variables with invalid UTF-8, as clap's does not; `None` if an argument caused it.
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
    fn an_absence_lasts_1_second_to_30_days() {
        for (text, seconds) in [
            ("1s", 1),
            ("90m", 5_400),
            ("2h", 7_200),
            ("1d12h", 129_600),
            ("1h 30min", 5_400),
            ("30d", MAX_ABSENCE_SECONDS),
        ] {
            assert_eq!(absence_seconds(text), Ok(seconds), "{text}");
        }
        for text in
            ["", "0", "0s", "2", "-2h", "1500ms", "30d1s", "31d", "1y", "99999999999999d", "soon"]
        {
            assert!(absence_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_flag_has_an_environment_variable_and_a_line_of_help() {
        for subcommand in Cli::command().get_subcommands() {
            for argument in subcommand.get_arguments().filter(|argument| !argument.is_positional())
            {
                let (id, of) = (argument.get_id(), subcommand.get_name());
                assert!(argument.get_help().is_some(), "{id} of {of}");
                let once =
                    ["directory", "duration", "reason", "force", "no_start"].contains(&id.as_str());
                assert!(argument.get_env().is_some() || once, "{id} of {of}");
            }
        }
    }
}
