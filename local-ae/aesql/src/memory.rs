//! The memory of one query: what it holds is counted, and it ends before it holds too much.
//!
//! Whatever grows with the data has a [`Charge`], which is made before the memory is allocated and
//! gives back when it is dropped. A column cannot be built without one: its values are [`Held`], its
//! strings are [`Words`](crate::column::Words). What a row or a level of an expression needs for a
//! moment is not counted, since it is bounded otherwise.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// What a query may hold and what it does hold, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Arc<Account>);

#[derive(Debug)]
struct Account {
    limit: usize,
    used: AtomicUsize,
}

impl Memory {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Account { limit, used: AtomicUsize::new(0) }))
    }

    /// Counts that many bytes, or fails if there is no room for them.
    pub(crate) fn charge(&self, bytes: usize) -> Result<Charge> {
        let mut charge = Charge { account: Some(Arc::clone(&self.0)), bytes: 0 };
        charge.grow(bytes)?;
        Ok(charge)
    }

    /// Counts an element of that size for each of so many rows.
    pub(crate) fn charge_rows(&self, rows: usize, size: usize) -> Result<Charge> {
        self.charge(rows.saturating_mul(size))
    }

    /// Counts bytes until the end of the query.
    pub(crate) fn keep(&self, bytes: usize) -> Result<()> {
        self.0.add(bytes)
    }

    /// The error of a query that needs more.
    pub(crate) fn exceeded(&self) -> Error {
        exceeded(self.0.limit)
    }

    #[cfg(test)]
    fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }
}

impl Account {
    fn add(&self, bytes: usize) -> Result<()> {
        // Only a sum is kept; it orders no other access to memory.
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if used <= self.limit {
            return Ok(());
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        Err(exceeded(self.limit))
    }
}

/// The error of a query that needs more than that many bytes.
pub(crate) fn exceeded(limit: usize) -> Error {
    const MIB: usize = 1 << 20;
    let limit = match (limit / MIB, limit % MIB) {
        (mib @ 1.., 0) => format!("{mib} MiB"),
        _ => format!("{limit} bytes"),
    };
    Error::limit(format!("the query needs more than {limit} of memory")).help(
        "narrow the time range, name fewer columns or groups, or ask for fewer rows with LIMIT",
    )
}

/// Bytes that are counted until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    /// None for what no query owns: the tables' own strings.
    account: Option<Arc<Account>>,
    bytes: usize,
}

impl Charge {
    /// Counts that many bytes more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        if let Some(account) = &self.account {
            account.add(bytes)?;
            self.bytes += bytes;
        }
        Ok(())
    }

    /// Gives back that many bytes.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        if let Some(account) = &self.account {
            account.used.fetch_sub(bytes, Ordering::Relaxed);
            self.bytes -= bytes;
        }
    }

    /// Makes room for more elements in a vector, by a half of it at least.
    pub(crate) fn reserve<T>(&mut self, values: &mut Vec<T>, more: usize) -> Result<()> {
        if let Some(step) = step(values.len(), values.capacity(), more) {
            self.grow(step.saturating_mul(size_of::<T>()))?;
            values.reserve_exact(step + values.capacity() - values.len());
        }
        Ok(())
    }

    /// Makes room for more bytes in a string.
    pub(crate) fn reserve_text(&mut self, text: &mut String, more: usize) -> Result<()> {
        if let Some(step) = step(text.len(), text.capacity(), more) {
            self.grow(step)?;
            text.reserve_exact(step + text.capacity() - text.len());
        }
        Ok(())
    }

    /// Counts the next growth of a hash table, if it is full. It doubles, and holds the old and the
    /// new entries for a moment; each has a byte beside it, and an eighth of the places stays free.
    pub(crate) fn reserve_table<T>(&mut self, len: usize, capacity: usize) -> Result<()> {
        if len < capacity {
            return Ok(());
        }
        self.grow((capacity + 4).saturating_mul(size_of::<T>() + 1).saturating_mul(5) / 2)
    }
}

