//! Aggregate functions.

use std::cmp::Ordering;

use hashbrown::{HashMap, HashSet};

use crate::column::{Column, Interner, LAST};
use crate::error::Result;
use crate::plan::AggregateCall;
use crate::scalar::{Checked, Given};
use crate::value::{Type, Value};

/// An aggregate function. Those that end in If are the ones without, with a condition.
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
    /// The level, 0 to 1.
    QuantileExactWeighted(f64),
    /// How many values.
    TopK(usize),
    TopKWeighted(usize),
}

/// `ClickHouse`'s own limit for topK.
pub(crate) const TOP_K_MAX: usize = 65_536;

/// The value of a number that no parameter gives.
pub(crate) const TOP_K_DEFAULT: usize = 10;

/// Names, how they are written, and what they are.
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
    /// How many arguments it takes, but for a condition.
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

    /// The type of the result, or what is wrong with the arguments.
    pub(crate) fn check(self, args: &[Given]) -> Checked {
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

/// The aggregate of every group so far.
pub(crate) struct State<'a> {
    call: &'a AggregateCall,
    groups: Groups,
    /// With DISTINCT: what each group has seen.
    seen: HashSet<(u32, u64)>,
    interner: Interner,
    /// The row of each group in this batch that counts, and which groups have one.
    winners: Vec<Option<u32>>,
    touched: Vec<u32>,
}

/// By number of the group.
enum Groups {
    Counts(Vec<u64>),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    /// Sum and count.
    Means(Vec<(f64, u64)>),
    IntMeans(Vec<(i128, u64)>),
    /// What decides, and what it decides on.
    Best(Vec<Option<(Value, Value)>>),
    /// Order, bits and weight.
    Weighted(Vec<Vec<(u64, u64, u64)>>),
    Tops(HashMap<(u32, u64), u64>),
}

impl<'a> State<'a> {
    pub(crate) fn new(call: &'a AggregateCall) -> Self {
        let float = call.args.first().is_some_and(|arg| arg.ty == Type::Float64);
        let groups = match call.function {
            Aggregate::Count => Groups::Counts(Vec::new()),
            Aggregate::Sum if float => Groups::Floats(Vec::new()),
            Aggregate::Sum => Groups::Ints(Vec::new()),
            Aggregate::Avg if float => Groups::Means(Vec::new()),
            Aggregate::Avg => Groups::IntMeans(Vec::new()),
            Aggregate::QuantileExactWeighted(_) => Groups::Weighted(Vec::new()),
            Aggregate::TopK(_) | Aggregate::TopKWeighted(_) => Groups::Tops(HashMap::new()),
            _ => Groups::Best(Vec::new()),
        };
        Self {
            call,
            groups,
            seen: HashSet::new(),
            interner: Interner::default(),
            winners: Vec::new(),
            touched: Vec::new(),
        }
    }

