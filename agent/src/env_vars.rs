//! The names of the environment variables, for clap, for error messages and for hints.

/// Full URL of the check-in endpoint.
pub const CHECKIN_URL: &str = "KILOCLAW_CHECKIN_URL";
/// The fleet's API key.
pub const API_KEY: &str = "KILOCODE_API_KEY";
/// A file that holds the fleet's API key.
pub const API_KEY_FILE: &str = "KILOCODE_API_KEY_FILE";
/// The sandbox's gateway token.
pub const GATEWAY_TOKEN: &str = "OPENCLAW_GATEWAY_TOKEN";
/// A file that holds the sandbox's gateway token.
pub const GATEWAY_TOKEN_FILE: &str = "OPENCLAW_GATEWAY_TOKEN_FILE";
/// Where systemd puts a service's credentials.
pub const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// The sandbox's id.
pub const SANDBOX_ID: &str = "KILOCLAW_SANDBOX_ID";
/// The machine's id; Fly sets it.
pub const MACHINE_ID: &str = "FLY_MACHINE_ID";
/// URL that returns the state of the supervised process.
pub const STATUS_URL: &str = "KILOCLAW_STATUS_URL";
/// The systemd unit that is the supervised process.
pub const SYSTEMD_UNIT: &str = "KILOCLAW_SYSTEMD_UNIT";
/// The `OpenClaw` command.
pub const OPENCLAW_COMMAND: &str = "KILOCLAW_OPENCLAW_COMMAND";
/// What is reported as the controller's version.
pub const CONTROLLER_VERSION: &str = "KILOCLAW_CONTROLLER_VERSION";
/// What is reported as the controller's commit.
pub const CONTROLLER_COMMIT: &str = "KILOCLAW_CONTROLLER_COMMIT";
/// The network interfaces to count, separated by commas.
pub const NET_INTERFACE: &str = "KILOCLAW_NET_INTERFACE";
/// The state file.
pub const STATE_FILE: &str = "KILOCLAW_STATE_FILE";
/// Where systemd wants a service's run-time files.
pub const RUNTIME_DIRECTORY: &str = "RUNTIME_DIRECTORY";
/// Where a user's run-time files go.
pub const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
/// How long a request may take, in seconds.
pub const TIMEOUT: &str = "KILOCLAW_TIMEOUT_SECONDS";
/// The time before the first check-in, in seconds.
pub const INITIAL_DELAY: &str = "KILOCLAW_INITIAL_DELAY_SECONDS";
/// The time between check-ins, in seconds.
pub const INTERVAL: &str = "KILOCLAW_INTERVAL_SECONDS";
/// The jitter of both, in percent.
pub const JITTER: &str = "KILOCLAW_JITTER_PERCENT";
/// How long the command may take to end, in seconds.
pub const STOP_TIMEOUT: &str = "KILOCLAW_STOP_TIMEOUT_SECONDS";
/// How much is logged.
pub const LOG_LEVEL: &str = "KILOCLAW_LOG_LEVEL";
/// A file of certificate authorities.
pub const CA_FILE: &str = "KILOCLAW_CA_FILE";
/// The proxy for https.
pub const HTTPS_PROXY: &str = "HTTPS_PROXY";
/// What is not asked through a proxy.
pub const NO_PROXY: &str = "NO_PROXY";
/// Whether credentials may go unencrypted.
pub const ALLOW_INSECURE_HTTP: &str = "KILOCLAW_ALLOW_INSECURE_HTTP";
/// Whether `once` only prints.
pub const DRY_RUN: &str = "KILOCLAW_DRY_RUN";
/// Whether output is for programs.
pub const JSON: &str = "KILOCLAW_JSON";
/// Where the kernel's files are.
pub const PROC_ROOT: &str = "KILOCLAW_PROC_ROOT";
/// The secret that gateway tokens are derived from.
pub const GATEWAY_TOKEN_SECRET: &str = "GATEWAY_TOKEN_SECRET";
/// Where repeated failures are reported to.
pub const SENTRY_DSN: &str = "SENTRY_DSN";
/// Which socket is the journal, where systemd connected standard error to it.
pub const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// Keeps `OpenClaw` from replacing itself with a process that nobody supervises: it restarts within
/// its process, or exits and is started again. Of its CLI, it saves a second start.
pub const NO_RESPAWN: &str = "OPENCLAW_NO_RESPAWN";
/// Marks the command and all that it starts, with the id of the agent's process.
pub const OF_THE_COMMAND: &str = "KILOCLAW_AGENT_PID";

/// The agent's own secrets and the ways to them, and what would report to systemd as if it were the
/// agent. The command gets all else: `OpenClaw` itself uses [`API_KEY`], [`GATEWAY_TOKEN`] and the
/// proxy.
pub const NOT_FOR_THE_COMMAND: [&str; 8] = [
    API_KEY_FILE,
    GATEWAY_TOKEN_FILE,
    CREDENTIALS_DIRECTORY,
    GATEWAY_TOKEN_SECRET,
    SENTRY_DSN,
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

/// What a program gets that is run for what it prints: enough to find it, Node, and the buses of
/// systemd.
pub const FOR_PROBES: [&str; 20] = [
    "ASDF_DATA_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "MISE_DATA_DIR",
    "NODE_COMPILE_CACHE",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NVM_DIR",
    "PATH",
    "TMPDIR",
    "TZ",
    "USER",
    "VOLTA_HOME",
    XDG_RUNTIME_DIR,
];
