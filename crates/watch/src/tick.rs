//! A tick's queries to Analytics Engine, and the observation from their answers.

use kiloclaw_fleet::presence::{self, Canary, Crossing, PAGE, Range, Region, Sighting};
use kiloclaw_fleet::{
    FoundPatterns, PatternCandidates, Patterns, QueryScope, Time, UnexpectedAnswer, list,
};

use crate::settings::{DAY, HOUR, Settings};
use crate::state::{State, Status, survey_after};

/// The dataset of the canaries.
pub const CANARY_DATASET: &str = "kiloclaw_watcher";

/// Number of ticks between two surveys, each of which takes four queries or more.
const SURVEY_TICKS: u64 = 5;

/// How far back the first tick looks, in seconds; `/api/incidents` has the same default.
const FIRST_LOOK: u64 = DAY;

/// Maximum age of a canary that a tick searches for, in seconds. A watcher that was off for longer starts anew.
const CANARY_SPAN: u64 = DAY;

/// Maximum number of queries that check candidates for silence by name. With more candidates than these hold, about
/// 5,000, an outage is certain.
const MAX_CONFIRMATIONS: usize = 24;

/// Maximum number of these in one round: 6 x 256 rows x 1.9 kB = 3 MB at most.
const AT_ONCE: usize = 6;

/// Maximum number of sandboxes in one observation: 100,000 x 250 B = 25 MB.
const MAX_SIGHTINGS: usize = 100_000;

/// Maximum number of silences that a tick finds; the next ticks find the others. A tick keeps, writes and passes to
/// `JavaScript` about 1.5 kB for each: 30 MB, of the 128 MiB that an isolate may use.
const MAX_SILENCES: usize = 20_000;

/// Maximum number of starts that a tick reads; the next ticks read the others.
const MAX_STARTS: usize = 40_000;

/// Maximum number of splits of the fleet.
const MAX_SPLITS: usize = 63;

/// Maximum number of rounds of a tick: 64 ranges after 63 splits of 2 rounds each, 25 pages of `MAX_SIGHTINGS`, and ten
/// more.
pub const MAX_ROUNDS: usize = 225;

/// A tick's queries, in rounds: each round depends on the answers of the previous one.
///
/// A tick holds a copy of what it needs from the state, so that the state can change while the tick awaits answers.
#[derive(Clone, Debug)]
pub struct Tick {
    now: Time,
    silent_after: u64,
    stale_after: u64,
    horizon: Time,
    cut: Time,
    /// The oldest canary that is not seen yet.
    oldest_canary: Option<Time>,
    /// Sandboxes that do not report and are queried by name, and the earliest of their last check-ins.
    named: Vec<String>,
    named_after: Time,
    survey_due: bool,
    /// The cut of the last survey: since then, sampling may have hidden a silence.
    surveyed_cut: Time,
    splits: Vec<String>,
    /// The ranges that remain, the next one last.
    ranges: Vec<Range>,
    /// Whether it queried [slices](Crossing::slices_sql), and whether it searched again from the cut of the last
    /// survey.
    is_sliced: bool,
    is_widened: bool,
    step: Step,
    found: Observation,
}

/// The round whose answers come next.
#[derive(Clone, Debug)]
enum Step {
    Canary,
    /// One page of a range; with the named sandboxes in the first round, and with the sampling in a survey.
    Range {
        range: Range,
        with_names: bool,
        with_sampling: bool,
    },
    /// Where to split a range.
    Split(Range),
    /// Where to end, if there are many sandboxes; and the rest of a range.
    Slice(Option<Range>),
    /// Candidates by name; the queries that remain, the next one last.
    Confirm {
        remaining: Vec<String>,
    },
    Regions,
    Patterns,
    Details(PatternCandidates),
}

/// What follows a round of answers.
#[derive(Clone, Debug)]
pub enum Next {
    /// Another round of queries.
    Query(Vec<String>),
    /// All answers are there.
    Done(Box<Observation>),
}

