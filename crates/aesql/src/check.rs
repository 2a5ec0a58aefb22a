//! Checks a query against what Analytics Engine documents, and resolves its names and types.
//!
//! Whatever is not known here is refused: the parser's structures are taken apart without `..`, so
//! that a field it may grow has to be looked at.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlparser::ast::{self, Spanned};

use crate::advice::{closest, instead_of};
use crate::aggregate::{AGGREGATES, Aggregate, TOP_K_MAX};
use crate::error::{Error, Location, Result};
use crate::limits::{EXPRESSION_DEPTH, EXPRESSION_PARTS};
use crate::output::Format;
use crate::parse::{self, Parsed, location};
use crate::plan::{
    AggregateCall, Expr, Field, Groups, Members, Node, Plan, Select, Sort, Source, Statement,
};
use crate::scalar::{self, Given, Scalar};
use crate::table::Slot;
use crate::time::{self, Unit};
use crate::value::{Type, Value};

/// Checks a statement.
pub(crate) fn check(parsed: Parsed) -> Result<Plan> {
    match parsed {
        Parsed::Show(words) => check_show(&words),
        Parsed::Select(query) => {
            let parts = Cell::new(0);
            let format = match &query.format_clause {
                None => Format::default(),
                Some(ast::FormatClause::Identifier(name)) => {
                    parse::format(&name.value, location(name.span.start))?
                }
                Some(ast::FormatClause::Null) => parse::format("NULL", None)?,
            };
            let select = check_query(&query, true, &parts)?;
            Ok(Plan { statement: Statement::Select(Box::new(select)), format })
        }
    }
}

fn check_show(words: &[(String, Option<Location>)]) -> Result<Plan> {
    let upper: Vec<String> = words.iter().map(|(word, _)| word.to_ascii_uppercase()).collect();
    let at = words.first().and_then(|(_, at)| *at);
    let refused = || {
        Error::refused("this SHOW is not documented")
            .help("SHOW TABLES, SHOW TIMEZONE or SHOW TIMEZONES, with FORMAT if need be")
            .at(at)
    };
    let (what, rest) = upper.split_first().ok_or_else(refused)?;
    let statement = match what.as_str() {
        "TABLES" => Statement::ShowTables,
        "TIMEZONE" => Statement::ShowTimezone,
        "TIMEZONES" => Statement::ShowTimezones,
        _ => return Err(refused()),
    };
    let format = match (rest, words.last()) {
        ([], _) => Format::default(),
        ([format, _], Some((name, at))) if format == "FORMAT" => parse::format(name, *at)?,
        _ => return Err(refused()),
    };
    Ok(Plan { statement, format })
}

fn refused(what: &str, help: &str, at: Option<Location>) -> Error {
    Error::refused(format!("{what} is not documented")).help(help).at(at)
}

/// Refuses a clause if it is there.
fn absent(is_absent: bool, what: &str, help: &str, at: Option<Location>) -> Result<()> {
    if is_absent { Ok(()) } else { Err(refused(what, help, at)) }
}

fn check_query(query: &ast::Query, outermost: bool, parts: &Cell<usize>) -> Result<Select> {
    let ast::Query {
        with,
        body,
        order_by,
        limit_clause,
        fetch,
        locks,
        for_clause,
        settings,
        format_clause,
        pipe_operators,
    } = query;
    let ast::SetExpr::Select(select) = &**body else {
        let (what, help) = match &**body {
            ast::SetExpr::SetOperation { op, .. } => {
                (op.to_string(), "send each SELECT in a request of its own")
            }
            ast::SetExpr::Query(_) => ("a SELECT in parentheses".into(), "leave them out"),
            _ => ("what follows".into(), "queries are SELECT … FROM …"),
        };
        return Err(refused(&what, help, body_start(body)));
    };
    let at = location(select.select_token.0.span.start);
    absent(with.is_none(), "WITH", "put the subquery into FROM: SELECT … FROM (SELECT …)", at)?;
    absent(fetch.is_none(), "FETCH", "write LIMIT n", at)?;
    absent(locks.is_empty() && for_clause.is_none(), "FOR", "leave it out", at)?;
    absent(settings.is_none(), "SETTINGS", "leave it out", at)?;
    absent(pipe_operators.is_empty(), "|>", "write clauses in their order", at)?;
    absent(
        outermost || format_clause.is_none(),
        "FORMAT in a subquery",
        "put it at the end of the query",
        at,
    )?;
    check_select(select, order_by.as_ref(), limit_clause.as_ref(), parts)
}

/// Where a query's body begins, found without recursion.
fn body_start(mut body: &ast::SetExpr) -> Option<Location> {
    loop {
        match body {
            ast::SetExpr::SetOperation { left, .. } => body = left,
            ast::SetExpr::Query(query) => body = &query.body,
            ast::SetExpr::Select(select) => return location(select.select_token.0.span.start),
            _ => return None,
        }
    }
}

