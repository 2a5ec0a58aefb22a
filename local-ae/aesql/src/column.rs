//! Columns of values, over which expressions are evaluated many rows at a time.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::error::{Error, Result};
use crate::limits::{COLUMN_TEXT_BYTES, STRING_BYTES};
use crate::memory::{Charge, Held, Memory};
use crate::value::{Type, Value};

/// Strings in one buffer, each with a number (`id`).
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    text: String,
    /// The end of each word in `text`.
    ends: Vec<u32>,
    charge: Charge,
}

impl Words {
    /// For strings of a query, which count towards its memory.
    pub(crate) fn new(memory: &Memory) -> Result<Self> {
        Ok(Self { charge: memory.charge(0)?, ..Self::default() })
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The word with that number; empty if there is none.
    pub(crate) fn get(&self, id: u32) -> &str {
        let id = id as usize;
        let start = match id.checked_sub(1) {
            Some(previous) => self.ends.get(previous).copied().unwrap_or_default(),
            None => 0,
        };
        let end = self.ends.get(id).copied().unwrap_or(start);
        self.text.get(start as usize..end as usize).unwrap_or_default()
    }

    /// Returns the new word's number.
    pub(crate) fn push(&mut self, word: &str) -> Result<u32> {
        check_string(word.len())?;
        if self.text.len() + word.len() > COLUMN_TEXT_BYTES {
            return Err(Error::limit("the query makes too much text at once"));
        }
        let id = u32::try_from(self.ends.len()).map_err(|_| Error::limit("too many strings"))?;
        self.charge.reserve_text(&mut self.text, word.len())?;
        self.charge.reserve(&mut self.ends, 1)?;
        self.text.push_str(word);
        // COLUMN_TEXT_BYTES fits a u32.
        self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
        Ok(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..).take(self.ends.len()).map(|id| self.get(id))
    }

    /// Bytes of the words alone.
    pub(crate) fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// Bytes allocated.
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
    Err(Error::limit(format!("the query makes a string of more than {STRING_BYTES} bytes"))
        .help("shorten it with substring()"))
}

/// Stores each distinct word once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interner {
    words: Arc<Words>,
    ids: HashTable<u32>,
    charge: Charge,
    hasher: DefaultHashBuilder,
}

impl Interner {
    /// For strings of a query, which count towards its memory.
    pub(crate) fn new(memory: &Memory) -> Result<Self> {
        let words = Arc::new(Words::new(memory)?);
        Ok(Self { words, charge: memory.charge(0)?, ..Self::default() })
    }

    /// The word's number; adds the word if it is new.
    pub(crate) fn id(&mut self, word: &str) -> Result<u32> {
        let Self { words, ids, charge, hasher } = self;
        let hash = hasher.hash_one(word);
        if let Some(id) = ids.find(hash, |id| words.get(*id) == word) {
            return Ok(*id);
        }
        charge.reserve_table::<u32>(ids.len(), ids.capacity())?;
        // Copies the words only if an earlier answer still shares them.
        let id = Arc::make_mut(words).push(word)?;
        ids.insert_unique(hash, id, |id| hasher.hash_one(words.get(*id)));
        Ok(id)
    }

    pub(crate) fn words(&self) -> &Arc<Words> {
        &self.words
    }

    pub(crate) fn into_words(self) -> Arc<Words> {
        self.words
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        // A hash table has one control byte per entry.
        self.words.bytes() + self.ids.capacity() * (size_of::<u32>() + 1)
    }
}

/// A dictionary-encoded string column: a column usually has far fewer distinct strings than rows.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    pub(crate) words: Arc<Words>,
    pub(crate) ids: Held<u32>,
}

impl Texts {
    pub(crate) fn new(words: impl Into<Arc<Words>>, ids: Held<u32>) -> Self {
        Self { words: words.into(), ids }
    }

    pub(crate) fn get(&self, row: usize) -> &str {
        self.ids.get(row).map_or("", |id| self.words.get(*id))
    }

