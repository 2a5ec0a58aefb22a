//! Which sandboxes stopped checking in, and which started again: the queries of a watcher, which runs them every
//! minute.
//!
//! The watcher never asks who is silent: that costs more the longer silences last. It asks whose first or last check-in
//! lies in the time that has become visible since the previous tick.

use crate::rows::{self, UnexpectedAnswer, row};
use crate::sql::{
    FIRST_SEEN, FLY_REGION, LAST_SEEN, SAMPLE_INTERVAL, SANDBOX_ID, SUPERVISOR_STATE, UPTIME,
    compare, in_pieces, latest, on_purpose, points,
};
use crate::time::{Span, Time};

/// Maximum number of rows of an answer. A row has an id of 576 B, two texts of 96 x 6 B and four numbers: 4,000 x 1.9
/// kB = 7.6 MB at most.
pub const PAGE: usize = 4_000;

/// Maximum number of regions: 200 x (576 B and two numbers) = 130 kB.
const MAX_REGIONS: usize = 200;

row! {
    /// A sandbox's check-ins within the span of a query.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Sighting {
        pub sandbox_id: String = "sandboxId",
        /// Its first check-in within the span.
        pub first_seen: Time = "firstSeen",
        /// Its last check-in.
        pub last_seen: Time = "lastSeen",
        /// The state in its last check-in, at most 96 characters.
        pub supervisor_state: String = "supervisorState",
        /// The region of its last check-in, at most 96 characters; empty if unknown.
        pub fly_region: String = "flyRegion",
        /// 1 if it is [off on purpose](crate::on_purpose), else 0.
        pub on_purpose: u64 = "onPurpose",
        /// The uptime of its process in its last check-in, whole seconds.
        pub uptime_seconds: u64 = "uptimeSeconds",
    }
}

row! {
    /// The sandboxes of a region.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Region {
        /// The region, at most 96 characters; empty if unknown.
        pub fly_region: String = "flyRegion",
        /// Number of sandboxes that checked in within the span.
        pub sandboxes: u64 = "sandboxes",
        /// The last check-in of any of them.
        pub last_seen: Time = "lastSeen",
    }
}

/// A range of sandboxes by id: `after < id <= until`. An empty end is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub after: String,
    pub until: String,
}

impl Range {
    fn condition(&self) -> String {
        let mut sql = String::new();
        for (operator, id) in [(">", &self.after), ("<=", &self.until)] {
            if !id.is_empty() {
                sql += " AND ";
                sql += &compare(SANDBOX_ID, operator, id);
            }
        }
        sql
    }
}

/// The times that decide which sandboxes stopped and which started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// Only check-ins after this count, by Analytics Engine's clock. Earlier ticks found all sandboxes whose last
    /// check-in is earlier.
    pub after: Time,
    /// A sandbox stopped if its last check-in is not later than this.
    pub heard_since: Time,
    /// A sandbox started if its first check-in is later than this.
    pub started_after: Time,
    /// All check-ins until this are visible.
    pub until: Time,
}

impl Crossing {
    const fn span(&self) -> Span {
        Span { after: self.after, until: self.until }
    }

    /// Queries the first [`PAGE`] sandboxes of a range, by id, that stopped or started.
    #[must_use]
    pub fn sql(&self, range: &Range) -> String {
        let (Time(heard_since), Time(started_after)) = (self.heard_since, self.started_after);
        let having = format!(" HAVING lastSeen <= {heard_since} OR firstSeen > {started_after}");
        sightings_sql(self.span(), &range.condition(), &having, &first_page())
    }

    /// Queries whether check-ins of a range were sampled: at most one row.
    #[must_use]
    pub fn sampling_sql(&self, range: &Range) -> String {
        format!(
            "SELECT {SAMPLE_INTERVAL} AS sampleInterval, count(DISTINCT {SANDBOX_ID}) AS sandboxes {}{}",
            points(self.span(), None),
            range.condition()
        )
    }

    /// Queries the first sandbox beyond `most` that stopped, and the first beyond `most` that started. A span that ends
    /// before its [`last_seen`](Sighting::last_seen) or [`first_seen`](Sighting::first_seen), respectively, has at most
    /// `most`.
    #[must_use]
    pub fn slices_sql(&self, most_stopped: usize, most_started: usize) -> [String; 2] {
        let (Time(heard_since), Time(started_after)) = (self.heard_since, self.started_after);
        let slice = |having: &str, order: &str, most: usize| {
            sightings_sql(self.span(), "", having, &format!("{order} LIMIT 1 OFFSET {most}"))
        };
        let started = format!(" HAVING firstSeen > {started_after} AND lastSeen > {heard_since}");
        [
            slice(&format!(" HAVING lastSeen <= {heard_since}"), "lastSeen", most_stopped),
            slice(&started, "firstSeen", most_started),
        ]
    }

