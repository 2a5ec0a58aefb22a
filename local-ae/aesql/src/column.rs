//! Columns of values: expressions are evaluated column by column, for many rows at once.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::error::{Error, Result};
use crate::limits::{COLUMN_TEXT_BYTES, STRING_BYTES};
use crate::memory::{Charge, Memory, TrackedVec};
use crate::value::{Type, Value};

/// Strings in one buffer; each has an id, counted from 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct StringPool {
    text: String,
    /// The end of each string in `text`.
    ends: Vec<u32>,
    charge: Charge,
}

impl StringPool {
    /// A pool whose strings count towards the query's memory.
    pub(crate) fn new(memory: &Memory) -> Result<Self> {
        Ok(Self { charge: memory.charge(0)?, ..Self::default() })
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The string with the id; empty if the id is unknown.
    pub(crate) fn get(&self, id: u32) -> &str {
        let id = id as usize;
        let start = match id.checked_sub(1) {
            Some(previous) => self.ends.get(previous).copied().unwrap_or_default(),
            None => 0,
        };
        let end = self.ends.get(id).copied().unwrap_or(start);
        self.text.get(start as usize..end as usize).unwrap_or_default()
    }

    /// Adds a string and returns its id.
    pub(crate) fn push(&mut self, string: &str) -> Result<u32> {
        check_string(string.len())?;
        if self.text.len() + string.len() > COLUMN_TEXT_BYTES {
            return Err(Error::limit("the query computes too much text at once"));
        }
        let id = u32::try_from(self.ends.len()).map_err(|_| Error::limit("too many strings"))?;
        self.charge.reserve_text(&mut self.text, string.len())?;
        self.charge.reserve(&mut self.ends, 1)?;
        self.text.push_str(string);
        // COLUMN_TEXT_BYTES fits a u32.
        self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
        Ok(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..).take(self.ends.len()).map(|id| self.get(id))
    }

    /// Bytes of the strings, without unused capacity.
    pub(crate) fn text_bytes(&self) -> usize {
        self.text.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<u32>()
    }

    pub(crate) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

/// Fails if a string exceeds [`STRING_BYTES`].
pub(crate) fn check_string(bytes: usize) -> Result<()> {
    if bytes <= STRING_BYTES {
        return Ok(());
    }
    Err(Error::limit(format!("the query computes a string of more than {STRING_BYTES} bytes"))
        .help("shorten it with substring()"))
}

/// Stores each distinct string once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interner {
    pool: Arc<StringPool>,
    ids: HashTable<u32>,
    charge: Charge,
    hasher: DefaultHashBuilder,
}

impl Interner {
    /// An interner whose strings count towards the query's memory.
    pub(crate) fn new(memory: &Memory) -> Result<Self> {
        let pool = Arc::new(StringPool::new(memory)?);
        Ok(Self { pool, charge: memory.charge(0)?, ..Self::default() })
    }

    /// The string's id; adds the string if it is new.
    pub(crate) fn id(&mut self, string: &str) -> Result<u32> {
        let Self { pool, ids, charge, hasher } = self;
        let hash = hasher.hash_one(string);
        if let Some(id) = ids.find(hash, |id| pool.get(*id) == string) {
            return Ok(*id);
        }
        charge.reserve_table::<u32>(ids.len(), ids.capacity())?;
        // Copies the pool only if an earlier result still shares it.
        let id = Arc::make_mut(pool).push(string)?;
        ids.insert_unique(hash, id, |id| hasher.hash_one(pool.get(*id)));
        Ok(id)
    }

    pub(crate) fn pool(&self) -> &Arc<StringPool> {
        &self.pool
    }

    pub(crate) fn into_pool(self) -> Arc<StringPool> {
        self.pool
    }

    pub(crate) fn bytes(&self) -> usize {
        // A hash table has one control byte per entry.
        self.pool.bytes() + self.ids.capacity() * (size_of::<u32>() + 1)
    }
}

/// A dictionary-encoded string column, since most columns have far fewer distinct strings than rows.
#[derive(Clone, Debug)]
pub(crate) struct StringColumn {
    pub(crate) pool: Arc<StringPool>,
    pub(crate) ids: TrackedVec<u32>,
}

impl StringColumn {
    pub(crate) fn new(pool: impl Into<Arc<StringPool>>, ids: TrackedVec<u32>) -> Self {
        Self { pool: pool.into(), ids }
    }

    pub(crate) fn get(&self, row: usize) -> &str {
        self.ids.get(row).map_or("", |id| self.pool.get(*id))
    }

