//! The service's settings: lines of `NAME=value`, as systemd's `EnvironmentFile=` reads them. Comments, order and
//! unknown settings stay.

use std::fmt;

pub(super) struct SettingsFile {
    lines: Vec<String>,
}

impl SettingsFile {
    pub(super) fn parse(text: &str) -> Self {
        Self { lines: text.lines().map(str::to_owned).collect() }
    }

    /// The value of a setting; the last of several lines counts. `None` if it is missing or empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.lines.iter().rev().find_map(|line| value(line, name));
        found.filter(|value| !value.is_empty())
    }

    pub(super) fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().filter_map(|line| {
            let (name, _) = line.trim_start().split_once('=')?;
            let is_name =
                name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
            is_name.then(|| Some((name, value(line, name)?))).flatten()
        })
    }

    /// Sets a value in its line, else in place of the commented example, else at the end.
    pub(super) fn set(&mut self, name: &str, text: &str) {
        if self.get(name) == Some(text) {
            return;
        }
        let new = format!("{name}={}", quoted(text));
        let position = self.lines.iter().rposition(|line| value(line, name).is_some());
        let example = format!("#{name}=");
        let position =
            position.or_else(|| self.lines.iter().position(|line| line.starts_with(&example)));
        match position.and_then(|position| self.lines.get_mut(position)) {
            Some(line) => *line = new,
            None => self.lines.push(new),
        }
    }

    /// Comments a setting out.
    pub(super) fn remove(&mut self, name: &str) {
        for line in &mut self.lines {
            if value(line, name).is_some() {
                line.insert(0, '#');
            }
        }
    }
}

impl fmt::Display for SettingsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// The value in a line that sets `name`, without the quotes around it.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = line.trim_start().strip_prefix(name)?.strip_prefix('=')?.trim();
    let inner = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    Some(inner('"').or_else(|| inner('\'')).unwrap_or(value))
}

/// Quotes a value for systemd, which takes text in single quotes literally; `setup` refuses values with single quotes.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=?&~!*[]".contains(c);
    if text.chars().all(is_plain) { text.to_owned() } else { format!("'{text}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "# Where to check in.\n#A_URL=https://example.com\n\nOTHER=kept\n  ID='old id'\n";

    #[test]
    fn keeps_comments_order_and_other_settings() {
        let mut file = SettingsFile::parse(FILE);
        file.set("A_URL", "https://h/?a=b");
        file.set("ID", "new id");
        file.set("UNIT", "openclaw.service");
        let expected = "# Where to check in.\nA_URL=https://h/?a=b\n\nOTHER=kept\nID='new id'\nUNIT=openclaw.service\n";
        assert_eq!(file.to_string(), expected);
        let values: Vec<_> = file.values().collect();
        assert_eq!(
            values,
            [
                ("A_URL", "https://h/?a=b"),
                ("OTHER", "kept"),
                ("ID", "new id"),
                ("UNIT", "openclaw.service")
            ]
        );
    }

    #[test]
    fn setting_the_same_value_changes_nothing() {
        let mut file = SettingsFile::parse(FILE);
        file.set("ID", "old id");
        assert_eq!(file.to_string(), FILE);
    }

    #[test]
    fn a_removed_setting_becomes_a_comment_and_can_be_set_again() {
        let mut file = SettingsFile::parse("UNIT=a\n");
        file.remove("UNIT");
        assert_eq!((file.to_string().as_str(), file.get("UNIT")), ("#UNIT=a\n", None));
        file.set("UNIT", "b");
        assert_eq!(file.to_string(), "UNIT=b\n");
    }

    #[test]
    fn the_last_line_counts_and_an_empty_value_is_none() {
        let file = SettingsFile::parse("ID=a\nID=b\nEMPTY=\nNOT_ID=c\n");
        assert_eq!((file.get("ID"), file.get("EMPTY")), (Some("b"), None));
    }

    #[test]
    fn every_written_value_is_read_back_unchanged() {
        for text in ["plain", "two words", "$HOME", "#", "ä", "a;b"] {
            let mut file = SettingsFile::parse("");
            file.set("ID", text);
            let again = SettingsFile::parse(&file.to_string());
            assert_eq!(again.get("ID").unwrap(), text);
        }
    }
}
