//! Simulates fleets, and compares the watcher's reports with the simulated events.

use std::collections::{BTreeMap, BTreeSet};

use kiloclaw_fleet::presence::{Canary, Region, Sighting};
use kiloclaw_fleet::{FoundPatterns, Incident, Severity, Time};
use proptest::prelude::*;
use serde_json::Value;

use crate::schema::MAX_TRANSITIONS;
use crate::tick::Observation;
use crate::{
    AbsenceRequest, Channel, Event, Kind, OutboxRow, Scope, Settings, State, Tick, Transition,
    decide,
};

const INTERVAL: u64 = 300;
const START: u64 = 1_800_000_000;

/// A period in which a machine checks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u64,
    last: u64,
    /// Whether the last check-in reports a planned stop.
    on_purpose: bool,
}

impl Run {
    /// The last check-in until a time that is not before the first one.
    const fn last_by(self, until: u64) -> u64 {
        if until >= self.last { self.last } else { until - (until - self.first) % INTERVAL }
    }
}

#[derive(Clone, Debug)]
struct Machine {
    id: String,
    region: &'static str,
    runs: Vec<Run>,
}

impl Machine {
    /// A machine that checks in from `from` on, except in these downtimes, which are in order and do not overlap.
    fn new(
        number: usize,
        region: &'static str,
        from: u64,
        end: u64,
        down: &[(u64, u64, bool)],
    ) -> Self {
        let mut runs = Vec::new();
        let mut up = from;
        for (begin, until, on_purpose) in down.iter().copied().chain([(end, u64::MAX, false)]) {
            if begin > up {
                let last =
                    if on_purpose { begin } else { up + (begin - 1 - up) / INTERVAL * INTERVAL };
                runs.push(Run { first: up, last, on_purpose });
            }
            up = until;
        }
        Self { id: format!("sandbox-{number:06}"), region, runs }
    }
}

/// The behaviour of Analytics Engine and of the watcher's platform at a time.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    from: u64,
    until: u64,
    /// Analytics Engine's lag, in seconds.
    lag: u64,
    /// Its queries fail.
    fails: bool,
    /// No alarm fires.
    no_ticks: bool,
}

struct Simulation {
    settings: Settings,
    machines: Vec<Machine>,
    weather: Vec<Weather>,
    absences: Vec<(u64, AbsenceRequest)>,
    /// Runs by their last and first check-ins: `(time, machine, run)`.
    by_last: Vec<(u64, usize, usize)>,
    by_first: Vec<(u64, usize, usize)>,
    state: State,
    rows: BTreeMap<String, String>,
    canaries: Vec<u64>,
    transitions: Vec<Transition>,
    outbox: Vec<OutboxRow>,
    /// The object repeatedly restarts after this many ticks.
    restarts: u64,
}

/// The usual lag, in seconds.
const LAG: u64 = 20;

impl Simulation {
    fn new(settings: Settings, machines: Vec<Machine>) -> Self {
        let runs = || {
            machines.iter().enumerate().flat_map(|(index, machine)| {
                machine.runs.iter().enumerate().map(move |(run, times)| (index, run, *times))
            })
        };
        let mut by_last: Vec<_> =
            runs().map(|(machine, run, times)| (times.last, machine, run)).collect();
        let mut by_first: Vec<_> =
            runs().map(|(machine, run, times)| (times.first, machine, run)).collect();
        by_last.sort_unstable();
        by_first.sort_unstable();
        Self {
            settings,
            machines,
            weather: Vec::new(),
            absences: Vec::new(),
            by_last,
            by_first,
            state: State::default(),
            rows: BTreeMap::new(),
            canaries: Vec::new(),
            transitions: Vec::new(),
            outbox: Vec::new(),
            restarts: 997,
        }
    }

    fn weather_at(&self, now: u64) -> Weather {
        let now = self.weather.iter().find(|weather| (weather.from..weather.until).contains(&now));
        now.copied().unwrap_or(Weather { lag: LAG, ..Weather::default() })
    }