    /// Applies `f` to each row's string; calls it once per distinct string if that is cheaper.
    pub(crate) fn each<T: Copy + Default>(
        &self,
        memory: &Memory,
        mut f: impl FnMut(&str) -> Result<T>,
    ) -> Result<TrackedVec<T>> {
        let rows = self.ids.len();
        if rows < self.pool.len() {
            return TrackedVec::try_new(
                memory,
                rows,
                self.ids.iter().map(|id| f(self.pool.get(*id))),
            );
        }
        let _known = memory.charge_rows(self.pool.len(), size_of::<T>() + size_of::<bool>())?;
        let (mut known, mut is_known) =
            (vec![T::default(); self.pool.len()], vec![false; self.pool.len()]);
        for id in self.ids.iter() {
            let index = *id as usize;
            if let (Some(slot), Some(is_known @ false)) =
                (known.get_mut(index), is_known.get_mut(index))
            {
                *slot = f(self.pool.get(*id))?;
                *is_known = true;
            }
        }
        let of = |id: &u32| known.get(*id as usize).copied().unwrap_or_default();
        TrackedVec::new(memory, rows, self.ids.iter().map(of))
    }

    /// Length of the longest string in bytes.
    pub(crate) fn longest(&self) -> usize {
        self.pool.iter().map(str::len).max().unwrap_or(0)
    }

    /// The rank of each row's string in sorted order; equal strings have the same rank.
    fn ranks(&self, memory: &Memory) -> Result<TrackedVec<u64>> {
        let _sorted = memory.charge_rows(self.pool.len(), size_of::<(&str, usize, u64)>())?;
        let mut sorted: Vec<(&str, usize)> =
            self.pool.iter().enumerate().map(|(id, string)| (string, id)).collect();
        sorted.sort_unstable();
        let mut ranks = vec![0_u64; sorted.len()];
        let (mut rank, mut previous) = (0, None);
        for (string, id) in sorted {
            rank += u64::from(previous.is_some_and(|previous| previous != string));
            previous = Some(string);
            if let Some(slot) = ranks.get_mut(id) {
                *slot = rank;
            }
        }
        let rank = |id: &u32| ranks.get(*id as usize).copied().unwrap_or_default();
        TrackedVec::new(memory, self.ids.len(), self.ids.iter().map(rank))
    }
}

/// The values of some rows. All types except `Float64`, String and Array are stored as integers, as in
/// [`Value`].
#[derive(Clone, Debug)]
pub(crate) enum Column {
    /// The same value in every row.
    Same(Value),
    Ints(TrackedVec<i64>),
    Floats(TrackedVec<f64>),
    Texts(StringColumn),
    Arrays(TrackedVec<Value>),
}

impl Column {
    #[inline]
    pub(crate) fn int(&self, row: usize) -> i64 {
        match self {
            Self::Ints(values) => values.get(row).copied().unwrap_or_default(),
            Self::Same(Value::Int(value)) => *value,
            _ => 0,
        }
    }

    /// Only for a column of floats; see [`Column::to_floats`].
    #[inline]
    pub(crate) fn float(&self, row: usize) -> f64 {
        match self {
            Self::Floats(values) => values.get(row).copied().unwrap_or_default(),
            Self::Same(Value::Float(value)) => *value,
            _ => 0.0,
        }
    }

    pub(crate) fn text(&self, row: usize) -> &str {
        match self {
            Self::Texts(texts) => texts.get(row),
            Self::Same(Value::Text(text)) => text,
            _ => "",
        }
    }

    pub(crate) fn value(&self, row: usize) -> Value {
        match self {
            Self::Same(value) => value.clone(),
            Self::Ints(_) => Value::Int(self.int(row)),
            Self::Floats(_) => Value::Float(self.float(row)),
            Self::Texts(texts) => Value::Text(texts.get(row).into()),
            Self::Arrays(values) => {
                values.get(row).cloned().unwrap_or_else(|| Value::Array(Arc::default()))
            }
        }
    }

    /// Collects at most `rows` values.
    pub(crate) fn ints(
        memory: &Memory,
        rows: usize,
        values: impl Iterator<Item = i64>,
    ) -> Result<Self> {
        Ok(Self::Ints(TrackedVec::new(memory, rows, values)?))
    }

    /// Collects at most `rows` values.
    pub(crate) fn floats(
        memory: &Memory,
        rows: usize,
        values: impl Iterator<Item = f64>,
    ) -> Result<Self> {
        Ok(Self::Floats(TrackedVec::new(memory, rows, values)?))
    }

