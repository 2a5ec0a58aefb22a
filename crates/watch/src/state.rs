//! The watcher's state: one row for each sandbox that is not simply healthy, and one for the watcher itself.

use std::collections::BTreeMap;
use std::fmt;

use kiloclaw_check_in::limits::{
    MAX_ABSENCE_SECONDS, MAX_REASON_CHARACTERS, MAX_SANDBOX_ID_BYTES, has_control_characters,
};
use kiloclaw_fleet::{LONGEST_TEXT, Time, list, sorted};
use kiloclaw_json::Value;
use serde::Serialize;

use crate::delivery::Target;
use crate::settings::{HOUR, Settings};
use crate::transition::Kind;

/// Maximum number of sandboxes with a row. A row takes about 300 B of memory: 100,000 x 300 B = 30 MB. Beyond it, the
/// watcher forgets the sandboxes that have been off for longest.
pub const MAX_SANDBOXES: usize = 100_000;

/// Maximum number of sandboxes with a planned absence.
pub(crate) const MAX_PLANNED: usize = 50_000;

/// Maximum number of absences of a region or of all sandboxes.
pub const MAX_WIDE_ABSENCES: usize = 100;

/// Maximum number of sandboxes in one request for an absence.
pub const MAX_NAMED: usize = 1_000;

/// Maximum number of items of [`State::attention`].
pub const MAX_ATTENTION: usize = 50;

/// Maximum number of channels that are remembered as off.
const MAX_GONE: usize = 8;

/// The key of the watcher's own row: no sandbox has it, as an id has at least one byte.
const WATCHER_KEY: &str = "";

/// The state, in memory. It holds only what is open.
///
/// `sandboxes` has no healthy sandbox, and everything else is bounded by constants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub(crate) watcher: Watcher,
    pub(crate) sandboxes: BTreeMap<String, Sandbox>,
}

/// A change to the table `state`: the new value, or `None` for a row to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The sandbox's id, or `""`.
    pub key: String,
    /// JSON; opaque to the shell.
    pub value: Option<String>,
}

/// Whether a sandbox reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// It reports.
    #[default]
    Up,
    /// It does not report, without an explanation.
    Silent,
    /// It does not report, and its last check-in says that it is stopped on purpose.
    Stopped,
    /// It does not report, as planned.
    Absent,
    /// It does not report, although its planned absence is over.
    Overdue,
}

impl Status {
    /// The kind of the transitions into and out of this status.
    pub(crate) const fn kind(self) -> Option<Kind> {
        match self {
            Self::Up => None,
            Self::Silent => Some(Kind::Silent),
            Self::Stopped => Some(Kind::Stopped),
            Self::Absent => Some(Kind::Absent),
            Self::Overdue => Some(Kind::Overdue),
        }
    }
}

/// An open incident beside the status: a crash loop, a clone, or flapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct OpenIncident {
    #[serde(serialize_with = "seconds")]
    pub(crate) since: Time,
    /// Time of the message that announced it, which identifies it for `PagerDuty`.
    #[serde(serialize_with = "seconds")]
    pub(crate) announced: Time,
}

/// A sandbox that is not simply healthy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sandbox {
    pub(crate) status: Status,
    /// Its last check-in before the status.
    #[serde(serialize_with = "seconds")]
    pub(crate) last_seen: Time,
    /// Start of the status: its last check-in; of an overdue sandbox, the end of its planned absence.
    #[serde(serialize_with = "seconds")]
    pub(crate) since: Time,
    /// When the status was found.
    #[serde(serialize_with = "seconds")]
    pub(crate) opened: Time,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) region: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    /// Whether its last check-in says that it is stopped on purpose.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) on_purpose: bool,
    /// The end of the absence that explains the status; `None` means until its next check-in.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_seconds")]
    pub(crate) absent_until: Option<Time>,
    /// Time of the message that announced the status, if any; the end of the status is then also announced.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_seconds")]
    pub(crate) announced: Option<Time>,
    /// The scope of the outage whose message stands for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outage: Option<String>,
    /// When it last fell silent or returned, the latest last; only as many as flapping needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) flips: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flapping: Option<OpenIncident>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) absence: Option<Absence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) crash_loop: Option<OpenIncident>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) clone: Option<OpenIncident>,
    /// Within a tick: whether the row must be written.
    #[serde(skip)]
    pub(crate) is_changed: bool,
    /// Within a tick: index of the transition that opened the status.
    #[serde(skip)]
    pub(crate) transition: Option<usize>,
    /// Within a tick: whether a survey shows a crash loop and a clone.
    #[serde(skip)]
    pub(crate) surveyed: [bool; 2],
}

