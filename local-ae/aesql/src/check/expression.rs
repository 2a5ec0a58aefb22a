//! Expressions: operators and function calls.

use sqlparser::ast;

use super::aggregation::Aggregation;
use super::literal::{check_in, interval, literal, number};
use super::operands::{
    UNITS, arguments_of, check_combination, check_condition, cloud_type, count_of,
};
use super::refusal::{absent, refused};
use super::scope::{Clause, Scope};
use crate::advice::instead_of;
use crate::aggregate::AGGREGATES;
use crate::error::{Error, Location, Result};
use crate::plan::{Expr, Node};
use crate::scalar::{self, Scalar};
use crate::time::Unit;
use crate::value::Type;

impl<'a> Scope<'a> {
    pub(super) fn bind_new(
        &self,
        expr: &'a ast::Expr,
        clause: Clause,
        depth: usize,
        at: Option<Location>,
    ) -> Result<Expr> {
        use ast::Expr as E;
        let bind = |expr: &'a ast::Expr| self.bind(expr, clause, depth + 1);
        match expr {
            E::Nested(inner) => bind(inner),
            E::Identifier(name) => self.name(name, clause, depth),
            E::CompoundIdentifier(names) => {
                let column = names.last().map_or("", |name| &name.value);
                let help = format!("a query has one table: write {column} alone");
                Err(refused("a table's name before a column's", &help, at))
            }
            E::Value(value) => literal(&value.value, at),
            E::Interval(value) => interval(value, at),
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
            } => self.terms(expr, op, clause, depth, at),
            E::BinaryOp { left, op, right } => {
                let function = binary(op, at)?;
                let (left, right) = (bind(left)?, bind(right)?);
                compare(function, left, right, at)
            }
            E::Between { expr: inner, negated, low, high } => {
                let (low, high) = (bind(low)?, bind(high)?);
                let [from, to] = if *negated { ["<", ">"] } else { [">=", "<="] };
                let from = compare(operator(from)?, bind(inner)?, low, at)?;
                // Binds the operand again instead of cloning it, so that nested copies count towards the limit.
                let to = compare(operator(to)?, bind(inner)?, high, at)?;
                let terms = vec![from, to];
                let node = if *negated { Node::Or(terms) } else { Node::And(terms) };
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
                let node = check_in(bind(inner)?, &list, at)?;
                let found = Expr { node, ty: Type::UInt8, at };
                if *negated { apply(operator("NOT")?, vec![found], at) } else { Ok(found) }
            }
            E::Like { negated, any, expr: text, pattern, escape_char }
            | E::ILike { negated, any, expr: text, pattern, escape_char } => {
                absent(!any, "LIKE ANY", "write x LIKE 'a%' OR x LIKE 'b%'", at)?;
                let help = "to find a percent sign, write position('%' IN x) > 0";
                absent(escape_char.is_none(), "ESCAPE", help, at)?;
                let name = match (expr, negated) {
                    (E::Like { .. }, false) => "LIKE",
                    (E::Like { .. }, true) => "NOT LIKE",
                    (_, false) => "ILIKE",
                    (_, true) => "NOT ILIKE",
                };
                apply(operator(name)?, vec![bind(text)?, bind(pattern)?], at)
            }
            E::Floor { expr: inner, field } => {
                apply(operator("floor")?, rounded(bind(inner)?, field, at)?, at)
            }
            E::Ceil { expr: inner, field } => {
                apply(operator("ceil")?, rounded(bind(inner)?, field, at)?, at)
            }
            E::Position { expr: needle, r#in: haystack } => {
                apply(operator("position")?, vec![bind(needle)?, bind(haystack)?], at)
            }
            E::Substring { expr: text, substring_from, substring_for, special, shorthand } => {
                absent(*special && !shorthand, "this form of substring", SUBSTRING, at)?;
                let mut args = vec![bind(text)?];
                for arg in [substring_from, substring_for].into_iter().flatten() {
                    args.push(bind(arg)?);
                }
                apply(operator("substring")?, args, at)
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
                apply(operator(name)?, vec![bind(inner)?], at)
            }
            E::Function(function) => self.function(function, clause, depth, at),
            other => Err(refuse(other, at)),
        }
    }

    /// Flattens a chain of AND or OR, which the parser nests on the left.
    fn terms(
        &self,
        mut expr: &'a ast::Expr,
        joined_by: &ast::BinaryOperator,
        clause: Clause,
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
                let term = self.bind(term, clause, depth + 1)?;
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
        let node = if and { Node::And(terms) } else { Node::Or(terms) };
        Ok(Expr { node, ty, at })
    }

    fn function(
        &self,
        function: &'a ast::Function,
        clause: Clause,
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
            return self.aggregate(&given, &parameters, &args, clause, depth);
        }
        let bind = |expr: &&'a ast::Expr| self.bind(expr, clause, depth + 1);
        let plain = |name: &str| {
            absent(!distinct, &format!("{name}(DISTINCT …)"), "leave DISTINCT out", at)?;
            absent(
                parameters.is_empty(),
                &format!("{name}()()"),
                "write one pair of parentheses",
                at,
            )
        };
        if name.eq_ignore_ascii_case("if") {
            plain("if")?;
            let [condition, then, otherwise] = args.as_slice() else {
                let message = format!("if takes 3 arguments, not {}", args.len());
                return Err(Error::refused(message).help("write if(condition, then, else)").at(at));
            };
            return check_if(bind(condition)?, bind(then)?, bind(otherwise)?, at);
        }
        if name.eq_ignore_ascii_case("position") {
            let help = "write position(needle IN haystack)";
            return Err(refused("position(a, b)", help, at));
        }
        let known = scalar::function(&name).ok_or_else(|| {
            Error::refused(format!("unknown function call: {}", name.to_ascii_uppercase()))
                .help(instead_of(&name))
                .at(at)
        })?;
        plain(known.name)?;
        apply(known, args.iter().map(bind).collect::<Result<_>>()?, at)
    }
}

