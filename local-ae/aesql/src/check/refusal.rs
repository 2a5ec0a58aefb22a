//! Errors about undocumented constructs, and where an expression starts.

use sqlparser::ast;
use sqlparser::ast::Spanned;

use crate::error::{Error, Location, Result};
use crate::parse::location;

pub(super) fn refused(what: &str, help: &str, at: Option<Location>) -> Error {
    Error::refused(format!("{what} is not documented")).help(help).at(at)
}

pub(super) fn absent(is_absent: bool, what: &str, help: &str, at: Option<Location>) -> Result<()> {
    if is_absent { Ok(()) } else { Err(refused(what, help, at)) }
}

/// The start of an expression. A loop, since recursion could exhaust the stack.
pub(super) fn start(mut expr: &ast::Expr) -> Option<Location> {
    loop {
        expr = match expr {
            ast::Expr::BinaryOp { left, .. } => left,
            ast::Expr::Nested(inner)
            | ast::Expr::Between { expr: inner, .. }
            | ast::Expr::In { expr: inner, .. }
            | ast::Expr::Like { expr: inner, .. }
            | ast::Expr::ILike { expr: inner, .. }
            | ast::Expr::SimilarTo { expr: inner, .. }
            | ast::Expr::RLike { expr: inner, .. }
            | ast::Expr::IsNull(inner)
            | ast::Expr::IsNotNull(inner)
            | ast::Expr::IsTrue(inner)
            | ast::Expr::IsNotTrue(inner)
            | ast::Expr::IsFalse(inner)
            | ast::Expr::IsNotFalse(inner)
            | ast::Expr::UnaryOp { expr: inner, .. }
            | ast::Expr::Collate { expr: inner, .. }
            | ast::Expr::Cast { expr: inner, .. }
            | ast::Expr::Extract { expr: inner, .. }
            | ast::Expr::Floor { expr: inner, .. }
            | ast::Expr::Ceil { expr: inner, .. }
            | ast::Expr::Position { expr: inner, .. }
            | ast::Expr::Substring { expr: inner, .. }
            | ast::Expr::Trim { expr: inner, .. }
            | ast::Expr::Interval(ast::Interval { value: inner, .. })
            | ast::Expr::AtTimeZone { timestamp: inner, .. } => inner,
            ast::Expr::Function(function) => return location(function.name.span().start),
            ast::Expr::Identifier(name) => return location(name.span.start),
            ast::Expr::CompoundIdentifier(names) => {
                return names.first().and_then(|name| location(name.span.start));
            }
            ast::Expr::Value(value) => return location(value.span.start),
            ast::Expr::Tuple(values) => values.first()?,
            _ => return None,
        }
    }
}
