//! The parameters of a request's query: known, not repeated, and within their bounds.

use std::fmt;

use crate::sql;
use kiloclaw_check_in::limits::MAX_SANDBOX_ID_BYTES;

/// An invalid parameter: its name, and a description of valid values.
///
/// A pointer, as every function that reads parameters returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidParameter(Box<(String, String)>);

impl InvalidParameter {
    /// The parameter `name` has to be `expected`.
    pub fn new(name: &str, expected: impl Into<String>) -> Self {
        Self(Box::new((name.to_owned(), expected.into())))
    }

    /// The name, and the description of valid values.
    #[must_use]
    pub fn into_parts(self) -> (String, String) {
        *self.0
    }
}

impl fmt::Display for InvalidParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, expected) = &*self.0;
        write!(f, "{name}: expected {expected}")
    }
}

impl std::error::Error for InvalidParameter {}

/// In seconds.
pub(crate) const HOUR: u64 = 3_600;
pub(crate) const DAY: u64 = 24 * HOUR;

/// How long Analytics Engine keeps points, in seconds.
pub(crate) const RETENTION: u64 = 90 * DAY;

/// Maximum length of a parameter's name in an error, in characters.
const LONGEST_NAME: usize = 100;

/// The parameters of a request.
#[derive(Clone, Debug)]
pub struct Parameters {
    pairs: Vec<(String, String)>,
    /// The default of `silent_after`, in seconds.
    silent_after: u64,
}

impl Parameters {
    /// Takes the decoded pairs of a query.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { pairs: crate::list(pairs), silent_after: 15 * 60 }
    }

    /// Sets the default of `silent_after`, in seconds.
    #[must_use]
    pub fn with_silent_after(self, silent_after: u64) -> Self {
        Self { silent_after, ..self }
    }

    #[must_use]
    pub fn sorted(&self) -> Vec<(&str, &str)> {
        let mut pairs = Vec::new();
        for pair in self.pairs.iter().map(|(name, value)| (&**name, &**value)) {
            // They are few, and a sort would compile to 4 kB of WebAssembly.
            let index = pairs.partition_point(|other| *other <= pair);
            pairs.insert(index, pair);
        }
        pairs
    }

    /// Refuses unknown and repeated parameters: a misspelt filter must not be ignored.
    pub fn only(&self, known: &[&str]) -> Result<(), InvalidParameter> {
        for (i, (name, _)) in self.pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let name = &name[..name.floor_char_boundary(LONGEST_NAME)];
                let expected = if known.is_empty() {
                    "no parameters".to_owned()
                } else {
                    format!("one of the parameters {}", known.join(", "))
                };
                return Err(InvalidParameter::new(name, expected));
            }
            if self.pairs.iter().take(i).any(|(earlier, _)| earlier == name) {
                return Err(InvalidParameter::new(name, "the parameter once"));
            }
        }
        Ok(())
    }

    /// The first value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// A text for a comparison with texts in reports. It may be as long as these, which are truncated.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, InvalidParameter> {
        let Some(text) = self.get(name) else { return Ok(None) };
        if text.chars().count() > sql::LONGEST_TEXT {
            let expected = format!("at most {} characters", sql::LONGEST_TEXT);
            return Err(InvalidParameter::new(name, expected));
        }
        Ok(Some(text.to_owned()))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, InvalidParameter> {
        match self.get(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(InvalidParameter::new(name, "true or false")),
        }
    }

    /// An integer from 1 to `highest`.
    pub fn integer(
        &self,
        name: &str,
        default: usize,
        highest: usize,
    ) -> Result<usize, InvalidParameter> {
        let Some(text) = self.get(name) else { return Ok(default) };
        digits(text)
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| (1..=highest).contains(number))
            .ok_or_else(|| InvalidParameter::new(name, format!("an integer from 1 to {highest}")))
    }

    /// A duration in seconds.
    fn duration(&self, name: &str, default: u64, bounds: Bounds) -> Result<u64, InvalidParameter> {
        let Some(text) = self.get(name) else { return Ok(default) };
        seconds(text)
            .filter(|seconds| (bounds.shortest..=bounds.longest).contains(seconds))
            .ok_or_else(|| InvalidParameter::new(name, bounds.to_string()))
    }

    /// `window` in seconds, by default a day.
    pub(crate) fn window(&self) -> Result<u64, InvalidParameter> {
        self.window_of(RETENTION)
    }

    /// `window` in seconds, for data with another retention time than points.
    pub fn window_of(&self, longest: u64) -> Result<u64, InvalidParameter> {
        self.duration("window", DAY, Bounds { shortest: 60, longest })
    }

    /// `silent_after` in seconds. The default is that of the watcher, or three check-ins.
    pub(crate) fn silent_after(&self, window: u64) -> Result<u64, InvalidParameter> {
        let silent_after = self.duration(
            "silent_after",
            self.silent_after,
            Bounds { shortest: 10, longest: 7 * DAY },
        )?;
        // The window does not contain a sandbox that has been silent for longer.
        if self.get("silent_after").is_some() && silent_after >= window {
            return Err(InvalidParameter::new("silent_after", "less than window"));
        }
        Ok(silent_after)
    }

    /// `step` in seconds. The window has at most `most` of them.
    pub(crate) fn step(
        &self,
        window: u64,
        default: u64,
        most: u64,
    ) -> Result<u64, InvalidParameter> {
        // The default is at least the smallest number of whole minutes that the maximum allows.
        let smallest = (window / (most + 1) + 1).next_multiple_of(60);
        let bounds = Bounds { shortest: 10, longest: 7 * DAY };
        let step = self.duration("step", default.max(smallest), bounds)?;
        if window / step > most {
            let expected =
                format!("{} or more: window / step is at most {most}", duration(smallest));
            return Err(InvalidParameter::new("step", expected));
        }
        Ok(step)
    }

    /// `prefix`, the beginning of a sandbox id.
    pub(crate) fn prefix(&self) -> Result<Option<String>, InvalidParameter> {
        let prefix = self.get("prefix").map(sandbox_id).transpose();
        prefix.map_err(|error| InvalidParameter::new("prefix", error.into_parts().1))
    }
}