    /// Applies `f` to each row's string, but only once per distinct string.
    pub(crate) fn each<T: Copy + Default>(
        &self,
        memory: &Memory,
        mut f: impl FnMut(&str) -> Result<T>,
    ) -> Result<Held<T>> {
        let rows = self.ids.len();
        if rows < self.words.len() {
            return Held::try_new(memory, rows, self.ids.iter().map(|id| f(self.words.get(*id))));
        }
        let _known = memory.charge_rows(self.words.len(), size_of::<T>() + size_of::<bool>())?;
        let (mut known, mut is_known) =
            (vec![T::default(); self.words.len()], vec![false; self.words.len()]);
        for id in self.ids.iter() {
            let word = *id as usize;
            if let (Some(slot), Some(is_known @ false)) =
                (known.get_mut(word), is_known.get_mut(word))
            {
                *slot = f(self.words.get(*id))?;
                *is_known = true;
            }
        }
        let of = |id: &u32| known.get(*id as usize).copied().unwrap_or_default();
        Held::new(memory, rows, self.ids.iter().map(of))
    }

    /// Length of the longest string in bytes.
    pub(crate) fn longest(&self) -> usize {
        self.words.iter().map(str::len).max().unwrap_or(0)
    }

    /// The rank of each row's string in sorted order; equal strings have the same rank.
    fn ranks(&self, memory: &Memory) -> Result<Held<u64>> {
        let _sorted = memory.charge_rows(self.words.len(), size_of::<(&str, usize, u64)>())?;
        let mut sorted: Vec<(&str, usize)> =
            self.words.iter().enumerate().map(|(id, word)| (word, id)).collect();
        sorted.sort_unstable();
        let mut ranks = vec![0_u64; sorted.len()];
        let (mut rank, mut previous) = (0, None);
        for (word, id) in sorted {
            rank += u64::from(previous.is_some_and(|previous| previous != word));
            previous = Some(word);
            if let Some(slot) = ranks.get_mut(id) {
                *slot = rank;
            }
        }
        let rank = |id: &u32| ranks.get(*id as usize).copied().unwrap_or_default();
        Held::new(memory, self.ids.len(), self.ids.iter().map(rank))
    }
}

/// The values of some rows. Every type but `Float64`, String and Array is stored as integers; see
/// [`Value`].
#[derive(Clone, Debug)]
pub(crate) enum Column {
    /// The same value in every row.
    Same(Value),
    Ints(Held<i64>),
    Floats(Held<f64>),
    Texts(Texts),
    Arrays(Held<Value>),
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

    /// Takes at most `rows` values.
    pub(crate) fn ints(
        memory: &Memory,
        rows: usize,
        values: impl Iterator<Item = i64>,
    ) -> Result<Self> {
        Ok(Self::Ints(Held::new(memory, rows, values)?))
    }

    /// Takes at most `rows` values.
    pub(crate) fn floats(
        memory: &Memory,
        rows: usize,
        values: impl Iterator<Item = f64>,
    ) -> Result<Self> {
        Ok(Self::Floats(Held::new(memory, rows, values)?))
    }