fn check_select(
    select: &ast::Select,
    order_by: Option<&ast::OrderBy>,
    limit: Option<&ast::LimitClause>,
    parts: &Cell<usize>,
) -> Result<Select> {
    let ast::Select {
        select_token,
        optimizer_hints,
        distinct,
        select_modifiers,
        top,
        top_before_distinct: _,
        projection,
        exclude,
        into,
        from,
        lateral_views,
        prewhere,
        selection,
        connect_by,
        group_by,
        cluster_by,
        distribute_by,
        sort_by,
        having,
        named_window,
        qualify,
        window_before_qualify: _,
        value_table_mode,
        flavor,
    } = select;
    let at = location(select_token.0.span.start);
    let without = |is_absent, what, help| absent(is_absent, what, help, at);
    without(*flavor == ast::SelectFlavor::Standard, "FROM before SELECT", "write SELECT … FROM …")?;
    without(distinct.is_none(), "SELECT DISTINCT", "write SELECT x … GROUP BY x")?;
    without(top.is_none(), "TOP", "write LIMIT n")?;
    without(into.is_none(), "INTO", "leave it out")?;
    without(prewhere.is_none(), "PREWHERE", "write WHERE")?;
    without(exclude.is_none(), "EXCLUDE", "name the columns that you want")?;
    without(
        qualify.is_none() && named_window.is_empty(),
        "a window",
        "use argMax() with GROUP BY",
    )?;
    without(lateral_views.is_empty(), "LATERAL VIEW", "leave it out")?;
    without(
        cluster_by.is_empty() && distribute_by.is_empty() && sort_by.is_empty(),
        "CLUSTER BY",
        "write ORDER BY",
    )?;
    without(connect_by.is_empty(), "CONNECT BY", "leave it out")?;
    without(
        optimizer_hints.is_empty() && select_modifiers.is_none() && value_table_mode.is_none(),
        "this form of SELECT",
        "write SELECT expression, …",
    )?;
    let (source, fields) = check_from(from, parts)?;
    let mut scope = Scope {
        fields: &fields,
        aliases: aliases(projection)?,
        open: RefCell::new(Vec::new()),
        groups: None,
        saw_aggregate: Cell::new(false),
        parts,
    };
    let filter = selection.as_ref().map(|e| scope.condition(e, Place::Where)).transpose()?;
    let keys = check_group_by(group_by, &scope)?;
    let sorts = check_order_by(order_by)?;

    // Without GROUP BY, it is an aggregation if an aggregate function is met.
    let rows = if keys.is_empty() { Some(scope.columns(projection)) } else { None };
    let has_having = having.is_some();
    let (columns, order, having) = match rows {
        Some(Ok(columns)) if !scope.saw_aggregate.get() && !has_having => {
            match scope.order(&sorts) {
                Ok(order) => (columns, order, None),
                Err(error) if !scope.saw_aggregate.get() => return Err(error),
                Err(_) => scope.aggregated(keys, projection, &sorts, having.as_ref())?,
            }
        }
        Some(Err(error)) if !scope.saw_aggregate.get() => return Err(error),
        _ => scope.aggregated(keys, projection, &sorts, having.as_ref())?,
    };
    let (limit, offset) = check_limit(limit, at)?;
    let groups = scope.groups.map(RefCell::into_inner);
    Ok(Select { source, filter, groups, having, order, limit, offset, columns })
}

fn check_from(from: &[ast::TableWithJoins], parts: &Cell<usize>) -> Result<(Source, Vec<Field>)> {
    let (relation, joins) = match from {
        [] => return Ok((Source::Nothing, Vec::new())),
        [ast::TableWithJoins { relation, joins }] => (relation, joins),
        [_, second, ..] => {
            return Err(refused(
                "a second table in FROM",
                ONE_TABLE,
                location(second.relation.span().start),
            ));
        }
    };
    if let Some(join) = joins.first() {
        return Err(refused("JOIN", ONE_TABLE, location(join.relation.span().start)));
    }
    match relation {
        ast::TableFactor::Table {
            name,
            alias,
            args,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_directives,
            inheritance,
        } => {
            let at = location(name.span().start);
            check_alias(alias.as_ref())?;
            absent(sample.is_none(), "SAMPLE", "the data is sampled: see _sample_interval", at)?;
            absent(args.is_none(), "a table function", "name a dataset", at)?;
            let plain = with_hints.is_empty()
                && version.is_none()
                && !with_ordinality
                && partitions.is_empty()
                && json_path.is_none()
                && index_directives.is_empty()
                && inheritance.is_none();
            absent(plain, "this form of FROM", "name a dataset", at)?;
            let [ast::ObjectNamePart::Identifier(name)] = name.0.as_slice() else {
                return Err(refused("a database's name", "name the dataset alone", at));
            };
            let fields = Slot::all().map(|slot| Field { name: slot.name(), ty: slot.ty() });
            Ok((Source::Table(name.value.clone(), at), fields.collect()))
        }
        ast::TableFactor::Derived { lateral: false, subquery, alias, sample: None } => {
            check_alias(alias.as_ref())?;
            let select = check_query(subquery, false, parts)?;
            let fields = select.columns.iter().map(|(field, _)| field.clone()).collect();
            Ok((Source::Query(Box::new(select)), fields))
        }
        other => Err(refused(
            "this form of FROM",
            "name a dataset, or put a subquery into parentheses",
            location(other.span().start),
        )),
    }
}

const ONE_TABLE: &str =
    "a query has one table: join in your own code, or write all that you need into one data point";

fn check_alias(alias: Option<&ast::TableAlias>) -> Result<()> {
    match alias {
        None => Ok(()),
        Some(alias) => Err(refused(
            "an alias of a table",
            "leave it out: a query has one table",
            location(alias.name.span.start),
        )),
    }
}

/// The expressions that the columns' aliases stand for.
fn aliases(projection: &[ast::SelectItem]) -> Result<HashMap<&str, &ast::Expr>> {
    let mut aliases = HashMap::new();
    for item in projection {
        if let ast::SelectItem::ExprWithAlias { expr, alias } = item
            && aliases.insert(alias.value.as_str(), expr).is_some()
        {
            return Err(Error::refused(format!("there are two columns {}", alias.value))
                .help("give each a name of its own")
                .at(location(alias.span.start)));
        }
    }
    Ok(aliases)
}

fn check_group_by<'a>(group_by: &'a ast::GroupByExpr, scope: &Scope<'a>) -> Result<Vec<Expr>> {
    let ast::GroupByExpr::Expressions(keys, modifiers) = group_by else {
        return Err(refused("GROUP BY ALL", "name the columns", None));
    };
    let at = keys.first().and_then(start);
    absent(modifiers.is_empty(), "a modifier of GROUP BY", "send a query for each total", at)?;
    keys.iter()
        .map(|key| {
            refuse_position(key, "GROUP BY")?;
            let expr = scope.bind(key, Place::Key, 0)?;
            match expr.ty {
                Type::Array(_) => Err(refused("GROUP BY of an array", "group by a value", expr.at)),
                _ => Ok(expr),
            }
        })
        .collect()
}

/// `GROUP BY 1` means the first column in some databases, and a constant in others.
fn refuse_position(expr: &ast::Expr, clause: &str) -> Result<()> {
    match expr {
        ast::Expr::Value(value) if matches!(value.value, ast::Value::Number(..)) => Err(refused(
            &format!("{clause} with a column's number"),
            "write the column's name or alias",
            start(expr),
        )),
        _ => Ok(()),
    }
}