    fn arg_type(&self, i: usize) -> &'a Type {
        self.call.args.get(i).map_or(&Type::UInt8, |arg| &arg.ty)
    }

    /// Adds rows: `slots` has the group of each, of which there are `groups` by now, and `args` the
    /// values of the arguments.
    pub(crate) fn update(&mut self, groups: usize, slots: &[u32], args: &[Column]) -> Result<()> {
        if self.call.distinct {
            let keys = column(args, 0).keys(self.arg_type(0), slots.len(), &mut self.interner)?;
            let fresh: Vec<u32> = (0..)
                .zip(slots.iter().zip(keys))
                .filter(|(_, (slot, key))| self.seen.insert((**slot, *key)))
                .map(|(row, _)| row)
                .collect();
            let slots: Vec<u32> =
                fresh.iter().filter_map(|row| slots.get(*row as usize).copied()).collect();
            let args: Vec<Column> = args.iter().map(|arg| arg.take(&fresh)).collect();
            return self.add(groups, &slots, &args);
        }
        self.add(groups, slots, args)
    }

    fn add(&mut self, groups: usize, slots: &[u32], args: &[Column]) -> Result<()> {
        let (first, second) = (column(args, 0), column(args, 1));
        let rows = slots.len();
        let (first_type, second_type) = (self.arg_type(0), self.arg_type(1));
        match &mut self.groups {
            Groups::Counts(counts) => each(counts, groups, slots, |count, _| *count += 1),
            Groups::Ints(sums) => each(sums, groups, slots, |sum, row| {
                *sum = sum.wrapping_add(first.int(row));
            }),
            Groups::Floats(sums) => each(sums, groups, slots, |sum, row| *sum += first.float(row)),
            Groups::Means(means) => each(means, groups, slots, |(sum, count), row| {
                *sum += first.float(row);
                *count += 1;
            }),
            Groups::IntMeans(means) => each(means, groups, slots, |(sum, count), row| {
                let value = first.int(row);
                *sum += match first_type {
                    Type::UInt64 => i128::from(value.cast_unsigned()),
                    _ => i128::from(value),
                };
                *count += 1;
            }),
            Groups::Weighted(values) => {
                let order = first.order(first_type, rows);
                let keys = first.keys(first_type, rows, &mut self.interner)?;
                let pairs: Vec<(u64, u64)> = order.into_iter().zip(keys).collect();
                each(values, groups, slots, |values, row| {
                    if let Some((order, key)) = pairs.get(row)
                        && !(*first_type == Type::Float64 && *order == LAST)
                    {
                        values.push((*order, *key, second.int(row).cast_unsigned()));
                    }
                });
            }
            Groups::Tops(counts) => {
                let keys = first.keys(first_type, rows, &mut self.interner)?;
                let weighted = matches!(self.call.function, Aggregate::TopKWeighted(_));
                for (row, (slot, key)) in slots.iter().zip(keys).enumerate() {
                    let weight = if weighted { second.int(row).cast_unsigned() } else { 1 };
                    let count = counts.entry((*slot, key)).or_insert(0);
                    *count = count.wrapping_add(weight);
                }
            }
            Groups::Best(_) => {
                let (by, by_type) = match self.call.function {
                    Aggregate::ArgMin | Aggregate::ArgMax => (second, second_type),
                    _ => (first, first_type),
                };
                self.add_best(groups, slots, first, by, by_type);
            }
        }
        Ok(())
    }

    /// Finds the row that counts of each group in this batch, then sets it against those before.
    fn add_best(
        &mut self,
        groups: usize,
        slots: &[u32],
        arg: &Column,
        by: &Column,
        by_type: &Type,
    ) {
        self.winners.resize(groups, None);
        let rank = self.ranks(by, by_type, slots.len());
        let function = self.call.function;
        for (row, slot) in (0_u32..).zip(slots) {
            let Some(winner) = self.winners.get_mut(*slot as usize) else { continue };
            let wins = match *winner {
                None => {
                    self.touched.push(*slot);
                    true
                }
                Some(_) if function == Aggregate::FirstValue => false,
                Some(_) if function == Aggregate::LastValue => true,
                Some(best) => rank.get(row as usize) > rank.get(best as usize),
            };
            if wins {
                *winner = Some(row);
            }
        }
        let Groups::Best(best) = &mut self.groups else { return };
        best.resize(groups, None);
        for slot in self.touched.drain(..) {
            let slot = slot as usize;
            let Some(row) = self.winners.get_mut(slot).and_then(Option::take) else { continue };
            let Some(best) = best.get_mut(slot) else { continue };
            let candidate = by.value(row as usize);
            let wins = match best {
                None => true,
                Some((decides, _)) => match function {
                    Aggregate::FirstValue => false,
                    Aggregate::LastValue => true,
                    Aggregate::Min | Aggregate::ArgMin => precedes(&candidate, decides, by_type),
                    _ => precedes_from_the_end(&candidate, decides, by_type),
                },
            };
            if wins {
                *best = Some((candidate, arg.value(row as usize)));
            }
        }
    }

    /// A number for each row, of which the greatest wins; not-a-number loses.
    fn ranks(&self, by: &Column, ty: &Type, rows: usize) -> Vec<u64> {
        let lowest = matches!(self.call.function, Aggregate::Min | Aggregate::ArgMin);
        let float = *ty == Type::Float64;
        let mut order = match self.call.function {
            Aggregate::FirstValue | Aggregate::LastValue => Vec::new(),
            _ => by.order(ty, rows),
        };
        for rank in &mut order {
            if float && *rank == LAST {
                *rank = 0;
            } else if lowest {
                *rank = !*rank;
            }
        }
        order
    }

    /// The aggregate of each of that many groups.
    pub(crate) fn finish(self, groups: usize) -> Result<Column> {
        let ty = &self.call.ty;
        let first_type = self.arg_type(0);
        let values = 0..groups;
        let rest = |len: usize| std::iter::repeat_n((), groups.saturating_sub(len));
        Ok(match self.groups {
            Groups::Counts(counts) => Column::Ints(
                counts
                    .iter()
                    .map(|c| c.cast_signed())
                    .chain(rest(counts.len()).map(|()| 0))
                    .collect(),
            ),
            Groups::Ints(mut sums) => {
                sums.resize(groups, 0);
                Column::Ints(sums)
            }
            Groups::Floats(mut sums) => {
                sums.resize(groups, 0.0);
                Column::Floats(sums)
            }
            #[expect(clippy::cast_precision_loss, reason = "as ClickHouse does")]
            Groups::Means(mut means) => {
                means.resize(groups, (0.0, 0));
                Column::Floats(means.into_iter().map(|(sum, count)| sum / count as f64).collect())
            }
            #[expect(clippy::cast_precision_loss, reason = "as ClickHouse does")]
            Groups::IntMeans(mut means) => {
                means.resize(groups, (0, 0));
                let mean = |(sum, count)| sum as f64 / count as f64;
                Column::Floats(means.into_iter().map(mean).collect())
            }
            Groups::Best(mut best) => {
                best.resize(groups, None);
                let value = |best: Option<(Value, Value)>| {
                    best.map_or_else(|| ty.default_value(), |(_, value)| value)
                };
                Column::of(ty, best.into_iter().map(value))?
            }
            Groups::Weighted(mut all) => {
                all.resize(groups, Vec::new());
                let level = match self.call.function {
                    Aggregate::QuantileExactWeighted(level) => level,
                    _ => 0.5,
                };
                let value = |values: Vec<(u64, u64, u64)>| match quantile(values, level) {
                    Some(key) => Column::key_value(first_type, key, &self.interner),
                    None if *ty == Type::Float64 => Value::Float(f64::NAN),
                    None => ty.default_value(),
                };
                Column::of(ty, all.into_iter().map(value))?
            }
            Groups::Tops(counts) => {
                let mut tops: Vec<Vec<(u64, Value)>> = values.map(|_| Vec::new()).collect();
                for ((slot, key), count) in counts {
                    if let Some(top) = tops.get_mut(slot as usize) {
                        top.push((count, Column::key_value(first_type, key, &self.interner)));
                    }
                }
                let k = match self.call.function {
                    Aggregate::TopK(k) | Aggregate::TopKWeighted(k) => k,
                    _ => TOP_K_DEFAULT,
                };
                let array = |mut top: Vec<(u64, Value)>| {
                    top.sort_by(|(a_count, a), (b_count, b)| {
                        b_count.cmp(a_count).then_with(|| compare(a, b, first_type))
                    });
                    Value::Array(top.into_iter().take(k).map(|(_, value)| value).collect())
                };
                Column::of(ty, tops.into_iter().map(array))?
            }
        })
    }
}

