//! Calls of aggregate functions.

use sqlparser::ast;

use super::operands::{arguments_of, check_condition, count_of};
use super::refusal::refused;
use super::scope::{Clause, Scope};
use crate::aggregate::{Aggregate, TOP_K_MAX};
use crate::error::{Error, Location, Result};
use crate::plan::{AggregateCall, Expr, Node};
use crate::value::{Type, Value};

impl<'a> Scope<'a> {
    pub(super) fn aggregate(
        &self,
        given: &Aggregation,
        parameters: &[&'a ast::Expr],
        args: &[&'a ast::Expr],
        clause: Clause,
        depth: usize,
    ) -> Result<Expr> {
        let Aggregation { name, usage, mut function, distinct, at } = *given;
        let wrong = |message: String| Error::refused(message).help(format!("write {usage}")).at(at);
        let (location, help) = match clause {
            Clause::Where => ("in WHERE", "write HAVING, which filters groups"),
            Clause::GroupBy => ("in GROUP BY", "aggregate in a subquery"),
            Clause::AggregateArgument => ("in an aggregate function", "aggregate in a subquery"),
            Clause::RowOutput => {
                self.saw_aggregate.set(true);
                ("here", "add GROUP BY")
            }
            Clause::GroupOutput => ("", ""),
        };
        let Some(groups) = self.groups.as_ref().filter(|_| clause == Clause::GroupOutput) else {
            return Err(refused(&format!("{name}() {location}"), help, at));
        };
        let bind = |expr: &&'a ast::Expr| self.bind(expr, Clause::AggregateArgument, depth + 1);
        // The legacy form quantileWeighted(q, x, w) takes the parameter as its first argument.
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
        if name == "count" && !matches!(args, [] | [ast::Expr::Identifier(_)]) && distinct {
            return Err(Error::refused("count(DISTINCT …) takes a column, not an expression")
                .help(
                    "select it in a subquery: SELECT count(DISTINCT x) FROM (SELECT … AS x FROM t)",
                )
                .at(at));
        }
        let first = args.first().copied();
        let mut args = args.iter().map(bind).collect::<Result<Vec<_>>>()?;
        let wanted = function.arity(distinct) + usize::from(conditional);
        if args.len() != wanted {
            if name == "count" && !distinct {
                let help = "write count() for rows, count(DISTINCT x) for different values, \
                            sum(_sample_interval) for what the sampled rows stand for";
                return Err(count_of(help, at));
            }
            let noun = if wanted == 1 { "argument" } else { "arguments" };
            return Err(wrong(format!("{name} takes {wanted} {noun}, not {}", args.len())));
        }
        let condition = if conditional { args.pop() } else { None };
        if let Some(condition) = &condition {
            check_condition(name, condition)?;
        }
        let takes_no_string =
            matches!(function, Aggregate::Min | Aggregate::Max | Aggregate::Sum | Aggregate::Avg);
        if takes_no_string && args.first().is_some_and(|arg| arg.ty == Type::String) {
            let arg = match first {
                Some(ast::Expr::Identifier(column)) => format!("\"{}\"", column.value),
                _ => "…".into(),
            };
            let message = format!("cannot use the String type as argument 1 in {name}({arg})");
            let help = match function {
                Aggregate::Min => "write argMin(x, timestamp) for the earliest",
                Aggregate::Max => "write argMax(x, timestamp) for the latest",
                _ => "write toUInt32(x) for a number in a string",
            };
            return Err(Error::refused(message).help(help).at(at));
        }
        let ty = function
            .check(&arguments_of(&args))
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

    /// Sets a quantile's level or topK's count.
    fn set_parameter(
        &self,
        function: &mut Aggregate,
        parameters: &[&'a ast::Expr],
        wrong: &impl Fn(String) -> Error,
    ) -> Result<()> {
        let literal = match parameters {
            [] => None,
            [only] => Some(self.bind(only, Clause::AggregateArgument, 0)?),
            _ => return Err(wrong("this function takes one parameter".into())),
        };
        let literal = literal.as_ref().map(Expr::literal);
        match (function, literal) {
            (Aggregate::QuantileExactWeighted(level), Some(Some(literal))) => {
                *level = match literal {
                    Value::Float(float) if (0.0..=1.0).contains(float) => *float,
                    Value::Int(0) => 0.0,
                    Value::Int(1) => 1.0,
                    _ => return Err(wrong("a quantile's level is between 0 and 1".into())),
                };
            }
            (Aggregate::QuantileExactWeighted(_), _) => {
                return Err(wrong("a quantile takes its level as a literal parameter".into()));
            }
            (_, None) => {}
            (Aggregate::TopK(n) | Aggregate::TopKWeighted(n), Some(Some(Value::Int(number)))) => {
                *n = usize::try_from(*number)
                    .ok()
                    .filter(|n| (1..=TOP_K_MAX).contains(n))
                    .ok_or_else(|| wrong(format!("the parameter is between 1 and {TOP_K_MAX}")))?;
            }
            (Aggregate::TopK(_) | Aggregate::TopKWeighted(_), _) => {
                return Err(wrong("the parameter is a literal number".into()));
            }
            (_, Some(_)) => return Err(wrong("this function takes no parameter".into())),
        }
        Ok(())
    }
}

/// A call's function and location.
#[derive(Clone, Copy)]
pub(super) struct Aggregation {
    pub(super) name: &'static str,
    pub(super) usage: &'static str,
    pub(super) function: Aggregate,
    pub(super) distinct: bool,
    pub(super) at: Option<Location>,
}