impl Sandbox {
    /// Whether it fell silent recently enough to belong to an outage that begins now.
    pub(crate) fn fell_silent(&self, settings: &Settings, now: Time) -> bool {
        self.status == Status::Silent && self.opened > now.minus(settings.silent_after)
    }

    /// Whether the row has nothing to keep.
    pub(crate) const fn is_healthy(&self) -> bool {
        matches!(self.status, Status::Up)
            && self.flips.is_empty()
            && self.flapping.is_none()
            && self.absence.is_none()
            && self.crash_loop.is_none()
            && self.clone.is_none()
    }
}

/// A planned absence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Absence {
    /// When it was declared.
    #[serde(serialize_with = "seconds")]
    pub(crate) declared: Time,
    /// When it ends; `None` means at the sandbox's next check-in.
    #[serde(serialize_with = "maybe_seconds")]
    pub(crate) ends: Option<Time>,
    pub(crate) reason: String,
    /// Who declared it.
    pub(crate) by: String,
}

impl Absence {
    /// When it ends; an absence without an end counts as the longest.
    pub(crate) fn end(&self) -> Time {
        self.ends.unwrap_or(Time(u64::MAX))
    }

    pub(crate) fn is_over(&self, horizon: Time) -> bool {
        self.ends.is_some_and(|ends| ends <= horizon)
    }
}

/// A planned absence of a region, or of all sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct WideAbsence {
    /// `None` for all.
    pub(crate) region: Option<String>,
    pub(crate) absence: Absence,
}

/// The planned absence that covers a sandbox and is not over at a time: its own, or a region's or all sandboxes'. Of
/// several, the one that ends last.
pub(crate) fn absence_of<'a>(
    row: &'a Sandbox,
    wide: &'a [WideAbsence],
    at: Time,
) -> Option<&'a Absence> {
    // A sandbox that was off on purpose before is not expected back with the others.
    let covers = |wide: &&WideAbsence| {
        wide.region.as_ref().is_none_or(|region| *region == row.region)
            && (!row.on_purpose || wide.absence.declared <= row.last_seen)
    };
    let wide = wide.iter().filter(covers).map(|wide| &wide.absence);
    let open = row.absence.iter().chain(wide).filter(|absence| !absence.is_over(at));
    open.max_by_key(|absence| absence.end())
}

/// Which side broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// No sandbox checks in: suspect the ingest path.
    Ingest,
    /// One region is quiet, the others are not: suspect its hosts or network.
    Region,
    /// Part of several regions is quiet: suspect what these machines share.
    Fleet,
}

impl Verdict {
    const ALL: [Self; 3] = [Self::Ingest, Self::Region, Self::Fleet];

    /// The name in rows and messages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Region => "region",
            Self::Fleet => "fleet",
        }
    }
}

/// A quiet region or fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Outage {
    /// [`scope_key`].
    pub(crate) scope: String,
    /// The earliest last check-in of its sandboxes; if no sandbox checks in, the last check-in of any.
    #[serde(serialize_with = "seconds")]
    pub(crate) since: Time,
    /// When it was found, which is the time of its message.
    #[serde(serialize_with = "seconds")]
    pub(crate) opened: Time,
    pub(crate) verdict: Verdict,
    /// The number of sandboxes for which its message stands now, and the highest number so far.
    pub(crate) members: u64,
    pub(crate) peak: u64,
    /// When `members` last changed.
    #[serde(serialize_with = "seconds")]
    pub(crate) changed: Time,
}

/// The key of an outage's scope: `*` for the fleet, and a region after a `=`.
pub(crate) fn scope_key(region: Option<&str>) -> String {
    region.map_or_else(|| "*".to_owned(), |region| format!("={region}"))
}

/// The number of a region's sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Population {
    pub(crate) region: String,
    pub(crate) sandboxes: u64,
}

