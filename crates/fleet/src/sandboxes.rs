//! `GET /api/sandboxes`: the latest state of each sandbox, in pages.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::Serialize;

use crate::parameters::{HOUR, InvalidParameter, Parameters, equals, sandbox_id};
use crate::rows::{self, UnexpectedAnswer, row};
use crate::sandbox::{Sandbox, columns};
use crate::sql::{self, SANDBOX_ID};
use crate::time::{Span, Time};
use crate::{Progress, QueryScope, Report};

const KNOWN: &[&str] = &[
    "window",
    "silent_after",
    "prefix",
    "state",
    "region",
    "version",
    "silent",
    "restarted",
    "sort",
    "limit",
    "cursor",
];

const DEFAULT_LIMIT: usize = 100;
/// Size of a page: a row has nine texts of at most 96 x 6 B and eleven numbers, 1,001 x 6 kB = 6 MB.
const MAX_LIMIT: usize = 1_000;

/// How long a cursor is valid, in seconds: all pages show the fleet as of the first page.
const CURSOR_LIFETIME: u64 = HOUR;

/// Sort keys. Sandboxes with equal keys are sorted by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    SandboxId,
    LastSeen,
    Restarts,
    Load,
    Disk,
    Uptime,
}

impl Key {
    const ALL: [Self; 6] =
        [Self::SandboxId, Self::LastSeen, Self::Restarts, Self::Load, Self::Disk, Self::Uptime];