    fn run(&mut self, from: u64, until: u64) {
        let mut now = from;
        let mut ticks = 0_u64;
        self.absences.sort_by_key(|(at, _)| *at);
        let mut absences = std::mem::take(&mut self.absences).into_iter().peekable();
        while now < until {
            while let Some((at, request)) = absences.next_if(|(at, _)| *at <= now) {
                for change in self.state.plan_absence(Time(at), &request).unwrap() {
                    self.write(change.key, change.value);
                }
            }
            let weather = self.weather_at(now);
            if !weather.no_ticks {
                self.tick(now, weather);
                ticks += 1;
                if ticks.is_multiple_of(self.restarts) {
                    self.restart();
                }
            }
            now += self.settings.tick + u64::from(ticks.is_multiple_of(7));
        }
    }

    fn write(&mut self, key: String, value: Option<String>) {
        match value {
            Some(value) => drop(self.rows.insert(key, value)),
            None => drop(self.rows.remove(&key)),
        }
    }

    /// Restarts the object: it loads what it wrote, and its state must not differ.
    fn restart(&mut self) {
        let (state, unreadable) = State::load(self.rows.clone());
        assert_eq!(unreadable, [""; 0]);
        assert_eq!(state, self.state);
        self.state = state;
    }

    fn tick(&mut self, now: u64, weather: Weather) {
        let (mut tick, queries) = Tick::start(&self.settings, &mut self.state, Time(now));
        assert_eq!(queries.len(), 1);
        let observation = if weather.fails {
            Observation::failed("no answer")
        } else {
            let visible = now.saturating_sub(weather.lag);
            let newest = self.canaries.iter().rev().find(|number| **number <= visible);
            let number = Time(newest.copied().unwrap_or_default());
            self.observe(&mut tick, Canary { number, time: number })
        };
        let channels = Channel::ALL;
        let outcome = decide(&self.settings, &mut self.state, &channels, Time(now), observation);
        for change in outcome.changes {
            self.write(change.key, change.value);
        }
        self.transitions.extend(outcome.transitions);
        self.outbox.extend(outcome.outbox);
        self.canaries.push(outcome.canary);
    }

    /// What the queries of a tick would answer.
    fn observe(&self, tick: &mut Tick, canary: Canary) -> Observation {
        let Some(crossing) = tick.crossing_after(canary) else { return tick.found() };
        let sighting = |machine: &Machine, run: &Run, until: u64| Sighting {
            sandbox_id: machine.id.clone(),
            first_seen: Time(run.first),
            last_seen: Time(run.last_by(until)),
            supervisor_state: if run.on_purpose { "shutting_down" } else { "running" }.into(),
            fly_region: machine.region.into(),
            on_purpose: u64::from(run.on_purpose && until >= run.last),
            uptime_seconds: run.last_by(until) - run.first,
        };
        let mut found = tick.found();
        let (after, cut, until) = (crossing.after.0, crossing.heard_since.0, crossing.until.0);
        let begin = self.by_last.partition_point(|(last, ..)| *last <= after);
        for (last, machine, index) in self.by_last.iter().skip(begin) {
            if *last > cut {
                break;
            }
            let machine = &self.machines[*machine];
            if machine.runs.get(index + 1).is_none_or(|next| next.first > until) {
                let mut row = sighting(machine, &machine.runs[*index], until);
                row.first_seen =
                    Time(row.first_seen.0.max(
                        row.last_seen.0 - (row.last_seen.0 - after - 1) / INTERVAL * INTERVAL,
                    ));
                found.silent.push(row);
            }
        }
        found.silent.sort_by(|a, b| a.sandbox_id.cmp(&b.sandbox_id));
        let begin = self.by_first.partition_point(|(first, ..)| *first <= crossing.started_after.0);
        for (first, machine, index) in self.by_first.iter().skip(begin) {
            if *first > until {
                break;
            }
            let machine = &self.machines[*machine];
            let run = &machine.runs[*index];
            let is_first =
                index.checked_sub(1).is_none_or(|before| machine.runs[before].last <= after);
            if is_first && run.last.min(until) > cut {
                found.seen.push(sighting(machine, run, until));
            }
        }
        // Queries by name the sandboxes that are out.
        for id in tick.named() {
            let number: usize = id.trim_start_matches("sandbox-").parse().unwrap();
            // An absence can name a sandbox that does not exist.
            let Some(machine) = self.machines.get(number) else { continue };
            let run = machine.runs.iter().rev().find(|run| run.first <= until);
            found.seen.extend(run.map(|run| sighting(machine, run, until)));
        }
        found.patterns = tick.is_survey().then(FoundPatterns::default);
        if !tick.wants_regions(&found) {
            return found;
        }
        let mut regions = BTreeMap::<_, (u64, u64)>::new();
        for machine in &self.machines {
            let Some(run) = machine.runs.iter().rev().find(|run| run.first <= until) else {
                continue;
            };
            let last = run.last_by(until);
            let region = regions.entry(machine.region).or_default();
            *region = (region.0 + 1, region.1.max(last));
        }
        found.regions = Some(
            regions
                .into_iter()
                .map(|(region, (sandboxes, last))| Region {
                    fly_region: region.into(),
                    sandboxes,
                    last_seen: Time(last),
                })
                .collect(),
        );
        found
    }