    /// Collects at most `rows` values of the type.
    pub(crate) fn of(
        memory: &Memory,
        ty: &Type,
        rows: usize,
        mut values: impl Iterator<Item = Result<Value>>,
    ) -> Result<Self> {
        Ok(match ty {
            Type::Float64 => Self::Floats(TrackedVec::try_new(
                memory,
                rows,
                values.map(|v| Ok(if let Value::Float(f) = v? { f } else { 0.0 })),
            )?),
            Type::String => {
                let mut interner = Interner::new(memory)?;
                let ids = TrackedVec::try_new(
                    memory,
                    rows,
                    values.map(|v| match v? {
                        Value::Text(text) => interner.id(&text),
                        _ => interner.id(""),
                    }),
                )?;
                Self::Texts(StringColumn::new(interner.into_pool(), ids))
            }
            Type::Array(_) => Self::Arrays(TrackedVec::try_new(memory, rows, values.by_ref())?),
            _ => Self::Ints(TrackedVec::try_new(
                memory,
                rows,
                values.map(|v| Ok(if let Value::Int(i) = v? { i } else { 0 })),
            )?),
        })
    }

    /// Converts numbers of any type to `Float64`.
    #[expect(clippy::cast_precision_loss, reason = "as ClickHouse does")]
    pub(crate) fn to_floats(&self, memory: &Memory, ty: &Type) -> Result<Self> {
        let convert = |value: i64| match ty {
            Type::UInt64 => value.cast_unsigned() as f64,
            _ => value as f64,
        };
        match self {
            Self::Ints(values) => {
                Self::floats(memory, values.len(), values.iter().map(|v| convert(*v)))
            }
            Self::Same(Value::Int(value)) => Ok(Self::Same(Value::Float(convert(*value)))),
            other => Ok(other.clone()),
        }
    }

    /// The values of the given rows, in the given order.
    pub(crate) fn take(&self, memory: &Memory, rows: &[u32]) -> Result<Self> {
        let row = |row: &u32| *row as usize;
        let count = rows.len();
        Ok(match self {
            Self::Same(value) => Self::Same(value.clone()),
            Self::Ints(_) => Self::ints(memory, count, rows.iter().map(|r| self.int(row(r))))?,
            Self::Floats(_) => {
                Self::floats(memory, count, rows.iter().map(|r| self.float(row(r))))?
            }
            Self::Texts(StringColumn { pool, ids }) => {
                let id = |r: &u32| ids.get(row(r)).copied().unwrap_or_default();
                let ids = TrackedVec::new(memory, count, rows.iter().map(id))?;
                Self::Texts(StringColumn { pool: Arc::clone(pool), ids })
            }
            Self::Arrays(_) => Self::Arrays(TrackedVec::new(
                memory,
                count,
                rows.iter().map(|r| self.value(row(r))),
            )?),
        })
    }

    /// Concatenates columns; each comes with its number of rows.
    pub(crate) fn concat(
        memory: &Memory,
        ty: &Type,
        mut parts: Vec<(Self, usize)>,
    ) -> Result<Self> {
        if parts.len() == 1
            && let Some((only, _)) = parts.pop()
        {
            return Ok(only);
        }
        if let Some((Self::Same(first), _)) = parts.first()
            && parts.iter().all(|(part, _)| matches!(part, Self::Same(value) if value == first))
        {
            return Ok(Self::Same(first.clone()));
        }
        let total = parts.iter().map(|(_, rows)| rows).sum();
        let each = || parts.iter().flat_map(|(part, rows)| (0..*rows).map(move |row| (part, row)));
        Ok(match ty {
            Type::String => {
                let mut interner = Interner::new(memory)?;
                let mut ids = TrackedVec::new(memory, total, std::iter::empty())?;
                for (part, rows) in &parts {
                    let part = part.string_ids(memory, *rows, &mut interner)?;
                    ids.extend(part.len(), part.iter().copied())?;
                }
                Self::Texts(StringColumn::new(interner.into_pool(), ids))
            }
            Type::Float64 => {
                Self::floats(memory, total, each().map(|(part, row)| part.float(row)))?
            }
            Type::Array(_) => Self::Arrays(TrackedVec::new(
                memory,
                total,
                each().map(|(part, row)| part.value(row)),
            )?),
            _ => Self::ints(memory, total, each().map(|(part, row)| part.int(row)))?,
        })
    }

