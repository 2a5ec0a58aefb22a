//! Evaluates aggregate functions over the rows of each group.

use std::cmp::Ordering;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::aggregate::Aggregate;
use crate::column::{Column, Interner, NAN_ORDER, float_order, int_order, key_text};
use crate::error::Result;
use crate::memory::{Charge, Memory, TrackedVec};
use crate::plan::AggregateCall;
use crate::value::{Type, Value};

/// The states of one aggregate function call, one state per group.
pub(crate) struct Accumulator<'a> {
    call: &'a AggregateCall,
    groups: States,
    /// For DISTINCT: each value so far, as group and key.
    seen: HashSet<(u32, u64)>,
    interner: Interner,
    /// The current batch's best row of each group, and the groups that have one.
    winners: Vec<Option<u32>>,
    touched: Vec<u32>,
    memory: &'a Memory,
    /// Counts all fields above except the interner, which has its own charge.
    charge: Charge,
}

/// The states, indexed by group.
enum States {
    Counts(Vec<u64>),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    /// Sum and count.
    Means(Vec<(f64, u64)>),
    IntMeans(Vec<(i128, u64)>),
    /// The value to compare, and the value to return.
    Best(Vec<Option<(Value, Value)>>),
    /// The weight of each distinct value, by group and key.
    Weights(HashMap<(u32, u64), u64>),
}

impl<'a> Accumulator<'a> {
    pub(crate) fn new(call: &'a AggregateCall, memory: &'a Memory) -> Result<Self> {
        let float = call.args.first().is_some_and(|arg| arg.ty == Type::Float64);
        let groups = match call.function {
            Aggregate::Count => States::Counts(Vec::new()),
            Aggregate::Sum if float => States::Floats(Vec::new()),
            Aggregate::Sum => States::Ints(Vec::new()),
            Aggregate::Avg if float => States::Means(Vec::new()),
            Aggregate::Avg => States::IntMeans(Vec::new()),
            Aggregate::QuantileExactWeighted(_)
            | Aggregate::TopK(_)
            | Aggregate::TopKWeighted(_) => States::Weights(HashMap::new()),
            _ => States::Best(Vec::new()),
        };
        Ok(Self {
            call,
            groups,
            seen: HashSet::new(),
            interner: Interner::new(memory)?,
            winners: Vec::new(),
            touched: Vec::new(),
            memory,
            charge: memory.charge(size_of::<Self>())?,
        })
    }

