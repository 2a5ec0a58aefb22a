//! Memory accounting: a query fails before it exceeds its limit.
//!
//! Everything that grows with the data has a [`Charge`], which is taken before the allocation and released on
//! drop. A column cannot exist without one: its values are a [`TrackedVec`], its strings a
//! [`StringPool`](crate::column::StringPool). Temporary memory for a single row or for one level of an
//! expression does not count, since other limits bound it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// The memory limit of a query and its current use, in bytes.
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

    /// Counts bytes; fails if the total would exceed the limit.
    pub(crate) fn charge(&self, bytes: usize) -> Result<Charge> {
        let mut charge = Charge { account: Some(Arc::clone(&self.0)), bytes: 0 };
        charge.grow(bytes)?;
        Ok(charge)
    }

    /// Counts an element of `size` bytes per row.
    pub(crate) fn charge_rows(&self, rows: usize, size: usize) -> Result<Charge> {
        self.charge(rows.saturating_mul(size))
    }

    /// Counts bytes until the query ends.
    pub(crate) fn keep(&self, bytes: usize) -> Result<()> {
        self.0.add(bytes)
    }

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
        // Relaxed is enough: the counter synchronizes nothing else.
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if used <= self.limit {
            return Ok(());
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        Err(exceeded(self.limit))
    }
}

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

/// Bytes that count towards the limit until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    /// `None` for memory that belongs to a table, not to a query.
    account: Option<Arc<Account>>,
    bytes: usize,
}

impl Charge {
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        if let Some(account) = &self.account {
            account.add(bytes)?;
            self.bytes += bytes;
        }
        Ok(())
    }

    pub(crate) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        if let Some(account) = &self.account {
            account.used.fetch_sub(bytes, Ordering::Relaxed);
            self.bytes -= bytes;
        }
    }

    /// Reserves room for `more` elements; growth is amortized, as [`step`] says.
    pub(crate) fn reserve<T>(&mut self, values: &mut Vec<T>, more: usize) -> Result<()> {
        if let Some(step) = step(values.len(), values.capacity(), more) {
            self.grow(step.saturating_mul(size_of::<T>()))?;
            values.reserve_exact(step + values.capacity() - values.len());
        }
        Ok(())
    }

    /// [`Self::reserve`] for the bytes of a string.
    pub(crate) fn reserve_text(&mut self, text: &mut String, more: usize) -> Result<()> {
        if let Some(step) = step(text.len(), text.capacity(), more) {
            self.grow(step)?;
            text.reserve_exact(step + text.capacity() - text.len());
        }
        Ok(())
    }

    /// Counts the next growth of a hash table if the table is full. Growth doubles it, and both copies exist for
    /// a moment. Each entry has one control byte, and an eighth of the buckets stays free.
    pub(crate) fn reserve_table<T>(&mut self, len: usize, capacity: usize) -> Result<()> {
        if len < capacity {
            return Ok(());
        }
        self.grow((capacity + 4).saturating_mul(size_of::<T>() + 1).saturating_mul(5) / 2)
    }
}

/// The number of elements by which to grow, if growth is necessary. Small vectors double, as `Vec` does; larger
/// ones grow by a quarter, so that little capacity stays unused.
fn step(len: usize, capacity: usize, more: usize) -> Option<usize> {
    const SMALL: usize = 1 << 16;
    let missing = more.saturating_sub(capacity - len);
    let usual = if capacity < SMALL { capacity.max(16) } else { capacity / 4 };
    (missing > 0).then(|| missing.max(usual))
}

impl Clone for Charge {
    /// Counts the copy even if that exceeds the limit; the next charge then fails.
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

/// Values whose memory counts towards the query's limit.
#[derive(Clone, Debug)]
pub(crate) struct TrackedVec<T> {
    values: Vec<T>,
    charge: Charge,
}

impl<T> TrackedVec<T> {
    /// Collects at most `rows` values.
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

    /// Collects at most `rows` values, up to the first error.
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

    /// Wraps values that `charge` already counts.
    pub(crate) fn counted(values: Vec<T>, charge: Charge) -> Self {
        Self { values, charge }
    }

    /// Adds at most `rows` values.
    pub(crate) fn extend(&mut self, rows: usize, values: impl Iterator<Item = T>) -> Result<()> {
        self.charge.reserve(&mut self.values, rows)?;
        self.values.extend(values);
        Ok(())
    }

    pub(crate) fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.values.iter_mut()
    }
}

impl<T> Default for TrackedVec<T> {
    /// An empty vector. It has no account, so it must not grow.
    fn default() -> Self {
        Self { values: Vec::new(), charge: Charge::default() }
    }
}

impl<T> Deref for TrackedVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_releases_its_bytes() {
        let memory = Memory::new(1 << 20);
        let held = TrackedVec::new(&memory, 10, 0..10_u64).unwrap();
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
    fn the_charge_equals_the_reserved_capacity() {
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
    fn a_hash_table_never_exceeds_its_charge() {
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
