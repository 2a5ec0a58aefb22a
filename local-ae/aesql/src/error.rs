//! Errors and warnings: the reason, its location in the query, and what to write instead.

use std::fmt;

/// A position in a query's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// From 1.
    pub line: u64,
    /// In characters, from 1.
    pub column: u64,
}

/// The category of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The text is not valid SQL.
    Syntax,
    /// The query uses a construct, function, column or type that Analytics Engine does not document or is
    /// known to refuse.
    Refused,
    /// Analytics Engine documents the construct, but users have seen it refused. Only in
    /// [`Query::warnings`](crate::Query::warnings) and [`lint`](crate::lint).
    Warning,
    /// The query exceeds a [limit](crate::Limits).
    Limit,
    /// The query is valid, but its evaluation failed: an unknown table, a division by zero, a string
    /// that is not a number.
    Failed,
}

/// Why a query is refused, may be refused, or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The category.
    pub kind: Kind,
    /// One line.
    pub message: String,
    /// What to write instead, if there is an equivalent.
    pub help: Option<String>,
    /// The position in the text; `None` if the reason concerns the whole text, such as its length.
    pub at: Option<Location>,
}

impl Error {
    /// Formats the error as compilers do, `FILE:LINE:COLUMN: error: MESSAGE` or `…: warning: …`, with the help
    /// on a second line. Each line ends with a newline.
    #[must_use]
    pub fn report(&self, file: &str) -> String {
        let at = self.at.map_or_else(String::new, |at| format!(":{}:{}", at.line, at.column));
        let kind = if self.kind == Kind::Warning { "warning" } else { "error" };
        let help = self.help.as_ref().map_or_else(String::new, |help| format!("  help: {help}\n"));
        format!("{file}{at}: {kind}: {}\n{help}", self.message)
    }

    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: None, at: None }
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    pub(crate) fn warning(message: impl Into<String>) -> Self {
        Self::new(Kind::Warning, message)
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::new(Kind::Limit, message)
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Sets the location, unless the error already has one.
    pub(crate) fn at(self, at: Option<Location>) -> Self {
        Self { at: self.at.or(at), ..self }
    }
}

/// `message (at LINE:COLUMN; help)`, on one line. The message is the cloud's own if that is known.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let at = self.at.map(|Location { line, column }| format!("at {line}:{column}"));
        match (at, &self.help) {
            (Some(at), Some(help)) => write!(f, " ({at}; {help})"),
            (Some(at), None) => write!(f, " ({at})"),
            (None, Some(help)) => write!(f, " ({help})"),
            (None, None) => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Needed because `write!` to a `String` returns a result, although it never fails.
impl From<fmt::Error> for Error {
    fn from(_: fmt::Error) -> Self {
        Self::failed("a value could not be written")
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;