    /// Queries the sandbox at a position of a range.
    #[must_use]
    pub fn split_sql(&self, range: &Range, position: u64) -> String {
        let tail = format!("sandboxId LIMIT 1 OFFSET {position}");
        sightings_sql(self.span(), &range.condition(), "", &tail)
    }
}

fn first_page() -> String {
    format!("sandboxId LIMIT {PAGE}")
}

/// `order` follows `ORDER BY`.
fn sightings_sql(span: Span, condition: &str, having: &str, order: &str) -> String {
    format!(
        "SELECT {SANDBOX_ID} AS sandboxId, {FIRST_SEEN} AS firstSeen, {LAST_SEEN} AS lastSeen, \
         {} AS supervisorState, {} AS flyRegion, {} AS onPurpose, \
         toUInt32({}) AS uptimeSeconds {}{condition} GROUP BY sandboxId{having} \
         ORDER BY {order}",
        latest(SUPERVISOR_STATE),
        latest(FLY_REGION),
        on_purpose(),
        latest(UPTIME),
        points(span, None),
    )
}

/// Queries the check-ins of these sandboxes after a time, in at most `most` pieces; reads of few sandboxes are not
/// sampled. Also returns the number of sandboxes that the pieces cover.
#[must_use]
pub fn named_sql(ids: &[&str], most: usize, after: Time, until: Time) -> (Vec<String>, usize) {
    in_pieces(ids, most, &|condition| {
        sightings_sql(Span { after, until }, &format!(" AND {condition}"), "", &first_page())
    })
}

/// Queries the largest regions of all sandboxes that checked in after a time.
#[must_use]
pub fn regions_sql(after: Time, until: Time) -> String {
    format!(
        "SELECT flyRegion, count() AS sandboxes, max(seen) AS lastSeen \
         FROM (SELECT {SANDBOX_ID} AS sandboxId, {} AS flyRegion, {LAST_SEEN} AS seen {} \
         GROUP BY sandboxId) GROUP BY flyRegion ORDER BY sandboxes DESC, flyRegion \
         LIMIT {MAX_REGIONS}",
        latest(FLY_REGION),
        points(Span { after, until }, None),
    )
}

/// Queries the newest canary: its number, and its time in Analytics Engine.
#[must_use]
pub fn canary_sql(dataset: &str, after: Time) -> String {
    let Time(after) = after;
    format!(
        "SELECT argMax(double1, timestamp) AS number, toUnixTimestamp(max(timestamp)) AS time \
         FROM {dataset} WHERE timestamp > toDateTime({after})"
    )
}

row! {
    /// A canary: once this data point is visible, so are all earlier ones.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Canary {
        /// When it was written, by the writer's clock; 0 without a canary.
        pub number: Time = "number",
        /// When it was written, by Analytics Engine's clock.
        pub time: Time = "time",
    }
}

/// Parses the answer to [`canary_sql`].
pub fn read_canary(answer: &str) -> Result<Canary, UnexpectedAnswer> {
    rows::read_one(answer)
}

/// Parses the answers to [`Crossing::sql`] and [`named_sql`].
pub fn read_sightings(answer: &str) -> Result<Vec<Sighting>, UnexpectedAnswer> {
    rows::read(answer)
}

/// Parses the answer to [`regions_sql`].
pub fn read_regions(answer: &str) -> Result<Vec<Region>, UnexpectedAnswer> {
    rows::read(answer)
}

row! {
    /// How the check-ins of a range were sampled.
    #[derive(Clone, Copy, Debug)]
    pub struct Sampling {
        /// The highest interval: 1 if nothing was sampled away.
        pub sample_interval: u64 = "sampleInterval",
        /// The number of sandboxes that remain.
        pub sandboxes: u64 = "sandboxes",
    }
}

/// Parses the answer to [`Crossing::sampling_sql`].
pub fn read_sampling(answer: &str) -> Result<Sampling, UnexpectedAnswer> {
    rows::read_one(answer)
}
