//! Data points as columns in memory.
//!
//! A [`Table`] is a queue of segments of at most [`SEGMENT_ROWS`] rows. In a segment, string columns are
//! dictionary-encoded with two-byte ids, and a column with one distinct value, such as an unused column, is
//! stored as that value. Eviction removes rows from the front.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::column::{Column, Interner, StringColumn, StringPool};
use crate::error::{Error, Result};
use crate::limits::{COLUMN_TEXT_BYTES, STRING_BYTES};
use crate::memory::{Memory, TrackedVec};
use crate::point::{Point, SLOTS};
use crate::value::{Type, Value};

/// Rows per segment, which is also the unit of evaluation: the number of distinct two-byte ids.
const SEGMENT_ROWS: usize = 1 << 16;

/// If a column of a segment exceeds this many bytes of text, a new segment begins. It is a quarter of what an
/// expression may produce for one segment.
const SEGMENT_TEXT_BYTES: usize = COLUMN_TEXT_BYTES / 4;

/// The tables, by dataset name.
pub trait Tables {
    /// `None` for an unknown dataset: the query fails, as in the cloud.
    fn table(&self, name: &str) -> Option<&Table>;
    /// The names of all tables, in the order of `SHOW TABLES`.
    fn names(&self) -> Vec<String>;
}

impl Tables for BTreeMap<String, Table> {
    fn table(&self, name: &str) -> Option<&Table> {
        self.get(name)
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// The columns that every dataset has, in the order of `SELECT *`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Dataset,
    Timestamp,
    SampleInterval,
    Index1,
    /// The index counts from 0, for doubles as well.
    Blob(usize),
    Double(usize),
}

impl Slot {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Self::Dataset, Self::Timestamp, Self::SampleInterval, Self::Index1]
            .into_iter()
            .chain((0..SLOTS).map(Self::Blob))
            .chain((0..SLOTS).map(Self::Double))
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Dataset => "dataset".into(),
            Self::Timestamp => "timestamp".into(),
            Self::SampleInterval => "_sample_interval".into(),
            Self::Index1 => "index1".into(),
            Self::Blob(i) => format!("blob{}", i + 1),
            Self::Double(i) => format!("double{}", i + 1),
        }
    }

    pub(crate) fn ty(self) -> Type {
        match self {
            Self::Dataset | Self::Index1 | Self::Blob(_) => Type::String,
            Self::Timestamp => Type::DateTime(None),
            Self::SampleInterval => Type::UInt32,
            Self::Double(_) => Type::Float64,
        }
    }
}

/// The data points of one dataset, in order of arrival.
#[derive(Clone, Debug)]
pub struct Table {
    name: Arc<str>,
    segments: VecDeque<Segment>,
    /// Evicted rows of the first segment.
    evicted: usize,
    rows: usize,
}

impl Table {
    /// An empty table for a dataset.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), segments: VecDeque::new(), evicted: 0, rows: 0 }
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether the table has no rows. In the cloud, such a dataset does not exist.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a data point; ignores the point's own dataset. Fails if a string exceeds [`STRING_BYTES`],
    /// which is far above Analytics Engine's limit.
    pub fn push(&mut self, point: &Point) -> Result<()> {
        let mut texts = std::iter::once(&point.index1).chain(&point.blobs);
        if texts.any(|text| text.len() > STRING_BYTES) {
            let message = format!("a string of the data point has more than {STRING_BYTES} bytes");
            return Err(Error::limit(message));
        }
        if self.segments.back().is_none_or(Segment::is_full) {
            if let Some(full) = self.segments.back_mut() {
                full.seal();
            }
            self.segments.push_back(Segment::new());
        }
        if let Some(last) = self.segments.back_mut() {
            last.push(point)?;
            self.rows += 1;
        }
        Ok(())
    }

    /// Drops the oldest rows until at most `rows` remain.
    pub fn evict_to(&mut self, rows: usize) {
        while self.rows > rows {
            self.drop_front(self.rows - rows);
        }
    }