/// The row of the watcher itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Watcher {
    /// When it last ticked, by its own clock.
    #[serde(serialize_with = "seconds")]
    pub(crate) ticked: Time,
    /// When it last had all answers, by its own clock.
    #[serde(serialize_with = "seconds")]
    pub(crate) answered: Time,
    /// Until when Analytics Engine shows all check-ins, by its clock; 0 before the first canary is seen.
    #[serde(serialize_with = "seconds")]
    pub(crate) horizon: Time,
    /// All sandboxes whose last check-in is not after this have been examined.
    #[serde(serialize_with = "seconds")]
    pub(crate) cut: Time,
    /// The canaries that were written and are not seen yet, by its own clock.
    pub(crate) canaries: Vec<u64>,
    /// Age of the oldest canary that is not seen yet, in seconds, minus a tick.
    pub(crate) lag: u64,
    /// Since when Analytics Engine is too late for a verdict.
    #[serde(serialize_with = "maybe_seconds")]
    pub(crate) degraded: Option<Time>,
    /// Why the last tick had no answer.
    pub(crate) failure: String,
    /// When the survey was last made.
    #[serde(serialize_with = "seconds")]
    pub(crate) surveyed: Time,
    /// The cut of that survey.
    #[serde(serialize_with = "seconds")]
    pub(crate) surveyed_cut: Time,
    /// Where the fleet is split, by id, so that no query is sampled.
    pub(crate) splits: Vec<String>,
    /// The last sandbox that was queried by name.
    pub(crate) rechecked: String,
    pub(crate) outages: Vec<Outage>,
    pub(crate) absences: Vec<WideAbsence>,
    /// The numbers of sandboxes in the largest regions, from the last survey.
    pub(crate) population: Vec<Population>,
    /// The [announcements](announcement) that are over and not yet resolved in `PagerDuty`.
    pub(crate) unresolved: Vec<u64>,
    /// The channels that answered 410, as their [fingerprints](crate::Target::fingerprint).
    pub(crate) gone: Vec<String>,
}

/// Who is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// These sandboxes: at least one, at most [`MAX_NAMED`].
    Sandboxes(Vec<String>),
    /// All whose last check-in came through this region.
    Region(String),
    /// All.
    All,
}

/// A request for a planned absence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsenceRequest {
    /// Who is absent.
    pub scope: Scope,
    /// For how long, in seconds: 1 to [`MAX_ABSENCE_SECONDS`]. `None` means until the next check-in, and is only for
    /// named sandboxes.
    pub for_seconds: Option<u64>,
    /// At most [`MAX_REASON_CHARACTERS`] characters.
    pub reason: String,
    /// Who plans it: the sandbox itself, or a principal's name.
    pub by: String,
}

/// Why an absence is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbsenceError {
    /// No sandbox, too many, or an id that the contract does not allow.
    Sandboxes,
    /// The region is too long, or has control characters.
    Region,
    /// The duration is 0 or too long, or missing for a region or all.
    Duration,
    /// The reason is too long, or has control characters.
    Reason,
    /// There are too many absences.
    Full,
}

impl AbsenceError {
    /// The API's name of the wrong field; `None` if no field is wrong.
    #[must_use]
    pub const fn field(self) -> Option<&'static str> {
        match self {
            Self::Sandboxes => Some("sandboxIds"),
            Self::Region => Some("region"),
            Self::Duration => Some("forSeconds"),
            Self::Reason => Some("reason"),
            Self::Full => None,
        }
    }
}

impl fmt::Display for AbsenceError {
    /// A description of valid values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandboxes => {
                write!(
                    f,
                    "1 to {MAX_NAMED} ids of 1 to {MAX_SANDBOX_ID_BYTES} bytes, without control characters"
                )
            }
            Self::Region => {
                write!(f, "at most {LONGEST_TEXT} characters, and no control characters")
            }
            Self::Duration => write!(
                f,
                "1 to {MAX_ABSENCE_SECONDS} seconds, or null for named sandboxes: until the next check-in"
            ),
            Self::Reason => {
                write!(f, "at most {MAX_REASON_CHARACTERS} characters, and no control characters")
            }
            Self::Full => write!(f, "fewer planned absences: end some first"),
        }
    }
}

impl std::error::Error for AbsenceError {}

/// A planned absence in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedAbsence<'a> {
    /// The sandbox, for an absence of one.
    pub sandbox_id: Option<&'a str>,
    /// The region, for an absence of one. With neither, the absence is of all sandboxes.
    pub region: Option<&'a str>,
    /// When it was declared.
    pub since: Time,
    /// When it ends; `None` means at the next check-in.
    pub until: Option<Time>,
    pub reason: &'a str,
    /// Who planned it.
    pub by: &'a str,
}