/// What Analytics Engine showed to a tick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Why a query failed. Then all else is empty.
    pub(crate) failure: Option<String>,
    /// When the newest visible canary was written, by the watcher's clock.
    pub(crate) canary: Option<Time>,
    /// The new horizon and cut, if the canary is new.
    pub(crate) advance: Option<(Time, Time)>,
    /// Sandboxes whose last check-in is between the previous cut and the new one.
    pub(crate) silent: Vec<Sighting>,
    /// Sandboxes that may have returned.
    pub(crate) seen: Vec<Sighting>,
    /// The last sandbox that was queried by name.
    pub(crate) rechecked: Option<String>,
    /// The sandboxes by region, if the tick queried them.
    pub(crate) regions: Option<Vec<Region>>,
    /// Crash loops and clones, in a survey.
    pub(crate) patterns: Option<FoundPatterns>,
    /// Where the fleet is split.
    pub(crate) splits: Vec<String>,
}

impl Observation {
    /// The observation of a tick whose queries failed. `why` is for people and contains no secrets.
    #[must_use]
    pub fn failed(why: &str) -> Self {
        Self { failure: Some(why.to_owned()), ..Self::default() }
    }
}

impl Tick {
    /// Starts a tick, and returns its first round of queries.
    #[must_use]
    pub fn start(settings: &Settings, state: &mut State, now: Time) -> (Self, Vec<String>) {
        if now.plus(settings.tick) < state.watcher.ticked {
            state.set_back(now);
        }
        let watcher = &state.watcher;
        let survey_due = watcher.surveyed.plus(SURVEY_TICKS * settings.tick) <= now;
        let tick = Self {
            now,
            silent_after: settings.silent_after,
            stale_after: settings.stale_after,
            horizon: watcher.horizon,
            cut: watcher.cut,
            oldest_canary: watcher.canaries.first().map(|number| Time(*number)),
            named: Vec::new(),
            named_after: Time(0),
            survey_due,
            surveyed_cut: watcher.surveyed_cut,
            splits: watcher.splits.clone(),
            ranges: Vec::new(),
            is_sliced: false,
            is_widened: false,
            step: Step::Canary,
            found: Observation::default(),
        };
        let tick = tick.with_names(state);
        (tick, vec![presence::canary_sql(CANARY_DATASET, now.minus(CANARY_SPAN))])
    }

    /// Chooses the sandboxes to query by name: those after the last tick's, as many as one query holds.
    fn with_names(mut self, state: &State) -> Self {
        let out =
            |id: &&String| state.sandboxes.get(*id).is_some_and(|row| row.status != Status::Up);
        let after = &state.watcher.rechecked;
        let following = state.sandboxes.keys().filter(|id| *id > after).filter(out);
        let wrapped = state.sandboxes.keys().filter(|id| *id <= after).filter(out);
        let candidates = list(following.chain(wrapped).take(MAX_NAMES).map(String::as_str));
        let (_, covered) = presence::named_sql(&candidates, 1, Time(0), Time(u64::MAX));
        self.named = list(candidates.into_iter().take(covered).map(str::to_owned));
        let rows = self.named.iter().filter_map(|id| state.sandboxes.get(id));
        self.named_after = rows.map(|row| row.last_seen).min().unwrap_or_default();
        self
    }

