//! Evaluates a checked query.
//!
//! A batch is a segment of a table or the result of a subquery. A filter selects rows of each batch; grouping
//! and aggregation follow. Output columns are computed only for rows within the limit. Within a batch, an
//! expression is evaluated for all rows at once.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::accumulate::Accumulator;
use crate::column::{Column, Interner, NAN_ORDER};
use crate::error::{Error, Result};
use crate::limits::{Budget, Limits};
use crate::memory::{Charge, Memory, TrackedVec};
use crate::output::QueryResult;
use crate::plan::{Expr, Groups, InList, Node, Plan, Select, Sort, Source, Statement};
use crate::scalar::ScalarCall;
use crate::table::{Segment, Slot, Table, Tables};
use crate::time::Zone;
use crate::value::Field;
use crate::value::{Type, Value};

/// `now` is in milliseconds since 1970.
pub(crate) fn run(
    plan: &Plan,
    tables: &dyn Tables,
    now: i64,
    limits: &Limits,
) -> Result<QueryResult> {
    let memory = Memory::new(limits.memory);
    memory.keep(plan.bytes)?;
    let list = |name: &str, values: Vec<String>| -> Result<QueryResult> {
        let rows = values.len();
        let texts = values.into_iter().map(|text| Ok(Value::Text(text.into())));
        Ok(QueryResult {
            fields: vec![Field { name: name.into(), ty: Type::String }],
            columns: vec![Column::of(&memory, &Type::String, rows, texts)?],
            rows,
            rows_before_limit: rows,
            format: plan.format,
            memory: memory.clone(),
        })
    };
    match &plan.statement {
        Statement::ShowTables => list("dataset", tables.names()),
        Statement::ShowTimezone => list("timezone", vec!["Etc/UTC".into()]),
        Statement::ShowTimezones => list("timezone", Zone::names()),
        Statement::Select(select) => {
            let budget = Budget::new(limits.steps, memory.clone());
            let run = Executor { tables, now: now.div_euclid(1000), budget };
            let found = run.select(select, Some(limits.rows))?;
            Ok(QueryResult {
                fields: select.columns.iter().map(|(field, _)| field.clone()).collect(),
                columns: found.columns,
                rows: found.rows,
                rows_before_limit: found.rows_before_limit,
                format: plan.format,
                memory: memory.clone(),
            })
        }
    }
}

struct Executor<'a> {
    tables: &'a dyn Tables,
    /// In seconds since 1970.
    now: i64,
    budget: Budget,
}

/// The result of a SELECT.
struct Relation {
    columns: Vec<Column>,
    rows: usize,
    rows_before_limit: usize,
}

/// Rows that expressions are evaluated over.
#[derive(Clone, Copy)]
enum Batch<'a> {
    Segment(&'a Table, &'a Segment),
    Columns(&'a [Column]),
}

impl Batch<'_> {
    fn column(&self, memory: &Memory, i: usize, rows: &[u32]) -> Result<Column> {
        let column = match self {
            Self::Segment(table, segment) => {
                Slot::all().nth(i).map(|slot| table.column(memory, segment, slot, rows))
            }
            Self::Columns(columns) => columns.get(i).map(|column| column.take(memory, rows)),
        };
        column.unwrap_or(Ok(Column::Same(Value::Int(0))))
    }
}

/// A batch and its selected rows.
type Rows<'a> = (Batch<'a>, Vec<u32>);

fn count(batches: &[Rows]) -> usize {
    batches.iter().map(|(_, rows)| rows.len()).sum()
}