impl State {
    /// Reads the table `state`, in any order. Also returns the keys of unreadable rows, which are skipped: a later
    /// version may have written them.
    pub fn load(rows: impl IntoIterator<Item = (String, String)>) -> (Self, Vec<String>) {
        let mut state = Self::default();
        let mut unreadable = Vec::new();
        for (key, value) in rows {
            let value = Value::parse(&value);
            if key == WATCHER_KEY {
                match Watcher::from_json(&value) {
                    Some(watcher) => state.watcher = watcher,
                    None => unreadable.push(key),
                }
            } else {
                match Sandbox::from_json(&value) {
                    Some(sandbox) => drop(state.sandboxes.insert(key, sandbox)),
                    None => unreadable.push(key),
                }
            }
        }
        (state, unreadable)
    }

    /// The watcher's own row, as it is now.
    pub(crate) fn watcher_change(&self) -> StateChange {
        let value = Some(kiloclaw_json::to_string(&self.watcher));
        StateChange { key: WATCHER_KEY.to_owned(), value }
    }

    /// The rows that are marked as changed; healthy ones are removed.
    pub(crate) fn changes(&mut self) -> Vec<StateChange> {
        let mut changes = Vec::new();
        for (id, row) in &mut self.sandboxes {
            if std::mem::take(&mut row.is_changed) {
                let value = (!row.is_healthy()).then(|| kiloclaw_json::to_string(row));
                changes.push(StateChange { key: id.clone(), value });
            }
        }
        if changes.iter().any(|change| change.value.is_none()) {
            // Built again: removing rows one by one would compile a kilobyte of balancing into the gzipped Worker.
            for (id, row) in std::mem::take(&mut self.sandboxes) {
                if !row.is_healthy() {
                    self.sandboxes.insert(id, row);
                }
            }
        }
        changes
    }

    /// Plans an absence, which replaces an earlier one of the same scope. The next tick acts on it. An error changes
    /// nothing.
    pub fn plan_absence(
        &mut self,
        now: Time,
        request: &AbsenceRequest,
    ) -> Result<Vec<StateChange>, AbsenceError> {
        let AbsenceRequest { scope, for_seconds, reason, by } = request;
        if for_seconds.is_some_and(|seconds| !(1..=MAX_ABSENCE_SECONDS).contains(&seconds)) {
            return Err(AbsenceError::Duration);
        }
        let strange = has_control_characters(reason);
        if strange || reason.chars().count() > MAX_REASON_CHARACTERS {
            return Err(AbsenceError::Reason);
        }
        let absence = Absence {
            declared: now,
            ends: for_seconds.map(|seconds| Time(now.0.saturating_add(seconds))),
            reason: reason.clone(),
            by: by.chars().take(MAX_REASON_CHARACTERS).collect(),
        };
        match scope {
            Scope::Sandboxes(ids) => {
                let valid = |id: &String| {
                    (1..=MAX_SANDBOX_ID_BYTES).contains(&id.len()) && !has_control_characters(id)
                };
                if !(1..=MAX_NAMED).contains(&ids.len()) || !ids.iter().all(valid) {
                    return Err(AbsenceError::Sandboxes);
                }
                let planned = self.sandboxes.values().filter(|row| row.absence.is_some()).count();
                if planned + ids.len() > MAX_PLANNED {
                    return Err(AbsenceError::Full);
                }
                for id in ids {
                    let row = self.sandboxes.entry(id.clone()).or_default();
                    // A machine must not shorten an absence that others planned for it: it may not know the reason.
                    let is_kept = row.absence.as_ref().is_some_and(|known| {
                        by == id && known.by != *id && known.end() > absence.end()
                    });
                    if !is_kept {
                        row.absence = Some(absence.clone());
                        row.is_changed = true;
                    }
                }
                Ok(self.changes())
            }
            Scope::Region(_) | Scope::All => {
                let region = match scope {
                    Scope::Region(region)
                        if region.chars().count() > LONGEST_TEXT
                            || has_control_characters(region) =>
                    {
                        return Err(AbsenceError::Region);
                    }
                    Scope::Region(region) => Some(region.clone()),
                    _ => None,
                };
                if for_seconds.is_none() {
                    return Err(AbsenceError::Duration);
                }
                let others =
                    self.watcher.absences.iter().filter(|wide| wide.region != region).count();
                if others >= MAX_WIDE_ABSENCES {
                    return Err(AbsenceError::Full);
                }
                self.watcher.absences.retain(|wide| wide.region != region);
                self.watcher.absences.push(WideAbsence { region, absence });
                Ok(vec![self.watcher_change()])
            }
        }
    }