    /// Asserts what must hold for every history.
    fn check(&self) {
        self.everything_opened_is_closed();
        self.no_silence_is_invented();
        self.no_silence_is_missed();
        self.one_message_per_transition();
    }

    fn everything_opened_is_closed(&self) {
        let mut open = BTreeSet::new();
        for transition in &self.transitions {
            let key = (transition.kind, transition.subject.clone());
            match transition.event {
                Event::Opened => assert!(open.insert(key), "opened twice: {transition:?}"),
                Event::Closed => {
                    assert!(open.remove(&key), "closed before it was opened: {transition:?}");
                    let until = transition.until.unwrap();
                    assert!(until >= transition.since, "{transition:?}");
                }
            }
        }
        let health = self.state.health();
        let still = health.open.silent
            + health.open.stopped
            + health.open.absent
            + health.open.overdue
            + health.open.flapping
            + health.quiet.len() as u64
            + u64::from(health.degraded_since.is_some());
        assert_eq!(open.len() as u64, still, "{open:?}");
    }

    /// The gaps of a machine: the last check-in before, and the first one after.
    fn gaps(machine: &Machine) -> impl Iterator<Item = (u64, Option<u64>)> {
        let nexts = machine.runs.iter().skip(1).map(|run| Some(run.first)).chain([None]);
        machine.runs.iter().map(|run| run.last).zip(nexts)
    }

    fn no_silence_is_invented(&self) {
        let machines: BTreeMap<_, _> =
            self.machines.iter().map(|machine| (machine.id.as_str(), machine)).collect();
        for transition in &self.transitions {
            let is_status = matches!(transition.kind, Kind::Silent | Kind::Stopped);
            if !is_status || transition.event != Event::Opened {
                continue;
            }
            let machine = machines[transition.subject.as_str()];
            let gap = Self::gaps(machine).find(|(last, _)| *last == transition.since.0);
            let (last, next) = gap.unwrap_or_else(|| panic!("no gap: {transition:?}"));
            let is_long = next.is_none_or(|next| next - last > self.settings.silent_after);
            assert!(is_long, "{transition:?} {machine:?}");
        }
    }

    fn no_silence_is_missed(&self) {
        let mut opened = BTreeMap::<&str, Vec<&Transition>>::new();
        for transition in self.transitions.iter().filter(|row| row.event == Event::Opened) {
            opened.entry(&transition.subject).or_default().push(transition);
        }
        let bound = self.settings.silent_after + 2 * (self.settings.tick + 1) + LAG;
        let end = self.canaries.last().copied().unwrap_or_default();
        let begin = self.canaries.first().copied().unwrap_or_default();
        for machine in &self.machines {
            for (last, next) in Self::gaps(machine) {
                let due = last + bound;
                let is_over = next.is_some_and(|next| next <= due);
                let is_hidden = self.weather.iter().any(|weather| {
                    // A late verdict catches up later.
                    weather.from <= due && last <= weather.until + weather.lag + bound
                });
                if is_over || due > end || last < begin {
                    continue;
                }
                let found = opened.get(machine.id.as_str()).into_iter().flatten();
                let at = found
                    .filter(|row| {
                        // If an absence was over before the silence was found, the silence begins with its end.
                        let is_overdue = row.kind == Kind::Overdue;
                        row.since.0 == last
                            || (is_overdue && row.since.0 > last && row.at.0 >= last)
                    })
                    .map(|row| row.at.0)
                    .min();
                match at {
                    Some(at) => {
                        assert!(is_hidden || at <= due, "late by {}: {machine:?}", at - due);
                    }
                    None => assert!(
                        is_hidden && next.is_some(),
                        "missed: {} last {last} next {next:?}",
                        machine.id
                    ),
                }
            }
        }
    }