    /// Drops rows from the front whose timestamp is before `milliseconds` since 1970; stops at the first newer
    /// row, even if older rows follow.
    pub fn evict_before(&mut self, milliseconds: i64) {
        while let Some(first) = self.segments.front() {
            let live = first.timestamps.iter().skip(self.evicted);
            let old = live.take_while(|at| **at < milliseconds).count();
            if old == 0 {
                break;
            }
            self.drop_front(old);
        }
    }

    /// Drops at most `rows` rows, only from the first segment.
    fn drop_front(&mut self, rows: usize) {
        let Some(first) = self.segments.front() else { return };
        let there = first.len() - self.evicted;
        let dropped = rows.min(there);
        self.rows -= dropped;
        self.evicted += dropped;
        if dropped == there {
            self.segments.pop_front();
            self.evicted = 0;
        }
    }

    /// The table's memory in bytes, without the allocator's overhead.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let segments: usize = self.segments.iter().map(Segment::bytes).sum();
        size_of::<Self>() + self.name.len() + segments
    }

    /// The segments, each with the numbers of its live rows.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (&Segment, Vec<u32>)> {
        self.segments.iter().enumerate().map(|(i, segment)| {
            let skip = if i == 0 { self.evicted } else { 0 };
            (segment, (0..).take(segment.len()).skip(skip).collect())
        })
    }

    /// A column's values in the given rows of a segment.
    pub(crate) fn column(
        &self,
        memory: &Memory,
        segment: &Segment,
        slot: Slot,
        rows: &[u32],
    ) -> Result<Column> {
        let count = rows.len();
        Ok(match slot {
            Slot::Dataset => Column::Same(Value::Text(Arc::clone(&self.name))),
            Slot::Timestamp => {
                let seconds = |row: &u32| {
                    let at = segment.timestamps.get(*row as usize).copied().unwrap_or_default();
                    at.div_euclid(1000).clamp(0, i64::from(u32::MAX))
                };
                Column::ints(memory, count, rows.iter().map(seconds))?
            }
            Slot::SampleInterval => match &segment.sample_intervals {
                Cells::Same(value) => Column::Same(Value::Int(i64::from(*value))),
                each @ Cells::Each(_) => {
                    Column::ints(memory, count, rows.iter().map(|row| i64::from(each.get(*row))))?
                }
            },
            Slot::Index1 => segment.index1.column(memory, rows)?,
            Slot::Blob(i) => match segment.blobs.get(i) {
                Some(blob) => blob.column(memory, rows)?,
                None => Column::Same(Value::Text("".into())),
            },
            Slot::Double(i) => match segment.doubles.get(i) {
                Some(each @ Cells::Each(_)) => {
                    Column::floats(memory, count, rows.iter().map(|row| each.get(*row)))?
                }
                Some(Cells::Same(value)) => Column::Same(Value::Float(*value)),
                None => Column::Same(Value::Float(0.0)),
            },
        })
    }
}

/// A column: one value for all rows until a different value arrives.
#[derive(Clone, Debug)]
enum Cells<T> {
    Same(T),
    Each(Vec<T>),
}

impl<T: Copy + Default> Cells<T> {
    fn get(&self, row: u32) -> T {
        match self {
            Self::Same(value) => *value,
            Self::Each(values) => values.get(row as usize).copied().unwrap_or_default(),
        }
    }

    /// Adds a value; `rows` is the number of rows before it.
    fn push(&mut self, rows: usize, value: T, same: impl Fn(T, T) -> bool) {
        match self {
            Self::Same(first) if rows == 0 => *first = value,
            Self::Same(first) if same(*first, value) => {}
            Self::Same(first) => {
                let mut values = vec![*first; rows];
                values.push(value);
                *self = Self::Each(values);
            }
            Self::Each(values) => values.push(value),
        }
    }

    fn shrink(&mut self) {
        if let Self::Each(values) = self {
            values.shrink_to_fit();
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Same(_) => 0,
            Self::Each(values) => values.capacity() * size_of::<T>(),
        }
    }
}