    /// Ends the planned absences of exactly this scope, and returns no changes if there are none. In the next tick, a
    /// sandbox that does not report is silent. If `by` is the sandbox itself, this ends only absences that it planned.
    pub fn end_absence(&mut self, scope: &Scope, by: &str) -> Vec<StateChange> {
        match scope {
            Scope::Sandboxes(ids) => {
                for id in ids {
                    let Some(row) = self.sandboxes.get_mut(id) else { continue };
                    if row.absence.take_if(|absence| by != id || absence.by == by).is_some() {
                        row.is_changed = true;
                    }
                }
                self.changes()
            }
            Scope::Region(_) | Scope::All => {
                let region = if let Scope::Region(region) = scope { Some(region) } else { None };
                let before = self.watcher.absences.len();
                self.watcher.absences.retain(|wide| wide.region.as_ref() != region);
                if self.watcher.absences.len() == before {
                    vec![]
                } else {
                    vec![self.watcher_change()]
                }
            }
        }
    }

    /// The planned absences that are not over: first those of all and of regions, then those of sandboxes with ids
    /// after `after`.
    pub fn absences<'a>(
        &'a self,
        now: Time,
        after: &str,
    ) -> impl Iterator<Item = PlannedAbsence<'a>> {
        let wide = self.watcher.absences.iter().filter(move |_| after.is_empty());
        let wide = wide.map(|wide| PlannedAbsence {
            region: wide.region.as_deref(),
            ..listed(None, &wide.absence)
        });
        let bounds = (std::ops::Bound::Excluded(after.to_owned()), std::ops::Bound::Unbounded);
        let of_sandboxes = self.sandboxes.range::<String, _>(bounds);
        let of_sandboxes =
            of_sandboxes.filter_map(|(id, row)| Some(listed(Some(id), row.absence.as_ref()?)));
        list(wide)
            .into_iter()
            .chain(of_sandboxes)
            .filter(move |absence| absence.until.is_none_or(|until| until > now))
    }

    /// Turns a channel off, or on again after a test message arrived. A new address or secret makes a new channel,
    /// which is on.
    pub fn turn_off(&mut self, target: &Target, off: bool) -> StateChange {
        let fingerprint = target.fingerprint();
        self.watcher.gone.retain(|gone| *gone != fingerprint);
        if off {
            // Rotations leave old fingerprints behind.
            self.watcher.gone.truncate(MAX_GONE - 1);
            self.watcher.gone.insert(0, fingerprint);
        }
        self.watcher_change()
    }

    /// Whether the channel answered 410.
    #[must_use]
    pub fn is_off(&self, target: &Target) -> bool {
        self.watcher.gone.contains(&target.fingerprint())
    }

    /// The watcher's health, for `/api/watcher`.
    #[must_use]
    pub fn health(&self) -> Health<'_> {
        let mut open = Open::default();
        for row in self.sandboxes.values() {
            match row.status {
                Status::Up => {}
                Status::Silent => open.silent += 1,
                Status::Stopped => open.stopped += 1,
                Status::Absent => open.absent += 1,
                Status::Overdue => open.overdue += 1,
            }
            open.crash_loops += u64::from(row.crash_loop.is_some());
            open.clones += u64::from(row.clone.is_some());
            open.flapping += u64::from(row.flapping.is_some());
        }
        let watcher = &self.watcher;
        Health {
            last_tick: known(watcher.ticked),
            last_answer: known(watcher.answered),
            horizon: known(watcher.horizon),
            lag_seconds: watcher.lag,
            degraded_since: watcher.degraded,
            failure: Some(&*watcher.failure).filter(|text| !text.is_empty()),
            quiet: list(watcher.outages.iter().map(|outage| &*outage.scope)),
            open,
        }
    }

    /// Number of sandboxes that check in or are out, for `/api/watcher`; `None` before the first survey.
    #[must_use]
    pub fn sandboxes(&self, settings: &Settings) -> Option<u64> {
        known(self.watcher.surveyed).map(|_| self.sandboxes_in_all(settings))
    }

    /// The open incidents, for `/api/watcher`: outages of the fleet and of regions, then clones, crash loops, flapping
    /// and silences, each kind newest first; at most [`MAX_ATTENTION`]. An outage stands for its sandboxes.
    #[must_use]
    pub fn attention<'a>(&'a self) -> Vec<OpenAlert<'a>> {
        let watcher = &self.watcher;
        let mut alerts: Vec<((u8, u64), OpenAlert<'a>)> = Vec::new();
        let mut add = |rank, alert: OpenAlert<'a>| {
            let key = (rank, u64::MAX - alert.since.0);
            // Does not sort all: in an outage, there may be as many as the fleet has sandboxes.
            let index = alerts.partition_point(|(other, _)| *other <= key);
            if index < MAX_ATTENTION {
                alerts.truncate(MAX_ATTENTION - 1);
                alerts.insert(index, (key, alert));
            }
        };
        for outage in &watcher.outages {
            let region = outage.scope.strip_prefix('=');
            let (kind, since, reason) = (Kind::Quiet, outage.since, outage.verdict.cause());
            add(
                u8::from(region.is_some()),
                OpenAlert { kind, sandbox_id: None, region, since, reason, planned: false },
            );
        }
        for (id, row) in &self.sandboxes {
            let is_out = matches!(row.status, Status::Silent | Status::Overdue);
            let status = row.status.kind().filter(|_| is_out && row.outage.is_none());
            let since = |incident: &Option<OpenIncident>| incident.as_ref().map(|open| open.since);
            for (rank, kind, since, reason) in [
                (2, Kind::Clone, since(&row.clone), ""),
                (3, Kind::CrashLoop, since(&row.crash_loop), ""),
                (4, Kind::Flapping, since(&row.flapping), ""),
                (5, status.unwrap_or(Kind::Silent), status.map(|_| row.since), &*row.reason),
            ] {
                let Some(since) = since else { continue };
                let region = Some(&*row.region).filter(|region| !region.is_empty());
                let planned = absence_of(row, &watcher.absences, watcher.horizon).is_some();
                let sandbox_id = Some(&**id);
                add(rank, OpenAlert { kind, sandbox_id, region, since, reason, planned });
            }
        }
        list(alerts.into_iter().map(|(_, alert)| alert))
    }

    /// The silences that are recent enough to belong to one outage.
    pub(crate) fn recently_silent(
        &self,
        settings: &Settings,
        now: Time,
    ) -> impl Iterator<Item = (&String, &Sandbox)> {
        self.sandboxes.iter().filter(move |(_, row)| row.fell_silent(settings, now))
    }

    /// The open statuses with their starts, of one sandbox or of all.
    pub(crate) fn statuses(&self, sandbox: Option<&str>) -> impl Iterator<Item = (Kind, Time)> {
        let rows = self.sandboxes.iter();
        rows.filter(move |(id, _)| sandbox.is_none_or(|sandbox| *id == sandbox))
            .filter_map(|(_, row)| Some((row.status.kind()?, row.since)))
    }

    /// Number of sandboxes: those in the last survey, and those that were out before it.
    pub(crate) fn sandboxes_in_all(&self, settings: &Settings) -> u64 {
        let surveyed = self.watcher.population.iter().map(|region| region.sandboxes).sum::<u64>();
        let after = survey_after(settings.silent_after, self.watcher.surveyed_cut);
        let rows = self.sandboxes.values().filter(|row| row.status != Status::Up);
        surveyed + rows.filter(|row| row.last_seen <= after).count() as u64
    }

    /// The [`announcement`]s with an open sandbox, in order.
    pub(crate) fn announced(&self) -> Vec<u64> {
        let mut announced = Vec::new();
        for row in self.sandboxes.values() {
            let at = |incident: &Option<OpenIncident>| Some(incident.as_ref()?.announced);
            for (kind, at) in [
                (row.status.kind(), row.announced),
                (Some(Kind::Flapping), at(&row.flapping)),
                (Some(Kind::CrashLoop), at(&row.crash_loop)),
                (Some(Kind::Clone), at(&row.clone)),
            ] {
                if let (Some(kind), Some(at)) = (kind, at) {
                    announced.push(announcement(kind, at));
                }
            }
        }
        in_order(announced)
    }

    /// If the clock was set back, forgets later times: the next tick starts anew, and open incidents stay open.
    pub(crate) fn set_back(&mut self, now: Time) {
        for row in self.sandboxes.values_mut() {
            row.last_seen = row.last_seen.min(now);
            row.opened = row.opened.min(now);
            for flip in &mut row.flips {
                *flip = now.0.min(*flip);
            }
            row.is_changed = true;
        }
        let watcher = &mut self.watcher;
        for outage in &mut watcher.outages {
            outage.changed = now;
        }
        watcher.canaries.clear();
        watcher.answered = now;
        (watcher.horizon, watcher.cut) = (Time(0), Time(0));
        (watcher.surveyed, watcher.surveyed_cut) = (Time(0), Time(0));
    }

    /// When the next tick is due, so that the alarm can be set again after a restart.
    #[must_use]
    pub const fn next_tick(&self, settings: &Settings, now: Time) -> Time {
        let due = Time(self.watcher.ticked.0.saturating_add(settings.tick));
        // A clock that was set back must not stop the watcher.
        if due.0 > now.0.saturating_add(settings.tick) || due.0 < now.0 { now } else { due }
    }
}

