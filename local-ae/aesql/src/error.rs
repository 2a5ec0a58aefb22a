//! Why a query was not answered, where in its text, and what to write instead.

use std::fmt;

/// A place in a query's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The line, from 1.
    pub line: u64,
    /// The column in characters, from 1.
    pub column: u64,
}

/// What kind of [`Error`] it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The text is no SQL.
    Syntax,
    /// Analytics Engine documents no such construct, function, column or use of a type, or is known to
    /// refuse it.
    Refused,
    /// Analytics Engine documents it and has been seen to refuse it: only in
    /// [`Query::warnings`](crate::Query::warnings).
    Warning,
    /// A [limit](crate::Limits) was exceeded.
    Limit,
    /// The query is fine, but could not be evaluated: an unknown table, a division by zero, a string
    /// that is no number.
    Failed,
}

/// Why a query was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of error it is.
    pub kind: Kind,
    /// What is wrong, in one line.
    pub message: String,
    /// The Analytics Engine way to write it, where there is one.
    pub help: Option<String>,
    /// Where in the query's text.
    pub at: Option<Location>,
}

impl Error {
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

    /// Says where, unless that is known already.
    pub(crate) fn at(self, at: Option<Location>) -> Self {
        Self { at: self.at.or(at), ..self }
    }
}

/// `message (at LINE:COLUMN; help)`, in one line. The message comes first: where the cloud's is known, it
/// is the cloud's.
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

/// Writing into a `String` does not fail, but the compiler does not know that.
impl From<fmt::Error> for Error {
    fn from(_: fmt::Error) -> Self {
        Self::failed("a value could not be written")
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;
