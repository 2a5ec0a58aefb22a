//! `kiloclaw-agent setup`: writes the service's settings and keys, checks them with `doctor`, and starts the service.
//!
//! Existing values stay unless flags, variables or answers replace them, so a second run changes nothing. `setup`
//! writes only after `doctor` has passed: a wrong key never replaces a working one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::bounded;
use crate::cli::SetupArguments;
use crate::env_vars;
use crate::exit::Exit;
use crate::output;
use crate::secret::Secret;

mod prompt;
mod settings_file;

use prompt::{Interrupted, Terminal};
use settings_file::SettingsFile;

const SERVICE: &str = "kiloclaw-agent";
/// File names that `kiloclaw-agent.service` expects in the directory.
const SETTINGS: &str = "agent.env";
const API_KEY: &str = "api-key";
const GATEWAY_TOKEN: &str = "gateway-token";
/// Maximum size of each file in bytes.
const MAX_BYTES: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// There is no terminal to ask on, or the answers were empty.
    #[error("not set: {}; give flags or variables, or run this on a terminal to be asked", .0.join(", "))]
    Missing(Vec<&'static str>),
    /// systemd would read the line as another value or another setting.
    #[error("{0} must be one line without quotes, backslashes and control characters")]
    NotALine(&'static str),
    #[error(
        "{} and {} are both given: give only the one that supervises OpenClaw",
        env_vars::STATUS_URL,
        env_vars::SYSTEMD_UNIT
    )]
    TwoSources,
    #[error("cannot read {path}: {error}")]
    Read { path: String, error: io::Error },
    #[error("cannot write {path}: {error}{}", as_root(.error))]
    Write { path: String, error: io::Error },
    #[error("cannot run {program}: {error}")]
    Run { program: &'static str, error: io::Error },
    #[error("`systemctl {0}` failed: see above")]
    Systemctl(&'static str),
    /// Ctrl-C, or the end of the input.
    #[error("interrupted; nothing was changed")]
    Interrupted,
    /// `doctor` has printed what failed.
    #[error("a check failed, and nothing was changed; --force writes the settings anyway")]
    Doctor,
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

fn as_root(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run this as root, for example with sudo",
        _ => "",
    }
}

impl From<Interrupted> for SetupError {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

impl SetupError {
    const fn exit(&self) -> Exit {
        match self {
            Self::Missing(_) | Self::NotALine(_) | Self::TwoSources | Self::Read { .. } => {
                Exit::BadConfiguration
            }
            Self::Doctor | Self::Interrupted => Exit::Failed,
            Self::Write { .. } | Self::Run { .. } | Self::Systemctl(_) => Exit::SystemError,
            Self::Output(_) => Exit::OutputFailed,
        }
    }
}

#[must_use]
pub fn run(arguments: &SetupArguments) -> Exit {
    match set_up(arguments) {
        Ok(()) => Exit::Done,
        Err(error) => {
            output::error(&error.to_string());
            error.exit()
        }
    }
}

fn set_up(arguments: &SetupArguments) -> Result<(), SetupError> {
    let directory = arguments.directory.as_path();
    // Before the questions: a later error would lose the answers.
    writable(directory)?;
    let before = read(&directory.join(SETTINGS))?.unwrap_or_default();
    let mut settings = SettingsFile::parse(&before);
    let mut api_key = secret(
        arguments.api_key.as_ref(),
        arguments.api_key_file.as_deref(),
        &directory.join(API_KEY),
    )?;
    let mut gateway_token = secret(
        arguments.gateway_token.as_ref(),
        arguments.gateway_token_file.as_deref(),
        &directory.join(GATEWAY_TOKEN),
    )?;
    let mut given = given(arguments)?;
    if let Some(mut terminal) = Terminal::open() {
        ask(&mut terminal, &settings, &mut given, &mut api_key, &mut gateway_token)?;
    }
    apply(&mut settings, &given)?;
    let (api_key, gateway_token) = complete(&settings, api_key, gateway_token)?;

    if !examine(&settings, &api_key, &gateway_token)? && !arguments.force {
        return Err(SetupError::Doctor);
    }
    let mut changed = false;
    changed |= write(&directory.join(SETTINGS), &settings.to_string())?;
    for (name, key) in [(API_KEY, &api_key), (GATEWAY_TOKEN, &gateway_token)] {
        changed |= write(&directory.join(name), &format!("{}\n", key.expose()))?;
    }
    let what = if changed { "wrote" } else { "unchanged:" };
    say(&format!("{what} the settings and keys in {}", directory.display()))?;
    if arguments.no_start {
        return say(&format!("to start the service: systemctl restart {SERVICE}"));
    }
    start(changed)
}

fn say(text: &str) -> Result<(), SetupError> {
    output::print(text).map_err(SetupError::Output)
}

/// The settings in flags and variables, by their names in the settings file.
fn given(arguments: &SetupArguments) -> Result<BTreeMap<&'static str, String>, SetupError> {
    let program = arguments.openclaw_command.clone().map(OsString::into_string).transpose();
    let program = program.map_err(|_| SetupError::NotALine(env_vars::OPENCLAW_COMMAND))?;
    let values = [
        (env_vars::CHECKIN_URL, &arguments.check_in_url),
        (env_vars::SANDBOX_ID, &arguments.sandbox_id),
        (env_vars::MACHINE_ID, &arguments.machine_id),
        (env_vars::STATUS_URL, &arguments.status_url),
        (env_vars::SYSTEMD_UNIT, &arguments.systemd_unit),
        (env_vars::OPENCLAW_COMMAND, &program),
    ];
    if arguments.status_url.is_some() && arguments.systemd_unit.is_some() {
        return Err(SetupError::TwoSources);
    }
    let values = values.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
    Ok(values.collect())
}

/// Asks for missing values; an empty answer keeps the existing value.
fn ask(
    terminal: &mut Terminal,
    settings: &SettingsFile,
    given: &mut BTreeMap<&'static str, String>,
    api_key: &mut Option<Secret>,
    gateway_token: &mut Option<Secret>,
) -> Result<(), SetupError> {
    let source = |name: &str| given.contains_key(name) || settings.get(name).is_some();
    let mut questions = vec![
        (
            env_vars::CHECKIN_URL,
            "URL of the check-ins, https://<your worker>/api/controller/checkin",
        ),
        (env_vars::SANDBOX_ID, "Id of the sandbox"),
    ];
    if !source(env_vars::STATUS_URL) {
        questions
            .push((env_vars::SYSTEMD_UNIT, "systemd unit of OpenClaw, such as openclaw.service"));
    }
    for (name, question) in questions {
        if given.contains_key(name) {
            continue;
        }
        let answer = prompt::line(question, settings.get(name))?;
        if !answer.is_empty() {
            given.insert(name, answer);
        }
    }
    for (key, question) in [
        (api_key, "The fleet's API key (not shown)"),
        (gateway_token, "The sandbox's gateway token (not shown)"),
    ] {
        if key.is_none() {
            let answer = terminal.secret(question)?;
            *key = Some(answer).filter(|answer| !answer.is_empty());
        }
    }
    Ok(())
}

/// Adds the given values to the settings. A new source of the process's state replaces the other source.
fn apply(
    settings: &mut SettingsFile,
    given: &BTreeMap<&'static str, String>,
) -> Result<(), SetupError> {
    for (&name, value) in given {
        if value.chars().any(|c| c.is_control() || "'\"\\".contains(c)) {
            return Err(SetupError::NotALine(name));
        }
        settings.set(name, value.trim());
        match name {
            env_vars::STATUS_URL => settings.remove(env_vars::SYSTEMD_UNIT),
            env_vars::SYSTEMD_UNIT => settings.remove(env_vars::STATUS_URL),
            _ => {}
        }
    }
    Ok(())
}

/// Both keys, or an error with the names of all missing values.
fn complete(
    settings: &SettingsFile,
    api_key: Option<Secret>,
    gateway_token: Option<Secret>,
) -> Result<(Secret, Secret), SetupError> {
    let unset = |name: &str| settings.get(name).is_none();
    let missing: Vec<_> = [
        (unset(env_vars::CHECKIN_URL), env_vars::CHECKIN_URL),
        (unset(env_vars::SANDBOX_ID), env_vars::SANDBOX_ID),
        (
            unset(env_vars::SYSTEMD_UNIT) && unset(env_vars::STATUS_URL),
            "KILOCLAW_SYSTEMD_UNIT or KILOCLAW_STATUS_URL",
        ),
        (api_key.is_none(), env_vars::API_KEY),
        (gateway_token.is_none(), env_vars::GATEWAY_TOKEN),
    ]
    .into_iter()
    .filter_map(|(is_missing, name)| is_missing.then_some(name))
    .collect();
    match (api_key, gateway_token) {
        (Some(api_key), Some(gateway_token)) if missing.is_empty() => {
            for (name, key) in
                [(env_vars::API_KEY, &api_key), (env_vars::GATEWAY_TOKEN, &gateway_token)]
            {
                if key.expose().chars().any(char::is_control) {
                    return Err(SetupError::NotALine(name));
                }
            }
            Ok((api_key, gateway_token))
        }
        _ => Err(SetupError::Missing(missing)),
    }
}

/// Runs `doctor`, which prints its report, with the service's environment. Returns whether all checks passed.
fn examine(
    settings: &SettingsFile,
    api_key: &Secret,
    gateway_token: &Secret,
) -> Result<bool, SetupError> {
    let run = |error| SetupError::Run { program: "doctor", error };
    let program = std::env::current_exe().map_err(run)?;
    let inherited = ["PATH", "KILOCLAW_RUN"];
    let status = Command::new(program)
        .arg("doctor")
        .env_clear()
        .envs(inherited.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .envs(settings.values())
        .env(env_vars::API_KEY, api_key.expose())
        .env(env_vars::GATEWAY_TOKEN, gateway_token.expose())
        .stdin(Stdio::null())
        .status()
        .map_err(run)?;
    Ok(status.success())
}

/// Enables and starts the service, or restarts it with changed settings.
fn start(changed: bool) -> Result<(), SetupError> {
    systemctl("enable", true)?;
    if !changed && systemctl("is-active", false).is_ok() {
        return say(&format!("{SERVICE} is running"));
    }
    // systemd does not start a service that has reached its start limit.
    let _ = systemctl("reset-failed", false);
    systemctl("restart", true)?;
    say(&format!("started {SERVICE}; `{SERVICE} status`, as root, shows its health"))
}

fn systemctl(verb: &'static str, shows_errors: bool) -> Result<(), SetupError> {
    let stderr = if shows_errors { Stdio::inherit() } else { Stdio::null() };
    let status = Command::new("systemctl")
        .args(["--quiet", verb, SERVICE])
        .stdin(Stdio::null())
        .stderr(stderr)
        .status()
        .map_err(|error| SetupError::Run { program: "systemctl", error })?;
    if status.success() { Ok(()) } else { Err(SetupError::Systemctl(verb)) }
}

/// The given key, or else the key in the service's file, `current`.
fn secret(
    value: Option<&Secret>,
    file: Option<&Path>,
    current: &Path,
) -> Result<Option<Secret>, SetupError> {
    let text = match (file, value) {
        (Some(file), _) => Some(read(file)?.ok_or_else(|| SetupError::Read {
            path: file.display().to_string(),
            error: io::ErrorKind::NotFound.into(),
        })?),
        (None, Some(value)) => return Ok(Some(value.clone()).filter(|key| !key.is_empty())),
        (None, None) => read(current)?,
    };
    Ok(text.map(|text| Secret::new(&text)).filter(|key| !key.is_empty()))
}

/// The text of a file; `None` if there is none.
fn read(path: &Path) -> Result<Option<String>, SetupError> {
    match bounded::read_to_string(path, MAX_BYTES, Instant::now() + bounded::PATIENCE) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SetupError::Read { path: path.display().to_string(), error }),
    }
}

