//! Values that must never be printed.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use ureq::http::HeaderValue;

/// A secret. `Debug` prints `[redacted]`; only [`expose`](Self::expose) returns the value.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Trims white space, which editors and `$(cat file)` add.
    #[must_use]
    pub fn new(value: &str) -> Self {
        Self(value.trim().to_owned())
    }

    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The secret as a header value, behind `prefix`.
    ///
    /// `None` if it contains control characters, which a header cannot hold, or non-ASCII characters, which servers
    /// decode in different ways.
    #[must_use]
    pub fn header_value(&self, prefix: &str) -> Option<HeaderValue> {
        let value = Some(format!("{prefix}{}", self.0)).filter(|value| value.is_ascii())?;
        let mut value = HeaderValue::from_str(&value).ok()?;
        // Its `Debug` then prints `Sensitive`.
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Never fails, since clap quotes invalid values in its errors; `config` validates the secret later.
impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(value: &str) -> Result<Self, Infallible> {
        Ok(Self::new(value))
    }
}

/// Cleans text from servers and other programs for printing.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    secrets: Vec<Secret>,
}

impl Redactor {
    /// Maximum length of a cleaned text, in characters.
    const MAX_CHARS: usize = 400;

    /// Secrets of up to this many bytes are replaced only as whole words. Within words they match by chance, and
    /// replacing those matches would reveal the secret.
    const MAX_WORD: usize = 4;

    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let mut redactor = Self::default();
        redactor.extend(secrets);
        redactor
    }

    pub fn extend(&mut self, secrets: impl IntoIterator<Item = Secret>) {
        self.secrets.extend(secrets.into_iter().filter(|secret| !secret.is_empty()));
    }

    /// Returns the text in one line, without secrets, which a server may echo, and without control characters, which
    /// must not reach a terminal.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = redact(&text, secret.expose());
        }
        let spaced = |c: char| if c.is_control() { ' ' } else { c };
        match text.char_indices().nth(Self::MAX_CHARS) {
            None => text.chars().map(spaced).collect(),
            Some(_) => text.chars().take(Self::MAX_CHARS).map(spaced).chain(['…']).collect(),
        }
    }
}

fn redact(text: &str, secret: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut kept = 0;
    for (start, _) in text.match_indices(secret) {
        let (before, from) = text.split_at(start);
        let after = from.get(secret.len()..).unwrap_or_default();
        let is_word =
            !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric);
        if is_word || secret.len() > Redactor::MAX_WORD {
            redacted.push_str(before.get(kept..).unwrap_or_default());
            redacted.push_str("[redacted]");
            kept = start + secret.len();
        }
    }
    redacted.push_str(text.get(kept..).unwrap_or_default());
    redacted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_a_secret() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert!(!format!("{:?}", secret.header_value("Bearer ").unwrap()).contains("hunter2"));
        assert!(!format!("{:?}", Redactor::new([secret])).contains("hunter2"));
    }

    #[test]
    fn trims_white_space_around_a_secret() {
        assert_eq!(Secret::new(" \thunter2\r\n").expose(), "hunter2");
        assert!(Secret::new(" \n").is_empty());
    }

    #[test]
    fn a_header_carries_only_printable_ascii() {
        assert!(Secret::new("a\nb").header_value("").is_none());
        assert!(Secret::new("a\u{7f}b").header_value("").is_none());
        assert!(Secret::new("schlüssel").header_value("").is_none());
        assert_eq!(Secret::new("abc").header_value("Bearer ").unwrap(), "Bearer abc");
    }

    #[test]
    fn a_short_secret_is_redacted_only_as_a_whole_word() {
        let redactor = Redactor::new(["1", "ab", "none"].map(Secret::new));
        let text = "status 401 in 12 ms: about none of the nonesuch, ab=1 äab 'ab'";
        let clean = "status 401 in 12 ms: about [redacted] of the nonesuch, \
                     [redacted]=[redacted] äab '[redacted]'";
        assert_eq!(redactor.clean(text), clean);
        assert_eq!(Redactor::new([Secret::new("abab")]).clean("ab:abab:"), "ab:[redacted]:");
    }

    #[test]
    fn clean_text_has_neither_secrets_nor_escape_codes() {
        let redactor = Redactor::new([Secret::new("hunter2"), Secret::new("")]);
        assert_eq!(redactor.clean("you sent hunter2\x1b[2J"), "you sent [redacted] [2J");
        // Truncated after redaction: a secret across the limit must not show its first half.
        let long = "x".repeat(Redactor::MAX_CHARS - 3) + "hunter2" + &"y".repeat(50);
        assert!(!redactor.clean(&long).contains("hun"));
        assert_eq!(redactor.clean(&long).chars().count(), Redactor::MAX_CHARS + 1);
    }
}