/// Bounds of a duration in seconds.
#[derive(Clone, Copy)]
struct Bounds {
    shortest: u64,
    longest: u64,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shortest, longest } = *self;
        let (shortest, longest) = (duration(shortest), duration(longest));
        write!(f, "a duration from {shortest} to {longest}, such as 90s, 15m, 24h or 7d")
    }
}

/// Parses an integer without a sign, which `parse` would accept.
#[must_use]
pub fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Parses `24h` as seconds.
#[must_use]
pub fn seconds(text: &str) -> Option<u64> {
    let unit = match text.as_bytes().last()? {
        b's' => 1,
        b'm' => 60,
        b'h' => HOUR,
        b'd' => DAY,
        _ => return None,
    };
    digits(text.get(..text.len() - 1)?)?.checked_mul(unit)
}

/// Formats seconds as `24h`, in the largest unit that divides them.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let units = [(DAY, 'd'), (HOUR, 'h'), (60, 'm')];
    let whole = units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit));
    let (unit, name) = whole.unwrap_or((1, 's'));
    format!("{}{name}", seconds / unit)
}

/// A sandbox id within the contract's bounds.
pub(crate) fn sandbox_id(id: &str) -> Result<String, InvalidParameter> {
    if (1..=MAX_SANDBOX_ID_BYTES).contains(&id.len()) {
        return Ok(id.to_owned());
    }
    let expected = format!("1 to {MAX_SANDBOX_ID_BYTES} bytes");
    Err(InvalidParameter::new("sandboxId", expected))
}

/// The SQL condition of a text filter.
pub(crate) fn equals(column: &str, value: &str) -> String {
    sql::compare(column, "=", value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        Parameters::new(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    fn error<T: fmt::Debug>(result: Result<T, InvalidParameter>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn durations_have_a_unit_and_bounds() {
        for (text, found) in [
            ("1s", Some(1)),
            ("15m", Some(900)),
            ("24h", Some(86_400)),
            ("90d", Some(RETENTION)),
            ("007m", Some(420)),
            ("", None),
            ("5", None),
            ("m", None),
            ("+5m", None),
            ("-5m", None),
            ("1.5h", None),
            ("5 m", None),
            ("5min", None),
            ("5µ", None),
            ("99999999999999999999d", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(seconds(text), found, "{text:?}");
        }
        assert_eq!(parameters(&[]).window(), Ok(86_400));
        assert_eq!(parameters(&[("window", "90d")]).window(), Ok(RETENTION));
        for wrong in ["91d", "59s", "0h", "1w", ""] {
            assert_eq!(
                error(parameters(&[("window", wrong)]).window()),
                "window: expected a duration from 1m to 90d, such as 90s, 15m, 24h or 7d"
            );
        }
    }

    #[test]
    fn silent_after_is_shorter_than_the_window() {
        assert_eq!(parameters(&[]).silent_after(60), Ok(900));
        assert_eq!(parameters(&[("silent_after", "59s")]).silent_after(60), Ok(59));
        assert_eq!(
            error(parameters(&[("silent_after", "60s")]).silent_after(60)),
            "silent_after: expected less than window"
        );
    }

    #[test]
    fn rejects_unknown_and_repeated_parameters() {
        assert_eq!(parameters(&[("a", "1"), ("b", "")]).only(&["a", "b"]), Ok(()));
        assert_eq!(
            error(parameters(&[("windo", "1h")]).only(&["window", "step"])),
            "windo: expected one of the parameters window, step"
        );
        assert_eq!(
            error(parameters(&[("a", "1"), ("a", "1")]).only(&["a"])),
            "a: expected the parameter once"
        );
        let long = "ü".repeat(1_000);
        assert_eq!(parameters(&[(&long, "")]).only(&[]).unwrap_err().0.0.len(), LONGEST_NAME);
    }

    #[test]
    fn integers_and_flags_are_validated() {
        let limit = |text| parameters(&[("limit", text)]).integer("limit", 100, 1_000);
        assert_eq!(parameters(&[]).integer("limit", 100, 1_000), Ok(100));
        assert_eq!((limit("1"), limit("1000")), (Ok(1), Ok(1_000)));
        for wrong in ["0", "1001", "-1", "+1", "1e2", "", "99999999999999999999"] {
            assert_eq!(error(limit(wrong)), "limit: expected an integer from 1 to 1000");
        }
        assert_eq!(parameters(&[("silent", "false")]).flag("silent"), Ok(Some(false)));
        assert_eq!(
            error(parameters(&[("silent", "TRUE")]).flag("silent")),
            "silent: expected true or false"
        );
    }

    #[test]
    fn durations_are_printed_in_their_largest_unit() {
        for (seconds, expected) in
            [(10, "10s"), (60, "1m"), (90, "90s"), (7_200, "2h"), (RETENTION, "90d")]
        {
            assert_eq!(duration(seconds), expected);
        }
    }
}