/// A column of strings.
#[derive(Clone, Debug)]
struct TextCells {
    dictionary: Dictionary,
    ids: Cells<u16>,
    /// The first row's string; if all rows equal it, queries share this copy.
    first: Arc<str>,
}

#[derive(Clone, Debug)]
enum Dictionary {
    /// The segment accepts rows.
    Open(Interner),
    Sealed(Arc<StringPool>),
}

impl TextCells {
    fn new() -> Self {
        let dictionary = Dictionary::Open(Interner::default());
        Self { dictionary, ids: Cells::Same(0), first: Arc::default() }
    }

    fn pool(&self) -> &Arc<StringPool> {
        match &self.dictionary {
            Dictionary::Open(interner) => interner.pool(),
            Dictionary::Sealed(pool) => pool,
        }
    }

    fn push(&mut self, rows: usize, text: &str) -> Result<()> {
        if let Dictionary::Open(interner) = &mut self.dictionary {
            if rows == 0 {
                self.first = text.into();
            }
            let id = interner.id(text)?;
            // It fits in two bytes: a segment has at most one string per row.
            self.ids.push(rows, u16::try_from(id).unwrap_or_default(), |a, b| a == b);
        }
        Ok(())
    }

    fn seal(&mut self) {
        if let Dictionary::Open(interner) = &mut self.dictionary {
            let mut pool = std::mem::take(interner).into_pool();
            Arc::make_mut(&mut pool).shrink();
            self.dictionary = Dictionary::Sealed(pool);
        }
        self.ids.shrink();
    }

    fn column(&self, memory: &Memory, rows: &[u32]) -> Result<Column> {
        if matches!(self.ids, Cells::Same(_)) {
            return Ok(Column::Same(Value::Text(Arc::clone(&self.first))));
        }
        let ids = rows.iter().map(|row| u32::from(self.ids.get(*row)));
        let ids = TrackedVec::new(memory, rows.len(), ids)?;
        Ok(Column::Texts(StringColumn::new(Arc::clone(self.pool()), ids)))
    }

    fn bytes(&self) -> usize {
        let strings = match &self.dictionary {
            Dictionary::Open(interner) => interner.bytes(),
            Dictionary::Sealed(pool) => pool.bytes(),
        };
        strings + self.ids.bytes() + self.first.len()
    }
}

/// Consecutive rows of a table.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// Milliseconds since 1970.
    timestamps: Vec<i64>,
    sample_intervals: Cells<u32>,
    index1: TextCells,
    /// One column per slot that a point of the segment uses, up to the highest; doubles likewise.
    blobs: Vec<TextCells>,
    doubles: Vec<Cells<f64>>,
}

impl Segment {
    fn new() -> Self {
        Self {
            timestamps: Vec::new(),
            sample_intervals: Cells::Same(1),
            index1: TextCells::new(),
            blobs: Vec::new(),
            doubles: Vec::new(),
        }
    }

    /// The number of rows, including evicted ones.
    fn len(&self) -> usize {
        self.timestamps.len()
    }

    fn is_full(&self) -> bool {
        let mut texts = std::iter::once(&self.index1).chain(&self.blobs);
        self.len() == SEGMENT_ROWS
            || texts.any(|cells| cells.pool().text_bytes() > SEGMENT_TEXT_BYTES)
    }

    fn push(&mut self, point: &Point) -> Result<()> {
        let rows = self.timestamps.len();
        self.index1.push(rows, &point.index1)?;
        while self.blobs.len() < point.blobs.len().min(SLOTS) {
            let mut blob = TextCells::new();
            if rows > 0 {
                // Earlier rows have no value in this slot.
                blob.push(0, "")?;
            }
            self.blobs.push(blob);
        }
        for (i, blob) in self.blobs.iter_mut().enumerate() {
            blob.push(rows, point.blobs.get(i).map_or("", String::as_str))?;
        }
        while self.doubles.len() < point.doubles.len().min(SLOTS) {
            self.doubles.push(Cells::Same(0.0));
        }
        for (i, double) in self.doubles.iter_mut().enumerate() {
            let value = point.doubles.get(i).copied().unwrap_or_default();
            double.push(rows, value, |a, b| a.to_bits() == b.to_bits());
        }
        self.sample_intervals.push(rows, point.sample_interval, |a, b| a == b);
        self.timestamps.push(point.timestamp_ms);
        Ok(())
    }

