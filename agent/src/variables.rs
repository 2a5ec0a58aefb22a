//! The names of the environment variables, for clap, for error messages and for hints.

/// Full URL of the check-in endpoint.
pub const CHECKIN_URL: &str = "KILOCLAW_CHECKIN_URL";
/// The fleet's API key.
pub const API_KEY: &str = "KILOCODE_API_KEY";
/// The sandbox's gateway token.
pub const GATEWAY_TOKEN: &str = "OPENCLAW_GATEWAY_TOKEN";
/// The sandbox's id.
pub const SANDBOX_ID: &str = "KILOCLAW_SANDBOX_ID";
/// The machine's id; Fly sets it.
pub const MACHINE_ID: &str = "FLY_MACHINE_ID";
/// URL that tells the state of the supervised process.
pub const STATUS_URL: &str = "KILOCLAW_STATUS_URL";
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
/// How long a request may take, in seconds.
pub const TIMEOUT: &str = "KILOCLAW_TIMEOUT_SECONDS";
/// Where the kernel's files are.
pub const PROC_ROOT: &str = "KILOCLAW_PROC_ROOT";
/// The secret that gateway tokens are derived from.
pub const GATEWAY_TOKEN_SECRET: &str = "GATEWAY_TOKEN_SECRET";