    fn one_message_per_transition(&self) {
        let mut said = BTreeMap::<(String, &str), u64>::new();
        let mut ids = BTreeSet::new();
        for row in &self.outbox {
            assert!(ids.insert(&row.id), "sent twice: {row:?}");
            // The id identifies a late trigger of an incident that is over.
            assert!(row.supersedes.iter().all(|trigger| ids.contains(trigger)), "{row:?}");
            assert!(row.body.len() < 100_000);
            if row.channel == Channel::Webhook {
                let body: Value = serde_json::from_str(&row.body).unwrap();
                let count = body["data"]["count"].as_u64().unwrap_or(1);
                *said.entry((row.created_at.to_string(), row.message_type)).or_default() += count;
            }
        }
        let mut expected = BTreeMap::<(String, &str), u64>::new();
        for transition in self.transitions.iter().filter(|transition| transition.sent) {
            let message_type = match (transition.kind, transition.event) {
                (Kind::Quiet, _) => continue,
                (Kind::Degraded, Event::Opened) => "watcher.degraded",
                (Kind::Degraded, _) => "watcher.recovered",
                (_, Event::Closed) => "sandbox.recovered",
                (Kind::Overdue, _) => "sandbox.overdue",
                (Kind::Flapping, _) => "sandbox.flapping",
                _ => "sandbox.silent",
            };
            *expected.entry((transition.at.to_string(), message_type)).or_default() += 1;
        }
        said.retain(|(_, message_type), _| !message_type.starts_with("fleet."));
        // Sandboxes that are still silent when an outage ends are announced then, without their own transition.
        let outages_end: BTreeSet<_> = self
            .transitions
            .iter()
            .filter(|row| row.kind == Kind::Quiet && row.event == Event::Closed)
            .map(|row| (row.at.to_string(), "sandbox.silent"))
            .collect();
        for (key, count) in &said {
            let expected = expected.remove(key).unwrap_or_default();
            let is_delayed = outages_end.contains(key)
                || key.1 == "sandbox.silent" && self.ended_flapping(&key.0);
            assert!(
                *count == expected || is_delayed && *count > expected,
                "{key:?}: {count} {expected}"
            );
        }
        assert!(expected.is_empty(), "{expected:?}");
        self.pages_are_resolved();
    }

    fn ended_flapping(&self, at: &str) -> bool {
        // The next tick announces the sandboxes that are still silent.
        self.transitions.iter().any(|row| {
            row.kind == Kind::Flapping
                && row.event == Event::Closed
                && (row.at.to_string() == at
                    || *row.at.plus(2 * self.settings.tick).to_string() >= *at)
        })
    }

    /// Each page is triggered once, and resolved when all its incidents are closed.
    fn pages_are_resolved(&self) {
        let mut open = BTreeSet::new();
        for row in self.outbox.iter().filter(|row| row.channel == Channel::PagerDuty) {
            let body: Value = serde_json::from_str(&row.body).unwrap();
            let key = body["dedup_key"].as_str().unwrap().to_owned();
            match body["event_action"].as_str().unwrap() {
                "trigger" if row.message_type == "sandbox.recovered" => panic!("{row:?}"),
                "trigger" => assert!(open.insert(key), "triggered twice: {row:?}"),
                _ => assert!(open.remove(&key), "resolved without a trigger: {row:?}"),
            }
        }
        let announced = self.state.announced().len() + self.state.health().quiet.len();
        let degraded = usize::from(self.state.health().degraded_since.is_some());
        assert_eq!(open.len(), announced + degraded, "{open:?}");
    }

    fn count(&self, message_type: &str) -> usize {
        let webhook = self.outbox.iter().filter(|row| row.channel == Channel::Webhook);
        webhook.filter(|row| row.message_type == message_type).count()
    }
}

/// A small random number generator, which gives the same fleet in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

const REGIONS: [&str; 5] = ["fra", "iad", "syd", "gru", "nrt"];
const DAY: u64 = 86_400;