/// By how much to grow what has that length and capacity, if it has to: as a vector does while it is
/// small, and then by less, so that little of it stays empty.
fn step(len: usize, capacity: usize, more: usize) -> Option<usize> {
    const SMALL: usize = 1 << 16;
    let missing = more.saturating_sub(capacity - len);
    let usual = if capacity < SMALL { capacity.max(16) } else { capacity / 4 };
    (missing > 0).then(|| missing.max(usual))
}

impl Clone for Charge {
    /// Counts the copy. It may be too much: the next charge fails then.
    fn clone(&self) -> Self {
        if let Some(account) = &self.account {
            account.used.fetch_add(self.bytes, Ordering::Relaxed);
        }
        Self { account: self.account.clone(), bytes: self.bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.used.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// Values that are counted.
#[derive(Clone, Debug)]
pub(crate) struct Held<T> {
    values: Vec<T>,
    charge: Charge,
}

impl<T> Held<T> {
    /// As many values as `rows`, at most.
    pub(crate) fn new(
        memory: &Memory,
        rows: usize,
        values: impl Iterator<Item = T>,
    ) -> Result<Self> {
        let charge = memory.charge_rows(rows, size_of::<T>())?;
        let mut held = Vec::with_capacity(rows);
        held.extend(values);
        Ok(Self { values: held, charge })
    }

    /// As many values as `rows`, at most, if none is an error.
    pub(crate) fn try_new(
        memory: &Memory,
        rows: usize,
        values: impl Iterator<Item = Result<T>>,
    ) -> Result<Self> {
        let mut held = Self::new(memory, rows, std::iter::empty())?;
        for value in values {
            held.values.push(value?);
        }
        Ok(held)
    }

    /// Values that are there already, and have been counted with that.
    pub(crate) fn counted(values: Vec<T>, charge: Charge) -> Self {
        Self { values, charge }
    }

    /// Adds values.
    pub(crate) fn extend(&mut self, rows: usize, values: impl Iterator<Item = T>) -> Result<()> {
        self.charge.reserve(&mut self.values, rows)?;
        self.values.extend(values);
        Ok(())
    }

    pub(crate) fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.values.iter_mut()
    }
}

impl<T> Default for Held<T> {
    /// No values, and for good.
    fn default() -> Self {
        Self { values: Vec::new(), charge: Charge::default() }
    }
}

impl<T> Deref for Held<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let memory = Memory::new(1 << 20);
        let held = Held::new(&memory, 10, 0..10_u64).unwrap();
        let copy = held.clone();
        assert_eq!(memory.used(), 160);
        drop(held);
        let error = memory.charge(1 << 20).unwrap_err();
        assert!(error.message.contains("1 MiB"), "{error}");
        drop(copy);
        assert_eq!(memory.used(), 0);
        assert!(memory.charge(1 << 20).is_ok());
    }

    #[test]
    fn a_vector_has_the_room_that_was_counted() {
        let memory = Memory::new(usize::MAX);
        let mut charge = memory.charge(0).unwrap();
        let (mut values, mut text) = (Vec::<u64>::new(), String::new());
        for length in 0..200_000 {
            charge.reserve(&mut values, 1).unwrap();
            values.push(length);
            charge.reserve_text(&mut text, 3).unwrap();
            text.push_str("abc");
        }
        assert_eq!(memory.used(), values.capacity() * 8 + text.capacity());
        assert!(values.capacity() < 260_000 && text.capacity() < 780_000);
    }

    #[test]
    fn a_hash_table_is_counted_before_it_grows() {
        let memory = Memory::new(usize::MAX);
        let mut charge = memory.charge(0).unwrap();
        let mut table = hashbrown::HashTable::new();
        for value in 0..100_000_u64 {
            charge.reserve_table::<u64>(table.len(), table.capacity()).unwrap();
            table.insert_unique(value, value, |value| *value);
            assert!(memory.used() >= table.allocation_size(), "{value}");
        }
        assert!(memory.used() < 3 * table.allocation_size());
    }
}
