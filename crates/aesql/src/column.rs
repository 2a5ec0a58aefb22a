//! Columns of values: what expressions are evaluated over, many rows at a time.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::error::{Error, Result};
use crate::limits::COLUMN_TEXT_BYTES;
use crate::value::{Type, Value};

/// Strings back to back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    text: String,
    /// Where each word ends.
    ends: Vec<u32>,
}

impl Words {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The word of that number, or an empty one.
    pub(crate) fn get(&self, id: u32) -> &str {
        let id = id as usize;
        let start = match id.checked_sub(1) {
            Some(previous) => self.ends.get(previous).copied().unwrap_or_default(),
            None => 0,
        };
        let end = self.ends.get(id).copied().unwrap_or(start);
        self.text.get(start as usize..end as usize).unwrap_or_default()
    }

    /// Adds a word and returns its number.
    pub(crate) fn push(&mut self, word: &str) -> Result<u32> {
        if self.text.len() + word.len() > COLUMN_TEXT_BYTES {
            return Err(Error::limit("the query makes too much text at once"));
        }
        let id = u32::try_from(self.ends.len()).map_err(|_| Error::limit("too many strings"))?;
        self.text.push_str(word);
        // COLUMN_TEXT_BYTES fits a u32.
        self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
        Ok(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..).take(self.ends.len()).map(|id| self.get(id))
    }

    /// Bytes of text.
    pub(crate) fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<u32>()
    }

    pub(crate) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

/// Words, each of them once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interner {
    words: Words,
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Interner {
    /// The word's number, a new one if it is new.
    pub(crate) fn id(&mut self, word: &str) -> Result<u32> {
        let Self { words, ids, hasher } = self;
        let hash = hasher.hash_one(word);
        if let Some(id) = ids.find(hash, |id| words.get(*id) == word) {
            return Ok(*id);
        }
        let id = words.push(word)?;
        ids.insert_unique(hash, id, |id| hasher.hash_one(words.get(*id)));
        Ok(id)
    }

    pub(crate) fn words(&self) -> &Words {
        &self.words
    }

    pub(crate) fn into_words(self) -> Words {
        self.words
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        // A table keeps a byte beside each entry.
        self.words.bytes() + self.ids.capacity() * (size_of::<u32>() + 1)
    }
}

/// Strings by number: a column usually has far fewer different ones than rows.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    pub(crate) words: Arc<Words>,
    pub(crate) ids: Vec<u32>,
}

impl Texts {
    pub(crate) fn new(words: Words, ids: Vec<u32>) -> Self {
        Self { words: Arc::new(words), ids }
    }

    pub(crate) fn get(&self, row: usize) -> &str {
        self.ids.get(row).map_or("", |id| self.words.get(*id))
    }

    /// Computes something of each row's string, once for each string that occurs.
    pub(crate) fn each<T: Copy>(&self, mut f: impl FnMut(&str) -> Result<T>) -> Result<Vec<T>> {
        if self.ids.len() < self.words.len() {
            return self.ids.iter().map(|id| f(self.words.get(*id))).collect();
        }
        let mut known: Vec<Option<T>> = vec![None; self.words.len()];
        let mut of = |id: u32| match known.get_mut(id as usize) {
            Some(Some(value)) => Ok(*value),
            Some(slot) => {
                let value = f(self.words.get(id))?;
                *slot = Some(value);
                Ok(value)
            }
            None => f(""),
        };
        self.ids.iter().map(|id| of(*id)).collect()
    }

    /// Bytes of the longest string.
    pub(crate) fn longest(&self) -> usize {
        self.words.iter().map(str::len).max().unwrap_or(0)
    }

    /// The rank of each row's string among all.
    fn ranks(&self) -> Vec<u64> {
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
        self.ids.iter().map(|id| ranks.get(*id as usize).copied().unwrap_or_default()).collect()
    }
}

/// The values of some rows. All that is neither a `Float64` nor a String nor an array is an integer
/// here; see [`Value`].
#[derive(Clone, Debug)]
pub(crate) enum Column {
    /// The same value in every row.
    Same(Value),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Texts(Texts),
    Arrays(Vec<Value>),
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