#[test]
fn a_month_of_ten_thousand_sandboxes() {
    let mut random = Random(42);
    let (from, end) = (START, START + 30 * DAY);
    let mut absences = Vec::new();
    let machines: Vec<_> = (0..10_000)
        .map(|number| {
            let region = REGIONS[number % 5];
            let mut down = Vec::new();
            // The ingest path fails for everybody; a region fails; redeployments take half a minute.
            down.push((from + 10 * DAY, from + 10 * DAY + 5_400, false));
            if region == "syd" {
                down.push((from + 15 * DAY, from + 15 * DAY + 7_200, false));
            }
            for day in [3, 12, 21] {
                let begin = from + day * DAY + random.below(3_600);
                down.push((begin, begin + 30, true));
            }
            if random.below(4) == 0 {
                let begin = from + random.below(30 * DAY);
                down.push((begin, begin + 60 + random.below(4 * 3_600), random.below(3) == 0));
            }
            if random.below(20) == 0 {
                let begin = from + DAY + random.below(25 * DAY);
                let length = 1_800 + random.below(7_200);
                let planned = length - 1_800 + random.below(3_600);
                down.push((begin, begin + length, true));
                let request = AbsenceRequest {
                    scope: Scope::Sandboxes(vec![format!("sandbox-{number:06}")]),
                    for_seconds: (number % 3 != 0).then_some(planned.max(1)),
                    reason: "kernel upgrade".into(),
                    by: "the sandbox".into(),
                };
                absences.push((begin - 10, request));
            }
            if number % 2_500 == 0 {
                for flap in 0..6 {
                    let begin = from + 18 * DAY + flap * 1_800;
                    down.push((begin, begin + 1_200, false));
                }
            }
            down.sort_unstable();
            let mut apart: Vec<(u64, u64, bool)> = Vec::new();
            for (begin, until, on_purpose) in down {
                match apart.last_mut() {
                    Some((_, before, _)) if *before >= begin => *before = (*before).max(until),
                    _ => apart.push((begin, until, on_purpose)),
                }
            }
            let started = from - 3_600 + random.below(INTERVAL);
            Machine::new(number, region, started, end + DAY, &apart)
        })
        .collect();
    let mut simulation = Simulation::new(Settings::default(), machines);
    simulation.absences = absences;
    simulation.weather = vec![
        Weather {
            from: from + 6 * DAY,
            until: from + 6 * DAY + 3_600,
            lag: 1_800,
            ..Weather::default()
        },
        Weather {
            from: from + 8 * DAY,
            until: from + 8 * DAY + 900,
            lag: LAG,
            fails: true,
            ..Weather::default()
        },
        Weather {
            from: from + 9 * DAY,
            until: from + 9 * DAY + 7_200,
            lag: LAG,
            no_ticks: true,
            ..Weather::default()
        },
    ];
    simulation.run(from, end);
    simulation.check();
    assert!((simulation.transitions.len() as u64) < MAX_TRANSITIONS);
    // Two outages cause two messages, not twelve thousand.
    assert_eq!(simulation.count("fleet.quiet"), 2);
    assert_eq!(simulation.count("fleet.recovered"), 2);
    assert_eq!(simulation.count("watcher.degraded"), 2);
    assert_eq!(simulation.count("watcher.recovered"), 2);
    let flapping = |row: &&Transition| row.kind == Kind::Flapping && row.event == Event::Opened;
    assert!((4..20).contains(&simulation.transitions.iter().filter(flapping).count()));
    assert!(simulation.count("sandbox.overdue") > 10);
    let quiet: Vec<_> =
        simulation.transitions.iter().filter(|row| row.kind == Kind::Quiet).collect();
    assert!(quiet[0].reason.contains("ingest path"), "{}", quiet[0].reason);
    assert_eq!(quiet[2].region, "syd");
    // An outage is over when nearly everybody is back.
    let is_end =
        |row: &&OutboxRow| row.message_type == "fleet.recovered" && row.channel == Channel::Webhook;
    for row in simulation.outbox.iter().filter(is_end) {
        let body: Value = serde_json::from_str(&row.body).unwrap();
        let (silent, all) = (&body["data"]["count"], &body["data"]["scopes"][0]["sandboxes"]);
        assert!(silent.as_u64().unwrap() * 10 <= all.as_u64().unwrap(), "{body}");
    }
}

