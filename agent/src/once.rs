//! `kiloclaw-agent once`: one check-in, told from end to end.

use kiloclaw_checkin::{CheckIn, InvalidBody};
use ureq::http::Uri;

use crate::baseline::Baseline;
use crate::check_in::check_in;
use crate::cli::{OnceArguments, Settings};
use crate::collect::{Readings, collect};
use crate::config::{Config, ConfigError, Target};
use crate::exit::Exit;
use crate::http::{self, Client};
use crate::secret::Redactor;
use crate::send::{Outcome, send};
use crate::{output, report};

/// What keeps a check-in from being made.
#[derive(Debug, thiserror::Error)]
pub enum OnceError {
    /// The settings.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The body would be refused. Readings are checked where they are taken: it is a setting.
    #[error("{0}")]
    Body(#[from] InvalidBody),
    /// The body could not be written as JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// Sends one check-in, or with `--dry-run` only shows it.
#[must_use]
pub fn run(arguments: &OnceArguments) -> Exit {
    once(arguments).unwrap_or_else(|error| output::bad_configuration(&error.to_string()))
}

fn once(arguments: &OnceArguments) -> Result<Exit, OnceError> {
    let settings = &arguments.settings;
    let target = if arguments.dry_run { None } else { Some(Target::new(settings)?) };
    let config = Config::new(settings)?;
    let redactor = redactor(settings);
    let mut warn = |text: &str| output::warn(&redactor.clean(text));
    warn_of_exposure(&config, target.as_ref(), &mut warn);

    let client = Client::new(config.timeout);
    let readings = collect(&config.sources, &client, &mut warn);
    warn_of_missing_interfaces(&config, &readings, &mut warn);
    let baseline = load_baseline(&config, &mut warn);
    let check_in = check_in(&config, &readings, &baseline);
    let body = serde_json::to_string_pretty(&check_in)?;
    CheckIn::parse_str(&body)?;

    let Some(target) = target else { return Ok(output::print_result(&body)) };
    // From here on a closed standard output must not keep the check-in from being sent and counted.
    let _ = output::print(&report::request(&target.url, &body));
    let outcome = send(&client, &target, &body);
    let _ = output::print(&report::outcome(&outcome, &redactor));
    if matches!(outcome, Outcome::Accepted(_)) {
        save_baseline(&baseline.advanced(&readings), &config, &mut warn);
    }
    Ok(outcome.exit())
}

/// Knows both credentials, whether or not they are used.
fn redactor(settings: &Settings) -> Redactor {
    Redactor::new([&settings.api_key, &settings.gateway_token].into_iter().flatten().cloned())
}

fn warn_of_exposure(config: &Config, target: Option<&Target>, warn: &mut dyn FnMut(&str)) {
    let mut urls: Vec<&Uri> = target.map(|target| &target.url).into_iter().collect();
    urls.extend(config.sources.status.as_ref().map(|status| &status.url));
    for url in urls.into_iter().filter(|url| http::is_exposed(url)) {
        warn(&format!("credentials go to {url} unencrypted: use https"));
    }
}

fn warn_of_missing_interfaces(config: &Config, readings: &Readings, warn: &mut dyn FnMut(&str)) {
    let Some(counters) = &readings.network else { return };
    for name in config.net_interfaces.iter().filter(|name| !counters.contains_key(*name)) {
        warn(&format!("there is no network interface {name}, counting without it"));
    }
}

fn load_baseline(config: &Config, warn: &mut dyn FnMut(&str)) -> Baseline {
    let Some(path) = &config.state_file else { return Baseline::default() };
    Baseline::load(path).unwrap_or_else(|error| {
        warn(&format!("starting over without the state file {}: {error}", path.display()));
        Baseline::default()
    })
}

fn save_baseline(baseline: &Baseline, config: &Config, warn: &mut dyn FnMut(&str)) {
    if let Some(path) = &config.state_file
        && let Err(error) = baseline.save(path)
    {
        let path = path.display();
        warn(&format!(
            "cannot write the state file {path}, so the next check-in counts this one's again: \
             {error}"
        ));
    }
}
