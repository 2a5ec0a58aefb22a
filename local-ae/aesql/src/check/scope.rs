//! Name resolution within a SELECT, and its columns.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use sqlparser::ast::{self, Spanned};

use super::cost::Cost;
use super::refusal::{absent, refused, start};
use crate::advice::closest;
use crate::error::{Error, Result};
use crate::limits::EXPRESSION_DEPTH;
use crate::parse::location;
use crate::plan::{Expr, Groups, Node, Sort};
use crate::value::Field;
use crate::value::Type;

/// The clause that an expression belongs to; it determines which names the expression may use.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Clause {
    Where,
    GroupBy,
    AggregateArgument,
    /// SELECT and ORDER BY of a query without aggregation.
    RowOutput,
    /// SELECT, HAVING and ORDER BY of a query with aggregation.
    GroupOutput,
}

/// The names that are visible in one SELECT.
pub(super) struct Scope<'a> {
    pub(super) fields: &'a [Field],
    pub(super) aliases: HashMap<&'a str, &'a ast::Expr>,
    /// Columns that SELECT lists under their own names.
    pub(super) selected: HashSet<&'a str>,
    /// Aliases under expansion: within its own expression, an alias's name means the column.
    pub(super) open: RefCell<Vec<&'a str>>,
    pub(super) groups: Option<RefCell<Groups>>,
    /// Whether [`Clause::RowOutput`] had an aggregate function.
    pub(super) saw_aggregate: Cell<bool>,
    /// True while ORDER BY is bound.
    pub(super) ordering: Cell<bool>,
    pub(super) cost: &'a Cost,
}

/// The columns, the sort keys and the HAVING condition.
pub(super) type Output = (Vec<(Field, Expr)>, Vec<Sort>, Option<Expr>);

impl<'a> Scope<'a> {
    fn output_clause(&self) -> Clause {
        if self.groups.is_some() { Clause::GroupOutput } else { Clause::RowOutput }
    }

    pub(super) fn columns(&self, projection: &'a [ast::SelectItem]) -> Result<Vec<(Field, Expr)>> {
        let mut columns: Vec<(Field, Expr)> = Vec::new();
        let mut add = |name: String, expr: Expr| {
            columns.push((Field { name, ty: expr.ty.clone() }, expr));
        };
        for item in projection {
            match item {
                ast::SelectItem::UnnamedExpr(expr) => {
                    let before = self.cost.parts.get();
                    let bound = self.bind(expr, self.output_clause(), 0)?;
                    // Formatting a deep expression recurses and could exhaust the stack.
                    let long = self.cost.parts.get() - before > EXPRESSION_DEPTH;
                    add(if long { "expression".into() } else { expr.to_string() }, bound);
                }
                ast::SelectItem::ExprWithAlias { expr, alias } => {
                    self.open.borrow_mut().push(&alias.value);
                    let bound = self.bind(expr, self.output_clause(), 0);
                    self.open.borrow_mut().pop();
                    add(alias.value.clone(), bound?);
                }
                ast::SelectItem::Wildcard(options) => {
                    let plain = ast::WildcardAdditionalOptions {
                        wildcard_token: options.wildcard_token.clone(),
                        ..Default::default()
                    };
                    let at = location(options.wildcard_token.0.span.start);
                    absent(*options == plain, "this form of *", "name the columns", at)?;
                    if self.groups.is_some() {
                        return Err(Error::refused("* has columns that are not in GROUP BY")
                            .help("name the columns")
                            .at(at));
                    }
                    for (i, field) in self.fields.iter().enumerate() {
                        // Three copies: in this plan, in the enclosing SELECT's plan and in the result.
                        self.cost.add(3 * field.name.len()).map_err(|error| error.at(at))?;
                        let node = Node::Column(i);
                        add(field.name.clone(), Expr { node, ty: field.ty.clone(), at });
                    }
                }
                other => {
                    let at = location(other.span().start);
                    return Err(refused("this form of a column", "write expression AS name", at));
                }
            }
        }
        Ok(columns)
    }