/// A fleet of 30 in two regions, of which one is off from the second hour to the fourth.
fn region_is_off(request: Option<AbsenceRequest>) -> Simulation {
    let machines = (0..30)
        .map(|number| {
            let down = [(START + 3_600, START + 4 * 3_600, false)];
            let down = if number % 2 == 0 { &down[..] } else { &[] };
            Machine::new(
                number,
                REGIONS[number % 2],
                START + number as u64 - 100,
                START + DAY,
                down,
            )
        })
        .collect();
    let mut simulation =
        Simulation::new(Settings { quiet_least: 5, ..Settings::default() }, machines);
    simulation.absences.extend(request.map(|request| (START + 3_000, request)));
    simulation.run(START, START + 6 * 3_600);
    simulation.check();
    simulation
}

#[test]
fn a_quiet_region_is_one_message() {
    let simulation = region_is_off(None);
    assert_eq!((simulation.count("fleet.quiet"), simulation.count("sandbox.silent")), (1, 0));
    assert_eq!(
        (simulation.count("fleet.recovered"), simulation.count("sandbox.recovered")),
        (1, 0)
    );
    let body: Value = serde_json::from_str(&simulation.outbox[0].body).unwrap();
    assert_eq!(body["type"], "fleet.quiet");
    assert_eq!(body["data"]["verdict"], "region");
    assert_eq!(body["data"]["scopes"][0]["region"], "fra");
    assert_eq!(body["data"]["sandboxes"].as_array().unwrap().len(), 15);
}

#[test]
fn a_planned_absence_of_a_region_is_no_message_until_it_is_overdue() {
    let planned = |for_seconds| {
        region_is_off(Some(AbsenceRequest {
            scope: Scope::Region("fra".into()),
            for_seconds: Some(for_seconds),
            reason: "move".into(),
            by: "ops".into(),
        }))
    };
    let back_in_time = planned(4 * 3_600);
    assert_eq!(back_in_time.outbox, []);
    let absences = back_in_time.transitions.iter().filter(|row| row.kind == Kind::Absent);
    assert_eq!(absences.count(), 30);
    let late = planned(7_200);
    let types: BTreeSet<_> = late.outbox.iter().map(|row| row.message_type).collect();
    assert_eq!(types, BTreeSet::from(["sandbox.overdue", "sandbox.recovered"]));
    assert_eq!(late.count("sandbox.overdue"), 1);
    // It ends before the silence is long enough to be found.
    let short = planned(1_000);
    let types: BTreeSet<_> = short.outbox.iter().map(|row| row.message_type).collect();
    assert_eq!(types, BTreeSet::from(["sandbox.overdue", "sandbox.recovered"]));
    assert_eq!(short.count("sandbox.overdue"), 1);
    // It ends before the first silence begins.
    assert_eq!(planned(100).count("fleet.quiet"), 1);
}

#[test]
fn an_absence_that_is_ended_early_leaves_a_silence() {
    let mut simulation = region_is_off(None);
    simulation.state = State::default();
    simulation.rows.clear();
    let request = AbsenceRequest {
        scope: Scope::All,
        for_seconds: Some(86_400),
        reason: String::new(),
        by: "ops".into(),
    };
    simulation.transitions.clear();
    simulation.outbox.clear();
    simulation.canaries.clear();
    simulation.absences = vec![(START, request)];
    simulation.run(START, START + 3 * 3_600);
    assert_eq!(simulation.outbox, []);
    for change in simulation.state.end_absence(&Scope::All, "ops") {
        simulation.write(change.key, change.value);
    }
    simulation.run(START + 3 * 3_600, START + 3 * 3_600 + 180);
    assert_eq!(simulation.state.health().open.silent, 15);
    assert_eq!(simulation.count("fleet.quiet"), 1);
}

/// Five sandboxes; downtimes are in seconds after the start.
fn five(down: &[&[(u64, u64, bool)]], absences: &[(u64, Option<u64>)]) -> Simulation {
    let machines = (0..5)
        .map(|number| {
            let down = down.get(number).copied().unwrap_or_default();
            let down: Vec<_> = down
                .iter()
                .map(|(from, until, stops)| (START + from, START + until, *stops))
                .collect();
            Machine::new(number, "", START + number as u64 - 100, START + DAY, &down)
        })
        .collect();
    let mut simulation =
        Simulation::new(Settings { quiet_least: 2, ..Settings::default() }, machines);
    // All are of the first sandbox.
    simulation.absences = absences
        .iter()
        .map(|(at, for_seconds)| {
            let scope = Scope::Sandboxes(vec!["sandbox-000000".into()]);
            let (reason, by) = ("kernel upgrade".into(), "test".into());
            let request = AbsenceRequest { scope, for_seconds: *for_seconds, reason, by };
            (START + at, request)
        })
        .collect();
    simulation.run(START, START + 6 * 3_600);
    simulation.check();
    simulation
}

