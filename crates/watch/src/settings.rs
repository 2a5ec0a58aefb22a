//! The operator's settings, with defaults and with errors that name the variable.

use std::fmt;

use kiloclaw_fleet::{digits, duration, seconds};
use serde::Serialize;

const MINUTE: u64 = 60;
pub(crate) const HOUR: u64 = 60 * MINUTE;
pub(crate) const DAY: u64 = 24 * HOUR;

/// Reads a secret or variable, without surrounding white space. An empty one counts as missing.
pub(crate) type Variable<'a> = &'a dyn Fn(&'static str) -> Option<String>;

/// The watcher's settings. Durations are in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `SILENT_AFTER`: a sandbox without a check-in for this long is silent. Must be at least twice the check-in
    /// interval, or a late check-in causes an alert.
    pub silent_after: u64,
    /// `WATCH_TICK`: the time between two ticks.
    pub tick: u64,
    /// `WATCH_STALE_AFTER`: Analytics Engine is late when a canary is invisible for this long.
    pub stale_after: u64,
    /// `WATCH_QUIET_LEAST`: minimum number of new silences for a quiet region.
    pub quiet_least: u64,
    /// `WATCH_QUIET_PERCENT`: minimum share of its sandboxes for a quiet region.
    pub quiet_percent: u64,
    /// `WATCH_FLAPS`: a sandbox flaps when it falls silent or returns this often within an hour.
    pub flaps: u64,
    /// `WATCH_FORGET_AFTER`: a sandbox that does not check in for this long is forgotten.
    pub forget_after: u64,
    /// `WATCH_PAGE_URL`: the target of links in messages; empty for no links.
    pub page_url: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            silent_after: 15 * MINUTE,
            tick: MINUTE,
            stale_after: 5 * MINUTE,
            quiet_least: 20,
            quiet_percent: 5,
            flaps: 3,
            forget_after: 30 * DAY,
            page_url: String::new(),
        }
    }
}

/// A setting with an unusable value, which is not part of the error. The setting counts as missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingError {
    pub name: &'static str,
    /// A description of valid values.
    pub expected: String,
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not used: expected {}", self.name, self.expected)
    }
}

impl std::error::Error for SettingError {}

impl Settings {
    /// Reads the variables. A bad value does not stop the watcher: the default applies, and the list has an error for
    /// the log and `/api/watcher`.
    pub fn read(variable: Variable<'_>) -> (Self, Vec<SettingError>) {
        let default = Self::default();
        let mut reader = Reader { variable, errors: Vec::new() };
        let tick = reader.duration("WATCH_TICK", default.tick, 5, HOUR);
        let settings = Self {
            silent_after: reader.silent_after(),
            tick,
            // At least two ticks, since the next tick searches for a tick's canary.
            stale_after: reader.duration(
                "WATCH_STALE_AFTER",
                default.stale_after.max(2 * tick),
                10.max(2 * tick),
                DAY,
            ),
            quiet_least: reader.integer("WATCH_QUIET_LEAST", default.quiet_least, 2, 1_000_000),
            quiet_percent: reader.integer("WATCH_QUIET_PERCENT", default.quiet_percent, 1, 100),
            flaps: reader.integer("WATCH_FLAPS", default.flaps, 2, 8),
            forget_after: reader.duration(
                "WATCH_FORGET_AFTER",
                default.forget_after,
                DAY,
                90 * DAY,
            ),
            page_url: reader.url("WATCH_PAGE_URL"),
        };
        (settings, reader.errors)
    }

    /// Reads only `SILENT_AFTER`; the default applies for a bad value.
    pub fn read_silent_after(variable: Variable<'_>) -> u64 {
        Reader { variable, errors: Vec::new() }.silent_after()
    }
}

struct Reader<'a> {
    variable: Variable<'a>,
    errors: Vec<SettingError>,
}