fn check_order_by(order_by: Option<&ast::OrderBy>) -> Result<Vec<(&ast::Expr, bool)>> {
    let Some(ast::OrderBy { kind, interpolate }) = order_by else { return Ok(Vec::new()) };
    let ast::OrderByKind::Expressions(sorts) = kind else {
        return Err(refused("ORDER BY ALL", "name the columns", None));
    };
    absent(interpolate.is_none(), "INTERPOLATE", "leave it out", None)?;
    sorts
        .iter()
        .map(|ast::OrderByExpr { expr, options, with_fill }| {
            let at = start(expr);
            refuse_position(expr, "ORDER BY")?;
            absent(with_fill.is_none(), "WITH FILL", "fill gaps in your own code", at)?;
            let ast::OrderByOptions { sort, nulls_first } = options;
            absent(nulls_first.is_none(), "NULLS", "leave it out: there is no NULL", at)?;
            match sort {
                None | Some(ast::OrderBySort::Asc) => Ok((expr, false)),
                Some(ast::OrderBySort::Desc) => Ok((expr, true)),
                Some(ast::OrderBySort::Using(_)) => Err(refused("USING", "write ASC or DESC", at)),
            }
        })
        .collect()
}

fn check_limit(
    limit: Option<&ast::LimitClause>,
    at: Option<Location>,
) -> Result<(Option<usize>, usize)> {
    let number = |expr: &ast::Expr, clause: &str| -> Result<usize> {
        let found = match expr {
            ast::Expr::Value(value) => match &value.value {
                ast::Value::Number(text, false) => text.parse().ok(),
                _ => None,
            },
            _ => None,
        };
        found.ok_or_else(|| {
            Error::refused(format!("{clause} takes a number"))
                .help("write LIMIT 10")
                .at(start(expr))
        })
    };
    match limit {
        None => Ok((None, 0)),
        Some(ast::LimitClause::LimitOffset { limit, offset, limit_by }) => {
            absent(limit_by.is_empty(), "LIMIT BY", "use topK(), or argMax() with GROUP BY", at)?;
            let limit = limit.as_ref().map(|limit| number(limit, "LIMIT")).transpose()?;
            let offset = match offset {
                None => 0,
                Some(ast::Offset { value, rows: ast::OffsetRows::None }) => {
                    number(value, "OFFSET")?
                }
                Some(_) => return Err(refused("OFFSET … ROWS", "write OFFSET n", at)),
            };
            Ok((limit, offset))
        }
        Some(ast::LimitClause::OffsetCommaLimit { offset, .. }) => {
            Err(refused("LIMIT m, n", "write LIMIT n OFFSET m", start(offset)))
        }
    }
}

/// Where an expression begins, found without recursion.
fn start(mut expr: &ast::Expr) -> Option<Location> {
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
            ast::Expr::Case { case_token, .. } => return location(case_token.0.span.start),
            ast::Expr::Tuple(values) => values.first()?,
            _ => return None,
        }
    }
}

/// Where an expression stands, on which depends what it may refer to.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Where,
    /// GROUP BY.
    Key,
    /// An argument of an aggregate function.
    Argument,
    /// SELECT and ORDER BY of a query that does not aggregate.
    Rows,
    /// SELECT, HAVING and ORDER BY of one that does.
    Groups,
}

/// What the names of one SELECT stand for.
struct Scope<'a> {
    fields: &'a [Field],
    aliases: HashMap<&'a str, &'a ast::Expr>,
    /// Aliases that are being put in place: within its own expression a name is the column's.
    open: RefCell<Vec<&'a str>>,
    groups: Option<RefCell<Groups>>,
    /// Whether an aggregate function was met in [`Place::Rows`].
    saw_aggregate: Cell<bool>,
    /// Parts of all the query's expressions so far.
    parts: &'a Cell<usize>,
}

/// The columns, the order and the condition of HAVING.
type Output = (Vec<(Field, Expr)>, Vec<Sort>, Option<Expr>);

impl<'a> Scope<'a> {
    fn place(&self) -> Place {
        if self.groups.is_some() { Place::Groups } else { Place::Rows }
    }

