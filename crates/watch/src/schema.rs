//! The object's tables, and the statements that keep them bounded.

/// Creates missing tables and indexes. Idempotent: the shell runs these when it starts.
pub const TABLES: [&str; 6] = [
    // One row for each sandbox that is not simply healthy, and one, with the key '', for the watcher.
    "CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS transitions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL, kind TEXT NOT NULL, event TEXT NOT NULL, subject TEXT NOT NULL,
        since INTEGER NOT NULL, until INTEGER, region TEXT NOT NULL, reason TEXT NOT NULL,
        sent INTEGER NOT NULL)",
    // For one sandbox's transitions, newest first; the whole log is read by id.
    "CREATE INDEX IF NOT EXISTS transitions_by_at ON transitions (at)",
    "CREATE INDEX IF NOT EXISTS transitions_by_subject ON transitions (subject, id)",
    "CREATE TABLE IF NOT EXISTS outbox (
        id TEXT PRIMARY KEY, channel TEXT NOT NULL, type TEXT NOT NULL, created_at INTEGER NOT NULL,
        attempts INTEGER NOT NULL, next_at INTEGER NOT NULL, body TEXT NOT NULL,
        failure TEXT NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS outbox_by_next ON outbox (next_at)",
];

/// Writes many changes at once: `?1` is a JSON array of `[key, value]`.
pub const PUT_STATE: &str = "INSERT OR REPLACE INTO state (key, value) \
     SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?1)";

/// Deletes many rows at once: `?1` is a JSON array of keys.
pub const DELETE_STATE: &str = "DELETE FROM state WHERE key IN (SELECT value FROM json_each(?1))";

/// Writes many transitions at once: `?1` is [`transition_rows`](crate::transition_rows).
pub const PUT_TRANSITIONS: &str = "INSERT INTO transitions \
     (at, kind, event, subject, since, until, region, reason, sent) \
     SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), \
     json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'), \
     json_extract(value, '$[6]'), json_extract(value, '$[7]'), json_extract(value, '$[8]') \
     FROM json_each(?1)";

/// Maximum number of rows in the log: 100 B to 1 kB each, of the 10 GB that an object may have.
pub const MAX_TRANSITIONS: u64 = 2_000_000;

/// Deletes some of the old transitions: `?1` is the present time minus [`KEEP_TRANSITIONS`], `?2` is
/// [`MAX_TRANSITIONS`]. Run it once a tick; it is cheap, since ids grow with time.
///
/// [`KEEP_TRANSITIONS`]: crate::KEEP_TRANSITIONS
pub const TRIM_TRANSITIONS: &str = "DELETE FROM transitions WHERE id IN \
     (SELECT id FROM transitions ORDER BY id LIMIT 5000) \
     AND (at < ?1 OR id <= (SELECT max(id) FROM transitions) - ?2)";

/// Maximum number of undelivered messages of a channel. A body has 160 kB at most: 3 x 300 x 160 kB = 144 MB of disk.
pub const MAX_OUTBOX: u64 = 300;

/// Deletes the oldest messages of the channel `?1` beyond `?2`, which is [`MAX_OUTBOX`]. Run it after adding rows, and
/// log the deleted ones as given up.
pub const TRIM_OUTBOX: &str = "DELETE FROM outbox WHERE channel = ?1 AND id NOT IN \
     (SELECT id FROM outbox WHERE channel = ?1 ORDER BY created_at DESC, id DESC LIMIT ?2) RETURNING id";

/// Deletes the messages of a channel that is gone or no longer configured: `?1` is its name.
pub const DROP_CHANNEL: &str = "DELETE FROM outbox WHERE channel = ?1";

/// Sums up the seconds in which sandboxes did not report, by kind, from statuses that ended. `?1` and `?2` are the
/// start and end of the window, and `?3` is the sandbox if there is only one.
#[must_use]
pub fn closed_seconds(is_only_one: bool) -> String {
    // `+` disables the other index: one sandbox has few rows.
    let rows = if is_only_one { "subject = ?3 AND +at >= ?1" } else { "at >= ?1" };
    format!(
        "SELECT kind, sum(min(until, ?2) - max(since, ?1)) FROM transitions WHERE {rows} \
         AND event = 'closed' AND until > ?1 AND since < ?2 \
         AND kind IN ('silent', 'stopped', 'absent', 'overdue') GROUP BY kind"
    )
}