impl Executor<'_> {
    fn select(&self, select: &Select, max_rows: Option<usize>) -> Result<Relation> {
        let memory = &self.budget.memory;
        let inner;
        let batches: Vec<Rows> = match &select.source {
            Source::Nothing => vec![(Batch::Columns(&[]), vec![0])],
            Source::Table(name, at) => {
                let table = self.tables.table(name).ok_or_else(|| {
                    // The cloud's error text for a dataset without points.
                    Error::failed("unable to find type of column: \"timestamp\"")
                        .help(format!(
                            "unknown table {name}: a dataset exists from its first data point on; \
                             SHOW TABLES lists the datasets"
                        ))
                        .at(*at)
                })?;
                table.segments().map(|(s, rows)| (Batch::Segment(table, s), rows)).collect()
            }
            Source::Query(query) => {
                inner = self.select(query, None)?;
                let rows = u32::try_from(inner.rows)
                    .map_err(|_| Error::limit("a subquery has too many rows"))?;
                let _rows = memory.charge_rows(inner.rows, size_of::<u32>())?;
                vec![(Batch::Columns(&inner.columns), (0..rows).collect())]
            }
        };
        let _rows = memory.charge_rows(count(&batches), size_of::<u32>())?;
        let batches = self.filter(batches, select.filter.as_ref())?;
        let Some(groups) = &select.groups else {
            return self.project(select, &batches, max_rows);
        };
        let (columns, rows) = self.group(groups, &batches)?;
        let _groups = memory.charge_rows(rows as usize, size_of::<u32>())?;
        let batches = vec![(Batch::Columns(&columns), (0..rows).collect())];
        let batches = self.filter(batches, select.having.as_ref())?;
        self.project(select, &batches, max_rows)
    }

    fn filter<'b>(&self, batches: Vec<Rows<'b>>, by: Option<&Expr>) -> Result<Vec<Rows<'b>>> {
        let Some(by) = by else { return Ok(batches) };
        batches
            .into_iter()
            .map(|(batch, mut rows)| {
                let mut holds = self.eval_condition(by, &batch, &rows)?.into_iter();
                rows.retain(|_| holds.next().unwrap_or(false));
                Ok((batch, rows))
            })
            .collect()
    }

    /// Returns the groups' columns, keys first, and the number of groups.
    fn group(&self, groups: &Groups, batches: &[Rows]) -> Result<(Vec<Column>, u32)> {
        let memory = &self.budget.memory;
        let mut keys = Keys::new(&groups.keys, memory)?;
        let new_state = |call| Accumulator::new(call, memory);
        let mut states = groups.calls.iter().map(new_state).collect::<Result<Vec<_>>>()?;
        if groups.keys.is_empty() {
            // Without GROUP BY, there is one group even if there are no rows.
            keys.groups = 1;
        }
        if groups.order.is_empty() {
            for (batch, rows) in batches {
                self.aggregate(groups, &mut keys, &mut states, batch, rows)?;
            }
        } else {
            self.aggregate_in_order(groups, &mut keys, &mut states, batches)?;
        }
        let number = keys.groups;
        let mut columns = keys.finish()?;
        for state in states {
            columns.push(state.finish(number as usize)?);
        }
        Ok((columns, number))
    }

    fn aggregate(
        &self,
        groups: &Groups,
        keys: &mut Keys,
        states: &mut [Accumulator],
        batch: &Batch,
        rows: &[u32],
    ) -> Result<()> {
        let columns = groups
            .keys
            .iter()
            .map(|key| self.eval(key, batch, rows))
            .collect::<Result<Vec<_>>>()?;
        self.budget.spend(rows.len())?;
        let group_ids = keys.group_ids(&columns, rows.len())?;
        // The selected rows and their groups.
        let _own = self.budget.memory.charge_rows(rows.len(), 2 * size_of::<u32>())?;
        for (call, state) in groups.calls.iter().zip(states) {
            let (rows, group_ids) = match &call.condition {
                None => (rows.to_vec(), group_ids.to_vec()),
                Some(condition) => {
                    let holds = self.eval_condition(condition, batch, rows)?;
                    (selected(rows, &holds), selected(&group_ids, &holds))
                }
            };
            let args = call
                .args
                .iter()
                .map(|arg| self.eval(arg, batch, &rows))
                .collect::<Result<Vec<_>>>()?;
            self.budget.spend(rows.len())?;
            state.update(keys.groups as usize, &group_ids, &args)?;
        }
        Ok(())
    }

    /// Aggregates all rows as one sorted batch, since `first_value` and `last_value` depend on the order.
    fn aggregate_in_order(
        &self,
        groups: &Groups,
        keys: &mut Keys,
        states: &mut [Accumulator],
        batches: &[Rows],
    ) -> Result<()> {
        let memory = &self.budget.memory;
        let order = self.sorted(&groups.order, batches, usize::MAX)?;
        let sorted = |expr: &Expr| self.eval_all(expr, batches)?.take(memory, &order);
        // The selected rows and their groups.
        let _own = memory.charge_rows(order.len(), 2 * size_of::<u32>())?;
        for (call, state) in groups.calls.iter().zip(states) {
            let args = call.args.iter().map(sorted).collect::<Result<Vec<_>>>()?;
            let mut rows: Vec<u32> = (0..).take(order.len()).collect();
            if let Some(condition) = &call.condition {
                let holds = sorted(condition)?;
                rows.retain(|row| holds.int(*row as usize) != 0);
            }
            let take = |arg: &Column| arg.take(memory, &rows);
            let args = args.iter().map(take).collect::<Result<Vec<_>>>()?;
            state.update(keys.groups as usize, &vec![0; rows.len()], &args)?;
        }
        Ok(())
    }

    /// Sorts the rows, applies OFFSET and LIMIT, and computes the output columns of the remaining rows.
    fn project(
        &self,
        select: &Select,
        batches: &[Rows],
        max_rows: Option<usize>,
    ) -> Result<Relation> {
        let total = count(batches);
        let end = select.limit.unwrap_or(usize::MAX).saturating_add(select.offset).min(total);
        let memory = &self.budget.memory;
        let sorted = if select.order.is_empty() {
            TrackedVec::new(memory, end, (0..).take(end))?
        } else {
            self.sorted(&select.order, batches, end)?
        };
        let wanted = sorted.get(select.offset..).unwrap_or_default();
        if let Some(max) = max_rows.filter(|max| wanted.len() > *max) {
            let message = format!("the result has {} rows, the limit is {max}", wanted.len());
            return Err(Error::limit(message).help("ask for fewer with LIMIT"));
        }
        // `stored` has the rows in batch order; `rank` restores the output order. The capacity of `picked` is at
        // most twice its length.
        let _picked = memory.charge_rows(wanted.len(), 5 * size_of::<u32>())?;
        let mut stored: Vec<(u32, u32)> = wanted.iter().copied().zip(0..).collect();
        stored.sort_unstable();
        let mut rank = vec![0_u32; stored.len()];
        for (at, (_, place)) in (0..).zip(&stored) {
            if let Some(slot) = rank.get_mut(*place as usize) {
                *slot = at;
            }
        }
        let mut stored = stored.into_iter().map(|(row, _)| row as usize).peekable();
        let mut first = 0;
        let mut picked = Vec::new();
        for (batch, rows) in batches {
            let mut own = Vec::new();
            while let Some(row) = stored.next_if(|row| *row < first + rows.len()) {
                own.extend(rows.get(row - first));
            }
            first += rows.len();
            if !own.is_empty() {
                picked.push((*batch, own));
            }
        }
        let columns = select
            .columns
            .iter()
            .map(|(_, expr)| {
                let column = self.eval_all(expr, &picked)?;
                if select.order.is_empty() { Ok(column) } else { column.take(memory, &rank) }
            })
            .collect::<Result<_>>()?;
        Ok(Relation { columns, rows: wanted.len(), rows_before_limit: total })
    }

    /// The first rows in the given order, as row numbers across all batches.
    fn sorted(&self, order: &[Sort], batches: &[Rows], first: usize) -> Result<TrackedVec<u32>> {
        let (total, memory) = (count(batches), &self.budget.memory);
        let mut keys = Vec::new();
        for Sort { expr, descending } in order {
            let mut key = self.eval_all(expr, batches)?.order(memory, &expr.ty, total)?;
            if *descending {
                let float = expr.ty == Type::Float64;
                for key in key.iter_mut() {
                    // NaN comes last in both directions.
                    if !(float && *key == NAN_ORDER) {
                        *key = !*key;
                    }
                }
            }
            keys.push(key);
        }
        let compare = |a: &u32, b: &u32| {
            let mut by = keys.iter().map(|key| key.get(*a as usize).cmp(&key.get(*b as usize)));
            by.find(|ordering| ordering.is_ne()).unwrap_or_else(|| a.cmp(b))
        };
        self.budget.spend(total.saturating_mul(order.len()).saturating_mul(20))?;
        let charge = memory.charge_rows(total, size_of::<u32>())?;
        let mut rows: Vec<u32> = (0..).take(total).collect();
        if first > 0 && first < total {
            rows.select_nth_unstable_by(first - 1, compare);
        }
        rows.truncate(first);
        rows.sort_unstable_by(compare);
        Ok(TrackedVec::counted(rows, charge))
    }

    fn eval_all(&self, expr: &Expr, batches: &[Rows]) -> Result<Column> {
        let parts = batches
            .iter()
            .map(|(batch, rows)| Ok((self.eval(expr, batch, rows)?, rows.len())))
            .collect::<Result<Vec<_>>>()?;
        Column::concat(&self.budget.memory, &expr.ty, parts)
    }

    /// Returns for each row whether the condition holds.
    fn eval_condition(&self, condition: &Expr, batch: &Batch, rows: &[u32]) -> Result<Vec<bool>> {
        // A term is evaluated only in rows that earlier terms leave undecided, so that a term can protect a
        // later term from a division by zero.
        let (terms, open) = match &condition.node {
            Node::And(terms) => (terms, true),
            Node::Or(terms) => (terms, false),
            _ => {
                let column = self.eval(condition, batch, rows)?;
                return Ok((0..rows.len()).map(|row| column.int(row) != 0).collect());
            }
        };
        // The result, the undecided rows as positions and as row numbers, and a term's results.
        let size = 2 * size_of::<bool>() + size_of::<usize>() + size_of::<u32>();
        let _own = self.budget.memory.charge_rows(rows.len(), size)?;
        let mut result = vec![open; rows.len()];
        let mut undecided: Vec<usize> = (0..rows.len()).collect();
        for term in terms {
            let own: Vec<u32> =
                undecided.iter().filter_map(|place| rows.get(*place).copied()).collect();
            let mut holds = self.eval_condition(term, batch, &own)?.into_iter();
            undecided.retain(|place| {
                let decided = holds.next() != Some(open);
                if let Some(slot) = result.get_mut(*place)
                    && decided
                {
                    *slot = !open;
                }
                !decided
            });
        }
        Ok(result)
    }

    fn eval(&self, expr: &Expr, batch: &Batch, rows: &[u32]) -> Result<Column> {
        self.budget.spend(rows.len())?;
        let memory = &self.budget.memory;
        match &expr.node {
            Node::Column(i) => batch.column(memory, *i, rows),
            Node::Literal(value) => Ok(Column::Same(value.clone())),
            _ if rows.is_empty() => Column::of(memory, &expr.ty, 0, std::iter::empty()),
            Node::And(_) | Node::Or(_) => {
                let holds = self.eval_condition(expr, batch, rows)?;
                Column::ints(memory, rows.len(), holds.into_iter().map(i64::from))
            }
            Node::If(parts) => self.eval_if(parts, &expr.ty, batch, rows),
            Node::In(of, members) => {
                let column = self.eval(of, batch, rows)?;
                eval_in(memory, &column, members, rows.len()).map_err(|error| error.at(expr.at))
            }
            Node::Call(function, args) => {
                let args = args
                    .iter()
                    .map(|arg| Ok((self.eval(arg, batch, rows)?, &arg.ty)))
                    .collect::<Result<Vec<_>>>()?;
                let constant = args.iter().all(|(column, _)| matches!(column, Column::Same(_)));
                let rows = if constant { 1 } else { rows.len() };
                let (now, budget) = (self.now, &self.budget);
                let call = ScalarCall { args: &args, ty: &expr.ty, rows, now, budget };
                let column = (function.eval)(&call).map_err(|error| error.at(expr.at))?;
                if let Column::Texts(texts) = &column {
                    self.budget.spend(texts.pool.text_bytes() / 16)?;
                }
                if !constant {
                    return Ok(column);
                }
                // Many columns may share a constant, so it counts until the query ends.
                let value = column.value(0);
                memory.keep(if let Value::Text(text) = &value { text.len() } else { 0 })?;
                Ok(Column::Same(value))
            }
        }
    }

    /// Evaluates each branch of `if` only in its own rows.
    fn eval_if(
        &self,
        [condition, then, otherwise]: &[Expr; 3],
        ty: &Type,
        batch: &Batch,
        rows: &[u32],
    ) -> Result<Column> {
        let memory = &self.budget.memory;
        // `holds`, `fails`, the rows of one branch, and `order`.
        let bytes = 2 * size_of::<bool>() + 2 * size_of::<u32>();
        let _own = memory.charge_rows(rows.len(), bytes)?;
        let holds = self.eval_condition(condition, batch, rows)?;
        let fails: Vec<bool> = holds.iter().map(|holds| !holds).collect();
        let side = |expr: &Expr, holds: &[bool]| -> Result<(Column, usize)> {
            let rows = selected(rows, holds);
            let column = self.eval(expr, batch, &rows)?;
            // A Date becomes the DateTime of its midnight; other integers need no conversion.
            Ok((
                match (ty, &expr.ty) {
                    (Type::Float64, _) => column.to_floats(memory, &expr.ty)?,
                    (Type::DateTime(_), Type::Date) => {
                        let midnights = (0..rows.len()).map(|row| column.int(row) * 86_400);
                        Column::ints(memory, rows.len(), midnights)?
                    }
                    _ => column,
                },
                rows.len(),
            ))
        };
        let (then, otherwise) = (side(then, &holds)?, side(otherwise, &fails)?);
        // Concatenates the values of both branches, then moves each value to its row.
        let mut next_then = 0_u32;
        let mut next_otherwise =
            u32::try_from(then.1).map_err(|_| Error::limit("too many rows at once"))?;
        let order: Vec<u32> = holds
            .iter()
            .map(|holds| {
                let next = if *holds { &mut next_then } else { &mut next_otherwise };
                *next += 1;
                *next - 1
            })
            .collect();
        Column::concat(memory, ty, vec![then, otherwise])?.take(memory, &order)
    }
}

