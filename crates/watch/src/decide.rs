//! Compares what Analytics Engine shows with the state, and decides what changed.

use kiloclaw_fleet::presence::{Region, Sighting};
use kiloclaw_fleet::{FoundPatterns, Incident, Severity, Time, list};

use crate::delivery::{Channel, OutboxRow};
use crate::message::{Entry, MAX_NAMED, MessageType, Messages, OutageNotice};
use crate::settings::{HOUR, Settings};
use crate::state::{
    Absence, OpenIncident, Outage, Population, Sandbox, State, StateChange, Status, Verdict,
    absence_of, announcement, in_order, scope_key, survey_after,
};
use crate::tick::Observation;
use crate::transition::{Event, Kind, Transition};

/// Older flips do not count, in seconds.
const FLAP_WINDOW: u64 = HOUR;

/// Maximum number of canaries that the watcher waits for. Beyond it, it forgets the newest.
const MAX_CANARIES: usize = 64;

/// Maximum number of outages: regions, and the fleet.
const MAX_OUTAGES: usize = 32;

/// Maximum number of regions whose size is remembered.
const MAX_POPULATION: usize = 100;

/// Maximum number of resolved `PagerDuty` incidents in one tick; the others follow.
const MAX_RESOLVED: usize = 100;

/// Maximum number of those that follow: a day of ticks with one announcement each.
const MAX_UNRESOLVED: usize = 1_440;

/// Maximum length of a reason, in characters.
const MAX_REASON: usize = 300;

/// What a tick changes, all in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// For the table `state`.
    pub changes: Vec<StateChange>,
    /// For the table `transitions`.
    pub transitions: Vec<Transition>,
    /// For the table `outbox`.
    pub outbox: Vec<OutboxRow>,
    /// Number of the canary to write after the transaction.
    pub canary: u64,
    /// Whether the watcher itself is healthy, so that the shell may ping the dead-man URL.
    pub good: bool,
}

/// Decides what changed. `channels` are configured and not off.
///
/// Changes the state in memory: if the transaction fails, drop it and [load](State::load) it again.
#[must_use]
pub fn decide(
    settings: &Settings,
    state: &mut State,
    channels: &[Channel],
    now: Time,
    observation: Observation,
) -> Outcome {
    let mut decision =
        Decision { settings, now, state, transitions: Vec::new(), messages: Messages::default() };
    decision.watch(&observation);
    if let Some((horizon, cut)) = observation.advance {
        decision.advance(horizon, cut, observation);
    }
    decision.finish(channels)
}

struct Decision<'a> {
    settings: &'a Settings,
    now: Time,
    state: &'a mut State,
    transitions: Vec<Transition>,
    messages: Messages,
}