    /// The value in a column of floats; see [`Column::to_floats`].
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
                values.get(row).cloned().unwrap_or_else(|| Value::Array(Arc::from([])))
            }
        }
    }

    /// A column of values of that type.
    pub(crate) fn of(ty: &Type, values: impl Iterator<Item = Value>) -> Result<Self> {
        Ok(match ty {
            Type::Float64 => Self::Floats(
                values.map(|v| if let Value::Float(f) = v { f } else { 0.0 }).collect(),
            ),
            Type::String => {
                let mut interner = Interner::default();
                let ids = values
                    .map(|v| interner.id(if let Value::Text(text) = &v { text } else { "" }))
                    .collect::<Result<_>>()?;
                Self::Texts(Texts::new(interner.into_words(), ids))
            }
            Type::Array(_) => Self::Arrays(values.collect()),
            _ => Self::Ints(values.map(|v| if let Value::Int(i) = v { i } else { 0 }).collect()),
        })
    }

    /// Numbers of any type as `Float64`.
    #[expect(clippy::cast_precision_loss, reason = "as ClickHouse does")]
    pub(crate) fn to_floats(&self, ty: &Type) -> Self {
        let convert = |value: i64| match ty {
            Type::UInt64 => value.cast_unsigned() as f64,
            _ => value as f64,
        };
        match self {
            Self::Ints(values) => Self::Floats(values.iter().map(|v| convert(*v)).collect()),
            Self::Same(Value::Int(value)) => Self::Same(Value::Float(convert(*value))),
            other => other.clone(),
        }
    }

    /// The values of those rows, in that order.
    pub(crate) fn take(&self, rows: &[u32]) -> Self {
        let row = |row: &u32| *row as usize;
        match self {
            Self::Same(value) => Self::Same(value.clone()),
            Self::Ints(_) => Self::Ints(rows.iter().map(|r| self.int(row(r))).collect()),
            Self::Floats(_) => Self::Floats(rows.iter().map(|r| self.float(row(r))).collect()),
            Self::Texts(Texts { words, ids }) => Self::Texts(Texts {
                words: Arc::clone(words),
                ids: rows.iter().map(|r| ids.get(row(r)).copied().unwrap_or_default()).collect(),
            }),
            Self::Arrays(_) => Self::Arrays(rows.iter().map(|r| self.value(row(r))).collect()),
        }
    }

    /// One column after the other; each comes with its number of rows.
    pub(crate) fn concat(ty: &Type, parts: &[(Self, usize)]) -> Result<Self> {
        if let [(only, _)] = parts {
            return Ok(only.clone());
        }
        if let Some((Self::Same(first), _)) = parts.first()
            && parts.iter().all(|(part, _)| matches!(part, Self::Same(value) if value == first))
        {
            return Ok(Self::Same(first.clone()));
        }
        let each = || parts.iter().flat_map(|(part, rows)| (0..*rows).map(move |row| (part, row)));
        Ok(match ty {
            Type::String => {
                let mut interner = Interner::default();
                let mut ids = Vec::new();
                for (part, rows) in parts {
                    ids.extend(part.word_ids(*rows, &mut interner)?);
                }
                Self::Texts(Texts::new(interner.into_words(), ids))
            }
            Type::Float64 => Self::Floats(each().map(|(part, row)| part.float(row)).collect()),
            Type::Array(_) => Self::Arrays(each().map(|(part, row)| part.value(row)).collect()),
            _ => Self::Ints(each().map(|(part, row)| part.int(row)).collect()),
        })
    }

    /// The rows' strings as numbers of words in the interner.
    pub(crate) fn word_ids(&self, rows: usize, interner: &mut Interner) -> Result<Vec<u32>> {
        match self {
            Self::Texts(texts) => texts.each(|word| interner.id(word)),
            other => Ok(vec![interner.id(other.text(0))?; rows]),
        }
    }

    /// A number for each row that is the same exactly if the value is.
    pub(crate) fn keys(&self, ty: &Type, rows: usize, interner: &mut Interner) -> Result<Vec<u64>> {
        Ok(match ty {
            Type::String => self.word_ids(rows, interner)?.into_iter().map(u64::from).collect(),
            Type::Float64 => (0..rows).map(|row| self.float(row).to_bits()).collect(),
            _ => (0..rows).map(|row| self.int(row).cast_unsigned()).collect(),
        })
    }

    /// The value that a number of [`Column::keys`] stands for.
    pub(crate) fn key_value(ty: &Type, key: u64, interner: &Interner) -> Value {
        match ty {
            Type::String => {
                let id = u32::try_from(key).unwrap_or(u32::MAX);
                Value::Text(interner.words().get(id).into())
            }
            Type::Float64 => Value::Float(f64::from_bits(key)),
            _ => Value::Int(key.cast_signed()),
        }
    }

    /// A number for each row that orders as the value does: ascending, not-a-number [`LAST`].
    pub(crate) fn order(&self, ty: &Type, rows: usize) -> Vec<u64> {
        match (ty, self) {
            (Type::String, Self::Texts(texts)) => texts.ranks(),
            (Type::String | Type::Array(_), _) => vec![0; rows],
            (Type::Float64, _) => (0..rows).map(|row| float_order(self.float(row))).collect(),
            (Type::UInt64, _) => (0..rows).map(|row| self.int(row).cast_unsigned()).collect(),
            _ => (0..rows).map(|row| self.int(row).cast_unsigned() ^ SIGN).collect(),
        }
    }
}

/// What [`Column::order`] gives to not-a-number.
pub(crate) const LAST: u64 = u64::MAX;

const SIGN: u64 = 1 << 63;

fn float_order(value: f64) -> u64 {
    if value.is_nan() {
        return LAST;
    }
    // Zero is zero, whatever its sign.
    let bits = (value + 0.0).to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_order_with_not_a_number_last() {
        let values = [f64::NEG_INFINITY, -1.0, -0.0, 0.5, 2.0, f64::INFINITY, f64::NAN];
        assert!(values.map(float_order).is_sorted());
        assert_eq!(float_order(-0.0), float_order(0.0));
        assert_eq!(float_order(-f64::NAN), LAST);
    }

    #[test]
    fn an_interner_keeps_each_word_once() {
        let mut interner = Interner::default();
        let ids = ["a", "", "b", "a", ""].map(|word| interner.id(word).unwrap());
        assert_eq!(ids, [0, 1, 2, 0, 1]);
        assert_eq!(interner.words().iter().collect::<Vec<_>>(), ["a", "", "b"]);
    }

    #[test]
    fn a_string_is_computed_with_only_if_a_row_has_it() {
        let mut words = Words::default();
        for word in ["1", "no number", "2"] {
            words.push(word).unwrap();
        }
        let texts = Texts::new(words, vec![0, 2, 0]);
        let numbers = texts.each(|word| word.parse::<i64>().map_err(|_| Error::failed(word)));
        assert_eq!(numbers, Ok(vec![1, 2, 1]));
    }
}