impl Reader<'_> {
    fn silent_after(&mut self) -> u64 {
        self.duration("SILENT_AFTER", Settings::default().silent_after, 10, 7 * DAY)
    }

    fn duration(&mut self, name: &'static str, default: u64, least: u64, most: u64) -> u64 {
        let Some(text) = (self.variable)(name) else { return default };
        match seconds(&text) {
            Some(seconds) if (least..=most).contains(&seconds) => seconds,
            _ => {
                let (least, most) = (duration(least), duration(most));
                let expected =
                    format!("a duration from {least} to {most}, such as 20s, 15m, 2h or 1d");
                self.errors.push(SettingError { name, expected });
                default
            }
        }
    }

    fn integer(&mut self, name: &'static str, default: u64, least: u64, most: u64) -> u64 {
        let Some(text) = (self.variable)(name) else { return default };
        match digits(&text) {
            Some(number) if (least..=most).contains(&number) => number,
            _ => {
                let expected = format!("an integer from {least} to {most}");
                self.errors.push(SettingError { name, expected });
                default
            }
        }
    }

    fn url(&mut self, name: &'static str) -> String {
        let Some(text) = (self.variable)(name) else { return String::new() };
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>|`".contains(&byte));
        if plain
            && text.len() <= 512
            && (text.starts_with("https://") || text.starts_with("http://"))
        {
            return text;
        }
        let expected = "a URL with https:// of at most 512 characters".to_owned();
        self.errors.push(SettingError { name, expected });
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Settings, Vec<SettingError>) {
        Settings::read(&|name| {
            let found = pairs.iter().find(|(found, _)| *found == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn unset_variables_have_defaults() {
        assert_eq!(read(&[]), (Settings::default(), vec![]));
    }

    #[test]
    fn values_are_read() {
        let (settings, errors) = read(&[
            ("SILENT_AFTER", "20s"),
            ("WATCH_TICK", "5s"),
            ("WATCH_STALE_AFTER", "2h"),
            ("WATCH_QUIET_LEAST", "100"),
            ("WATCH_PAGE_URL", "https://example.com/#/alerts"),
        ]);
        assert_eq!(errors, []);
        assert_eq!((settings.silent_after, settings.tick, settings.stale_after), (20, 5, 7_200));
        assert_eq!((settings.quiet_least, settings.quiet_percent), (100, 5));
        assert_eq!(settings.page_url, "https://example.com/#/alerts");
    }

    #[test]
    fn a_bad_value_is_named_and_the_default_applies() {
        for (name, values) in [
            ("SILENT_AFTER", &["15", "m", "+15m", "-1s", "9s", "8d", "15 m", "1e3s", "15é"][..]),
            ("WATCH_TICK", &["4s", "2h", "99999999999999999999s", "999999999999999999d"]),
            ("WATCH_QUIET_LEAST", &["1", "+20", "20.0", "all"]),
            ("WATCH_QUIET_PERCENT", &["0", "101", "5%"]),
            (
                "WATCH_PAGE_URL",
                &["example.com", "javascript:alert(1)", "https://a/|x", "https://a b"],
            ),
        ] {
            for value in values {
                let (settings, errors) = read(&[(name, value)]);
                assert_eq!(settings, Settings::default(), "{name}={value}");
                let [error] = &errors[..] else { panic!("{name}={value}: {errors:?}") };
                assert_eq!(error.name, name);
            }
        }
        assert_eq!(
            read(&[("WATCH_TICK", "1s")]).1[0].to_string(),
            "WATCH_TICK is not used: expected a duration from 5s to 1h, such as 20s, 15m, 2h or 1d"
        );
    }

    #[test]
    fn a_canary_has_two_ticks() {
        assert_eq!(read(&[("WATCH_TICK", "10m")]).0.stale_after, 1_200);
        let (settings, errors) = read(&[("WATCH_TICK", "10m"), ("WATCH_STALE_AFTER", "15m")]);
        assert_eq!((settings.stale_after, errors[0].name), (1_200, "WATCH_STALE_AFTER"));
        assert!(errors[0].expected.starts_with("a duration from 20m to 1d"), "{errors:?}");
    }
}