/// The time after which a tick with this cut counts the regions' sandboxes.
pub(crate) fn survey_after(silent_after: u64, cut: Time) -> Time {
    cut.minus(HOUR.max(silent_after))
}

/// The numbers in ascending order.
pub(crate) fn in_order(numbers: Vec<u64>) -> Vec<u64> {
    sorted(numbers, |number| ([*number, 0, 0], String::new(), [0; 2]))
}

/// The key of a message about a kind of incident: a tick sends at most one. [`announced_kind`] is the inverse.
pub(crate) const fn announcement(kind: Kind, at: Time) -> u64 {
    at.0.saturating_mul(16).saturating_add(kind as u64)
}

/// The kind and the time of an [`announcement`].
pub(crate) fn announced_kind(announcement: u64) -> Option<(Kind, Time)> {
    let kind = Kind::ALL.into_iter().find(|kind| *kind as u64 == announcement % 16)?;
    Some((kind, Time(announcement / 16)))
}

/// Numbers of open incidents, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the kinds of transitions")]
pub struct Open {
    pub silent: u64,
    pub overdue: u64,
    pub stopped: u64,
    pub absent: u64,
    pub crash_loops: u64,
    pub clones: u64,
    pub flapping: u64,
}

/// The watcher's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health<'a> {
    /// When it last ticked.
    pub last_tick: Option<Time>,
    /// When it last had all answers from Analytics Engine.
    pub last_answer: Option<Time>,
    /// Until when Analytics Engine shows all check-ins; `None` before the first canary was seen.
    pub horizon: Option<Time>,
    /// The age of the oldest canary that is not seen, or the measured delay of the last seen canary.
    pub lag_seconds: u64,
    /// Since when the watcher gives no verdict.
    pub degraded_since: Option<Time>,
    /// Why the last tick had no answers.
    pub failure: Option<&'a str>,
    /// The scopes that are quiet: `*` is the fleet, `=fra` a region.
    pub quiet: Vec<&'a str>,
    /// Open incidents.
    pub open: Open,
}