    fn seal(&mut self) {
        self.timestamps.shrink_to_fit();
        self.sample_intervals.shrink();
        self.index1.seal();
        self.blobs.iter_mut().for_each(TextCells::seal);
        self.doubles.iter_mut().for_each(Cells::shrink);
    }

    fn bytes(&self) -> usize {
        let blobs: usize = self.blobs.iter().map(TextCells::bytes).sum();
        let doubles: usize = self.doubles.iter().map(Cells::bytes).sum();
        size_of::<Self>()
            + self.timestamps.capacity() * size_of::<i64>()
            + self.sample_intervals.bytes()
            + self.index1.bytes()
            + self.blobs.capacity() * size_of::<TextCells>()
            + blobs
            + self.doubles.capacity() * size_of::<Cells<f64>>()
            + doubles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at: i64, blobs: &[&str], doubles: &[f64]) -> Point {
        Point {
            timestamp_ms: at,
            blobs: blobs.iter().map(ToString::to_string).collect(),
            doubles: doubles.to_vec(),
            ..Point::default()
        }
    }

    fn texts(table: &Table, slot: Slot) -> Vec<String> {
        let mut texts = Vec::new();
        for (segment, rows) in table.segments() {
            let column = table.column(&Memory::new(1 << 30), segment, slot, &rows).unwrap();
            texts.extend((0..rows.len()).map(|row| column.text(row).to_owned()));
        }
        texts
    }

    #[test]
    fn a_newly_used_slot_is_empty_in_earlier_rows() {
        let mut table = Table::new("t");
        for point in [point(0, &[], &[]), point(1, &["a", "b"], &[0.0, 1.5]), point(2, &["c"], &[])]
        {
            table.push(&point).unwrap();
        }
        assert_eq!(texts(&table, Slot::Blob(0)), ["", "a", "c"]);
        assert_eq!(texts(&table, Slot::Blob(1)), ["", "b", ""]);
        let (segment, rows) = table.segments().next().unwrap();
        let memory = Memory::new(1 << 20);
        let column = table.column(&memory, segment, Slot::Double(1), &rows).unwrap();
        assert_eq!([0, 1, 2].map(|row| column.float(row).to_string()), ["0", "1.5", "0"]);
    }

    #[test]
    fn eviction_drops_the_oldest_rows_and_frees_their_memory() {
        let mut table = Table::new("t");
        let rows = SEGMENT_ROWS + 10;
        for i in 0..rows {
            let at = i64::try_from(i).unwrap();
            table.push(&point(at, &[&i.to_string()], &[])).unwrap();
        }
        let full = table.bytes();
        table.evict_to(rows - 3);
        assert_eq!(table.len(), rows - 3);
        assert_eq!(texts(&table, Slot::Blob(0))[0], "3");
        table.evict_before(5);
        assert_eq!(texts(&table, Slot::Blob(0))[0], "5");
        table.evict_to(4);
        assert_eq!(texts(&table, Slot::Blob(0)).len(), 4);
        assert!(table.bytes() * 100 < full, "{} of {full}", table.bytes());
        table.evict_before(i64::MAX);
        assert!(table.is_empty());
    }

    #[test]
    fn unused_slots_take_almost_no_memory() {
        let bytes = |blobs: &[&str], doubles: &[f64]| {
            let mut table = Table::new("t");
            for at in 0..1000 {
                table.push(&point(at, blobs, doubles)).unwrap();
            }
            table.bytes()
        };
        let all = bytes(&[""; SLOTS], &[0.0; SLOTS]);
        assert!(all - bytes(&[], &[]) < 10_000, "{all}");
    }
}
