//! Query results and their output formats.

use std::fmt::{self, Write};

use crate::column::Column;
use crate::error::Result;
use crate::memory::{Charge, Memory};
use crate::value::Field;
use crate::value::{Type, Value};

/// The serialization of a result, which the query's `FORMAT` clause names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One object with the column types, the rows and the row count.
    #[default]
    Json,
    /// One object per row, each on its own line.
    JsonEachRow,
    /// One line per row, with tabs between values.
    TabSeparated,
}

impl Format {
    /// The formats that Analytics Engine documents.
    pub const ALL: [Self; 3] = [Self::Json, Self::JsonEachRow, Self::TabSeparated];

    /// The name in the `FORMAT` clause.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::JsonEachRow => "JSONEachRow",
            Self::TabSeparated => "TabSeparated",
        }
    }

    /// The value of the `content-type` header. Only JSON's is known from the cloud.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json; charset=UTF-8",
            Self::JsonEachRow => "application/x-ndjson; charset=UTF-8",
            Self::TabSeparated => "text/tab-separated-values; charset=UTF-8",
        }
    }

    /// The inverse of [`Self::name`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// The columns that a query returns.
#[derive(Clone, Debug)]
pub struct QueryResult {
    pub(crate) fields: Vec<Field>,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: usize,
    pub(crate) rows_before_limit: usize,
    pub(crate) format: Format,
    /// The query's memory: the columns and the serialized result count towards its limit.
    pub(crate) memory: Memory,
}

impl QueryResult {
    /// The format in the query's `FORMAT` clause; JSON by default.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Serializes the result. Fails if this exceeds the query's memory limit.
    pub fn write(&self, format: Format) -> Result<String> {
        let charge = self.memory.charge(0)?;
        let mut out = ResultWriter { text: String::new(), charge, memory: &self.memory };
        match format {
            Format::Json => self.json(&mut out)?,
            Format::JsonEachRow => {
                for row in 0..self.rows {
                    self.object(row, &mut out)?;
                    out.push("\n")?;
                }
            }
            Format::TabSeparated => {
                for row in 0..self.rows {
                    for (i, (field, column)) in self.fields.iter().zip(&self.columns).enumerate() {
                        if i > 0 {
                            out.push("\t")?;
                        }
                        if field.ty == Type::String {
                            tab_text(column.text(row), &mut out)?;
                        } else {
                            out.value(&column.value(row), &field.ty)?;
                        }
                    }
                    out.push("\n")?;
                }
            }
        }
        Ok(out.text)
    }

    fn json(&self, out: &mut ResultWriter) -> Result<()> {
        out.push("{\"meta\":[")?;
        for (i, field) in self.fields.iter().enumerate() {
            if i > 0 {
                out.push(",")?;
            }
            out.push("{\"name\":")?;
            json_text(&field.name, out)?;
            out.push(",\"type\":")?;
            json_text(&field.ty.to_string(), out)?;
            out.push("}")?;
        }
        out.push("],\"data\":[")?;
        for row in 0..self.rows {
            if row > 0 {
                out.push(",")?;
            }
            self.object(row, out)?;
        }
        let (rows, before) = (self.rows, self.rows_before_limit);
        out.push(&format!("],\"rows\":{rows},\"rows_before_limit_at_least\":{before}}}"))
    }

    fn object(&self, row: usize, out: &mut ResultWriter) -> Result<()> {
        out.push("{")?;
        for (i, (field, column)) in self.fields.iter().zip(&self.columns).enumerate() {
            if i > 0 {
                out.push(",")?;
            }
            json_text(&field.name, out)?;
            out.push(":")?;
            match column {
                Column::Texts(_) => json_text(column.text(row), out)?,
                other => json_value(&other.value(row), &field.ty, out)?,
            }
        }
        out.push("}")
    }
}

/// The output buffer.
struct ResultWriter<'a> {
    text: String,
    charge: Charge,
    memory: &'a Memory,
}

impl ResultWriter<'_> {
    fn push(&mut self, text: &str) -> Result<()> {
        self.charge.reserve_text(&mut self.text, text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    fn value(&mut self, value: &Value, ty: &Type) -> Result<()> {
        // `write_str` fails only if the memory limit is exceeded.
        value.write(ty, self).map_err(|_| self.memory.exceeded())
    }
}

impl Write for ResultWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text).map_err(|_| fmt::Error)
    }
}

fn json_text(text: &str, out: &mut ResultWriter) -> Result<()> {
    // Serializing a string never fails.
    out.push(&serde_json::to_string(text).unwrap_or_default())
}

/// Writes 64-bit integers as strings, since many JSON parsers read numbers as doubles. Writes NaN and the
/// infinities as null.
fn json_value(value: &Value, ty: &Type, out: &mut ResultWriter) -> Result<()> {
    match (value, ty) {
        (Value::Text(text), _) => json_text(text, out),
        (Value::Float(float), _) if !float.is_finite() => out.push("null"),
        (Value::Array(items), Type::Array(of)) => {
            out.push("[")?;
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(",")?;
                }
                json_value(item, of, out)?;
            }
            out.push("]")
        }
        (_, Type::UInt64 | Type::Int64 | Type::Interval(_) | Type::DateTime(_) | Type::Date) => {
            out.push("\"")?;
            out.value(value, ty)?;
            out.push("\"")
        }
        _ => out.value(value, ty),
    }
}

/// Escapes characters as `ClickHouse` does, such as those that would end a value or a line.
fn tab_text(mut text: &str, out: &mut ResultWriter) -> Result<()> {
    let special = ['\t', '\n', '\r', '\0', '\u{8}', '\u{c}', '\\', '\''];
    while let Some(at) = text.find(special) {
        let (before, rest) = text.split_at(at);
        out.push(before)?;
        let mut rest = rest.chars();
        out.push(match rest.next() {
            Some('\t') => "\\t",
            Some('\n') => "\\n",
            Some('\r') => "\\r",
            Some('\0') => "\\0",
            Some('\u{8}') => "\\b",
            Some('\u{c}') => "\\f",
            Some('\'') => "\\'",
            _ => "\\\\",
        })?;
        text = rest.as_str();
    }
    out.push(text)
}