    /// Parses the answers to the last queries, in their order.
    ///
    /// If a query's dataset does not exist yet, pass `{"data":[]}`.
    pub fn read(&mut self, answers: &[String]) -> Result<Next, UnexpectedAnswer> {
        match std::mem::replace(&mut self.step, Step::Canary) {
            Step::Canary => {
                let [answer] = answers else { return Err(UnexpectedAnswer::count()) };
                Ok(self.after_canary(presence::read_canary(answer)?))
            }
            Step::Range { range, with_names, with_sampling } => {
                self.after_range(range, with_names, with_sampling, answers)
            }
            Step::Split(range) => {
                let [answer] = answers else { return Err(UnexpectedAnswer::count()) };
                let split = presence::read_sightings(answer)?.pop().map(|row| row.sandbox_id);
                Ok(self.after_split(range, split))
            }
            Step::Slice(rest) => {
                let [stopped, started] = answers else { return Err(UnexpectedAnswer::count()) };
                let stopped = presence::read_sightings(stopped)?.pop().map(|row| row.last_seen);
                let started = presence::read_sightings(started)?.pop().map(|row| row.first_seen);
                Ok(self.after_slices(stopped, started, rest))
            }
            Step::Confirm { remaining } => {
                for answer in answers {
                    self.confirm(presence::read_sightings(answer)?);
                }
                Ok(self.confirmation(remaining))
            }
            Step::Regions => {
                let [answer] = answers else { return Err(UnexpectedAnswer::count()) };
                self.found.regions = Some(presence::read_regions(answer)?);
                Ok(self.survey())
            }
            Step::Patterns => {
                let (candidates, queries) = self.patterns().read(answers)?;
                if queries.is_empty() {
                    self.found.patterns = Some(candidates.find(&[])?);
                    return Ok(self.done());
                }
                self.step = Step::Details(candidates);
                Ok(Next::Query(queries))
            }
            Step::Details(candidates) => {
                self.found.patterns = Some(candidates.find(answers)?);
                Ok(self.done())
            }
        }
    }

    fn done(&mut self) -> Next {
        self.found.splits = std::mem::take(&mut self.splits);
        Next::Done(Box::new(std::mem::take(&mut self.found)))
    }

    /// Sends no more queries while Analytics Engine is late, since its answers are incomplete.
    fn after_canary(&mut self, canary: Canary) -> Next {
        if canary.number == Time(0) {
            return self.done();
        }
        self.found.canary = Some(canary.number);
        let unseen = self.oldest_canary.filter(|oldest| *oldest > canary.number);
        if unseen.is_some_and(|oldest| self.now.since(oldest) > self.stale_after) {
            return self.done();
        }
        // Check-ins of the same second may follow the canary.
        let horizon = canary.time.minus(1);
        if horizon <= self.horizon {
            return self.done();
        }
        // A longer `SILENT_AFTER` sets the cut back: no sandbox falls silent until the cut catches up.
        let cut = horizon.minus(self.silent_after).max(self.cut);
        if self.horizon == Time(0) {
            self.cut = cut.minus(FIRST_LOOK);
            self.horizon = horizon;
        }
        self.found.advance = Some((horizon, cut));
        self.restart()
    }

    fn crossing(&self) -> Crossing {
        let (until, heard_since) = self.found.advance.unwrap_or_default();
        Crossing { after: self.cut, heard_since, started_after: self.horizon, until }
    }

    fn next_range(&mut self) -> Next {
        let Some(range) = self.ranges.pop() else { return self.begin_confirmation() };
        self.query_range(range, self.survey_due)
    }

    fn query_range(&mut self, range: Range, with_sampling: bool) -> Next {
        let crossing = self.crossing();
        let mut queries = vec![crossing.sql(&range)];
        if with_sampling {
            queries.push(crossing.sampling_sql(&range));
        }
        let with_names = !self.named.is_empty() && self.found.rechecked.is_none();
        if with_names {
            self.found.rechecked = self.named.last().cloned();
            let after = self.named_after.max(crossing.until.minus(DAY));
            let names = list(self.named.iter().map(String::as_str));
            queries.append(&mut presence::named_sql(&names, 1, after, crossing.until).0);
        }
        self.step = Step::Range { range, with_names, with_sampling };
        Next::Query(queries)
    }

