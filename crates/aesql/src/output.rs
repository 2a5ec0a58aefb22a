//! Answers, and the formats that they are written in.

use std::fmt::Write;

use crate::column::Column;
use crate::error::{Error, Result};
use crate::limits::ANSWER_BYTES;
use crate::plan::Field;
use crate::value::{Type, Value, write_float};

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One object with the columns' types, the rows and their number.
    #[default]
    Json,
    /// One object for each row, each on its line.
    JsonEachRow,
    /// Lines of values with tabs between them.
    TabSeparated,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Json, Self::JsonEachRow, Self::TabSeparated];

    /// The name that FORMAT takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::JsonEachRow => "JSONEachRow",
            Self::TabSeparated => "TabSeparated",
        }
    }

    /// The content type of an answer in that format.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json; charset=UTF-8",
            Self::JsonEachRow => "application/x-ndjson; charset=UTF-8",
            Self::TabSeparated => "text/tab-separated-values; charset=UTF-8",
        }
    }

    /// The format of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// What a query returned.
#[derive(Clone, Debug)]
pub struct Answer {
    pub(crate) fields: Vec<Field>,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: usize,
    pub(crate) rows_before_limit: usize,
    pub(crate) format: Format,
}

impl Answer {
    /// The format that the query asks for.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Rows of the answer.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Writes the answer; [`Answer::format`] has the format that the query asks for. Fails if it is
    /// longer than [`ANSWER_BYTES`].
    pub fn write(&self, format: Format) -> Result<String> {
        let mut out = String::new();
        match format {
            Format::Json => self.json(&mut out)?,
            Format::JsonEachRow => {
                for row in 0..self.rows {
                    self.object(row, &mut out)?;
                    out.push('\n');
                    check_length(&out)?;
                }
            }
            Format::TabSeparated => {
                for row in 0..self.rows {
                    for (i, (field, column)) in self.fields.iter().zip(&self.columns).enumerate() {
                        if i > 0 {
                            out.push('\t');
                        }
                        let start = out.len();
                        column.value(row).write(&field.ty, &mut out)?;
                        if field.ty == Type::String {
                            escape_tabs(&mut out, start);
                        }
                    }
                    out.push('\n');
                    check_length(&out)?;
                }
            }
        }
        Ok(out)
    }

    fn json(&self, out: &mut String) -> Result<()> {
        out.push_str("{\"meta\":[");
        for (i, field) in self.fields.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            out.push_str("{\"name\":");
            json_text(&field.name, out);
            out.push_str(",\"type\":");
            json_text(&field.ty.to_string(), out);
            out.push('}');
        }
        out.push_str("],\"data\":[");
        for row in 0..self.rows {
            if row > 0 {
                out.push(',');
            }
            self.object(row, out)?;
            check_length(out)?;
        }
        let (rows, before) = (self.rows, self.rows_before_limit);
        write!(out, "],\"rows\":{rows},\"rows_before_limit_at_least\":{before}}}")?;
        Ok(())
    }

    fn object(&self, row: usize, out: &mut String) -> Result<()> {
        out.push('{');
        for (i, (field, column)) in self.fields.iter().zip(&self.columns).enumerate() {
            if i > 0 {
                out.push(',');
            }
            json_text(&field.name, out);
            out.push(':');
            match column {
                Column::Texts(_) => json_text(column.text(row), out),
                other => json_value(&other.value(row), &field.ty, out)?,
            }
        }
        out.push('}');
        Ok(())
    }
}

fn check_length(out: &str) -> Result<()> {
    if out.len() <= ANSWER_BYTES {
        return Ok(());
    }
    Err(Error::limit(format!("the answer is longer than {ANSWER_BYTES} bytes"))
        .help("ask for fewer rows with LIMIT"))
}

fn json_text(text: &str, out: &mut String) {
    // A string is always JSON.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

/// Integers of 64 bits are strings, since a JSON number is often read as a double; not-a-number and
/// the infinities are null.
fn json_value(value: &Value, ty: &Type, out: &mut String) -> Result<()> {
    match (value, ty) {
        (Value::Text(text), _) => json_text(text, out),
        (Value::Float(float), _) if !float.is_finite() => out.push_str("null"),
        (Value::Float(float), _) => write_float(*float, out)?,
        (Value::Array(items), Type::Array(of)) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                json_value(item, of, out)?;
            }
            out.push(']');
        }
        (_, Type::UInt64 | Type::Int64 | Type::Interval(_) | Type::DateTime(_) | Type::Date) => {
            out.push('"');
            value.write(ty, out)?;
            out.push('"');
        }
        _ => value.write(ty, out)?,
    }
    Ok(())
}

/// Escapes what would end a value or a line, from there to the end.
fn escape_tabs(out: &mut String, start: usize) {
    let text = out.split_off(start);
    for c in text.chars() {
        match c {
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            c => out.push(c),
        }
    }
}
