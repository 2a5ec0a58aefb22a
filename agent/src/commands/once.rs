//! `kiloclaw-agent once`: one check-in, with every step printed.

use std::time::{Duration, Instant};

use kiloclaw_check_in::{CheckIn, InvalidBody};

use crate::cli::OnceArguments;
use crate::collect::Collector;
use crate::config::{Checked, Config, ConfigError};
use crate::exit::Exit;
use crate::process::children::Children;
use crate::report::check_in::{Attempt, observe};
use crate::state::{InUse, State};
use crate::{output, report::explain, state};

/// Why a check-in is not possible.
#[derive(Debug, thiserror::Error)]
pub enum OnceError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A setting breaks the contract, so the server would refuse the body.
    #[error("{0}")]
    Body(#[from] InvalidBody),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Another agent uses the state file.
    #[error("{0}")]
    InUse(#[from] InUse),
}

/// Sends one check-in, or with `--dry-run` only prints it.
#[must_use]
pub fn run(arguments: &OnceArguments) -> Exit {
    once(arguments).unwrap_or_else(|error| output::bad_configuration(&error.to_string()))
}

fn once(arguments: &OnceArguments) -> Result<Exit, OnceError> {
    let OnceArguments { dry_run, state_file, settings, source } = arguments;
    let checked = Checked::new(settings, source, !dry_run);
    let (config, target) = if *dry_run {
        (checked.config()?, None)
    } else {
        let (config, target) = checked.config_and_target()?;
        (config, Some(target))
    };
    let redactor = &config.redactor;
    let mut warn = |text: &str| output::warn(&redactor.clean(text));

    let mut collector = Collector::new(config.sources.clone(), Children::default());
    let readings = collector.collect(&config.local, None, Instant::now(), None, &mut warn);
    // A dry run changes nothing.
    let locked = state_file.as_deref().filter(|_| !dry_run);
    let _lock = locked.map(|path| state::lock(path, warn)).transpose()?;
    let mut state = load(arguments, &config, &mut warn);
    observe(&config, &readings, &mut state.ledger, &mut warn);
    let attempt = Attempt::new(&config, &readings, &state.ledger, false);
    let body = serde_json::to_string_pretty(&attempt.check_in)?;
    CheckIn::parse_str(&body)?;

    let Some(target) = target else { return Ok(output::print_result(&body)) };
    // A closed standard output must neither prevent the check-in nor lose its result.
    let _ = output::print(&explain::request(&target.url, &body));
    let outcome = attempt.send(&target, &body, &mut state.ledger, Duration::MAX);
    let _ = output::print(&explain::outcome(&outcome, redactor));
    if let Some(path) = state_file
        && let Err(error) = state.save(path)
    {
        let path = path.display();
        warn(&format!(
            "cannot write the state file {path}, so the next check-in repeats some of this one's counters \
             or not at all: {error}"
        ));
    }
    Ok(outcome.exit())
}

fn load(arguments: &OnceArguments, config: &Config, warn: &mut dyn FnMut(&str)) -> State {
    let Some(path) = &arguments.state_file else { return State::new(&config.sandbox_id) };
    let reason = match State::load_own(path) {
        Ok(Some(state)) if state.sandbox_id == config.sandbox_id => return state,
        Ok(Some(_)) => "it is another sandbox's".to_owned(),
        Ok(None) => return State::new(&config.sandbox_id),
        Err(error) => error.to_string(),
    };
    warn(&format!("starting over without the state file {}: {reason}", path.display()));
    State::new(&config.sandbox_id)
}