    /// A column of the type, of at most `rows` values.
    pub(crate) fn of(
        memory: &Memory,
        ty: &Type,
        rows: usize,
        mut values: impl Iterator<Item = Result<Value>>,
    ) -> Result<Self> {
        Ok(match ty {
            Type::Float64 => Self::Floats(Held::try_new(
                memory,
                rows,
                values.map(|v| Ok(if let Value::Float(f) = v? { f } else { 0.0 })),
            )?),
            Type::String => {
                let mut interner = Interner::new(memory)?;
                let ids = Held::try_new(
                    memory,
                    rows,
                    values.map(|v| match v? {
                        Value::Text(text) => interner.id(&text),
                        _ => interner.id(""),
                    }),
                )?;
                Self::Texts(Texts::new(interner.into_words(), ids))
            }
            Type::Array(_) => Self::Arrays(Held::try_new(memory, rows, values.by_ref())?),
            _ => Self::Ints(Held::try_new(
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
            Self::Texts(Texts { words, ids }) => {
                let id = |r: &u32| ids.get(row(r)).copied().unwrap_or_default();
                let ids = Held::new(memory, count, rows.iter().map(id))?;
                Self::Texts(Texts { words: Arc::clone(words), ids })
            }
            Self::Arrays(_) => {
                Self::Arrays(Held::new(memory, count, rows.iter().map(|r| self.value(row(r))))?)
            }
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
                let mut ids = Held::new(memory, total, std::iter::empty())?;
                for (part, rows) in &parts {
                    let part = part.word_ids(memory, *rows, &mut interner)?;
                    ids.extend(part.len(), part.iter().copied())?;
                }
                Self::Texts(Texts::new(interner.into_words(), ids))
            }
            Type::Float64 => {
                Self::floats(memory, total, each().map(|(part, row)| part.float(row)))?
            }
            Type::Array(_) => {
                Self::Arrays(Held::new(memory, total, each().map(|(part, row)| part.value(row)))?)
            }
            _ => Self::ints(memory, total, each().map(|(part, row)| part.int(row)))?,
        })
    }

    /// The interner's number of each row's string.
    fn word_ids(&self, memory: &Memory, rows: usize, interner: &mut Interner) -> Result<Held<u32>> {
        match self {
            Self::Texts(texts) => texts.each(memory, |word| interner.id(word)),
            other => {
                let id = interner.id(other.text(0))?;
                Held::new(memory, rows, std::iter::repeat_n(id, rows))
            }
        }
    }

    /// A number for each row, for grouping: equal if and only if the values are.
    pub(crate) fn keys(
        &self,
        memory: &Memory,
        ty: &Type,
        rows: usize,
        interner: &mut Interner,
    ) -> Result<Held<u64>> {
        let all = 0..rows;
        match ty {
            Type::String => {
                let ids = self.word_ids(memory, rows, interner)?;
                Held::new(memory, rows, ids.iter().copied().map(u64::from))
            }
            Type::Float64 => Held::new(memory, rows, all.map(|row| self.float(row).to_bits())),
            _ => Held::new(memory, rows, all.map(|row| self.int(row).cast_unsigned())),
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

    /// A number for each row, which sorts as the value does: ascending, with NaN as [`LAST`].
    pub(crate) fn order(&self, memory: &Memory, ty: &Type, rows: usize) -> Result<Held<u64>> {
        let all = 0..rows;
        match (ty, self) {
            (Type::String, Self::Texts(texts)) => texts.ranks(memory),
            (Type::String | Type::Array(_), _) => Held::new(memory, rows, all.map(|_| 0)),
            (Type::Float64, _) => {
                Held::new(memory, rows, all.map(|row| float_order(self.float(row))))
            }
            _ => Held::new(memory, rows, all.map(|row| int_order(ty, self.int(row)))),
        }
    }
}

/// The string of a key from [`Column::keys`].
pub(crate) fn key_text(key: u64, interner: &Interner) -> &str {
    interner.words().get(u32::try_from(key).unwrap_or(u32::MAX))
}

/// NaN's number in [`Column::order`].
pub(crate) const LAST: u64 = u64::MAX;

const SIGN: u64 = 1 << 63;

/// A number that sorts as the integer does.
pub(crate) fn int_order(ty: &Type, value: i64) -> u64 {
    match ty {
        Type::UInt64 => value.cast_unsigned(),
        _ => value.cast_unsigned() ^ SIGN,
    }
}

/// A number that sorts as the float does; NaN is [`LAST`].
pub(crate) fn float_order(value: f64) -> u64 {
    if value.is_nan() {
        return LAST;
    }
    // Turns -0.0 into 0.0, so that both are equal.
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
        assert_eq!(float_order(-f64::NAN), LAST);
    }

    #[test]
    fn an_interner_stores_each_word_once() {
        let mut interner = Interner::default();
        let ids = ["a", "", "b", "a", ""].map(|word| interner.id(word).unwrap());
        assert_eq!(ids, [0, 1, 2, 0, 1]);
        assert_eq!(interner.words().iter().collect::<Vec<_>>(), ["a", "", "b"]);
    }

    #[test]
    fn each_ignores_words_that_no_row_has() {
        let mut words = Words::default();
        for word in ["1", "no number", "2"] {
            words.push(word).unwrap();
        }
        let memory = Memory::new(1000);
        let texts = Texts::new(words, Held::new(&memory, 3, [0, 2, 0].into_iter()).unwrap());
        let parse = |word: &str| word.parse::<i64>().map_err(|_| Error::failed(word));
        assert_eq!(*texts.each(&memory, parse).unwrap(), [1, 2, 1]);
    }
}