/// An open incident that needs attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenAlert<'a> {
    pub kind: Kind,
    /// `None` for a quiet region or fleet.
    pub sandbox_id: Option<&'a str>,
    /// The region, if it is known; `None` for a quiet fleet.
    pub region: Option<&'a str>,
    pub since: Time,
    /// The reason; empty if only the [transition](crate::Transition) has it.
    pub reason: &'a str,
    /// Whether a planned absence covers the sandbox.
    pub planned: bool,
}

fn known(time: Time) -> Option<Time> {
    Some(time).filter(|time| time.0 > 0)
}

fn listed<'a>(sandbox_id: Option<&'a str>, absence: &'a Absence) -> PlannedAbsence<'a> {
    PlannedAbsence {
        sandbox_id,
        region: None,
        since: absence.declared,
        until: absence.ends,
        reason: &absence.reason,
        by: &absence.by,
    }
}

// Rows are parsed by hand: code derived by serde would add 8 kB to the gzipped bundle.

fn time(value: &Value, name: &str) -> Time {
    maybe_time(value, name).unwrap_or_default()
}

fn maybe_time(value: &Value, name: &str) -> Option<Time> {
    value.get(name)?.as_u64().map(Time)
}

fn number(value: &Value, name: &str) -> u64 {
    time(value, name).0
}

