//! Checks a query against Analytics Engine's documentation, and resolves its names and types.
//!
//! Refuses every unknown construct: the code destructures the parser's types without `..`, so that a new field
//! is a compile error until the check handles it.

mod aggregation;
mod cost;
mod expression;
mod literal;
mod operands;
mod refusal;
mod scope;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use sqlparser::ast::{self, Spanned};

pub(crate) use self::cost::Cost;
use self::refusal::{absent, refused, start};
use self::scope::{Clause, Scope};
use crate::error::{Error, Location, Result};
use crate::output::Format;
use crate::parse::{self, ParsedStatement, location};
use crate::plan::{Expr, Plan, Select, Source, Statement};
use crate::table::Slot;
use crate::value::Field;
use crate::value::Type;

pub(crate) fn check(parsed: ParsedStatement, cost: &Cost) -> Result<Plan> {
    match parsed {
        ParsedStatement::Show(words) => check_show(&words),
        ParsedStatement::Select(query) => {
            cost.parts.set(0);
            cost.warnings.take();
            let before = cost.bytes.get();
            let format = match &query.format_clause {
                None => Format::default(),
                Some(ast::FormatClause::Identifier(name)) => {
                    parse::format(&name.value, location(name.span.start))?
                }
                Some(ast::FormatClause::Null) => parse::format("NULL", None)?,
            };
            let select = check_query(&query, true, cost)?;
            let bytes = cost.bytes.get() - before;
            let warnings = cost.warnings.take();
            Ok(Plan { statement: Statement::Select(Box::new(select)), format, warnings, bytes })
        }
    }
}

fn check_show(words: &[(String, Option<Location>)]) -> Result<Plan> {
    let upper: Vec<String> = words.iter().map(|(word, _)| word.to_ascii_uppercase()).collect();
    let at = words.first().and_then(|(_, at)| *at);
    let refused = || {
        Error::refused("this SHOW is not documented")
            .help("write SHOW TABLES, SHOW TIMEZONE or SHOW TIMEZONES, with or without FORMAT")
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
    Ok(Plan { statement, format, warnings: Vec::new(), bytes: 0 })
}

fn check_query(query: &ast::Query, outermost: bool, cost: &Cost) -> Result<Select> {
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
            _ => ("this statement".into(), "write SELECT … FROM …"),
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
    if !outermost && matches!(select.from.as_slice(), [from] if is_subquery(&from.relation)) {
        return Err(Error::refused("cannot nest subqueries inside subqueries")
            .help("a subquery's FROM names a dataset: write what it selects in one query")
            .at(at));
    }
    check_select(select, order_by.as_ref(), limit_clause.as_ref(), cost)
}

fn is_subquery(relation: &ast::TableFactor) -> bool {
    matches!(relation, ast::TableFactor::Derived { .. })
}

/// The start of a query's body. A loop, since recursion could exhaust the stack.
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
    cost: &Cost,
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
    if distinct.is_some() {
        return Err(Error::refused("selection used unsupported features: SELECT DISTINCT")
            .help("write SELECT x … GROUP BY x")
            .at(at));
    }
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
    let (source, fields) = check_from(from, cost)?;
    let mut scope = Scope {
        fields: &fields,
        aliases: aliases(projection)?,
        selected: projection.iter().filter_map(selected).collect(),
        open: RefCell::new(Vec::new()),
        groups: None,
        saw_aggregate: Cell::new(false),
        ordering: Cell::new(false),
        cost,
    };
    let filter = selection.as_ref().map(|e| scope.condition(e, Clause::Where)).transpose()?;
    let keys = check_group_by(group_by, &scope)?;
    let sorts = check_order_by(order_by)?;

    // Without GROUP BY, an aggregate function anywhere makes the query an aggregation.
    let rows = if keys.is_empty() { Some(scope.columns(projection)) } else { None };
    let has_having = having.is_some();
    let (columns, order, having) = match rows {
        Some(Ok(columns)) if !scope.saw_aggregate.get() && !has_having => {
            match scope.order(&sorts, projection) {
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

fn check_from(from: &[ast::TableWithJoins], cost: &Cost) -> Result<(Source, Vec<Field>)> {
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
            let select = check_query(subquery, false, cost)?;
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

/// The name of a column that is selected under its own name.
fn selected(item: &ast::SelectItem) -> Option<&str> {
    match item {
        ast::SelectItem::UnnamedExpr(ast::Expr::Identifier(name)) => Some(&name.value),
        _ => None,
    }
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
            let expr = scope.bind(key, Clause::GroupBy, 0)?;
            if !matches!(key, ast::Expr::Identifier(_)) {
                let message = "in the GROUP BY clause you may only provide column names";
                let help = "write SELECT expression AS name … GROUP BY name";
                scope.cost.warn(Error::warning(message).help(help).at(start(key)));
            }
            match expr.ty {
                Type::Array(_) => Err(refused("GROUP BY of an array", "group by a value", expr.at)),
                _ => Ok(expr),
            }
        })
        .collect()
}

/// Refuses a number: `GROUP BY 1` means the first column in some databases, and a constant in others.
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