    /// The name in the parameter.
    const fn name(self) -> &'static str {
        match self {
            Self::SandboxId => "sandbox_id",
            Self::LastSeen => "last_seen",
            Self::Restarts => "restarts",
            Self::Load => "load",
            Self::Disk => "disk",
            Self::Uptime => "uptime",
        }
    }

    /// The column of the query, except for the id, which is part of every order.
    const fn column(self) -> Option<&'static str> {
        match self {
            Self::SandboxId => None,
            Self::LastSeen => Some("lastSeen"),
            Self::Restarts => Some("restarts"),
            Self::Load => Some("loadAvg5m"),
            // The used share. Unknown values are 0, so an unknown share is less than every known one.
            Self::Disk => Some("if(diskTotalBytes > 0, diskUsedBytes / diskTotalBytes, 0.0)"),
            Self::Uptime => Some("uptimeSeconds"),
        }
    }

    /// The value of that column.
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    const fn value(self, sandbox: &Sandbox) -> f64 {
        match self {
            Self::LastSeen => sandbox.last_seen.0 as f64,
            Self::Restarts => sandbox.restarts,
            Self::Load => sandbox.load_avg_5m,
            Self::Disk if sandbox.disk_total_bytes > 0.0 => {
                sandbox.disk_used_bytes / sandbox.disk_total_bytes
            }
            Self::SandboxId | Self::Disk => 0.0,
            Self::Uptime => sandbox.uptime_seconds,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Order {
    key: Key,
    descending: bool,
}

impl Order {
    fn new(parameters: &Parameters) -> Result<Self, InvalidParameter> {
        let text = parameters.get("sort").unwrap_or(Key::SandboxId.name());
        let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
        if let Some(key) = Key::ALL.into_iter().find(|key| key.name() == name) {
            return Ok(Self { key, descending });
        }
        let names = Key::ALL.map(Key::name).join(", ");
        let expected = format!("one of {names}, or one of them after a - for the reverse");
        Err(InvalidParameter::new("sort", expected))
    }

    /// The name in the parameter.
    fn name(self) -> String {
        format!("{}{}", if self.descending { "-" } else { "" }, self.key.name())
    }

    fn order_by(self) -> String {
        let direction = if self.descending { " DESC" } else { "" };
        match self.key.column() {
            None => format!("sandboxId{direction}"),
            Some(column) => format!("{column}{direction}, sandboxId"),
        }
    }

    /// The SQL condition for all sandboxes after a given one in this order.
    fn after(self, cursor: &Cursor) -> String {
        let beyond = if self.descending { "<" } else { ">" };
        let later = |operator| sql::compare("sandboxId", operator, &cursor.sandbox);
        match self.key.column() {
            None => later(beyond),
            Some(column) => {
                let value = kiloclaw_json::to_string(&cursor.value);
                let later = later(">");
                format!("({column} {beyond} {value} OR ({column} = {value} AND {later}))")
            }
        }
    }
}

row! {
    /// The end of a page; opaque to clients.
    #[derive(Clone, Debug, Serialize)]
    struct Cursor {
        /// Time of the request for the first page.
        #[serde(rename = "t")]
        as_of: u64 = "t",
        #[serde(rename = "o")]
        order: String = "o",
        /// Sort key of the page's last sandbox; 0 if sorted by id.
        #[serde(rename = "v")]
        value: f64 = "v",
        #[serde(rename = "s")]
        sandbox: String = "s",
    }
}

impl Cursor {
    fn read(
        parameters: &Parameters,
        order: Order,
        now: Time,
    ) -> Result<Option<Self>, InvalidParameter> {
        let Some(text) = parameters.get("cursor") else { return Ok(None) };
        let expected = |expected: &str| InvalidParameter::new("cursor", expected);
        let mut cursor = Self::default();
        Base64UrlUnpadded::decode_vec(text)
            .ok()
            .and_then(|json| rows::parse(&String::from_utf8(json).ok()?, &mut cursor).ok())
            .filter(|()| sandbox_id(&cursor.sandbox).is_ok())
            .ok_or_else(|| expected("the `next` of an answer"))?;
        if cursor.order != order.name() {
            return Err(expected("the `next` of an answer with the same `sort`"));
        }
        if Time(cursor.as_of) > now || now.since(Time(cursor.as_of)) > CURSOR_LIFETIME {
            return Err(expected(
                "the `next` of an answer of the last hour: start again without it",
            ));
        }
        Ok(Some(cursor))
    }

    fn write(&self) -> String {
        Base64UrlUnpadded::encode_string(kiloclaw_json::to_string(self).as_bytes())
    }
}

/// The report behind `GET /api/sandboxes`.
#[derive(Clone, Debug)]
pub struct SandboxesReport<'a> {
    only: Option<&'a str>,
    as_of: Time,
    window: u64,
    silent_after: u64,
    /// The SQL condition on the ids' prefix, after `AND`; empty without a prefix.
    prefix: String,
    /// SQL conditions on the sandboxes.
    filters: Vec<String>,
    order: Order,
    limit: usize,
}

impl<'a> SandboxesReport<'a> {
    /// Builds the report from a request's parameters.
    pub fn new(parameters: &Parameters, scope: QueryScope<'a>) -> Result<Self, InvalidParameter> {
        parameters.only(KNOWN)?;
        let window = parameters.window()?;
        let silent_after = parameters.silent_after(window)?;
        let prefix = parameters.prefix()?.map(|prefix| sql::starts_with(SANDBOX_ID, &prefix));
        let prefix = prefix.map(|condition| format!(" AND {condition}")).unwrap_or_default();
        let order = Order::new(parameters)?;
        let limit = parameters.integer("limit", DEFAULT_LIMIT, MAX_LIMIT)?;
        let cursor = Cursor::read(parameters, order, scope.now)?;
        let as_of = cursor.as_ref().map_or(scope.now, |cursor| Time(cursor.as_of));

        let mut filters = Vec::new();
        for (name, column) in [("state", "supervisorState"), ("region", "flyRegion")] {
            if let Some(text) = parameters.text(name)? {
                filters.push(equals(column, &text));
            }
        }
        if let Some(version) = parameters.text("version")? {
            let [one, other] = ["controllerVersion", "openclawVersion"];
            filters.push(format!("({} OR {})", equals(one, &version), equals(other, &version)));
        }
        if let Some(silent) = parameters.flag("silent")? {
            let Time(heard_since) = as_of.minus(silent_after);
            filters.push(format!("lastSeen {} {heard_since}", if silent { "<" } else { ">=" }));
        }
        if let Some(restarted) = parameters.flag("restarted")? {
            filters.push(format!("restarts {} 0", if restarted { ">" } else { "=" }));
        }
        if let Some(cursor) = cursor {
            filters.push(order.after(&cursor));
        }
        Ok(Self { only: scope.only, as_of, window, silent_after, prefix, filters, order, limit })
    }

    /// Queries a page of sandboxes and one more sandbox, which shows whether there is another page.
    #[must_use]
    pub fn sql(&self) -> String {
        let mut filters = String::new();
        for filter in &self.filters {
            filters += if filters.is_empty() { " WHERE " } else { " AND " };
            filters += filter;
        }
        // Not `SELECT *`, which would return the inner query's names. The prefix is in the inner query, since data are
        // sorted by the index.
        format!(
            "SELECT sandboxId, firstSeen, lastSeen, supervisorState, machineId, flyRegion, \
             controllerVersion, controllerCommit, openclawVersion, openclawCommit, \
             lastExitReason, uptimeSeconds, loadAvg5m, diskUsedBytes, diskTotalBytes, totalRestarts, checkIns, \
             restarts, \
             bandwidthBytesIn, bandwidthBytesOut FROM (SELECT {} {}{} GROUP BY sandboxId){filters} \
             ORDER BY {} LIMIT {}",
            columns(),
            sql::points(Span::last(self.window, self.as_of), self.only),
            self.prefix,
            self.order.order_by(),
            self.limit + 1,
        )
    }

    /// Builds the response from the rows for [`sql`](Self::sql).
    pub fn answer(&self, sandboxes: &str) -> Result<Sandboxes, UnexpectedAnswer> {
        let heard_since = self.as_of.minus(self.silent_after);
        let mut sandboxes: Vec<Sandbox> = rows::read(sandboxes)?;
        for sandbox in &mut sandboxes {
            sandbox.set_silent(heard_since);
        }
        let more = sandboxes.len() > self.limit;
        sandboxes.truncate(self.limit);
        let last = sandboxes.last().filter(|_| more);
        let next = last.map(|last| Cursor {
            as_of: self.as_of.0,
            order: self.order.name(),
            value: self.order.key.value(last),
            sandbox: last.sandbox_id.clone(),
        });
        Ok(Sandboxes {
            as_of: self.as_of,
            from: self.as_of.minus(self.window),
            silent_after_seconds: self.silent_after,
            next: next.map(|cursor| cursor.write()),
            sandboxes,
        })
    }
}

impl Report for SandboxesReport<'_> {
    fn queries(&self) -> Vec<String> {
        vec![self.sql()]
    }

    fn read(&mut self, answers: &[String]) -> Result<Progress, UnexpectedAnswer> {
        let [sandboxes] = answers else { return Err(UnexpectedAnswer::count()) };
        Ok(Progress::done(&self.answer(sandboxes)?))
    }
}

/// A page of sandboxes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandboxes {
    /// Time of the request for the first page; all pages show the fleet as of then.
    pub as_of: Time,
    /// Only check-ins after this time count.
    pub from: Time,
    /// Seconds without a check-in until a sandbox is silent.
    pub silent_after_seconds: u64,
    /// The `cursor` of the next page, if there is one.
    pub next: Option<String>,
    /// The sandboxes, sorted.
    pub sandboxes: Vec<Sandbox>,
}