impl Decision<'_> {
    /// The watcher itself: canaries, failures, and whether a verdict is possible.
    fn watch(&mut self, observation: &Observation) {
        let (now, settings) = (self.now, self.settings);
        let watcher = &mut self.state.watcher;
        if now.since(watcher.ticked) > settings.stale_after {
            // The watcher was off, or its clock jumped: the age of its canaries means nothing.
            watcher.canaries.clear();
        }
        watcher.ticked = now;
        watcher.failure = observation.failure.clone().unwrap_or_default();
        // If the first tick of all fails, the time without answers begins now.
        if observation.failure.is_none() || watcher.answered == Time(0) {
            watcher.answered = now;
        }
        if let Some(Time(seen)) = observation.canary {
            watcher.canaries.retain(|number| *number > seen);
        }
        let waited = |since: u64| now.since(Time(since));
        let oldest = watcher.canaries.first().copied();
        watcher.lag = oldest.map_or(0, |oldest| waited(oldest).saturating_sub(settings.tick));
        let is_late = oldest.is_some_and(|oldest| waited(oldest) > settings.stale_after);
        let has_failed =
            observation.failure.is_some() && now.since(watcher.answered) > settings.stale_after;

        let reason = if has_failed {
            format!("Analytics Engine does not answer: {}", watcher.failure)
        } else {
            let lag = watcher.lag;
            format!("Analytics Engine is late: a data point is not visible after {lag} s")
        };
        match watcher.degraded {
            None if is_late || has_failed => {
                watcher.degraded = Some(now);
                self.record(Kind::Degraded, "", now, None, "", &reason);
                self.mark_sent();
                self.messages.watcher(MessageType::WatcherDegraded, now, &reason);
            }
            Some(since) if !is_late && observation.failure.is_none() => {
                watcher.degraded = None;
                self.record(Kind::Degraded, "", since, Some(now), "", "");
                self.mark_sent();
                self.messages.watcher(MessageType::WatcherRecovered, since, "");
            }
            _ => {}
        }
        let watcher = &mut self.state.watcher;
        if watcher.canaries.len() < MAX_CANARIES {
            watcher.canaries.push(now.0);
        }
    }

    /// Records that something opened; or, with an end, that it closed.
    fn record(
        &mut self,
        kind: Kind,
        subject: &str,
        since: Time,
        until: Option<Time>,
        region: &str,
        reason: &str,
    ) {
        self.transitions.push(Transition {
            at: self.now,
            kind,
            event: if until.is_some() { Event::Closed } else { Event::Opened },
            subject: subject.to_owned(),
            since,
            until,
            region: region.to_owned(),
            reason: shorten(reason),
            sent: false,
        });
    }

    fn mark_sent(&mut self) {
        if let Some(last) = self.transitions.last_mut() {
            last.sent = true;
        }
    }

    /// Decides who fell silent, who is back and what is over, since all check-ins until `horizon` are visible.
    fn advance(&mut self, horizon: Time, cut: Time, observation: Observation) {
        self.state.watcher.horizon = horizon;
        self.state.watcher.cut = cut;
        self.state.watcher.splits = observation.splits;
        if let Some(rechecked) = observation.rechecked {
            self.state.watcher.rechecked = rechecked;
        }
        for sighting in &observation.seen {
            self.seen(sighting);
        }
        for sighting in observation.silent {
            // It may have returned after its silence was found, and left again.
            self.seen(&sighting);
            self.candidate(horizon, sighting);
        }
        self.absences(horizon, cut);
        self.outages(horizon, observation.regions.as_deref());
        self.flapping();
        self.announce();
        self.forget(horizon);
        if let Some(patterns) = observation.patterns {
            self.survey(patterns);
            if let Some(regions) = observation.regions {
                self.state.watcher.population = population(regions);
            }
        }
        // A departure just before the end of an absence shows only after `silent_after`.
        self.state.watcher.absences.retain(|wide| !wide.absence.is_over(cut));
    }

    /// Closes the status of a sandbox that checked in after it was found.
    fn seen(&mut self, sighting: &Sighting) {
        let Some(row) = self.state.sandboxes.get_mut(&sighting.sandbox_id) else { return };
        if row.status == Status::Up || sighting.last_seen <= row.last_seen {
            return;
        }
        let first = sighting.first_seen;
        let back = if first > row.last_seen { first } else { sighting.last_seen };
        // An absence without an end is over, unless it was planned after the return. An absence with an end continues,
        // since the machine may come and go during it.
        row.absence.take_if(|absence| absence.is_over_since(sighting.last_seen));
        // If an outage comes and goes, its sandboxes do not flap.
        if row.status == Status::Silent && row.outage.is_none() {
            row.flip(self.now);
        }
        self.close_status(&sighting.sandbox_id, back, "");
    }

    /// Opens a status for a sandbox that does not report.
    fn candidate(&mut self, horizon: Time, sighting: Sighting) {
        let id = sighting.sandbox_id;
        let row = self.state.sandboxes.entry(id.clone()).or_default();
        if row.status != Status::Up {
            return;
        }
        row.last_seen = sighting.last_seen;
        row.region = sighting.fly_region;
        row.on_purpose = sighting.on_purpose == 1;
        let since = row.last_seen;
        let started = since.minus(sighting.uptime_seconds);
        row.absence.take_if(|absence| absence.is_over_since(started));
        let state = format!("last state: {}", sighting.supervisor_state);
        let wide = &self.state.watcher.absences;
        if let Some(absence) = absence_of(row, wide, horizon) {
            let (reason, until) = (absence.why(), absence.ends);
            self.open_status(&id, Status::Absent, since, &reason, until);
        } else if let Some(absence) = absence_of(row, wide, since) {
            // The absence ended before the silence was long enough to be found.
            let (reason, ends) = (absence.why(), absence.ends.unwrap_or(since));
            self.open_status(&id, Status::Overdue, ends, &reason, None);
        } else if row.on_purpose {
            self.open_status(&id, Status::Stopped, since, &state, None);
        } else {
            row.flip(self.now);
            self.open_status(&id, Status::Silent, since, &state, None);
        }
    }

    /// Applies planned absences that began, were ended or are over to the statuses that they explain.
    fn absences(&mut self, horizon: Time, cut: Time) {
        let wide = self.state.watcher.absences.clone();
        let mut turns = Vec::new();
        for (id, row) in &mut self.state.sandboxes {
            let absence = absence_of(row, &wide, horizon);
            let turn = match (row.status, absence) {
                (Status::Silent | Status::Stopped | Status::Overdue, Some(absence)) => {
                    let since = absence.declared.max(row.since);
                    Some((Status::Absent, since, absence.why(), absence.ends))
                }
                (Status::Absent, Some(absence)) => {
                    if row.absent_until != absence.ends {
                        row.absent_until = absence.ends;
                        row.is_changed = true;
                    }
                    None
                }
                (Status::Absent, None) => match row.absent_until {
                    Some(ends) if ends <= horizon => {
                        Some((Status::Overdue, ends, row.reason.clone(), None))
                    }
                    _ => {
                        let status = if row.on_purpose { Status::Stopped } else { Status::Silent };
                        let reason = "its planned absence was ended".to_owned();
                        Some((status, self.now, reason, None))
                    }
                },
                _ => None,
            };
            // A reporting sandbox may have left just before the end of its absence, which shows only after
            // `silent_after`. An absence without an end is over if the sandbox still reports by then.
            let is_out = row.status != Status::Up;
            if let Some(absence) = &row.absence {
                let ends =
                    absence.ends.unwrap_or(absence.declared.plus(self.settings.silent_after));
                let is_over = if is_out { absence.is_over(horizon) } else { ends <= cut };
                if is_over {
                    row.absence = None;
                    row.is_changed = true;
                }
            }
            if let Some(turn) = turn {
                turns.push((id.clone(), turn));
            }
        }
        for (id, (status, since, reason, until)) in turns {
            let is_planned = status == Status::Absent;
            let outage = self.state.sandboxes.get(&id).and_then(|row| row.outage.clone());
            if let Some(scope) = outage.filter(|_| is_planned) {
                let outages = &mut self.state.watcher.outages;
                if let Some(outage) = outages.iter_mut().find(|outage| outage.scope == scope) {
                    outage.peak = outage.peak.saturating_sub(1);
                }
            }
            // The new status begins where the old one ends, so that no time counts twice.
            self.close_status(&id, since, if is_planned { &reason } else { "" });
            self.open_status(&id, status, since, &reason, until);
        }
    }

    /// Records the beginning of a status. [`announce`](Self::announce) sends it.
    fn open_status(
        &mut self,
        id: &str,
        status: Status,
        since: Time,
        reason: &str,
        absent_until: Option<Time>,
    ) {
        let Some(row) = self.state.sandboxes.get_mut(id) else { return };
        row.status = status;
        row.since = since;
        row.opened = self.now;
        row.absent_until = absent_until;
        row.reason = shorten(reason);
        row.transition = Some(self.transitions.len());
        row.is_changed = true;
        if let Some(kind) = status.kind() {
            let (region, reason) = (row.region.clone(), row.reason.clone());
            self.record(kind, id, since, None, &region, &reason);
        }
    }

    fn close_status(&mut self, id: &str, until: Time, reason: &str) {
        let Some(row) = self.state.sandboxes.get_mut(id) else { return };
        let Some(kind) = row.status.kind() else { return };
        let until = until.max(row.since);
        let (since, region) = (row.since, row.region.clone());
        row.status = Status::Up;
        row.absent_until = None;
        row.outage = None;
        row.is_changed = true;
        let announced = row.announced.take();
        self.record(kind, id, since, Some(until), &region, reason);
        match announced {
            // Opened in the same tick: nobody was notified.
            Some(at) if at == self.now => self.messages.withdraw(kind, id),
            Some(at) => {
                self.mark_sent();
                let entry = Entry::new(kind, id, since, region, reason).until(until);
                self.messages.closed(at, entry);
            }
            None => {}
        }
    }

    /// Opens and closes outages. The message of an outage stands for its sandboxes.
    fn outages(&mut self, horizon: Time, regions: Option<&[Region]>) {
        let mut somebody_checks_in = false;
        if let Some(regions) = regions {
            let last_seen = regions.iter().map(|region| region.last_seen).max().unwrap_or_default();
            somebody_checks_in = horizon.since(last_seen) <= self.settings.silent_after / 2;
            self.open_outages(last_seen, !somebody_checks_in, regions);
        }
        let outages = &self.state.watcher.outages;
        if outages.is_empty() {
            return;
        }
        let mut members = vec![0; outages.len()];
        for row in self.state.sandboxes.values_mut().filter(|row| row.status == Status::Silent) {
            if row.outage.is_none() && row.announced.is_none() {
                let outage = outages.iter().find(|open| open.covers(row, self.settings));
                row.outage = outage.map(|outage| outage.scope.clone());
                row.is_changed = true;
                if row.outage.is_some() && row.opened == self.now {
                    row.flips.pop();
                }
            }
            let index = outages.iter().position(|open| row.outage.as_ref() == Some(&open.scope));
            if let Some(count) = index.and_then(|index| members.get_mut(index)) {
                *count += 1;
            }
        }
        let mut open = Vec::new();
        for (mut outage, out) in
            std::mem::take(&mut self.state.watcher.outages).into_iter().zip(members)
        {
            if out != outage.members {
                outage.changed = self.now;
                outage.members = out;
            }
            outage.peak = outage.peak.max(out);
            // Most sandboxes are back, or the verdict no longer holds and no others follow.
            let is_wrong = outage.verdict == Verdict::Ingest && somebody_checks_in;
            let is_stuck = (out * 2 <= outage.peak || is_wrong)
                && self.now.since(outage.changed) > self.settings.silent_after;
            if out * 10 <= outage.peak || is_stuck {
                self.close_outage(&outage);
            } else {
                open.push(outage);
            }
        }
        self.state.watcher.outages = open;
    }

    /// `last_seen` is the last check-in of any sandbox; `nobody` says whether it was too long ago.
    fn open_outages(&mut self, last_seen: Time, nobody: bool, regions: &[Region]) {
        let settings = self.settings;
        let total: u64 = regions.iter().map(|region| region.sandboxes).sum();
        let enough = |silences: u64, sandboxes: u64| {
            silences >= settings.quiet_least && silences * 100 >= sandboxes * settings.quiet_percent
        };
        // For each region, the number of silences and the earliest last check-in.
        let mut recent = vec![(0, Time(u64::MAX)); regions.len()];
        let (mut silences, mut since, mut outside) = (0, Time(u64::MAX), 0);
        let is_open =
            |scope: &str| self.state.watcher.outages.iter().any(|outage| outage.scope == scope);
        let open = self.state.watcher.outages.iter().find(|outage| outage.scope == "*");
        for (_, row) in self.state.recently_silent(settings, self.now) {
            if row.outage.is_some() && open.is_some()
                || open.is_some_and(|open| open.covers(row, settings))
            {
                continue;
            }
            let index = regions.iter().position(|region| region.fly_region == row.region);
            if let Some(of_region) = index.and_then(|index| recent.get_mut(index)) {
                *of_region = (of_region.0 + 1, of_region.1.min(row.since));
            }
            (silences, since) = (silences + 1, since.min(row.since));
            outside += u64::from(row.outage.is_none());
        }
        // A sandbox that is out for another reason is not expected to check in.
        let window = survey_after(settings.silent_after, self.state.watcher.cut);
        let out = self.state.sandboxes.values().filter(|row| {
            row.status != Status::Up
                && row.last_seen > window
                && !row.fell_silent(settings, self.now)
        });
        let expected = total.saturating_sub(out.count() as u64);
        self.messages.nobody_checks_in = Some(nobody).filter(|nobody| !nobody || expected > 1);
        let mut opened = Vec::new();
        for (region, (count, since)) in regions.iter().zip(recent) {
            if !region.fly_region.is_empty() && enough(count, region.sandboxes) {
                let name = region.fly_region.clone();
                opened.push((Some(name), since, Verdict::Region, count, region.sandboxes));
            }
        }
        // Even in a small fleet, no check-ins at all have one cause.
        let is_quiet = enough(silences, total) || (nobody && silences > 0 && expected > 1);
        if open.is_none() && is_quiet && outside > 0 && (nobody || opened.len() != 1) {
            let fleet = (None, since, Verdict::Fleet, silences, total);
            let ingest = (None, last_seen, Verdict::Ingest, silences, total);
            opened = vec![if nobody { ingest } else { fleet }];
        }
        opened.retain(|(region, ..)| !is_open(&scope_key(region.as_deref())));
        for (region, since, verdict, silences, sandboxes) in opened {
            if self.state.watcher.outages.len() >= MAX_OUTAGES {
                break;
            }
            let outage = Outage {
                scope: scope_key(region.as_deref()),
                since,
                opened: self.now,
                verdict,
                members: 0,
                peak: 0,
                changed: self.now,
            };
            let (name, reason) = (region.as_deref(), verdict.why(silences, sandboxes));
            self.record(Kind::Quiet, &outage.scope, since, None, name.unwrap_or_default(), &reason);
            self.mark_sent();
            let recent = self.state.recently_silent(settings, self.now);
            let covered =
                recent.filter(|(_, row)| region.as_ref().is_none_or(|name| *name == row.region));
            let named = list(covered.take(MAX_NAMED).map(|(id, row)| Entry::of(id, row)));
            self.messages.outages.push(OutageNotice {
                outage: outage.clone(),
                is_open: true,
                silent: silences,
                sandboxes,
                named,
            });
            self.state.watcher.outages.push(outage);
        }
    }

    /// Closes an outage. Its sandboxes that are still silent are then announced.
    fn close_outage(&mut self, outage: &Outage) {
        let mut named = Vec::new();
        for (id, row) in &mut self.state.sandboxes {
            if row.outage.as_ref() == Some(&outage.scope) {
                row.outage = None;
                row.is_changed = true;
                if named.len() < MAX_NAMED {
                    named.push(Entry::of(id, row));
                }
            }
        }
        let region = outage.scope.strip_prefix('=').unwrap_or_default();
        self.record(Kind::Quiet, &outage.scope, outage.since, Some(self.now), region, "");
        self.mark_sent();
        self.messages.outages.push(OutageNotice {
            outage: outage.clone(),
            is_open: false,
            silent: outage.members,
            sandboxes: outage.peak,
            named,
        });
    }

    /// Announces statuses that no message reported yet and that belong to no outage.
    fn announce(&mut self) {
        for (id, row) in &mut self.state.sandboxes {
            let transition = row.transition.take();
            let (Status::Silent | Status::Overdue) = row.status else { continue };
            if row.announced.is_some() || row.outage.is_some() || row.flapping.is_some() {
                continue;
            }
            row.announced = Some(self.now);
            row.is_changed = true;
            self.messages.opened(Entry::of(id, row));
            if let Some(transition) = transition.and_then(|index| self.transitions.get_mut(index)) {
                transition.sent = true;
            }
        }
    }

    /// Opens and closes flapping, and forgets old flips.
    fn flapping(&mut self) {
        let mut closed = Vec::new();
        let mut opened = Vec::new();
        for (id, row) in &mut self.state.sandboxes {
            let before = row.flips.len();
            row.flips.retain(|flip| self.now.since(Time(*flip)) < FLAP_WINDOW);
            if row.flips.len() != before {
                row.is_changed = true;
            }
            let flips = row.flips.len() as u64;
            if row.flapping.is_none() && flips >= self.settings.flaps {
                opened.push((id.clone(), Time(row.flips.first().copied().unwrap_or_default())));
            } else if row.flapping.is_some() && flips == 0 {
                closed.push(id.clone());
            }
        }
        for (id, since) in opened {
            let reason = format!("{} changes within an hour", self.settings.flaps);
            self.open_incident(&id, Kind::Flapping, since, &reason);
        }
        for id in closed {
            self.close_incident(&id, Kind::Flapping);
        }
    }

    /// Forgets sandboxes that have not reported for a very long time.
    fn forget(&mut self, horizon: Time) {
        let mut oldest = horizon.minus(self.settings.forget_after);
        let out = |row: &&Sandbox| row.status != Status::Up;
        let count = self.state.sandboxes.values().filter(out).count();
        let excess = count.saturating_sub(crate::state::MAX_SANDBOXES);
        if excess > 0 {
            let rows = self.state.sandboxes.values().filter(out);
            let times = in_order(list(rows.map(|row| row.last_seen.0)));
            oldest = oldest.max(Time(times.get(excess - 1).copied().unwrap_or_default()));
        }
        let mut forgotten = Vec::new();
        for (id, row) in &self.state.sandboxes {
            if out(&row) && row.last_seen <= oldest {
                forgotten.push(id.clone());
            }
        }
        for id in forgotten {
            self.close_status(&id, self.now, "it did not check in for too long and is forgotten");
            if let Some(row) = self.state.sandboxes.get_mut(&id) {
                row.absence = None;
                row.flips.clear();
            }
        }
    }

    /// Opens and closes crash loops and clones.
    fn survey(&mut self, found: FoundPatterns) {
        self.state.watcher.surveyed = self.now;
        self.state.watcher.surveyed_cut = self.state.watcher.cut;
        for incident in found.crash_loops.into_iter().chain(found.clones) {
            match incident {
                Incident::CrashLoop {
                    severity: Severity::Critical,
                    sandbox_id,
                    since,
                    restarts,
                    last_exit_reason,
                    ..
                } => {
                    let exit = last_exit_reason.map(|exit| format!(", last exit: {exit}"));
                    let exit = exit.unwrap_or_default();
                    let reason = format!("{restarts} restarts within an hour{exit}");
                    self.surveyed(&sandbox_id, Kind::CrashLoop, since, &reason);
                }
                Incident::Clone {
                    severity: Severity::Critical,
                    sandbox_id,
                    since,
                    machines,
                    ..
                } => {
                    let reason = format!("{machines} machines check in under its id");
                    self.surveyed(&sandbox_id, Kind::Clone, since, &reason);
                }
                _ => {}
            }
        }
        let mut closed = Vec::new();
        for (id, row) in &mut self.state.sandboxes {
            let [is_loop, is_clone] = std::mem::take(&mut row.surveyed);
            if row.crash_loop.is_some() && !is_loop && !found.crash_loops_cut {
                closed.push((id.clone(), Kind::CrashLoop));
            }
            if row.clone.is_some() && !is_clone && !found.clones_cut {
                closed.push((id.clone(), Kind::Clone));
            }
        }
        for (id, kind) in closed {
            self.close_incident(&id, kind);
        }
    }

    /// Opens an incident that a survey shows, unless it is open.
    fn surveyed(&mut self, id: &str, kind: Kind, since: Time, reason: &str) {
        let is_full = self.state.sandboxes.len() >= crate::state::MAX_SANDBOXES;
        if is_full && !self.state.sandboxes.contains_key(id) {
            return;
        }
        let row = self.state.sandboxes.entry(id.to_owned()).or_default();
        let [is_loop, is_clone] = &mut row.surveyed;
        *(if kind == Kind::CrashLoop { is_loop } else { is_clone }) = true;
        if row.incident(kind).is_some_and(|incident| incident.is_none()) {
            self.open_incident(id, kind, since, reason);
        }
    }

    fn open_incident(&mut self, id: &str, kind: Kind, since: Time, reason: &str) {
        let row = self.state.sandboxes.entry(id.to_owned()).or_default();
        let Some(incident) = row.incident(kind) else { return };
        *incident = Some(OpenIncident { since, announced: self.now });
        row.is_changed = true;
        let region = row.region.clone();
        self.record(kind, id, since, None, &region, reason);
        self.mark_sent();
        self.messages.opened(Entry::new(kind, id, since, region, &shorten(reason)));
    }

    fn close_incident(&mut self, id: &str, kind: Kind) {
        let Some(row) = self.state.sandboxes.get_mut(id) else { return };
        let Some(incident) = row.incident(kind).and_then(Option::take) else { return };
        let OpenIncident { since, announced } = incident;
        row.is_changed = true;
        let region = row.region.clone();
        let is_out = row.status != Status::Up;
        self.record(kind, id, since, Some(self.now), &region, "");
        if is_out {
            // A sandbox that is out stopped flapping, but has not recovered.
            self.messages.resolved.push(announcement(kind, announced));
        } else {
            self.mark_sent();
            let entry = Entry::new(kind, id, since, region, "").until(self.now);
            self.messages.closed(announced, entry);
        }
    }

    fn finish(self, channels: &[Channel]) -> Outcome {
        let still_announced = self.state.announced();
        let unresolved = &mut self.state.watcher.unresolved;
        let mut resolved = std::mem::take(unresolved);
        resolved.extend(&self.messages.resolved);
        let mut resolved = in_order(resolved);
        resolved.dedup();
        resolved.retain(|resolved| still_announced.binary_search(resolved).is_err());
        if channels.contains(&Channel::PagerDuty) && resolved.len() > MAX_RESOLVED {
            *unresolved = resolved.split_off(MAX_RESOLVED);
            unresolved.truncate(MAX_UNRESOLVED);
        }
        let outbox = self.messages.outbox(self.settings, channels, self.now, resolved);
        let mut changes = self.state.changes();
        changes.push(self.state.watcher_change());
        let watcher = &self.state.watcher;
        let good = watcher.degraded.is_none() && watcher.failure.is_empty();
        Outcome { changes, transitions: self.transitions, outbox, canary: self.now.0, good }
    }
}