fn maybe_text(value: &Value, name: &str) -> Option<String> {
    value.get(name)?.as_str().map(str::to_owned)
}

fn text(value: &Value, name: &str) -> String {
    maybe_text(value, name).unwrap_or_default()
}

fn items<T>(value: &Value, name: &str, parse: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    list(value.list(name).iter().filter_map(parse))
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    items(value, name, |value| value.as_str().map(str::to_owned))
}

impl Sandbox {
    fn from_json(value: &Value) -> Option<Self> {
        let incident = |name| {
            let value = value.get(name)?;
            Some(OpenIncident { since: time(value, "since"), announced: time(value, "announced") })
        };
        Some(Self {
            status: Status::from_json(value.get("status")?)?,
            last_seen: time(value, "last_seen"),
            since: time(value, "since"),
            opened: time(value, "opened"),
            region: text(value, "region"),
            reason: text(value, "reason"),
            on_purpose: value.get("on_purpose").is_some_and(Value::is_true),
            absent_until: maybe_time(value, "absent_until"),
            announced: maybe_time(value, "announced"),
            outage: maybe_text(value, "outage"),
            flips: items(value, "flips", Value::as_u64),
            flapping: incident("flapping"),
            absence: value.get("absence").map(Absence::from_json),
            crash_loop: incident("crash_loop"),
            clone: incident("clone"),
            is_changed: false,
            transition: None,
            surveyed: [false; 2],
        })
    }
}

impl Status {
    fn from_json(value: &Value) -> Option<Self> {
        let name = value.as_str()?;
        if name == "up" {
            return Some(Self::Up);
        }
        let all = [Self::Silent, Self::Stopped, Self::Absent, Self::Overdue];
        all.into_iter().find(|status| status.kind().is_some_and(|kind| kind.name() == name))
    }
}

impl Absence {
    fn from_json(value: &Value) -> Self {
        Self {
            declared: time(value, "declared"),
            ends: maybe_time(value, "ends"),
            reason: text(value, "reason"),
            by: text(value, "by"),
        }
    }
}

impl Outage {
    fn from_json(value: &Value) -> Option<Self> {
        let name = value.get("verdict")?.as_str()?;
        Some(Self {
            scope: text(value, "scope"),
            since: time(value, "since"),
            opened: time(value, "opened"),
            verdict: Verdict::ALL.into_iter().find(|verdict| verdict.name() == name)?,
            members: number(value, "members"),
            peak: number(value, "peak"),
            changed: time(value, "changed"),
        })
    }
}

impl Watcher {
    fn from_json(value: &Value) -> Option<Self> {
        value.is_map().then(|| Self {
            ticked: time(value, "ticked"),
            answered: time(value, "answered"),
            horizon: time(value, "horizon"),
            cut: time(value, "cut"),
            canaries: items(value, "canaries", Value::as_u64),
            lag: number(value, "lag"),
            degraded: maybe_time(value, "degraded"),
            failure: text(value, "failure"),
            surveyed: time(value, "surveyed"),
            surveyed_cut: time(value, "surveyed_cut"),
            splits: texts(value, "splits"),
            rechecked: text(value, "rechecked"),
            outages: items(value, "outages", Outage::from_json),
            absences: items(value, "absences", |wide| {
                let absence = Absence::from_json(wide.get("absence")?);
                Some(WideAbsence { region: maybe_text(wide, "region"), absence })
            }),
            population: items(value, "population", |region| {
                let (region, sandboxes) = (text(region, "region"), number(region, "sandboxes"));
                Some(Population { region, sandboxes })
            }),
            unresolved: items(value, "unresolved", Value::as_u64),
            gone: texts(value, "gone"),
        })
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Rows hold seconds, but `Time` serializes as RFC 3339.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn seconds<S: serde::Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.0)
}

#[allow(clippy::ref_option, reason = "serde passes fields by reference")]
fn maybe_seconds<S: serde::Serializer>(
    time: &Option<Time>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.map(|time| time.0).serialize(serializer)
}
