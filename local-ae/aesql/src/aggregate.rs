//! Aggregate functions: their names and argument types.

use crate::scalar::{Argument, CheckResult};
use crate::value::Type;

/// An aggregate function. `sumIf` is `Sum` with a condition, as are `countIf` and `avgIf`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aggregate {
    Count,
    Sum,
    Avg,
    Min,
    Max,
    ArgMin,
    ArgMax,
    FirstValue,
    LastValue,
    /// The quantile's level, 0 to 1.
    QuantileExactWeighted(f64),
    /// The number of values to return.
    TopK(usize),
    TopKWeighted(usize),
}

/// `ClickHouse`'s limit for topK.
pub(crate) const TOP_K_MAX: usize = 65_536;

/// The number of values that topK returns without a parameter.
pub(crate) const TOP_K_DEFAULT: usize = 10;

/// Name, usage and function.
pub(crate) const AGGREGATES: &[(&str, &str, Aggregate)] = &[
    ("count", "count() or count(DISTINCT column)", Aggregate::Count),
    ("sum", "sum(column)", Aggregate::Sum),
    ("avg", "avg(column)", Aggregate::Avg),
    ("min", "min(column)", Aggregate::Min),
    ("max", "max(column)", Aggregate::Max),
    ("argMin", "argMin(column, of)", Aggregate::ArgMin),
    ("argMax", "argMax(column, of)", Aggregate::ArgMax),
    ("first_value", "first_value(column)", Aggregate::FirstValue),
    ("last_value", "last_value(column)", Aggregate::LastValue),
    (
        "quantileExactWeighted",
        "quantileExactWeighted(q)(column, weight)",
        Aggregate::QuantileExactWeighted(0.5),
    ),
    (
        "quantileWeighted",
        "quantileWeighted(q, column, weight)",
        Aggregate::QuantileExactWeighted(0.5),
    ),
    ("topK", "topK(n)(column)", Aggregate::TopK(TOP_K_DEFAULT)),
    ("topKWeighted", "topKWeighted(n)(column, weight)", Aggregate::TopKWeighted(TOP_K_DEFAULT)),
    ("countIf", "countIf(condition)", Aggregate::Count),
    ("sumIf", "sumIf(column, condition)", Aggregate::Sum),
    ("avgIf", "avgIf(column, condition)", Aggregate::Avg),
];

impl Aggregate {
    /// The number of arguments, not counting a condition.
    pub(crate) fn arity(self, distinct: bool) -> usize {
        match self {
            Self::Count => usize::from(distinct),
            Self::ArgMin
            | Self::ArgMax
            | Self::QuantileExactWeighted(_)
            | Self::TopKWeighted(_) => 2,
            _ => 1,
        }
    }

    /// The result type, or an error message that continues the function's name: "takes a number, …".
    pub(crate) fn check(self, args: &[Argument]) -> CheckResult {
        if let Some(array) = args.iter().find(|arg| matches!(arg.ty, Type::Array(_))) {
            return Err(format!("does not take an {}", array.ty));
        }
        let first = args.first().map_or(&Type::UInt8, |arg| arg.ty);
        let weight = args.get(1).map_or(&Type::UInt8, |arg| arg.ty);
        let needs_number = || Err(format!("takes a number, not a {first}"));
        let needs_weight = || Err(format!("takes an unsigned integer as weight, not a {weight}"));
        let unsigned = weight.is_integer() && !weight.is_signed();
        match self {
            Self::Count => Ok(Type::UInt64),
            Self::Sum => match first {
                Type::Float64 => Ok(Type::Float64),
                ty if ty.is_number() => Ok(Type::integer(ty.is_signed(), 8)),
                _ => needs_number(),
            },
            Self::Avg if first.is_number() => Ok(Type::Float64),
            Self::Avg => needs_number(),
            Self::QuantileExactWeighted(_) | Self::TopKWeighted(_) if !unsigned => needs_weight(),
            Self::QuantileExactWeighted(_) if !first.is_number() && !first.is_date() => {
                needs_number()
            }
            Self::TopK(_) | Self::TopKWeighted(_) => Ok(Type::Array(Box::new(first.clone()))),
            _ => Ok(first.clone()),
        }
    }
}
