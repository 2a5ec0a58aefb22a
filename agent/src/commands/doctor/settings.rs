//! Errors and warnings about the settings, each with a code and a fix.

use std::io::ErrorKind;

use crate::cli::Settings;
use crate::commands::doctor::check::Verdict;
use crate::config::{self, Checked, ConfigError};
use crate::env_vars;

pub fn verdicts(checked: &Checked, settings: &Settings) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for problem in &checked.problems {
        match problem {
            // A missing sandbox id has its own code.
            ConfigError::Missing(names) => {
                let (id, others): (Vec<_>, Vec<_>) =
                    names.iter().partition(|name| **name == env_vars::SANDBOX_ID);
                let parts = [others, id].into_iter().filter(|part| !part.is_empty());
                verdicts.extend(parts.map(|part| verdict(&ConfigError::Missing(part))));
            }
            problem => verdicts.push(verdict(problem)),
        }
    }
    verdicts.extend(config::warnings(settings).into_iter().map(|warning| {
        let fix = "write it as example.com, .example.com, 10.0.0.1 or 10.0.0.0/8";
        Verdict::warned("invalid_no_proxy", warning, fix)
    }));
    verdicts
}

fn verdict(error: &ConfigError) -> Verdict {
    use env_vars::{CA_FILE, GATEWAY_TOKEN, SANDBOX_ID};

    let (code, fix) = match error {
        ConfigError::Missing(names) if *names == [SANDBOX_ID] => {
            ("wrong_sandbox_id", format!("set it to the id that {GATEWAY_TOKEN} was derived from"))
        }
        ConfigError::Missing(_) => (
            "not_set",
            "set these variables; secrets can be in files, see --help"
                .to_owned(),
        ),
        ConfigError::Url(_) => {
            ("invalid_url", "write it as https://telemetry.example.com/path".to_owned())
        }
        ConfigError::InsecureHttp(_) => {
            ("insecure_http", "use https, which needs no other setting".to_owned())
        }
        ConfigError::NotAHeader(_) => {
            ("invalid_value", "copy it again, without line breaks inside".to_owned())
        }
        ConfigError::Id { what, .. } if *what != config::THE_SANDBOX_ID => {
            ("invalid_value", "remove these characters".to_owned())
        }
        ConfigError::SandboxId | ConfigError::Id { .. } => (
            "wrong_sandbox_id",
            format!("set {SANDBOX_ID} to the id that {GATEWAY_TOKEN} was derived from"),
        ),
        ConfigError::Unreadable { error, .. }
            if matches!(error.kind(), ErrorKind::FileTooLarge | ErrorKind::TimedOut) =>
        {
            (
                "unreadable_file",
                "name a file that contains only this value, or a pipe whose writer ends within 5 seconds"
                    .to_owned(),
            )
        }
        ConfigError::Unreadable { .. } => (
            "unreadable_file",
            "check the path, and that the agent's user may read it and the folders above it"
                .to_owned(),
        ),
        ConfigError::NoCertificate(_) => (
            "no_certificate",
            format!("{CA_FILE} must contain the authority's certificate as PEM, not a key or DER"),
        ),
        ConfigError::Proxy => ("invalid_proxy", "correct or remove it".to_owned()),
        #[cfg(feature = "sentry")]
        ConfigError::SentryDsn => ("invalid_dsn", "correct or remove it".to_owned()),
        ConfigError::Interface(_) => {
            ("invalid_interface", "`ip -brief link` lists the interfaces".to_owned())
        }
        ConfigError::Unit(_) => {
            ("invalid_unit", "`systemctl list-units --type=service` lists the units".to_owned())
        }
        ConfigError::TwoSources | ConfigError::NoSource => {
            ("two_sources", "remove one of them".to_owned())
        }
        ConfigError::DryRun => ("dry_run_url", "a check-in's URL needs no query".to_owned()),
        // Unreachable: `Checked` keeps its parts one by one.
        ConfigError::Several(_) => ("several", String::new()),
    };
    Verdict::failed(code, error.to_string(), fix)
}
