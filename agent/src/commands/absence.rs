//! `kiloclaw-agent away` and `back`: announce a planned absence, and end it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use kiloclaw_check_in::absence::{ABSENCE_PATH, Absence};
use kiloclaw_check_in::{CHECK_IN_PATH, InvalidBody};
use ureq::http::Uri;

use crate::cli::{AwayArguments, BackArguments, Settings, SourceArguments};
use crate::config::{Checked, ConfigError};
use crate::env_vars;
use crate::exit::Exit;
use crate::output;
use crate::report::explain;
use crate::report::send::{Outcome, send_to};
use crate::state::Time;

/// Why an absence cannot be announced.
#[derive(Debug, thiserror::Error)]
pub enum AbsenceError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error(
        "{} must end in {CHECK_IN_PATH}: absences go to {ABSENCE_PATH} beside it",
        env_vars::CHECKIN_URL
    )]
    Url,
    #[error("{0}")]
    Body(#[from] InvalidBody),
    /// The server passes the reason on to operators.
    #[error("the reason contains a credential")]
    Credential,
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

#[must_use]
pub fn away(arguments: &AwayArguments) -> Exit {
    let AwayArguments { duration, reason, settings } = arguments;
    let until = match duration {
        // The command line allows at most 30 days.
        Some(seconds) => Time::new(SystemTime::now() + Duration::from_secs(*seconds)).to_string(),
        None => "the next check-in".to_owned(),
    };
    let colon = if reason.is_empty() { "" } else { ": " };
    announce(settings, *duration, reason, &format!("away until {until}{colon}{reason}"))
}

#[must_use]
pub fn back(arguments: &BackArguments) -> Exit {
    announce(&arguments.settings, Some(0), "", "back")
}

/// Sends the request once, and prints the text `accepted` or an error.
fn announce(settings: &Settings, for_seconds: Option<u64>, reason: &str, accepted: &str) -> Exit {
    send(settings, for_seconds, reason, accepted)
        .unwrap_or_else(|error| output::bad_configuration(&error.to_string()))
}

fn send(
    settings: &Settings,
    for_seconds: Option<u64>,
    reason: &str,
    accepted: &str,
) -> Result<Exit, AbsenceError> {
    let checked = Checked::new(settings, &SourceArguments::default(), true);
    let (config, target) = checked.config_and_target()?;
    for warning in &config.warnings {
        output::warn(&config.redactor.clean(warning));
    }
    let url = absence_url(&target.url).ok_or(AbsenceError::Url)?;
    let absence = Absence {
        sandbox_id: Cow::Borrowed(&config.sandbox_id),
        for_seconds,
        reason: Cow::Borrowed(reason),
    };
    let body = serde_json::to_string(&absence)?;
    Absence::parse_str(&body)?;
    if config.redactor.clean(reason) != reason {
        return Err(AbsenceError::Credential);
    }

    let outcome = send_to(&target, &url, &body, Duration::MAX);
    if matches!(outcome, Outcome::Accepted(_)) {
        // A closed standard output does not change that the server has accepted it.
        let _ = output::print(accepted);
    } else {
        output::error(&explain::absence(&outcome, &config.redactor));
    }
    Ok(outcome.exit())
}

/// The URL for absences: that of check-ins with another path.
fn absence_url(check_in: &Uri) -> Option<Uri> {
    let prefix = check_in.path().strip_suffix(CHECK_IN_PATH)?;
    let query = check_in.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = check_in.clone().into_parts();
    parts.path_and_query = format!("{prefix}{ABSENCE_PATH}{query}").parse().ok();
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_absence_url_is_derived_from_the_check_in_url() {
        for (check_in, absence) in [
            ("https://h/api/controller/checkin", Some("https://h/api/controller/absence")),
            (
                "http://h:1/p/api/controller/checkin?a=b",
                Some("http://h:1/p/api/controller/absence?a=b"),
            ),
            ("https://h/", None),
            ("https://h/checkin", None),
            ("https://h/api/controller/checkin/", None),
            ("https://h/?/api/controller/checkin", None),
        ] {
            let url = absence_url(&check_in.parse().unwrap()).map(|url| url.to_string());
            assert_eq!(url.as_deref(), absence, "{check_in}");
        }
    }
}