fn selected(rows: &[u32], holds: &[bool]) -> Vec<u32> {
    rows.iter().zip(holds).filter(|(_, holds)| **holds).map(|(row, _)| *row).collect()
}

fn eval_in(memory: &Memory, column: &Column, members: &InList, rows: usize) -> Result<Column> {
    let flag = |holds: bool| i64::from(holds);
    let all = 0..rows;
    match (members, column) {
        (InList::Texts(texts), Column::Texts(column)) => {
            Ok(Column::Ints(column.each(memory, |text| Ok(flag(texts.contains(text))))?))
        }
        (InList::Texts(texts), other) => {
            Ok(Column::Same(Value::Int(flag(texts.contains(other.text(0))))))
        }
        (InList::Ints(ints), _) => {
            Column::ints(memory, rows, all.map(|row| flag(ints.contains(&column.int(row)))))
        }
        (InList::Floats(floats), _) => {
            let found = |row| floats.contains(&(column.float(row) + 0.0).to_bits());
            Column::ints(memory, rows, all.map(|row| flag(found(row))))
        }
    }
}

/// Maps keys to group numbers.
struct Keys<'a> {
    exprs: &'a [Expr],
    /// One per expression, for string keys.
    interners: Vec<Interner>,
    /// The keys of group 0, then the keys of group 1, and so on.
    values: Vec<u64>,
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
    groups: u32,
    memory: &'a Memory,
    /// Counts `values` and `numbers`.
    charge: Charge,
}