    /// The interner's id of each row's string.
    fn string_ids(
        &self,
        memory: &Memory,
        rows: usize,
        interner: &mut Interner,
    ) -> Result<TrackedVec<u32>> {
        match self {
            Self::Texts(texts) => texts.each(memory, |string| interner.id(string)),
            other => {
                let id = interner.id(other.text(0))?;
                TrackedVec::new(memory, rows, std::iter::repeat_n(id, rows))
            }
        }
    }

    /// A grouping key for each row: keys are equal if and only if the values are equal.
    pub(crate) fn keys(
        &self,
        memory: &Memory,
        ty: &Type,
        rows: usize,
        interner: &mut Interner,
    ) -> Result<TrackedVec<u64>> {
        let all = 0..rows;
        match ty {
            Type::String => {
                let ids = self.string_ids(memory, rows, interner)?;
                TrackedVec::new(memory, rows, ids.iter().copied().map(u64::from))
            }
            Type::Float64 => {
                TrackedVec::new(memory, rows, all.map(|row| self.float(row).to_bits()))
            }
            _ => TrackedVec::new(memory, rows, all.map(|row| self.int(row).cast_unsigned())),
        }
    }

    /// The value of a key from [`Column::keys`].
    pub(crate) fn key_value(ty: &Type, key: u64, interner: &Interner) -> Value {
        match ty {
            Type::String => Value::Text(key_text(key, interner).into()),
            Type::Float64 => Value::Float(f64::from_bits(key)),
            _ => Value::Int(key.cast_signed()),
        }
    }

    /// A sort key for each row, ascending; NaN has [`NAN_ORDER`].
    pub(crate) fn order(&self, memory: &Memory, ty: &Type, rows: usize) -> Result<TrackedVec<u64>> {
        let all = 0..rows;
        match (ty, self) {
            (Type::String, Self::Texts(texts)) => texts.ranks(memory),
            (Type::String | Type::Array(_), _) => TrackedVec::new(memory, rows, all.map(|_| 0)),
            (Type::Float64, _) => {
                TrackedVec::new(memory, rows, all.map(|row| float_order(self.float(row))))
            }
            _ => TrackedVec::new(memory, rows, all.map(|row| int_order(ty, self.int(row)))),
        }
    }
}

/// The string of a key from [`Column::keys`].
pub(crate) fn key_text(key: u64, interner: &Interner) -> &str {
    interner.pool().get(u32::try_from(key).unwrap_or(u32::MAX))
}

/// NaN's sort key: after all other values.
pub(crate) const NAN_ORDER: u64 = u64::MAX;

const SIGN: u64 = 1 << 63;

/// A sort key for an integer.
pub(crate) fn int_order(ty: &Type, value: i64) -> u64 {
    match ty {
        Type::UInt64 => value.cast_unsigned(),
        _ => value.cast_unsigned() ^ SIGN,
    }
}

/// A sort key for a float.
pub(crate) fn float_order(value: f64) -> u64 {
    if value.is_nan() {
        return NAN_ORDER;
    }
    // `-0.0 + 0.0` is 0.0, so both zeros are equal.
    let bits = (value + 0.0).to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_sorts_after_all_other_floats() {
        let values = [f64::NEG_INFINITY, -1.0, -0.0, 0.5, 2.0, f64::INFINITY, f64::NAN];
        assert!(values.map(float_order).is_sorted());
        assert_eq!(float_order(-0.0), float_order(0.0));
        assert_eq!(float_order(-f64::NAN), NAN_ORDER);
    }

    #[test]
    fn an_interner_stores_each_string_once() {
        let mut interner = Interner::default();
        let ids = ["a", "", "b", "a", ""].map(|string| interner.id(string).unwrap());
        assert_eq!(ids, [0, 1, 2, 0, 1]);
        assert_eq!(interner.pool().iter().collect::<Vec<_>>(), ["a", "", "b"]);
    }

    #[test]
    fn each_ignores_strings_that_no_row_has() {
        let mut pool = StringPool::default();
        for string in ["1", "no number", "2"] {
            pool.push(string).unwrap();
        }
        let memory = Memory::new(1000);
        let texts =
            StringColumn::new(pool, TrackedVec::new(&memory, 3, [0, 2, 0].into_iter()).unwrap());
        let parse = |string: &str| string.parse::<i64>().map_err(|_| Error::failed(string));
        assert_eq!(*texts.each(&memory, parse).unwrap(), [1, 2, 1]);
    }
}