/// The recorded transitions of a sandbox, and which of them are sent.
fn story(simulation: &Simulation, number: usize) -> Vec<String> {
    let id = format!("sandbox-{number:06}");
    let rows = simulation.transitions.iter().filter(|row| row.subject == id);
    rows.map(|row| {
        let sent = if row.sent { ", sent" } else { "" };
        format!("{} {}{sent}", row.kind.name(), row.event.name())
    })
    .collect()
}

const NEVER: u64 = DAY - 1;

#[test]
fn the_silence_of_a_whole_small_fleet_is_one_message() {
    let down = [(3_600, NEVER, false)];
    let simulation = five(&[&down[..]; 5], &[]);
    assert_eq!((simulation.count("fleet.quiet"), simulation.count("sandbox.silent")), (1, 0));
    assert!(
        simulation.outbox[0].body.contains(r#""verdict":"ingest""#),
        "{}",
        simulation.outbox[0].body
    );
}

#[test]
fn an_outage_does_not_cover_later_silences() {
    let (early, late) = ([(3_600, NEVER, false)], [(3 * 3_600, NEVER, false)]);
    let simulation = five(&[&early, &early, &early, &late], &[]);
    assert_eq!(simulation.count("fleet.quiet"), 1);
    assert_eq!(story(&simulation, 3), ["silent opened, sent"]);
}

#[test]
fn an_absence_explains_the_silence_without_another_transition() {
    let down = [(3_600, 2 * 3_600, true)];
    let simulation = five(&[&down], &[(3_500, Some(7_200))]);
    assert_eq!(story(&simulation, 0), ["absent opened", "absent closed"]);
}

#[test]
fn an_absence_without_an_end_is_over_when_the_machine_is_back_before_anybody_noticed() {
    let down = [(3_600, 3_660, true), (3 * 3_600, NEVER, false)];
    let simulation = five(&[&down], &[(3_590, None)]);
    assert_eq!(story(&simulation, 0), ["silent opened, sent"]);
}

#[test]
fn an_absence_that_is_shorter_than_the_silence_is_overdue() {
    for stops in [true, false] {
        let down = [(3_600, NEVER, stops)];
        let simulation = five(&[&down], &[(3_590, Some(60))]);
        assert_eq!(story(&simulation, 0), ["overdue opened, sent"], "{stops}");
    }
}

#[test]
fn the_change_that_shows_flapping_is_not_sent_itself() {
    let down = [3_600, 5_400].map(|from| (from, from + 1_200, false));
    let simulation = five(&[&down], &[]);
    let expected = [
        "silent opened, sent",
        "silent closed, sent",
        "silent opened",
        "flapping opened, sent",
        "silent closed",
        "flapping closed, sent",
    ];
    assert_eq!(story(&simulation, 0), expected);
}

#[test]
fn absences_name_only_what_can_check_in() {
    let mut state = State::default();
    for scope in [
        Scope::Sandboxes(vec![]),
        Scope::Sandboxes(vec![String::new()]),
        Scope::Sandboxes(vec!["a\u{202e}".into()]),
        Scope::Sandboxes(vec!["x".repeat(97)]),
        Scope::Region("a\0".into()),
    ] {
        let (reason, by) = (String::new(), String::new());
        let request = AbsenceRequest { scope, for_seconds: Some(60), reason, by };
        assert!(state.plan_absence(Time(START), &request).is_err(), "{request:?}");
    }
    assert_eq!(state, State::default());
}

#[test]
fn an_absence_that_is_ended_twice_at_once_is_written() {
    let mut state = State::default();
    let scope = Scope::Sandboxes(vec!["a".into(), "a".into()]);
    let (reason, by) = (String::new(), String::new());
    let request = AbsenceRequest { scope: scope.clone(), for_seconds: Some(60), reason, by };
    state.plan_absence(Time(START), &request).unwrap();
    assert_eq!(state.end_absence(&scope, "").len(), 1);
}

#[test]
fn a_crash_loop_opens_and_closes_once() {
    let incident = |sandbox_id: &str| Incident::CrashLoop {
        severity: Severity::Critical,
        sandbox_id: sandbox_id.into(),
        since: Time(START),
        last_restart: Time(START + 60),
        restarts: 6,
        most_in_an_hour: 6,
        last_exit_reason: Some("SIGSEGV <!here>".into()),
    };
    let settings = Settings::default();
    let mut state = State::default();
    let mut tick = |found: &[&str], cut| {
        let crash_loops = found.iter().map(|id| incident(id)).collect();
        let patterns =
            FoundPatterns { crash_loops, crash_loops_cut: cut, ..FoundPatterns::default() };
        let now = state.watcher.ticked.plus(60).max(Time(START));
        let observation = Observation {
            canary: Some(now.minus(60)),
            advance: Some((now.minus(61), now.minus(961))),
            patterns: Some(patterns),
            ..Observation::default()
        };
        let outcome = decide(&settings, &mut state, &Channel::ALL, now, observation);
        outcome
            .outbox
            .into_iter()
            .map(|row| (row.message_type, row.channel, row.body))
            .collect::<Vec<_>>()
    };
    let opened = tick(&["a", "b"], false);
    assert_eq!(opened.len(), 3);
    assert_eq!(opened[0].0, "sandbox.crash_loop");
    assert!(opened[0].2.contains("6 restarts within an hour, last exit: SIGSEGV <!here>"));
    // In a chat, this text would notify everybody.
    assert!(opened[1].2.contains("SIGSEGV &lt;!here&gt;"), "{}", opened[1].2);
    assert_eq!(tick(&["a", "b"], false), []);
    // An incomplete report closes nothing.
    assert_eq!(tick(&["a"], true), []);
    let closed = tick(&["a"], false);
    // The page covers both sandboxes, so it stays.
    let channels: Vec<_> = closed.iter().map(|(_, channel, _)| *channel).collect();
    assert_eq!(channels, [Channel::Webhook, Channel::Slack]);
    let closed = tick(&[], false);
    assert!(closed[2].2.contains(r#""event_action":"resolve""#), "{closed:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn small_fleets_keep_every_promise(
        downs in prop::collection::vec(
            prop::collection::vec((300_u64..40_000, 1_u64..9_000, any::<bool>()), 0..6), 1..40),
        silent_after in 400_u64..3_000,
        tick in 5_u64..200,
        quiet_least in 2_u64..30,
        weather in prop::option::of((2_000_u64..30_000, 60_u64..4_000, 0_u64..3_000, 0..3)),
        absences in prop::collection::vec((0_u64..40_000, 0_usize..40, prop::option::of(1_u64..9_000)), 0..10),
    ) {
        let end = START + 60_000;
        let machines: Vec<_> = downs
            .iter()
            .enumerate()
            .map(|(number, downs)| {
                let mut at = START + number as u64 * 37;
                let downs: Vec<_> = downs
                    .iter()
                    .map(|(up, down, on_purpose)| {
                        let begin = at + up;
                        at = begin + down;
                        (begin, at, *on_purpose)
                    })
                    .filter(|(_, until, _)| *until < end)
                    .collect();
                Machine::new(number, REGIONS[number % 2], START - 300 + number as u64 * 7, end + DAY, &downs)
            })
            .collect();
        let settings = Settings { silent_after, tick, quiet_least, stale_after: 300 + 2 * tick, ..Settings::default() };
        let mut simulation = Simulation::new(settings, machines);
        simulation.weather.extend(weather.map(|(from, length, lag, kind)| Weather {
            from: START + from,
            until: START + from + length,
            lag: LAG + lag,
            fails: kind == 1,
            no_ticks: kind == 2,
        }));
        simulation.absences = absences
            .into_iter()
            .map(|(at, number, for_seconds)| (START + at, AbsenceRequest {
                scope: match (number, for_seconds) {
                    (0, Some(_)) => Scope::All,
                    (1, Some(_)) => Scope::Region(REGIONS[1].into()),
                    _ => Scope::Sandboxes(vec![format!("sandbox-{number:06}")]),
                },
                for_seconds,
                reason: String::new(),
                by: "test".into(),
            }))
            .collect();
        simulation.restarts = 3;
        simulation.run(START, end);
        simulation.check();
    }
}