impl<'a> Keys<'a> {
    fn new(exprs: &'a [Expr], memory: &'a Memory) -> Result<Self> {
        Ok(Self {
            exprs,
            interners: exprs.iter().map(|_| Interner::new(memory)).collect::<Result<_>>()?,
            values: Vec::new(),
            numbers: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            groups: 0,
            memory,
            charge: memory.charge(0)?,
        })
    }

    /// Returns each row's group.
    fn group_ids(&mut self, columns: &[Column], rows: usize) -> Result<TrackedVec<u32>> {
        let (width, memory) = (self.exprs.len(), self.memory);
        if width == 0 {
            return TrackedVec::new(memory, rows, std::iter::repeat_n(0, rows));
        }
        let mut by_column = Vec::new();
        for ((column, expr), interner) in columns.iter().zip(self.exprs).zip(&mut self.interners) {
            by_column.push(column.keys(memory, &expr.ty, rows, interner)?);
        }
        let Self { values, numbers, hasher, groups, charge, .. } = self;
        let mut own = Vec::with_capacity(width);
        let ids_charge = memory.charge_rows(rows, size_of::<u32>())?;
        let mut group_ids = Vec::with_capacity(rows);
        for row in 0..rows {
            own.clear();
            own.extend(by_column.iter().filter_map(|keys| keys.get(row)));
            let hash = hasher.hash_one(own.as_slice());
            let found = numbers.find(hash, |number| group_keys(values, *number, width) == own);
            if let Some(number) = found {
                group_ids.push(*number);
                continue;
            }
            group_ids.push(*groups);
            charge.reserve(values, width)?;
            charge.reserve_table::<u32>(numbers.len(), numbers.capacity())?;
            values.extend(&own);
            numbers.insert_unique(hash, *groups, |number| {
                hasher.hash_one(group_keys(values, *number, width))
            });
            *groups += 1;
        }
        Ok(TrackedVec::counted(group_ids, ids_charge))
    }

    fn finish(self) -> Result<Vec<Column>> {
        let width = self.exprs.len().max(1);
        self.exprs
            .iter()
            .zip(&self.interners)
            .enumerate()
            .map(|(i, (expr, interner))| {
                let keys = self.values.iter().skip(i).step_by(width);
                let value = |key: &u64| Ok(Column::key_value(&expr.ty, *key, interner));
                Column::of(self.memory, &expr.ty, self.groups as usize, keys.map(value))
            })
            .collect()
    }
}

/// The keys of one group.
fn group_keys(values: &[u64], number: u32, width: usize) -> &[u64] {
    let start = number as usize * width;
    values.get(start..start + width).unwrap_or_default()
}