fn column(args: &[Column], i: usize) -> &Column {
    static NONE: Column = Column::Same(Value::Int(0));
    args.get(i).unwrap_or(&NONE)
}

/// Updates the state of each row's group.
fn each<T: Clone + Default>(
    states: &mut Vec<T>,
    groups: usize,
    slots: &[u32],
    mut update: impl FnMut(&mut T, usize),
) {
    states.resize(groups, T::default());
    for (row, slot) in slots.iter().enumerate() {
        if let Some(state) = states.get_mut(*slot as usize) {
            update(state, row);
        }
    }
}

/// Compares two values of a type; not-a-number is last.
fn compare(a: &Value, b: &Value, ty: &Type) -> Ordering {
    if let (Value::Text(a), Value::Text(b)) = (a, b) {
        return a.cmp(b);
    }
    let order = |value: &Value| Column::Same(value.clone()).order(ty, 1);
    order(a).cmp(&order(b))
}

fn is_nan(value: &Value) -> bool {
    matches!(value, Value::Float(float) if float.is_nan())
}

fn precedes(a: &Value, b: &Value, ty: &Type) -> bool {
    compare(a, b, ty).is_lt()
}

fn precedes_from_the_end(a: &Value, b: &Value, ty: &Type) -> bool {
    !is_nan(a) && (is_nan(b) || compare(a, b, ty).is_gt())
}

/// The first value at which the weights so far reach the level's share of them all.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "as ClickHouse does"
)]
fn quantile(mut values: Vec<(u64, u64, u64)>, level: f64) -> Option<u64> {
    values.sort_unstable();
    let total = values.iter().fold(0_u64, |sum, (_, _, weight)| sum.wrapping_add(*weight));
    let threshold = (total as f64 * level).ceil() as u64;
    let mut so_far = 0_u64;
    let reached = values.iter().find(|(_, _, weight)| {
        so_far = so_far.wrapping_add(*weight);
        so_far >= threshold
    });
    reached.or(values.last()).map(|(_, key, _)| *key)
}