    fn after_range(
        &mut self,
        range: Range,
        with_names: bool,
        with_sampling: bool,
        answers: &[String],
    ) -> Result<Next, UnexpectedAnswer> {
        let expected = 1 + usize::from(with_sampling) + usize::from(with_names);
        if answers.len() != expected {
            return Err(UnexpectedAnswer::count());
        }
        let mut answers = answers.iter();
        let mut next = || answers.next().ok_or_else(UnexpectedAnswer::count);
        let crossing = self.crossing();
        let rows = presence::read_sightings(next()?)?;
        let sampling = if with_sampling { Some(presence::read_sampling(next()?)?) } else { None };
        if with_names {
            self.found.seen.append(&mut presence::read_sightings(next()?)?);
        }
        if let Some(sampling) = sampling
            && sampling.sample_interval > 1
            && sampling.sandboxes > 1
            && self.splits.len() < MAX_SPLITS
        {
            let middle = crossing.split_sql(&range, sampling.sandboxes / 2 - 1);
            self.step = Step::Split(range);
            return Ok(Next::Query(vec![middle]));
        }
        let last = rows.last().filter(|_| rows.len() >= PAGE).map(|row| row.sandbox_id.clone());
        for row in rows {
            if self.found.silent.len() + self.found.seen.len() >= MAX_SIGHTINGS {
                break;
            }
            if row.last_seen <= crossing.heard_since {
                self.found.silent.push(row);
            } else {
                self.found.seen.push(row);
            }
        }
        let rest = last.map(|after| Range { after, until: range.until });
        if !self.is_sliced && self.found.silent.len() + self.found.seen.len() >= PAGE {
            self.is_sliced = true;
            self.step = Step::Slice(rest);
            return Ok(Next::Query(crossing.slices_sql(MAX_SILENCES, MAX_STARTS).into()));
        }
        Ok(self.resume(rest))
    }

    fn resume(&mut self, rest: Option<Range>) -> Next {
        // Too many sandboxes within one second: those beyond the limit are lost.
        if self.found.silent.len() + self.found.seen.len() >= MAX_SIGHTINGS {
            return self.begin_confirmation();
        }
        match rest {
            Some(range) => self.query_range(range, false),
            None => self.next_range(),
        }
    }

    /// Splits a range. Its halves are queried at once, and replace the sampled answer.
    fn after_split(&mut self, range: Range, split: Option<String>) -> Next {
        // A range that cannot be split is read as it is.
        let Some(split) = split else { return self.query_range(range, false) };
        let Err(index) = self.splits.binary_search(&split) else {
            return self.query_range(range, false);
        };
        self.splits.insert(index, split.clone());
        if self.is_widened || self.surveyed_cut == Time(0) {
            let Range { after, until } = range;
            self.ranges.push(Range { after: split.clone(), until });
            self.ranges.push(Range { after, until: split });
            return self.next_range();
        }
        // Sampling may have hidden silences from the last ticks.
        self.is_widened = true;
        self.cut = self.cut.min(self.surveyed_cut);
        self.restart()
    }

    /// Ends earlier, if there are too many sandboxes for one tick. The next tick begins where this one ends.
    fn after_slices(
        &mut self,
        stopped: Option<Time>,
        started: Option<Time>,
        rest: Option<Range>,
    ) -> Next {
        if (stopped, started) == (None, None) {
            return self.resume(rest);
        }
        let Crossing { after, heard_since: mut cut, started_after, until: mut horizon } =
            self.crossing();
        if let Some(started) = started {
            horizon = started.minus(1).max(started_after.plus(1));
            cut = cut.min(horizon.minus(self.silent_after)).max(after);
        }
        if let Some(stopped) = stopped {
            cut = cut.min(stopped.minus(1).max(after.plus(1)));
            horizon = horizon.min(cut.plus(self.silent_after));
        }
        self.found.advance = Some((horizon, cut));
        self.restart()
    }