    pub(super) fn order(
        &self,
        sorts: &[(&'a ast::Expr, bool)],
        projection: &'a [ast::SelectItem],
    ) -> Result<Vec<Sort>> {
        self.ordering.set(!projection.iter().any(is_wildcard));
        let order = self.bind_order(sorts);
        self.ordering.set(false);
        order
    }

    fn bind_order(&self, sorts: &[(&'a ast::Expr, bool)]) -> Result<Vec<Sort>> {
        let sort = |&(expr, descending): &(&'a ast::Expr, bool)| {
            let expr = self.bind(expr, self.output_clause(), 0)?;
            match expr.ty {
                Type::Array(_) => Err(refused("ORDER BY of an array", "order by a value", expr.at)),
                _ => Ok(Sort { expr, descending }),
            }
        };
        sorts.iter().map(sort).collect()
    }

    /// Checks SELECT, HAVING and ORDER BY of a query with aggregation.
    pub(super) fn aggregated(
        &mut self,
        keys: Vec<Expr>,
        projection: &'a [ast::SelectItem],
        sorts: &[(&'a ast::Expr, bool)],
        having: Option<&'a ast::Expr>,
    ) -> Result<Output> {
        if keys.is_empty() && having.is_some() {
            self.saw_aggregate.set(false);
            let row = self.columns(projection);
            if row.is_ok() && !self.saw_aggregate.get() {
                let at = having.and_then(start);
                return Err(refused("HAVING without aggregation", "write WHERE", at));
            }
        }
        let lone = keys.is_empty();
        // `SELECT first_value(blob1) FROM t ORDER BY timestamp` is documented: it sorts the input rows.
        self.saw_aggregate.set(false);
        let inner_order = if lone { self.order(sorts, projection).ok() } else { None }
            .filter(|order| !order.is_empty() && !self.saw_aggregate.get());
        self.groups = Some(RefCell::new(Groups { keys, ..Groups::default() }));
        let columns = self.columns(projection)?;
        let having = having.map(|e| self.condition(e, Clause::GroupOutput)).transpose()?;
        let order = match inner_order {
            None => self.order(sorts, projection)?,
            Some(order) => {
                if let Some(groups) = &self.groups {
                    groups.borrow_mut().order = order;
                }
                Vec::new()
            }
        };
        Ok((columns, order, having))
    }

    pub(super) fn condition(&self, expr: &'a ast::Expr, clause: Clause) -> Result<Expr> {
        let bound = self.bind(expr, clause, 0)?;
        if bound.ty.is_integer() {
            return Ok(bound);
        }
        let keyword = if clause == Clause::Where { "WHERE" } else { "HAVING" };
        Err(Error::refused(format!("{keyword} takes a condition, not a {}", bound.ty))
            .help("compare it, as in x != 0")
            .at(bound.at))
    }

    pub(super) fn bind(&self, expr: &'a ast::Expr, clause: Clause, depth: usize) -> Result<Expr> {
        let at = start(expr);
        if depth > EXPRESSION_DEPTH {
            let message = format!("an expression is deeper than {EXPRESSION_DEPTH} levels");
            return Err(Error::limit(message).at(at));
        }
        let text = match expr {
            // Counted twice: an IN list keeps a copy.
            ast::Expr::Value(value) => match &value.value {
                ast::Value::SingleQuotedString(text) => 2 * text.len(),
                _ => 0,
            },
            _ => 0,
        };
        self.cost.add(text).map_err(|error| error.at(at))?;
        if clause == Clause::GroupOutput
            && let Some(key) = self.key(expr, depth)
        {
            return Ok(Expr { at, ..key });
        }
        self.bind_new(expr, clause, depth, at).map_err(|error| error.at(at))
    }

    /// The GROUP BY key that equals the expression.
    fn key(&self, expr: &'a ast::Expr, depth: usize) -> Option<Expr> {
        let groups = self.groups.as_ref()?;
        if groups.borrow().keys.is_empty() {
            return None;
        }
        let bound = self.bind(expr, Clause::GroupBy, depth).ok()?;
        let groups = groups.borrow();
        let i = groups.keys.iter().position(|key| key.same(&bound))?;
        Some(Expr { node: Node::Column(i), ..bound })
    }

    pub(super) fn name(&self, name: &'a ast::Ident, clause: Clause, depth: usize) -> Result<Expr> {
        let at = location(name.span.start);
        let word = name.value.as_str();
        let is_open = self.open.borrow().contains(&word);
        if let Some((alias, expr)) = self.aliases.get_key_value(word)
            && !is_open
        {
            self.open.borrow_mut().push(alias);
            let bound = self.bind(expr, clause, depth + 1);
            self.open.borrow_mut().pop();
            return bound.map(|bound| Expr { at, ..bound });
        }
        if let Some((i, field)) = self.fields.iter().enumerate().find(|(_, f)| f.name == word) {
            if clause == Clause::GroupOutput {
                return Err(Error::refused(format!(
                    "{word} is neither aggregated nor in GROUP BY"
                ))
                .help(format!("add it to GROUP BY, or write argMax({word}, timestamp)"))
                .at(at));
            }
            // Inside an alias's expression, the alias names the column, not ORDER BY.
            if self.ordering.get()
                && self.open.borrow().is_empty()
                && !self.selected.contains(&word)
            {
                let message = format!("unable to find type of column: \"{word}\"");
                let help = format!(
                    "ORDER BY takes columns of the output: select {word}, or order by its alias"
                );
                self.cost.warn(Error::warning(message).help(help).at(at));
            }
            return Ok(Expr { node: Node::Column(i), ty: field.ty.clone(), at });
        }
        let known = self.fields.iter().map(|field| field.name.as_str());
        let help =
            match closest(&word.to_ascii_lowercase(), known.chain(self.aliases.keys().copied())) {
                _ if self.fields.is_empty() => "the query has no FROM".into(),
                Some(name) => format!("did you mean {name}?"),
                None if matches!(self.fields.first(), Some(first) if first.name == "dataset") => {
                    "a dataset has timestamp, index1, blob1 to blob20, double1 to double20, \
                 _sample_interval and dataset; strings have single quotes"
                        .into()
                }
                None => "the subquery has no such column".into(),
            };
        Err(Error::refused(format!("unable to find type of column: \"{word}\"")).help(help).at(at))
    }
}

fn is_wildcard(item: &ast::SelectItem) -> bool {
    matches!(item, ast::SelectItem::Wildcard(_))
}