    fn arg_type(&self, i: usize) -> &'a Type {
        self.call.args.get(i).map_or(&Type::UInt8, |arg| &arg.ty)
    }

    /// Adds rows: `group_ids` has each row's group, `args` the argument columns, and `groups` is the number of
    /// groups so far.
    pub(crate) fn update(
        &mut self,
        groups: usize,
        group_ids: &[u32],
        args: &[Column],
    ) -> Result<()> {
        if self.call.distinct {
            let (memory, rows, ty) = (self.memory, group_ids.len(), self.arg_type(0));
            let keys = column(args, 0).keys(memory, ty, rows, &mut self.interner)?;
            let _fresh = memory.charge_rows(rows, 2 * size_of::<(u32, u32)>())?;
            let (mut fresh, mut fresh_group_ids) = (Vec::new(), Vec::new());
            for (row, (group, key)) in (0..).zip(group_ids.iter().zip(keys.iter())) {
                let Self { seen, charge, .. } = self;
                charge.reserve_table::<(u32, u64)>(seen.len(), seen.capacity())?;
                if seen.insert((*group, *key)) {
                    fresh.push(row);
                    fresh_group_ids.push(*group);
                }
            }
            let take = |arg: &Column| arg.take(memory, &fresh);
            let args = args.iter().map(take).collect::<Result<Vec<_>>>()?;
            return self.add(groups, &fresh_group_ids, &args);
        }
        self.add(groups, group_ids, args)
    }

    fn add(&mut self, groups: usize, group_ids: &[u32], args: &[Column]) -> Result<()> {
        let (first, second) = (column(args, 0), column(args, 1));
        let rows = group_ids.len();
        let (first_type, second_type) = (self.arg_type(0), self.arg_type(1));
        let (memory, charge) = (self.memory, &mut self.charge);
        match &mut self.groups {
            States::Counts(counts) => {
                each(charge, counts, groups, group_ids, |count, _| *count += 1)?;
            }
            States::Ints(sums) => each(charge, sums, groups, group_ids, |sum, row| {
                *sum = sum.wrapping_add(first.int(row));
            })?,
            States::Floats(sums) => {
                each(charge, sums, groups, group_ids, |sum, row| *sum += first.float(row))?;
            }
            States::Means(means) => each(charge, means, groups, group_ids, |(sum, count), row| {
                *sum += first.float(row);
                *count += 1;
            })?,
            States::IntMeans(means) => {
                each(charge, means, groups, group_ids, |(sum, count), row| {
                    let value = first.int(row);
                    *sum += match first_type {
                        Type::UInt64 => i128::from(value.cast_unsigned()),
                        _ => i128::from(value),
                    };
                    *count += 1;
                })?;
            }
            States::Weights(weights) => {
                let keys = first.keys(memory, first_type, rows, &mut self.interner)?;
                let weighted = !matches!(self.call.function, Aggregate::TopK(_));
                // Quantiles skip NaN, since it has no order; topK counts it.
                let skips_nan = *first_type == Type::Float64
                    && matches!(self.call.function, Aggregate::QuantileExactWeighted(_));
                for (row, (group, key)) in group_ids.iter().zip(keys.iter()).enumerate() {
                    if skips_nan && f64::from_bits(*key).is_nan() {
                        continue;
                    }
                    let weight = if weighted { second.int(row).cast_unsigned() } else { 1 };
                    charge.reserve_table::<Weight>(weights.len(), weights.capacity())?;
                    let sum = weights.entry((*group, *key)).or_insert(0);
                    *sum = sum.wrapping_add(weight);
                }
            }
            States::Best(_) => {
                let (by, by_type) = match self.call.function {
                    Aggregate::ArgMin | Aggregate::ArgMax => (second, second_type),
                    _ => (first, first_type),
                };
                self.add_best(groups, group_ids, first, by, by_type)?;
            }
        }
        Ok(())
    }

    /// Finds each group's best row in this batch, then compares it with the group's best value so far.
    fn add_best(
        &mut self,
        groups: usize,
        group_ids: &[u32],
        arg: &Column,
        by: &Column,
        by_type: &Type,
    ) -> Result<()> {
        let Self { winners, touched, charge, .. } = self;
        let new = groups.saturating_sub(winners.len());
        charge.reserve(winners, new)?;
        charge.reserve(touched, groups.min(group_ids.len()))?;
        winners.resize(groups, None);
        let rank = self.ranks(by, by_type, group_ids.len())?;
        let function = self.call.function;
        for (row, group) in (0_u32..).zip(group_ids) {
            let Some(winner) = self.winners.get_mut(*group as usize) else { continue };
            let wins = match *winner {
                None => {
                    self.touched.push(*group);
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
        let Self { groups: States::Best(best), charge, .. } = self else { return Ok(()) };
        let new = groups.saturating_sub(best.len());
        charge.reserve(best, new)?;
        best.resize(groups, None);
        // Bytes of new best strings and of the strings that they replace, charged in steps.
        let (mut won, mut lost) = (0, 0);
        for group in self.touched.drain(..) {
            let group = group as usize;
            let Some(row) = self.winners.get_mut(group).and_then(Option::take) else { continue };
            let Some(best) = best.get_mut(group) else { continue };
            let candidate = by.value(row as usize);
            let wins = match best {
                None => true,
                Some((decides, _)) => match function {
                    Aggregate::FirstValue => false,
                    Aggregate::LastValue => true,
                    Aggregate::Min | Aggregate::ArgMin => is_less(&candidate, decides, by_type),
                    _ => is_greater(&candidate, decides, by_type),
                },
            };
            if wins {
                // min(x) and max(x) return the value that they compare.
                let value =
                    if std::ptr::eq(arg, by) { candidate.clone() } else { arg.value(row as usize) };
                let pair = (candidate, value);
                won += text_bytes(&pair);
                lost += best.as_ref().map_or(0, text_bytes);
                *best = Some(pair);
            }
            if won > UNCHARGED_BYTES {
                charge.grow(std::mem::take(&mut won))?;
                charge.shrink(std::mem::take(&mut lost));
            }
        }
        charge.grow(won)?;
        charge.shrink(lost);
        Ok(())
    }

    /// A rank for each row; the highest wins, and NaN has the lowest.
    fn ranks(&self, by: &Column, ty: &Type, rows: usize) -> Result<TrackedVec<u64>> {
        let lowest = matches!(self.call.function, Aggregate::Min | Aggregate::ArgMin);
        let float = *ty == Type::Float64;
        let mut order = match self.call.function {
            Aggregate::FirstValue | Aggregate::LastValue => TrackedVec::default(),
            _ => by.order(self.memory, ty, rows)?,
        };
        for rank in order.iter_mut() {
            if float && *rank == NAN_ORDER {
                *rank = 0;
            } else if lowest {
                *rank = !*rank;
            }
        }
        Ok(order)
    }

    /// The results of all groups.
    pub(crate) fn finish(self, groups: usize) -> Result<Column> {
        let (ty, memory) = (&self.call.ty, self.memory);
        let all = 0..groups;
        match self.groups {
            States::Counts(counts) => {
                Column::ints(memory, groups, all.map(|i| state_of(&counts, i).cast_signed()))
            }
            States::Ints(sums) => Column::ints(memory, groups, all.map(|i| state_of(&sums, i))),
            States::Floats(sums) => Column::floats(memory, groups, all.map(|i| state_of(&sums, i))),
            #[expect(clippy::cast_precision_loss, reason = "as ClickHouse does")]
            States::Means(means) => {
                let mean = |(sum, count): (f64, u64)| sum / count as f64;
                Column::floats(memory, groups, all.map(|i| mean(state_of(&means, i))))
            }
            #[expect(clippy::cast_precision_loss, reason = "as ClickHouse does")]
            States::IntMeans(means) => {
                let mean = |(sum, count): (i128, u64)| sum as f64 / count as f64;
                Column::floats(memory, groups, all.map(|i| mean(state_of(&means, i))))
            }
            States::Best(best) => {
                let value = |i: usize| match best.get(i) {
                    Some(Some((_, value))) => Ok(value.clone()),
                    _ => Ok(ty.default_value()),
                };
                Column::of(memory, ty, groups, all.map(value))
            }
            States::Weights(weights) => match self.call.function {
                Aggregate::QuantileExactWeighted(level) => {
                    quantiles(weights, level, self.call, groups, memory)
                }
                Aggregate::TopK(k) | Aggregate::TopKWeighted(k) => {
                    top_k(weights, k, self.call, groups, memory, &self.interner)
                }
                _ => Ok(Column::Same(ty.default_value())),
            },
        }
    }
}

/// The keys and their weights, by group.
type Grouped = Vec<Vec<(u64, u64)>>;

fn by_group(
    weights: HashMap<(u32, u64), u64>,
    groups: usize,
    memory: &Memory,
) -> Result<(Grouped, Charge)> {
    // A vector's capacity is at most twice its length, but at least 4; sorting takes half the length.
    let size = size_of::<(u64, u64)>();
    let mut charge = memory.charge_rows(groups, size_of::<Vec<(u64, u64)>>() + 4 * size)?;
    charge.grow(weights.len().saturating_mul(3 * size))?;
    let mut grouped = vec![Vec::new(); groups];
    for ((group, key), weight) in weights {
        if let Some(own) = grouped.get_mut(group as usize) {
            own.push((key, weight));
        }
    }
    Ok((grouped, charge))
}

fn first_type(call: &AggregateCall) -> &Type {
    call.args.first().map_or(&Type::UInt8, |arg| &arg.ty)
}

fn quantiles(
    weights: HashMap<(u32, u64), u64>,
    level: f64,
    call: &AggregateCall,
    groups: usize,
    memory: &Memory,
) -> Result<Column> {
    let (grouped, _charge) = by_group(weights, groups, memory)?;
    let (ty, first_type) = (&call.ty, first_type(call));
    let value = |mut own: Vec<(u64, u64)>| match quantile(&mut own, level, first_type) {
        Some(key) if *first_type == Type::Float64 => Ok(Value::Float(f64::from_bits(key))),
        Some(key) => Ok(Value::Int(key.cast_signed())),
        None if *ty == Type::Float64 => Ok(Value::Float(f64::NAN)),
        None => Ok(ty.default_value()),
    };
    Column::of(memory, ty, groups, grouped.into_iter().map(value))
}

/// Each group's values with the highest weights.
fn top_k(
    weights: HashMap<(u32, u64), u64>,
    k: usize,
    call: &AggregateCall,
    groups: usize,
    memory: &Memory,
    interner: &Interner,
) -> Result<Column> {
    let (grouped, _charge) = by_group(weights, groups, memory)?;
    let (ty, first_type) = (&call.ty, first_type(call));
    let compare_keys = |a: u64, b: u64| match first_type {
        Type::String => key_text(a, interner).cmp(key_text(b, interner)),
        ty => {
            let value = |key| Column::key_value(ty, key, interner);
            compare(&value(a), &value(b), ty)
        }
    };
    let array = |mut top: Vec<(u64, u64)>| {
        top.sort_by(|(a, a_count), (b, b_count)| {
            b_count.cmp(a_count).then_with(|| compare_keys(*a, *b))
        });
        top.truncate(k);
        let text = |(key, _): &(u64, u64)| match first_type {
            Type::String => text_cost(key_text(*key, interner)),
            _ => 0,
        };
        let bytes = size_of::<TrackedVec<Value>>() + top.len() * size_of::<Value>();
        let charge = memory.charge(bytes + top.iter().map(text).sum::<usize>())?;
        let values = top.iter().map(|(key, _)| Column::key_value(first_type, *key, interner));
        Ok(Value::Array(Arc::new(TrackedVec::counted(values.collect(), charge))))
    };
    Column::of(memory, ty, groups, grouped.into_iter().map(array))
}

/// A group's state; the default if the group has no rows.
fn state_of<T: Copy + Default>(states: &[T], group: usize) -> T {
    states.get(group).copied().unwrap_or_default()
}

fn column(args: &[Column], i: usize) -> &Column {
    static NONE: Column = Column::Same(Value::Int(0));
    args.get(i).unwrap_or(&NONE)
}

/// Calls `update` with each row and its group's state.
fn each<T: Clone + Default>(
    charge: &mut Charge,
    states: &mut Vec<T>,
    groups: usize,
    group_ids: &[u32],
    mut update: impl FnMut(&mut T, usize),
) -> Result<()> {
    charge.reserve(states, groups.saturating_sub(states.len()))?;
    states.resize(groups, T::default());
    for (row, group) in group_ids.iter().enumerate() {
        if let Some(state) = states.get_mut(*group as usize) {
            update(state, row);
        }
    }
    Ok(())
}

/// An entry of [`States::Weights`].
type Weight = ((u32, u64), u64);

/// Maximum number of bytes that may be allocated before they are charged.
const UNCHARGED_BYTES: usize = 64 * 1024;

/// Heap memory of the strings in a pair of values.
fn text_bytes((a, b): &(Value, Value)) -> usize {
    let bytes = |value: &Value| match value {
        Value::Text(text) => text_cost(text),
        _ => 0,
    };
    bytes(a) + bytes(b)
}

/// Heap memory of an `Arc<str>`: the text, two reference counts and the allocator's overhead.
fn text_cost(text: &str) -> usize {
    text.len() + 32
}

/// Compares two values of a type; NaN sorts last.
fn compare(a: &Value, b: &Value, ty: &Type) -> Ordering {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Float(a), Value::Float(b)) => float_order(*a).cmp(&float_order(*b)),
        (Value::Int(a), Value::Int(b)) => int_order(ty, *a).cmp(&int_order(ty, *b)),
        _ => Ordering::Equal,
    }
}

fn is_nan(value: &Value) -> bool {
    matches!(value, Value::Float(float) if float.is_nan())
}

fn is_less(a: &Value, b: &Value, ty: &Type) -> bool {
    compare(a, b, ty).is_lt()
}

fn is_greater(a: &Value, b: &Value, ty: &Type) -> bool {
    !is_nan(a) && (is_nan(b) || compare(a, b, ty).is_gt())
}

/// The first value whose cumulative weight reaches `level` times the total weight.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "as ClickHouse does"
)]
fn quantile(values: &mut [(u64, u64)], level: f64, ty: &Type) -> Option<u64> {
    let order = |key: u64| match ty {
        Type::Float64 => float_order(f64::from_bits(key)),
        ty => int_order(ty, key.cast_signed()),
    };
    values.sort_unstable_by_key(|(key, _)| (order(*key), *key));
    let total = values.iter().fold(0_u64, |sum, (_, weight)| sum.wrapping_add(*weight));
    let threshold = (total as f64 * level).ceil() as u64;
    let mut so_far = 0_u64;
    let reached = values.iter().find(|(_, weight)| {
        so_far = so_far.wrapping_add(*weight);
        so_far >= threshold
    });
    reached.or(values.last()).map(|(key, _)| *key)
}