impl Sandbox {
    fn flip(&mut self, now: Time) {
        self.flips.push(now.0);
        // No threshold is higher.
        if self.flips.len() > 8 {
            self.flips.remove(0);
        }
    }

    const fn incident(&mut self, kind: Kind) -> Option<&mut Option<OpenIncident>> {
        match kind {
            Kind::CrashLoop => Some(&mut self.crash_loop),
            Kind::Clone => Some(&mut self.clone),
            Kind::Flapping => Some(&mut self.flapping),
            _ => None,
        }
    }
}

impl Outage {
    /// Whether its message stands for a silent sandbox. One that stopped later has another cause.
    fn covers(&self, row: &Sandbox, settings: &Settings) -> bool {
        (self.scope == "*" || self.scope == scope_key(Some(&row.region)))
            && row.since <= self.since.plus(settings.silent_after)
    }
}

impl Absence {
    /// Whether a check-in at a time ends an absence without an end.
    fn is_over_since(&self, at: Time) -> bool {
        self.ends.is_none() && self.declared < at
    }

    fn why(&self) -> String {
        let colon = if self.reason.is_empty() { "" } else { ": " };
        format!("planned by {}{colon}{}", self.by, self.reason)
    }
}

impl Verdict {
    pub(crate) fn why(self, silent: u64, sandboxes: u64) -> String {
        format!("{silent} of {sandboxes} sandboxes are silent; {}", self.cause())
    }

    pub(crate) const fn cause(self) -> &'static str {
        match self {
            Self::Ingest => {
                "no check-ins at all: suspect the ingest path (route, DNS, credentials), not every machine"
            }
            Self::Region => {
                "other regions check in: suspect the hosts or the network of this region"
            }
            Self::Fleet => {
                "many at once, and not in one region, while others check in: suspect what these machines share"
            }
        }
    }
}

fn population(regions: Vec<Region>) -> Vec<Population> {
    let regions = regions.into_iter().take(MAX_POPULATION);
    list(
        regions.map(|region| Population { region: region.fly_region, sandboxes: region.sandboxes }),
    )
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_REASON).collect()
}
