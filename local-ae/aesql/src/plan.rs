//! A checked query: all names are resolved, all types are known.

use std::collections::HashSet;
use std::sync::Arc;

use crate::aggregate::Aggregate;
use crate::error::{Error, Location};
use crate::output::Format;
use crate::scalar::Scalar;
use crate::value::{Field, Type, Value};

#[derive(Clone, Debug)]
pub(crate) enum Statement {
    ShowTables,
    ShowTimezone,
    ShowTimezones,
    Select(Box<Select>),
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) statement: Statement,
    pub(crate) format: Format,
    /// Documented constructs that users have seen the cloud refuse.
    pub(crate) warnings: Vec<Error>,
    /// An upper bound of the plan's memory.
    pub(crate) bytes: usize,
}

/// ```text
/// source ─▶ filter ─▶ [group, aggregate ─▶ having] ─▶ order ─▶ limit ─▶ columns
/// ```
#[derive(Clone, Debug)]
pub(crate) struct Select {
    pub(crate) source: Source,
    /// Over the source's columns.
    pub(crate) filter: Option<Expr>,
    /// If present, the fields below refer to its columns: first the keys, then the calls.
    pub(crate) groups: Option<Groups>,
    pub(crate) having: Option<Expr>,
    pub(crate) order: Vec<Sort>,
    pub(crate) limit: Option<usize>,
    pub(crate) offset: usize,
    pub(crate) columns: Vec<(Field, Expr)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// One row without columns.
    Nothing,
    Table(String, Option<Location>),
    Query(Box<Select>),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    pub(crate) keys: Vec<Expr>,
    pub(crate) calls: Vec<AggregateCall>,
    /// The order of the rows within a group, for `first_value` and `last_value`.
    pub(crate) order: Vec<Sort>,
}

#[derive(Clone, Debug)]
pub(crate) struct AggregateCall {
    pub(crate) function: Aggregate,
    pub(crate) distinct: bool,
    /// Over the source's columns.
    pub(crate) args: Vec<Expr>,
    /// Selects the rows to aggregate, for countIf, sumIf and avgIf.
    pub(crate) condition: Option<Expr>,
    pub(crate) ty: Type,
}

#[derive(Clone, Debug)]
pub(crate) struct Sort {
    pub(crate) expr: Expr,
    pub(crate) descending: bool,
}

/// An expression over the columns of a relation.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) node: Node,
    pub(crate) ty: Type,
    pub(crate) at: Option<Location>,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Column(usize),
    Literal(Value),
    Call(&'static Scalar, Vec<Expr>),
    If(Box<[Expr; 3]>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    In(Box<Expr>, Arc<InList>),
}

/// The values in an IN list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum InList {
    Ints(HashSet<i64>),
    /// The floats' bits.
    Floats(HashSet<u64>),
    Texts(HashSet<String>),
}

impl Expr {
    pub(crate) fn literal(&self) -> Option<&Value> {
        match &self.node {
            Node::Literal(value) => Some(value),
            _ => None,
        }
    }

    /// Whether both expressions are equal, regardless of their locations.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let all =
            |a: &[Self], b: &[Self]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b));
        self.ty == other.ty
            && match (&self.node, &other.node) {
                (Node::Column(a), Node::Column(b)) => a == b,
                (Node::Literal(a), Node::Literal(b)) => a == b,
                (Node::Call(f, a), Node::Call(g, b)) => f.name == g.name && all(a, b),
                (Node::If(a), Node::If(b)) => all(&a[..], &b[..]),
                (Node::And(a), Node::And(b)) | (Node::Or(a), Node::Or(b)) => all(a, b),
                (Node::In(a, m), Node::In(b, n)) => a.same(b) && m == n,
                _ => false,
            }
    }
}