    fn columns(&self, projection: &'a [ast::SelectItem]) -> Result<Vec<(Field, Expr)>> {
        let mut columns: Vec<(Field, Expr)> = Vec::new();
        let mut add = |name: String, expr: Expr| {
            columns.push((Field { name, ty: expr.ty.clone() }, expr));
        };
        for item in projection {
            match item {
                ast::SelectItem::UnnamedExpr(expr) => {
                    let before = self.parts.get();
                    let bound = self.bind(expr, self.place(), 0)?;
                    // Writing a deep expression takes a deep stack.
                    let long = self.parts.get() - before > EXPRESSION_DEPTH;
                    add(if long { "expression".into() } else { expr.to_string() }, bound);
                }
                ast::SelectItem::ExprWithAlias { expr, alias } => {
                    self.open.borrow_mut().push(&alias.value);
                    let bound = self.bind(expr, self.place(), 0);
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

    fn order(&self, sorts: &[(&'a ast::Expr, bool)]) -> Result<Vec<Sort>> {
        let sort = |&(expr, descending): &(&'a ast::Expr, bool)| {
            let expr = self.bind(expr, self.place(), 0)?;
            match expr.ty {
                Type::Array(_) => Err(refused("ORDER BY of an array", "order by a value", expr.at)),
                _ => Ok(Sort { expr, descending }),
            }
        };
        sorts.iter().map(sort).collect()
    }

    /// Checks what stands above an aggregation.
    fn aggregated(
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
        // `SELECT first_value(blob1) FROM t ORDER BY timestamp` is documented: the order is that of
        // the rows that go in.
        self.saw_aggregate.set(false);
        let inner_order = if lone { self.order(sorts).ok() } else { None }
            .filter(|order| !order.is_empty() && !self.saw_aggregate.get());
        self.groups = Some(RefCell::new(Groups { keys, ..Groups::default() }));
        let columns = self.columns(projection)?;
        let having = having.map(|e| self.condition(e, Place::Groups)).transpose()?;
        let order = match inner_order {
            None => self.order(sorts)?,
            Some(order) => {
                if let Some(groups) = &self.groups {
                    groups.borrow_mut().order = order;
                }
                Vec::new()
            }
        };
        Ok((columns, order, having))
    }

    fn condition(&self, expr: &'a ast::Expr, place: Place) -> Result<Expr> {
        let bound = self.bind(expr, place, 0)?;
        if bound.ty.is_integer() {
            return Ok(bound);
        }
        let clause = if place == Place::Where { "WHERE" } else { "HAVING" };
        Err(Error::refused(format!("{clause} takes a condition, not a {}", bound.ty))
            .help("compare it, as in x != 0")
            .at(bound.at))
    }

    fn bind(&self, expr: &'a ast::Expr, place: Place, depth: usize) -> Result<Expr> {
        let at = start(expr);
        if depth > EXPRESSION_DEPTH {
            let message = format!("an expression is deeper than {EXPRESSION_DEPTH} levels");
            return Err(Error::limit(message).at(at));
        }
        self.parts.set(self.parts.get() + 1);
        if self.parts.get() > EXPRESSION_PARTS {
            return Err(Error::limit("the expressions are too large").at(at));
        }
        if place == Place::Groups
            && let Some(key) = self.key(expr, depth)
        {
            return Ok(Expr { at, ..key });
        }
        self.bind_new(expr, place, depth, at).map_err(|error| error.at(at))
    }

    /// The group's key, if the expression is one.
    fn key(&self, expr: &'a ast::Expr, depth: usize) -> Option<Expr> {
        let groups = self.groups.as_ref()?;
        if groups.borrow().keys.is_empty() {
            return None;
        }
        let bound = self.bind(expr, Place::Key, depth).ok()?;
        let groups = groups.borrow();
        let i = groups.keys.iter().position(|key| key.same(&bound))?;
        Some(Expr { node: Node::Column(i), ..bound })
    }

    fn bind_new(
        &self,
        expr: &'a ast::Expr,
        place: Place,
        depth: usize,
        at: Option<Location>,
    ) -> Result<Expr> {
        use ast::Expr as E;
        let bind = |expr: &'a ast::Expr| self.bind(expr, place, depth + 1);
        match expr {
            E::Nested(inner) => bind(inner),
            E::Identifier(name) => self.name(name, place, depth),
            E::CompoundIdentifier(names) => {
                let column = names.last().map_or("", |name| &name.value);
                let help = format!("a query has one table: write {column} alone");
                Err(refused("a table's name before a column's", &help, at))
            }
            E::Value(value) => literal(&value.value, at),
            E::Interval(interval) => check_interval(interval, at),
            E::UnaryOp { op, expr: inner } => match op {
                ast::UnaryOperator::Minus => match &**inner {
                    E::Value(value) if matches!(value.value, ast::Value::Number(..)) => {
                        number(&value.value.to_string(), true, at)
                    }
                    _ => apply(operator("negate")?, vec![bind(inner)?], at),
                },
                ast::UnaryOperator::Not => apply(operator("NOT")?, vec![bind(inner)?], at),
                other => Err(refused(&format!("{other} before a value"), "leave it out", at)),
            },
            E::BinaryOp {
                op: op @ (ast::BinaryOperator::And | ast::BinaryOperator::Or), ..
            } => self.terms(expr, op, place, depth, at),
            E::BinaryOp { left, op, right } => {
                let function = binary(op, at)?;
                let (left, right) = (bind(left)?, bind(right)?);
                compare(function, left, right, at)
            }
            E::Between { expr: inner, negated, low, high } => {
                let value = bind(inner)?;
                let (low, high) = (bind(low)?, bind(high)?);
                let [from, to] = if *negated { ["<", ">"] } else { [">=", "<="] };
                let from = compare(operator(from)?, value.clone(), low, at)?;
                let to = compare(operator(to)?, value, high, at)?;
                let terms = vec![from, to];
                let node = if *negated { Node::Any(terms) } else { Node::All(terms) };
                Ok(Expr { node, ty: Type::UInt8, at })
            }
            E::In { expr: inner, target, negated, global } => {
                absent(!global, "GLOBAL IN", "write IN", at)?;
                let ast::InTarget::List(list) = target else {
                    return Err(refused(
                        "IN with a subquery",
                        "list the values: IN ('a', 'b')",
                        at,
                    ));
                };
                let list = list.iter().map(bind).collect::<Result<Vec<_>>>()?;
                let node = among(bind(inner)?, &list)?;
                let found = Expr { node, ty: Type::UInt8, at };
                if *negated { apply(operator("NOT")?, vec![found], at) } else { Ok(found) }
            }
            E::Like { negated, any, expr: text, pattern, escape_char }
            | E::ILike { negated, any, expr: text, pattern, escape_char } => {
                absent(!any, "LIKE ANY", "write x LIKE 'a%' OR x LIKE 'b%'", at)?;
                absent(escape_char.is_none(), "ESCAPE", "write \\\\% for a percent sign", at)?;
                let name = match (expr, negated) {
                    (E::Like { .. }, false) => "LIKE",
                    (E::Like { .. }, true) => "NOT LIKE",
                    (_, false) => "ILIKE",
                    (_, true) => "NOT ILIKE",
                };
                apply(operator(name)?, vec![bind(text)?, bind(pattern)?], at)
            }
            E::Floor { expr: inner, field } => {
                apply(known("floor")?, rounded(bind(inner)?, field, at)?, at)
            }
            E::Ceil { expr: inner, field } => {
                apply(known("ceil")?, rounded(bind(inner)?, field, at)?, at)
            }
            E::Position { expr: needle, r#in: haystack } => {
                apply(known("position")?, vec![bind(needle)?, bind(haystack)?], at)
            }
            E::Substring { expr: text, substring_from, substring_for, special, shorthand } => {
                absent(*special && !shorthand, "this form of substring", SUBSTRING, at)?;
                let mut args = vec![bind(text)?];
                for arg in [substring_from, substring_for].into_iter().flatten() {
                    args.push(bind(arg)?);
                }
                apply(known("substring")?, args, at)
            }
            E::Extract { field, syntax, expr: inner } => {
                let form = "write extract(HOUR FROM timestamp)";
                absent(*syntax == ast::ExtractSyntax::From, "this form of extract", form, at)?;
                let name = match Unit::named(&field.to_string()) {
                    Some(Unit::Year) => "toYear",
                    Some(Unit::Month) => "toMonth",
                    Some(Unit::Day) => "toDayOfMonth",
                    Some(Unit::Hour) => "toHour",
                    Some(Unit::Minute) => "toMinute",
                    Some(Unit::Second) => "toSecond",
                    None => return Err(refused(&format!("extract({field} …)"), UNITS, at)),
                };
                apply(known(name)?, vec![bind(inner)?], at)
            }
            E::Function(function) => self.function(function, place, depth, at),
            other => Err(refuse(other, at)),
        }
    }

    /// The terms of AND or OR, which the parser nests on the left.
    fn terms(
        &self,
        mut expr: &'a ast::Expr,
        joined_by: &ast::BinaryOperator,
        place: Place,
        depth: usize,
        at: Option<Location>,
    ) -> Result<Expr> {
        let mut terms = Vec::new();
        while let ast::Expr::BinaryOp { left, op, right } = expr
            && op == joined_by
        {
            terms.push(&**right);
            expr = left;
        }
        terms.push(expr);
        let terms = terms
            .into_iter()
            .rev()
            .map(|term| {
                let term = self.bind(term, place, depth + 1)?;
                if term.ty.is_integer() {
                    return Ok(term);
                }
                Err(Error::refused(format!("{joined_by} takes conditions, not a {}", term.ty))
                    .help("compare it, as in x != 0")
                    .at(term.at))
            })
            .collect::<Result<Vec<_>>>()?;
        let any_bool = terms.iter().any(|term| term.ty == Type::Bool);
        let ty = if any_bool { Type::Bool } else { Type::UInt8 };
        let and = *joined_by == ast::BinaryOperator::And;
        let node = if and { Node::All(terms) } else { Node::Any(terms) };
        Ok(Expr { node, ty, at })
    }

    fn name(&self, name: &'a ast::Ident, place: Place, depth: usize) -> Result<Expr> {
        let at = location(name.span.start);
        let word = name.value.as_str();
        let is_open = self.open.borrow().contains(&word);
        if let Some((alias, expr)) = self.aliases.get_key_value(word)
            && !is_open
        {
            self.open.borrow_mut().push(alias);
            let bound = self.bind(expr, place, depth + 1);
            self.open.borrow_mut().pop();
            return bound.map(|bound| Expr { at, ..bound });
        }
        if let Some((i, field)) = self.fields.iter().enumerate().find(|(_, f)| f.name == word) {
            if place == Place::Groups {
                return Err(Error::refused(format!(
                    "{word} is neither aggregated nor in GROUP BY"
                ))
                .help(format!("add it to GROUP BY, or write argMax({word}, timestamp)"))
                .at(at));
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
        Err(Error::refused(format!("there is no column {word}")).help(help).at(at))
    }

    fn function(
        &self,
        function: &'a ast::Function,
        place: Place,
        depth: usize,
        at: Option<Location>,
    ) -> Result<Expr> {
        let ast::Function {
            name,
            uses_odbc_syntax,
            parameters,
            args,
            within_group,
            filter,
            null_treatment,
            over,
        } = function;
        let name = name.to_string();
        absent(over.is_none(), "OVER", "use argMax() with GROUP BY", at)?;
        absent(filter.is_none(), "FILTER", "write countIf(), sumIf() or avgIf()", at)?;
        absent(
            within_group.is_empty(),
            "WITHIN GROUP",
            "write quantileExactWeighted(q)(x, w)",
            at,
        )?;
        absent(
            null_treatment.is_none() && !uses_odbc_syntax,
            "this form of a call",
            "write name(arguments)",
            at,
        )?;
        let (args, distinct) = arguments(args, &name, at)?;
        let (parameters, _) = arguments(parameters, &name, at)?;
        let aggregate = AGGREGATES.iter().find(|(known, ..)| known.eq_ignore_ascii_case(&name));
        if let Some((name, usage, aggregate)) = aggregate {
            let given = Aggregation { name, usage, function: *aggregate, distinct, at };
            return self.aggregate(&given, &parameters, &args, place, depth);
        }
        absent(!distinct, &format!("{name}(DISTINCT …)"), "leave DISTINCT out", at)?;
        absent(parameters.is_empty(), &format!("{name}()()"), "write one pair of parentheses", at)?;
        let bind = |expr: &&'a ast::Expr| self.bind(expr, place, depth + 1);
        if name.eq_ignore_ascii_case("if") {
            let [condition, then, otherwise] = args.as_slice() else {
                let message = format!("if takes 3 arguments, not {}", args.len());
                return Err(Error::refused(message).help("write if(condition, then, else)").at(at));
            };
            return choose(bind(condition)?, bind(then)?, bind(otherwise)?, at);
        }
        if name.eq_ignore_ascii_case("position") {
            let help = "write position(needle IN haystack)";
            return Err(refused("position(a, b)", help, at));
        }
        let known = scalar::function(&name).ok_or_else(|| {
            Error::refused(format!("there is no function {name}")).help(instead_of(&name)).at(at)
        })?;
        apply(known, args.iter().map(bind).collect::<Result<_>>()?, at)
    }

    fn aggregate(
        &self,
        given: &Aggregation,
        parameters: &[&'a ast::Expr],
        args: &[&'a ast::Expr],
        place: Place,
        depth: usize,
    ) -> Result<Expr> {
        let Aggregation { name, usage, mut function, distinct, at } = *given;
        let wrong = |message: String| Error::refused(message).help(format!("write {usage}")).at(at);
        let (clause, help) = match place {
            Place::Where => ("in WHERE", "write HAVING, which filters groups"),
            Place::Key => ("in GROUP BY", "aggregate in a subquery"),
            Place::Argument => ("in an aggregate function", "aggregate in a subquery"),
            Place::Rows => {
                self.saw_aggregate.set(true);
                ("here", "add GROUP BY")
            }
            Place::Groups => ("", ""),
        };
        let Some(groups) = self.groups.as_ref().filter(|_| place == Place::Groups) else {
            return Err(refused(&format!("{name}() {clause}"), help, at));
        };
        let bind = |expr: &&'a ast::Expr| self.bind(expr, Place::Argument, depth + 1);
        // The legacy form has its parameter among the arguments.
        let (parameters, args) = match args.split_first() {
            Some((first, rest)) if name == "quantileWeighted" && parameters.is_empty() => {
                (vec![*first], rest)
            }
            _ => (parameters.to_vec(), args),
        };
        self.set_parameter(&mut function, &parameters, &wrong)?;
        let conditional = name.ends_with("If");
        let may_be_distinct =
            !conditional && matches!(function, Aggregate::Count | Aggregate::Sum | Aggregate::Avg);
        if distinct && !may_be_distinct {
            return Err(refused(&format!("{name}(DISTINCT …)"), "leave DISTINCT out", at));
        }
        let mut args = args.iter().map(bind).collect::<Result<Vec<_>>>()?;
        let wanted = function.arity(distinct) + usize::from(conditional);
        if args.len() != wanted {
            if name == "count" && !distinct {
                let help = "write count() for rows, count(DISTINCT x) for different values, \
                            sum(_sample_interval) for what the sampled rows stand for";
                return Err(refused("count() of an expression", help, at));
            }
            return Err(wrong(format!("{name} takes {wanted} arguments, not {}", args.len())));
        }
        let condition = if conditional { args.pop() } else { None };
        if let Some(condition) = &condition {
            check_condition(name, condition)?;
        }
        let ty = function
            .check(&given_of(&args))
            .map_err(|message| wrong(format!("{name} {message}")))?;
        let call = AggregateCall { function, distinct, args, condition, ty: ty.clone() };
        let mut groups = groups.borrow_mut();
        let same = |known: &AggregateCall| {
            let conditions = match (&known.condition, &call.condition) {
                (None, None) => true,
                (Some(a), Some(b)) => a.same(b),
                _ => false,
            };
            conditions
                && known.function == call.function
                && known.distinct == call.distinct
                && known.args.len() == call.args.len()
                && known.args.iter().zip(&call.args).all(|(a, b)| a.same(b))
        };
        let i = groups.calls.iter().position(same).unwrap_or(groups.calls.len());
        if i == groups.calls.len() {
            groups.calls.push(call);
        }
        Ok(Expr { node: Node::Column(groups.keys.len() + i), ty, at })
    }

    /// Sets the level of a quantile or the number of topK.
    fn set_parameter(
        &self,
        function: &mut Aggregate,
        parameters: &[&'a ast::Expr],
        wrong: &impl Fn(String) -> Error,
    ) -> Result<()> {
        let number = match parameters {
            [] => None,
            [only] => match self.bind(only, Place::Argument, 0)?.literal() {
                Some(Value::Int(int)) => Some((*int).into()),
                Some(Value::Float(float)) => Some(Number::Float(*float)),
                _ => return Err(wrong("the parameter is no literal number".into())),
            },
            _ => return Err(wrong("there is one parameter".into())),
        };
        let k = |number| match number {
            Number::Int(int @ 1..) => usize::try_from(int).ok().filter(|k| *k <= TOP_K_MAX),
            _ => None,
        };
        match (function, number) {
            (Aggregate::QuantileExactWeighted(level), Some(number)) => {
                *level = number.float();
                if !(0.0..=1.0).contains(level) {
                    return Err(wrong("a quantile's level is between 0 and 1".into()));
                }
            }
            (Aggregate::QuantileExactWeighted(_), None) => {
                return Err(wrong("a quantile takes its level as a parameter".into()));
            }
            (Aggregate::TopK(n) | Aggregate::TopKWeighted(n), Some(number)) => {
                *n = k(number)
                    .ok_or_else(|| wrong(format!("the parameter is between 1 and {TOP_K_MAX}")))?;
            }
            (_, None) => {}
            (_, Some(_)) => return Err(wrong("this function takes no parameter".into())),
        }
        Ok(())
    }
}

/// A call of an aggregate function.
#[derive(Clone, Copy)]
struct Aggregation {
    name: &'static str,
    usage: &'static str,
    function: Aggregate,
    distinct: bool,
    at: Option<Location>,
}

#[derive(Clone, Copy)]
enum Number {
    Int(i64),
    Float(f64),
}

impl From<i64> for Number {
    fn from(int: i64) -> Self {
        Self::Int(int)
    }
}

impl Number {
    #[expect(clippy::cast_precision_loss, reason = "a level is small")]
    fn float(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }
}

const SUBSTRING: &str = "write substring(string, offset, length)";
const UNITS: &str = "the units are YEAR, MONTH, DAY, HOUR, MINUTE and SECOND";

fn operator(name: &str) -> Result<&'static Scalar> {
    scalar::operator(name).ok_or_else(|| Error::refused(format!("{name} is not documented")))
}

fn known(name: &str) -> Result<&'static Scalar> {
    operator(name)
}

fn binary(op: &ast::BinaryOperator, at: Option<Location>) -> Result<&'static Scalar> {
    use ast::BinaryOperator as B;
    let name = match op {
        B::Plus => "+",
        B::Minus => "-",
        B::Multiply => "*",
        B::Divide => "/",
        B::Modulo => "%",
        B::Eq => "=",
        B::NotEq => "!=",
        B::Lt => "<",
        B::LtEq => "<=",
        B::Gt => ">",
        B::GtEq => ">=",
        other => {
            let help = match other {
                B::StringConcat => "write format('{}{}', a, b)",
                B::BitwiseAnd => "write bitAnd(a, b)",
                B::BitwiseOr => "write bitOr(a, b)",
                B::BitwiseXor | B::Xor => "write bitXor(a, b)",
                B::PGBitwiseShiftLeft => "write bitShiftLeft(a, n)",
                B::PGBitwiseShiftRight => "write bitShiftRight(a, n)",
                B::DuckIntegerDivide | B::MyIntegerDivide => "write intDiv(a, b)",
                B::Spaceship => "write a = b",
                _ => "the operators are + - * / % = != < <= > >= AND OR NOT IN BETWEEN LIKE ILIKE",
            };
            return Err(refused(&format!("the operator {other}"), help, at));
        }
    };
    operator(name)
}

fn given_of(args: &[Expr]) -> Vec<Given<'_>> {
    args.iter().map(|arg| Given { ty: &arg.ty, literal: arg.literal() }).collect()
}

/// Checks a call of a function.
fn apply(function: &'static Scalar, args: Vec<Expr>, at: Option<Location>) -> Result<Expr> {
    let (least, greatest) = function.arity;
    let (name, usage) = (function.name, function.usage);
    if args.len() < least || args.len() > greatest {
        let wanted = if least == greatest { least.to_string() } else { format!("{least} or more") };
        let message = format!("{name} takes {wanted} arguments, not {}", args.len());
        return Err(Error::refused(message).help(format!("write {usage}")).at(at));
    }
    let ty = (function.check)(&given_of(&args))
        .map_err(|message| Error::refused(format!("{name} {message}")).at(at))?;
    Ok(Expr { node: Node::Call(function, args), ty, at })
}

/// Checks an operator with two sides; a string literal beside a date is read as one.
fn compare(
    function: &'static Scalar,
    left: Expr,
    right: Expr,
    at: Option<Location>,
) -> Result<Expr> {
    let is_comparison = ["=", "!=", "<", "<=", ">", ">="].contains(&function.name);
    if !is_comparison {
        return apply(function, vec![left, right], at);
    }
    let left = as_date(left, &right.ty)?;
    let right = as_date(right, &left.ty)?;
    apply(function, vec![left, right], at)
}

/// Reads a string literal as the date that it stands beside.
fn as_date(expr: Expr, beside: &Type) -> Result<Expr> {
    let Some(Value::Text(text)) = expr.literal() else { return Ok(expr) };
    let value = match beside {
        Type::DateTime(zone) => time::parse_date_time(text, zone.as_ref()),
        Type::Date => time::parse_date(text.as_bytes()),
        _ => return Ok(expr),
    };
    let value = value.ok_or_else(|| {
        Error::refused(format!("'{text}' is no {beside}"))
            .help("write 'YYYY-MM-DD hh:mm:ss'")
            .at(expr.at)
    })?;
    Ok(Expr { node: Node::Literal(Value::Int(value)), ty: beside.clone(), at: expr.at })
}

fn check_condition(name: &str, condition: &Expr) -> Result<()> {
    if matches!(condition.ty, Type::UInt8 | Type::Bool) {
        return Ok(());
    }
    Err(Error::refused(format!("{name} takes a condition, not a {}", condition.ty))
        .help("compare it, as in x != 0")
        .at(condition.at))
}

fn choose(condition: Expr, then: Expr, otherwise: Expr, at: Option<Location>) -> Result<Expr> {
    check_condition("if", &condition)?;
    let ty = then.ty.common(&otherwise.ty).ok_or_else(|| {
        let help = if then.ty.is_number() && otherwise.ty.is_number() {
            "make both a double: write x * 1.0"
        } else {
            "both results need a common type"
        };
        Error::refused(format!("if does not choose between {} and {}", then.ty, otherwise.ty))
            .help(help)
            .at(at)
    })?;
    Ok(Expr { node: Node::If(Box::new([condition, then, otherwise])), ty, at })
}

/// Checks IN: literals that the value can be compared with.
fn among(value: Expr, list: &[Expr]) -> Result<Node> {
    let unfit = |item: &Expr| {
        Error::refused(format!("IN does not compare {} and {}", value.ty, item.ty)).at(item.at)
    };
    let mut members = match value.ty {
        Type::String => Members::Texts(HashSet::new()),
        Type::Float64 => Members::Floats(HashSet::new()),
        _ => Members::Ints(HashSet::new()),
    };
    for item in list {
        let item = as_date(item.clone(), &value.ty)?;
        let Some(literal) = item.literal() else {
            return Err(refused("IN of what is no literal", "write x = a OR x = b", item.at));
        };
        let wide = |int: i64| match item.ty {
            Type::UInt64 => i128::from(int.cast_unsigned()),
            _ => i128::from(int),
        };
        match (&mut members, literal) {
            (Members::Texts(texts), Value::Text(text)) => {
                texts.insert(text.to_string());
            }
            (Members::Floats(floats), Value::Float(float)) => {
                floats.insert((float + 0.0).to_bits());
            }
            #[expect(clippy::cast_precision_loss, reason = "as ClickHouse does")]
            (Members::Floats(floats), Value::Int(int)) if item.ty.is_number() => {
                floats.insert((wide(*int) as f64).to_bits());
            }
            (Members::Ints(ints), Value::Int(int)) if comparable(&value.ty, &item.ty) => {
                // A member beyond the type is never met.
                let whole = wide(*int);
                let bits = match value.ty {
                    Type::UInt64 => u64::try_from(whole).map(u64::cast_signed).ok(),
                    _ => i64::try_from(whole).ok(),
                };
                ints.extend(bits);
            }
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
            (Members::Ints(ints), Value::Float(float)) if value.ty.is_number() => {
                let whole = *float as i128;
                let bits = match value.ty {
                    Type::UInt64 => u64::try_from(whole).map(u64::cast_signed).ok(),
                    _ => i64::try_from(whole).ok(),
                };
                ints.extend(bits.filter(|_| float.fract() == 0.0));
            }
            _ => return Err(unfit(&item)),
        }
    }
    Ok(Node::Among(Box::new(value), Arc::new(members)))
}

/// Whether integers of those types mean the same.
fn comparable(a: &Type, b: &Type) -> bool {
    a.is_number() && b.is_number()
        || a == b
        || matches!(a, Type::DateTime(_)) && (b.is_number() || matches!(b, Type::DateTime(_)))
}

/// The arguments of `floor` and `ceil`.
fn rounded(value: Expr, field: &ast::CeilFloorKind, at: Option<Location>) -> Result<Vec<Expr>> {
    match field {
        ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) => Ok(vec![value]),
        ast::CeilFloorKind::DateTimeField(_) => {
            Err(refused("rounding TO a unit", "write toStartOfInterval()", at))
        }
        ast::CeilFloorKind::Scale(scale) => Ok(vec![value, literal(&scale.value, at)?]),
    }
}

/// The arguments of a call, and whether they are DISTINCT.
fn arguments<'a>(
    args: &'a ast::FunctionArguments,
    name: &str,
    at: Option<Location>,
) -> Result<(Vec<&'a ast::Expr>, bool)> {
    let list = match args {
        ast::FunctionArguments::None => return Ok((Vec::new(), false)),
        ast::FunctionArguments::List(list) => list,
        ast::FunctionArguments::Subquery(_) => {
            return Err(refused("a subquery outside of FROM", "put it into FROM", at));
        }
    };
    let ast::FunctionArgumentList { duplicate_treatment, args, clauses } = list;
    absent(clauses.is_empty(), "a clause among arguments", "leave it out", at)?;
    let distinct = match duplicate_treatment {
        None => false,
        Some(ast::DuplicateTreatment::Distinct) => true,
        Some(ast::DuplicateTreatment::All) => {
            return Err(refused("ALL among arguments", "leave it out", at));
        }
    };
    let args = args
        .iter()
        .map(|arg| match arg {
            ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => Ok(expr),
            _ if name.eq_ignore_ascii_case("count") => {
                Err(refused("count(*)", "write count()", at))
            }
            _ => Err(refused("this form of an argument", "write an expression", at)),
        })
        .collect::<Result<_>>()?;
    Ok((args, distinct))
}

fn literal(value: &ast::Value, at: Option<Location>) -> Result<Expr> {
    match value {
        ast::Value::Number(text, false) => number(text, false, at),
        ast::Value::SingleQuotedString(text) => {
            let node = Node::Literal(Value::Text(text.as_str().into()));
            Ok(Expr { node, ty: Type::String, at })
        }
        ast::Value::Boolean(value) => {
            let node = Node::Literal(Value::Int(i64::from(*value)));
            Ok(Expr { node, ty: Type::Bool, at })
        }
        ast::Value::Null => {
            let help = "there is no NULL: what was not written is '' or 0";
            Err(refused("NULL", help, at))
        }
        other => Err(refused(&format!("the literal {other}"), "strings have single quotes", at)),
    }
}

fn number(text: &str, negative: bool, at: Option<Location>) -> Result<Expr> {
    let wrong = || Error::refused(format!("{text} is no number")).at(at);
    if !text.starts_with(|c: char| c.is_ascii_digit() || c == '.') || text.contains('_') {
        return Err(wrong());
    }
    let int = text.parse::<i128>().ok().map(|int| if negative { -int } else { int });
    if let Some(int) = int
        && let Some(ty) = Type::of_integer(int)
    {
        #[expect(clippy::cast_possible_truncation, reason = "the bits of an unsigned integer")]
        let value = Value::Int(int as i64);
        return Ok(Expr { node: Node::Literal(value), ty, at });
    }
    let float: f64 = text.parse().map_err(|_| wrong())?;
    if !float.is_finite() {
        return Err(wrong());
    }
    let value = Value::Float(if negative { -float } else { float });
    Ok(Expr { node: Node::Literal(value), ty: Type::Float64, at })
}

fn check_interval(interval: &ast::Interval, at: Option<Location>) -> Result<Expr> {
    let ast::Interval {
        value,
        leading_field,
        leading_precision,
        last_field,
        fractional_seconds_precision,
    } = interval;
    let help = "write INTERVAL '1' DAY";
    let plain = leading_precision.is_none()
        && last_field.is_none()
        && fractional_seconds_precision.is_none();
    absent(plain, "this form of INTERVAL", help, at)?;
    let count = match &**value {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::SingleQuotedString(text) => text.parse::<i64>().ok(),
            _ => None,
        },
        _ => None,
    };
    let count = count.ok_or_else(|| {
        Error::refused("INTERVAL takes a whole number in quotes").help(help).at(at)
    })?;
    let unit = leading_field.as_ref().map(ToString::to_string).unwrap_or_default();
    let unit =
        Unit::named(&unit).ok_or_else(|| refused(&format!("INTERVAL in {unit}"), UNITS, at))?;
    Ok(Expr { node: Node::Literal(Value::Int(count)), ty: Type::Interval(unit), at })
}

/// Refuses what has no place in the dialect, by its name.
fn refuse(expr: &ast::Expr, at: Option<Location>) -> Error {
    use ast::Expr as E;
    let (what, help) = match expr {
        E::Case { .. } => ("CASE", "write if(condition, a, b)"),
        E::IsNull(_) | E::IsNotNull(_) => ("IS NULL", "there is no NULL: write empty(x), or x = 0"),
        E::IsTrue(_) | E::IsNotTrue(_) | E::IsFalse(_) | E::IsNotFalse(_) => {
            ("IS TRUE", "write the condition itself, or NOT before it")
        }
        E::IsDistinctFrom(..) | E::IsNotDistinctFrom(..) => ("IS DISTINCT FROM", "write a != b"),
        E::Cast { .. } | E::Convert { .. } => {
            ("CAST", "write toUInt8(x), toUInt32(x) or toDateTime(x)")
        }
        E::TypedString(_) => ("a literal with a type", "write toDateTime('2026-01-02 03:04:05')"),
        E::Exists { .. } | E::Subquery(_) => ("a subquery outside of FROM", "put it into FROM"),
        E::SimilarTo { .. } | E::RLike { .. } => {
            ("a regular expression", "write x LIKE '%pattern%'")
        }
        E::Collate { .. } => ("COLLATE", "compare lower(a) and lower(b)"),
        E::Trim { .. } => ("TRIM", "write substring(), or trim before you write the data point"),
        E::Overlay { .. } => ("OVERLAY", "write format() and substring()"),
        E::AtTimeZone { .. } => ("AT TIME ZONE", "write toDateTime(x, 'Europe/Berlin')"),
        E::Tuple(_) => ("a tuple", "compare each value"),
        E::Lambda(_) => ("a lambda", "there are no arrays to apply it to"),
        E::AnyOp { .. } | E::AllOp { .. } => ("ANY or ALL", "write x IN (…)"),
        E::GroupingSets(_) | E::Cube(_) | E::Rollup(_) => {
            ("GROUPING SETS, CUBE or ROLLUP", "send a query for each grouping")
        }
        _ => ("this expression", "aesql's README lists what is documented"),
    };
    refused(what, help, at)
}
