//! Names of environment variables, for clap, error messages and hints.

pub const CHECKIN_URL: &str = "KILOCLAW_CHECKIN_URL";
pub const API_KEY: &str = "KILOCODE_API_KEY";
pub const API_KEY_FILE: &str = "KILOCODE_API_KEY_FILE";
pub const GATEWAY_TOKEN: &str = "OPENCLAW_GATEWAY_TOKEN";
pub const GATEWAY_TOKEN_FILE: &str = "OPENCLAW_GATEWAY_TOKEN_FILE";
/// Directory of a service's credentials; systemd sets it.
pub const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
pub const SANDBOX_ID: &str = "KILOCLAW_SANDBOX_ID";
/// Fly sets it.
pub const MACHINE_ID: &str = "FLY_MACHINE_ID";
pub const STATUS_URL: &str = "KILOCLAW_STATUS_URL";
pub const SYSTEMD_UNIT: &str = "KILOCLAW_SYSTEMD_UNIT";
pub const OPENCLAW_COMMAND: &str = "KILOCLAW_OPENCLAW_COMMAND";
pub const CONTROLLER_VERSION: &str = "KILOCLAW_CONTROLLER_VERSION";
pub const CONTROLLER_COMMIT: &str = "KILOCLAW_CONTROLLER_COMMIT";
pub const DISK_PATH: &str = "KILOCLAW_DISK_PATH";
/// Names, separated by commas.
pub const NET_INTERFACE: &str = "KILOCLAW_NET_INTERFACE";
pub const STATE_FILE: &str = "KILOCLAW_STATE_FILE";
/// Directory of a service's run-time files; systemd sets it.
pub const RUNTIME_DIRECTORY: &str = "RUNTIME_DIRECTORY";
pub const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
pub const TIMEOUT: &str = "KILOCLAW_TIMEOUT_SECONDS";
pub const INITIAL_DELAY: &str = "KILOCLAW_INITIAL_DELAY_SECONDS";
pub const INTERVAL: &str = "KILOCLAW_INTERVAL_SECONDS";
pub const JITTER: &str = "KILOCLAW_JITTER_PERCENT";
pub const STOP_TIMEOUT: &str = "KILOCLAW_STOP_TIMEOUT_SECONDS";
pub const LOG_LEVEL: &str = "KILOCLAW_LOG_LEVEL";
pub const CA_FILE: &str = "KILOCLAW_CA_FILE";
pub const HTTPS_PROXY: &str = "HTTPS_PROXY";
pub const NO_PROXY: &str = "NO_PROXY";
pub const ALLOW_INSECURE_HTTP: &str = "KILOCLAW_ALLOW_INSECURE_HTTP";
pub const DRY_RUN: &str = "KILOCLAW_DRY_RUN";
pub const JSON: &str = "KILOCLAW_JSON";
/// Another `/proc`, for tests.
pub const PROC_ROOT: &str = "KILOCLAW_PROC_ROOT";
/// The secret that gateway tokens are derived from.
pub const GATEWAY_TOKEN_SECRET: &str = "GATEWAY_TOKEN_SECRET";
pub const SENTRY_DSN: &str = "SENTRY_DSN";
/// The journal's socket, if systemd connected standard error to it.
pub const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// Keeps `OpenClaw` from restarting through an unsupervised process: it restarts within its process, or exits and the
/// agent restarts it. It also saves its CLI a second start.
pub const NO_RESPAWN: &str = "OPENCLAW_NO_RESPAWN";
/// Marks the command and everything that it starts with the agent's process id.
pub const OF_THE_COMMAND: &str = "KILOCLAW_AGENT_PID";

/// The agent's own secrets, their locations, and variables that report to systemd as the agent. The command gets all
/// others: `OpenClaw` itself uses [`API_KEY`], [`GATEWAY_TOKEN`] and the proxy.
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

/// The environment of programs that run for their output: enough to find them, Node, and systemd's buses.
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