const SUBSTRING: &str = "write substring(string, offset, length)";

fn operator(name: &str) -> Result<&'static Scalar> {
    scalar::operator(name).ok_or_else(|| Error::refused(format!("{name} is not documented")))
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

/// Checks the number and the types of a call's arguments.
fn apply(function: &'static Scalar, args: Vec<Expr>, at: Option<Location>) -> Result<Expr> {
    let (least, greatest) = function.arity;
    let (name, usage) = (function.name, function.usage);
    if args.len() < least || args.len() > greatest {
        let wanted = if least == greatest { least.to_string() } else { format!("{least} or more") };
        let noun = if greatest == 1 { "argument" } else { "arguments" };
        let message = format!("{name} takes {wanted} {noun}, not {}", args.len());
        return Err(Error::refused(message).help(format!("write {usage}")).at(at));
    }
    let ty = (function.check)(&arguments_of(&args))
        .map_err(|message| Error::refused(format!("{name} {message}")).at(at))?;
    Ok(Expr { node: Node::Call(function, args), ty, at })
}

fn compare(
    function: &'static Scalar,
    left: Expr,
    right: Expr,
    at: Option<Location>,
) -> Result<Expr> {
    check_combination(&left, &right, function.name, at)?;
    apply(function, vec![left, right], at)
}

fn check_if(condition: Expr, then: Expr, otherwise: Expr, at: Option<Location>) -> Result<Expr> {
    check_condition("if", &condition)?;
    if let (Some(a), Some(b)) = (cloud_type(&then), cloud_type(&otherwise))
        && a != b
    {
        let message = format!(
            "the 2nd and 3rd arguments to IF() function must have the same type but instead had {a} \
             and {b}"
        );
        let help = match (a, b) {
            ("Integer", "Double") | ("Double", "Integer") => "write 0.0 for 0, and x * 1.0 for x",
            _ => "write both results in one type",
        };
        return Err(Error::refused(message).help(help).at(at));
    }
    let ty = then.ty.common(&otherwise.ty).ok_or_else(|| {
        let help = if then.ty.is_number() && otherwise.ty.is_number() {
            "make both a double: write x * 1.0"
        } else {
            "both results need a common type"
        };
        Error::refused(format!("if cannot choose between {} and {}", then.ty, otherwise.ty))
            .help(help)
            .at(at)
    })?;
    Ok(Expr { node: Node::If(Box::new([condition, then, otherwise])), ty, at })
}

/// The arguments of `floor` and `ceil`, which have their own syntax.
fn rounded(value: Expr, field: &ast::CeilFloorKind, at: Option<Location>) -> Result<Vec<Expr>> {
    match field {
        ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) => Ok(vec![value]),
        ast::CeilFloorKind::DateTimeField(_) => {
            Err(refused("rounding TO a unit", "write toStartOfInterval()", at))
        }
        ast::CeilFloorKind::Scale(scale) => Ok(vec![value, literal(&scale.value, at)?]),
    }
}

/// A call's arguments, and whether DISTINCT precedes them.
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
            _ if name.eq_ignore_ascii_case("count") => Err(count_of("write count()", at)),
            _ => Err(refused("this form of an argument", "write an expression", at)),
        })
        .collect::<Result<_>>()?;
    Ok((args, distinct))
}

/// The error for an undocumented expression.
fn refuse(expr: &ast::Expr, at: Option<Location>) -> Error {
    use ast::Expr as E;
    let (what, help) = match expr {
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