    /// Queries all ranges, for the first time or again.
    fn restart(&mut self) -> Next {
        let Observation { canary, advance, .. } = std::mem::take(&mut self.found);
        self.found = Observation { canary, advance, ..Observation::default() };
        self.ranges = ranges(&self.splits);
        self.next_range()
    }

    /// Queries candidates for silence again, over a day: because of sampling, a sandbox can seem silent, and a planned
    /// stop explains a silence only together with earlier check-ins.
    fn begin_confirmation(&mut self) -> Next {
        let crossing = self.crossing();
        let ids = list(self.found.silent.iter().map(|row| row.sandbox_id.as_str()));
        let after = crossing.after.min(crossing.until.minus(DAY));
        let (mut queries, _) = presence::named_sql(&ids, MAX_CONFIRMATIONS, after, crossing.until);
        queries.reverse();
        self.confirmation(queries)
    }

    fn confirmation(&mut self, mut remaining: Vec<String>) -> Next {
        if remaining.is_empty() {
            return self.regions();
        }
        let rest = remaining.len().saturating_sub(AT_ONCE);
        let queries = remaining.split_off(rest);
        self.step = Step::Confirm { remaining };
        Next::Query(queries)
    }

    fn confirm(&mut self, rows: Vec<Sighting>) {
        // Both are in the order of ids.
        let silent = &mut self.found.silent;
        for row in rows {
            let found = silent.binary_search_by(|other| other.sandbox_id.cmp(&row.sandbox_id));
            if let Ok(index) = found
                && let Some(candidate) = silent.get_mut(index)
            {
                *candidate = row;
            }
        }
    }

    fn regions(&mut self) -> Next {
        let Crossing { heard_since, until, .. } = self.crossing();
        self.found.silent.retain(|row| row.last_seen <= heard_since);
        if !self.asks_for_regions(self.found.silent.len()) {
            return self.survey();
        }
        self.step = Step::Regions;
        let after = survey_after(self.silent_after, heard_since);
        Next::Query(vec![presence::regions_sql(after, until)])
    }

    /// Queries who else checks in, which shows which side broke.
    const fn asks_for_regions(&self, silent: usize) -> bool {
        self.survey_due || silent > 0
    }

    fn survey(&mut self) -> Next {
        if !self.survey_due {
            return self.done();
        }
        self.step = Step::Patterns;
        Next::Query(self.patterns().queries())
    }

    const fn patterns(&self) -> Patterns<'static> {
        Patterns {
            scope: QueryScope { now: self.now, only: None },
            window: HOUR,
            heard_since: self.now.minus(self.silent_after),
        }
    }
}

/// Maximum number of names in a query: the shortest ids, in quotes and with a comma, take 5 characters of 10,000.
const MAX_NAMES: usize = 256;

/// The ranges between splits, the first one last.
fn ranges(splits: &[String]) -> Vec<Range> {
    let mut ranges = Vec::new();
    let mut until = String::new();
    for split in splits.iter().rev() {
        let until = std::mem::replace(&mut until, split.clone());
        ranges.push(Range { after: split.clone(), until });
    }
    ranges.push(Range { after: String::new(), until });
    ranges
}

#[cfg(test)]
impl Tick {
    /// The crossing that this canary leads to, if it leads to one.
    pub(crate) fn crossing_after(&mut self, canary: Canary) -> Option<Crossing> {
        if let Next::Done(found) = self.after_canary(canary) {
            self.found = *found;
        }
        self.found.advance.map(|_| self.crossing())
    }

    pub(crate) fn found(&mut self) -> Observation {
        std::mem::take(&mut self.found)
    }

    pub(crate) fn wants_regions(&self, found: &Observation) -> bool {
        self.asks_for_regions(found.silent.len())
    }

    pub(crate) const fn is_survey(&self) -> bool {
        self.survey_due
    }

    pub(crate) fn named(&self) -> &[String] {
        &self.named
    }
}