/// Creates the directory, and checks that it accepts new files.
fn writable(directory: &Path) -> Result<(), SetupError> {
    fs::create_dir_all(directory)
        .and_then(|()| tempfile::NamedTempFile::new_in(directory).map(drop))
        .map_err(|error| SetupError::Write { path: directory.display().to_string(), error })
}

/// Replaces a file atomically; returns whether it changed. Only the owner can read a key or a new file; an existing
/// settings file keeps its permissions.
fn write(path: &Path, text: &str) -> Result<bool, SetupError> {
    let fail = |error| SetupError::Write { path: path.display().to_string(), error };
    let is_key = !path.ends_with(SETTINGS);
    let mode = fs::metadata(path).ok().map(|found| found.mode() & 0o777);
    let is_right = mode.is_some_and(|mode| !is_key || mode == 0o600);
    if is_right && read(path)?.is_some_and(|current| current == text) {
        return Ok(false);
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mode = mode.filter(|_| !is_key).unwrap_or(0o600);
    let mut new = tempfile::NamedTempFile::new_in(directory).map_err(fail)?;
    new.write_all(text.as_bytes()).map_err(fail)?;
    new.as_file().set_permissions(Permissions::from_mode(mode)).map_err(fail)?;
    new.as_file().sync_all().map_err(fail)?;
    new.persist(path).map_err(|error| fail(error.error))?;
    Ok(true)
}
