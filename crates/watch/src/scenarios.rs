//! Scenarios of a few ticks, with exact times, which simulated fleets do not have.

use kiloclaw_fleet::Time;
use kiloclaw_fleet::presence::{Region, Sighting};
use serde_json::Value;

use crate::delivery::Channel;
use crate::settings::Settings;
use crate::state::{AbsenceRequest, MAX_ATTENTION, OpenIncident, Scope, State, Status, Verdict};
use crate::tick::{Next, Observation, Tick};
use crate::{Kind, Outcome, decide};

const NOW: u64 = 1_800_000_000;
const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;

fn sighting(id: &str, first_seen: u64, last_seen: u64) -> Sighting {
    Sighting {
        sandbox_id: id.into(),
        first_seen: Time(first_seen),
        last_seen: Time(last_seen),
        supervisor_state: "running".into(),
        fly_region: "fra".into(),
        on_purpose: 0,
        uptime_seconds: 100_000,
    }
}

/// Sandboxes that stopped, all with the last check-in at this time.
fn silent(ids: &[String], at: u64) -> Vec<Sighting> {
    ids.iter().map(|id| sighting(id, at - HOUR, at)).collect()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("m{number:04}")).collect()
}

struct Fleet {
    settings: Settings,
    state: State,
    /// Of one region, or of several by name.
    sandboxes: u64,
    outcomes: Vec<(u64, Outcome)>,
}

impl Fleet {
    fn new(sandboxes: u64) -> Self {
        let settings = Settings::default();
        Self { settings, state: State::default(), sandboxes, outcomes: Vec::new() }
    }

    /// A tick with these findings; the last check-in of any sandbox was at `last`.
    fn tick(
        &mut self,
        now: u64,
        silent: Vec<Sighting>,
        seen: Vec<Sighting>,
        last: u64,
    ) -> &Outcome {
        let horizon = now - MINUTE;
        let region =
            Region { fly_region: "fra".into(), sandboxes: self.sandboxes, last_seen: Time(last) };
        let observation = Observation {
            canary: Some(Time(horizon)),
            advance: Some((Time(horizon), Time(horizon - self.settings.silent_after))),
            silent,
            seen,
            regions: Some(vec![region]),
            ..Observation::default()
        };
        let outcome =
            decide(&self.settings, &mut self.state, &Channel::ALL, Time(now), observation);
        self.outcomes.push((now, outcome));
        &self.outcomes.last().unwrap().1
    }

    fn quiet_tick(&mut self, now: u64) -> &Outcome {
        self.tick(now, vec![], vec![], now - MINUTE)
    }

    /// The first sandbox falls silent, returns, and so on; it is silent at the returned time.
    fn flap(&mut self) -> u64 {
        let mut now = NOW;
        for _ in 0..2 {
            self.tick(now, silent(&names(1), now - 970), vec![], now - MINUTE);
            self.tick(now + 300, vec![], vec![sighting("m0000", now + 200, now + 239)], now + 239);
            now += 1_500;
        }
        self.tick(now, silent(&names(1), now - 970), vec![], now - MINUTE);
        now
    }

    fn away(&mut self, now: u64, scope: Scope, for_seconds: Option<u64>, by: &str) {
        let request = AbsenceRequest { scope, for_seconds, reason: "work".into(), by: by.into() };
        self.state.plan_absence(Time(now), &request).unwrap();
    }

    /// The sent messages, by type and count.
    fn sent(&self) -> Vec<(&'static str, u64)> {
        let rows = self.outcomes.iter().flat_map(|(_, outcome)| &outcome.outbox);
        rows.filter(|row| row.channel == Channel::Webhook)
            .map(|row| {
                let body: Value = serde_json::from_str(&row.body).unwrap();
                (row.message_type, body["data"]["count"].as_u64().unwrap_or(0))
            })
            .collect()
    }

    /// The summary of the last message of a type.
    fn summary(&self, message_type: &str) -> String {
        let rows = self.outcomes.iter().flat_map(|(_, outcome)| &outcome.outbox);
        let mut rows = rows.filter(|row| row.channel == Channel::Webhook);
        let found = rows.rfind(|row| row.message_type == message_type).unwrap();
        let body: Value = serde_json::from_str(&found.body).unwrap();
        body["data"]["summary"].as_str().unwrap().to_owned()
    }

    fn status(&self, id: &str) -> Status {
        self.state.sandboxes.get(id).map_or(Status::Up, |row| row.status)
    }

    fn pages(&self, action: &str) -> usize {
        let rows = self.outcomes.iter().flat_map(|(_, outcome)| &outcome.outbox);
        let action = format!(r#""event_action":"{action}""#);
        rows.filter(|row| row.channel == Channel::PagerDuty && row.body.contains(&action)).count()
    }
}

fn one(id: &str) -> Scope {
    Scope::Sandboxes(vec![id.into()])
}

#[test]
fn an_outage_that_comes_and_goes_is_reported_each_time() {
    let ids = names(1_000);
    let mut fleet = Fleet::new(1_000);
    for round in 0..4 {
        let down = NOW + round * 1_500;
        fleet.tick(down, silent(&ids, down - 970), vec![], down - 970);
        let back = ids.iter().map(|id| sighting(id, down + 200, down + 239)).collect();
        fleet.tick(down + 300, vec![], back, down + 239);
    }
    let expected = [("fleet.quiet", 1_000), ("fleet.recovered", 0)].repeat(4);
    assert_eq!(fleet.sent(), expected);
}

#[test]
fn a_sandbox_that_flapped_and_left_is_silent_and_not_recovered() {
    let mut fleet = Fleet::new(10);
    let now = fleet.flap();
    for minute in 1..90 {
        fleet.quiet_tick(now + minute * MINUTE);
    }
    let types: Vec<_> = fleet.sent().into_iter().map(|(message_type, _)| message_type).collect();
    assert_eq!(
        types,
        ["sandbox.silent", "sandbox.recovered", "sandbox.flapping", "sandbox.silent"]
    );
    assert_eq!((fleet.pages("trigger"), fleet.pages("resolve")), (3, 2));
}

#[test]
fn a_sandbox_that_is_off_on_purpose_is_not_overdue_after_an_absence_of_all() {
    let mut fleet = Fleet::new(10);
    let stopped = Sighting { on_purpose: 1, ..sighting("m0000", NOW - HOUR, NOW - 1_000) };
    fleet.tick(NOW, vec![stopped], vec![], NOW - MINUTE);
    assert_eq!(fleet.status("m0000"), Status::Stopped);
    fleet.away(NOW + 10, Scope::All, Some(10), "ops");
    fleet.away(NOW + 10, Scope::Region("fra".into()), Some(10), "ops");
    // It reports a planned stop just before the absence of all begins.
    let late = Sighting { on_purpose: 1, ..sighting("m0001", NOW - HOUR, NOW + 5) };
    fleet.quiet_tick(NOW + MINUTE);
    fleet.tick(NOW + 1_020, vec![late], vec![], NOW + 960);
    assert_eq!((fleet.status("m0000"), fleet.status("m0001")), (Status::Stopped, Status::Stopped));
    assert_eq!(fleet.sent(), []);
    // Its own absence counts.
    fleet.away(NOW + 1_100, one("m0000"), Some(10), "ops");
    fleet.quiet_tick(NOW + 1_105);
    fleet.quiet_tick(NOW + 1_300);
    assert_eq!(fleet.sent(), [("sandbox.overdue", 1)]);
}

#[test]
fn an_absence_that_is_planned_after_the_return_is_kept() {
    let mut fleet = Fleet::new(10);
    fleet.tick(NOW, silent(&names(1), NOW - 1_000), vec![], NOW - MINUTE);
    fleet.away(NOW + 50, one("m0000"), None, "m0000");
    fleet.tick(NOW + 120, vec![], vec![sighting("m0000", NOW + 10, NOW + 10)], NOW + 59);
    fleet.tick(NOW + 1_080, vec![sighting("m0000", NOW + 10, NOW + 10)], vec![], NOW + 1_000);
    assert_eq!(fleet.status("m0000"), Status::Absent);
    assert_eq!(fleet.sent(), [("sandbox.silent", 1), ("sandbox.recovered", 1)]);
}

#[test]
fn a_start_of_the_process_ends_an_absence_without_an_end() {
    for (uptime_seconds, expected) in [(20, Status::Silent), (100_000, Status::Absent)] {
        let mut fleet = Fleet::new(10);
        fleet.away(NOW, one("m0000"), None, "m0000");
        let last = NOW + 24;
        let crash = Sighting { uptime_seconds, ..sighting("m0000", NOW - 600, last) };
        fleet.tick(last + 970, vec![crash], vec![], last + 900);
        assert_eq!(fleet.status("m0000"), expected, "{uptime_seconds}");
    }
}

#[test]
fn the_silence_of_the_last_machine_does_not_blame_the_ingest_path() {
    let mut fleet = Fleet::new(4);
    for id in &names(3) {
        fleet.away(NOW - 2_000, one(id), Some(24 * HOUR), "ops");
    }
    fleet.tick(NOW, silent(&names(3), NOW - 1_000), vec![], NOW - MINUTE);
    let last = NOW + 1_000;
    fleet.tick(last + 970, vec![sighting("m0003", NOW, last)], vec![], last);
    assert_eq!(fleet.sent(), [("sandbox.silent", 1)]);
    assert!(!fleet.summary("sandbox.silent").contains("ingest"));
}

#[test]
fn an_outage_of_all_ends_when_some_check_in_again() {
    let ids = names(5);
    let mut fleet = Fleet::new(5);
    fleet.tick(NOW, silent(&ids, NOW - 970), vec![], NOW - 970);
    let back = ["m0000", "m0001"].map(|id| sighting(id, NOW + 10, NOW + 50));
    fleet.tick(NOW + 120, vec![], back.into(), NOW + 50);
    for minute in 3..30 {
        fleet.quiet_tick(NOW + minute * MINUTE);
    }
    assert_eq!(fleet.sent(), [("fleet.quiet", 5), ("fleet.recovered", 3), ("sandbox.silent", 3)]);
}

#[test]
fn a_later_outage_of_a_region_is_reported_beside_that_of_all() {
    let ids = names(100);
    let mut fleet = Fleet::new(200);
    fleet.settings.quiet_percent = 20;
    let mut elsewhere = silent(&ids, NOW - 970);
    for (number, row) in elsewhere.iter_mut().enumerate() {
        row.fly_region = ["iad", "syd"][number % 2].into();
    }
    fleet.tick(NOW, elsewhere, vec![], NOW - MINUTE);
    let later = NOW + 2 * HOUR;
    let fra: Vec<_> = (0..90).map(|number| format!("fra-{number}")).collect();
    fleet.tick(later, silent(&fra, later - 970), vec![], later - MINUTE);
    assert_eq!(fleet.sent(), [("fleet.quiet", 100), ("fleet.quiet", 90)]);
    assert_eq!(fleet.state.health().quiet, ["*", "=fra"]);
    // Each outage's message stands for its sandboxes.
    let attention = fleet.state.attention();
    let found: Vec<_> = attention.iter().map(|alert| (alert.kind, alert.region)).collect();
    assert_eq!(found, [(Kind::Quiet, None), (Kind::Quiet, Some("fra"))]);
    assert_eq!(attention[1].reason, Verdict::Region.cause());
}

#[test]
fn what_needs_attention_is_bounded_and_the_worst_and_newest_come_first() {
    let ids = names(100);
    let mut fleet = Fleet::new(10_000);
    let mut out = silent(&ids, NOW - 1_000);
    for (number, row) in out.iter_mut().enumerate() {
        row.last_seen = Time(row.last_seen.0 - number as u64 * HOUR);
    }
    fleet.away(NOW, one("m0001"), Some(HOUR), "ops");
    fleet.tick(NOW, out, vec![], NOW - MINUTE);
    let incident = || Some(OpenIncident { since: Time(NOW - HOUR), announced: Time(NOW) });
    fleet.state.sandboxes.entry("looping".into()).or_default().crash_loop = incident();
    fleet.state.sandboxes.entry("m0002".into()).or_default().clone = incident();
    let attention = fleet.state.attention();
    let ids: Vec<_> = attention.iter().filter_map(|alert| alert.sandbox_id).collect();
    // A clone of a silent sandbox is listed; a sandbox that is away as planned is not.
    assert_eq!(ids.get(..5), Some(&["m0002", "looping", "m0000", "m0002", "m0003"][..]));
    assert_eq!(attention.len(), MAX_ATTENTION);
    assert_eq!(attention[2].reason, "last state: running");
    // From when it is planned, before the next tick acts on it.
    assert!(!attention[2].planned);
    fleet.away(NOW, one("m0000"), Some(HOUR), "ops");
    assert!(fleet.state.attention()[2].planned);
}

#[test]
fn times_without_check_ins_do_not_overlap() {
    let mut fleet = Fleet::new(10);
    fleet.tick(NOW, silent(&names(1), NOW - 1_000), vec![], NOW - MINUTE);
    fleet.away(NOW + 36_000, one("m0000"), Some(HOUR), "ops");
    fleet.quiet_tick(NOW + 36_060);
    fleet.quiet_tick(NOW + 36_000 + HOUR + 100);
    let back = NOW + 50_000;
    fleet.tick(back + 100, vec![], vec![sighting("m0000", back, back)], back);
    let closed: Vec<_> = fleet
        .outcomes
        .iter()
        .flat_map(|(_, outcome)| &outcome.transitions)
        .filter_map(|row| {
            Some((row.kind.name(), row.since.0 + 1_000 - NOW, row.until?.0 + 1_000 - NOW))
        })
        .collect();
    assert_eq!(
        closed,
        [("silent", 0, 37_000), ("absent", 37_000, 40_600), ("overdue", 40_600, 51_000)]
    );
}

#[test]
fn a_machine_neither_shortens_nor_ends_what_others_planned() {
    let mut fleet = Fleet::new(10);
    let ends = |fleet: &Fleet| fleet.state.sandboxes["a"].absence.as_ref().unwrap().ends;
    fleet.away(NOW, one("a"), Some(7_200), "ops");
    fleet.away(NOW, one("a"), Some(30), "a");
    assert_eq!(ends(&fleet), Some(Time(NOW + 7_200)));
    assert_eq!(fleet.state.end_absence(&one("a"), "a"), []);
    fleet.away(NOW, one("a"), None, "a");
    assert_eq!(ends(&fleet), None);
    fleet.away(NOW, one("a"), Some(60), "a");
    assert_eq!(ends(&fleet), Some(Time(NOW + 60)));
    assert_eq!(fleet.state.end_absence(&one("a"), "a").len(), 1);
}

#[test]
fn planning_an_absence_during_an_outage_is_not_reported_as_a_recovery() {
    let mut fleet = Fleet::new(1_000);
    fleet.settings.quiet_percent = 1;
    fleet.tick(NOW, silent(&names(40), NOW - 970), vec![], NOW - MINUTE);
    fleet.away(NOW + 10, Scope::Region("fra".into()), Some(HOUR), "ops");
    fleet.quiet_tick(NOW + MINUTE);
    assert_eq!(fleet.sent(), [("fleet.quiet", 40), ("fleet.recovered", 0)]);
    assert!(fleet.summary("fleet.recovered").contains("away as planned"));
}

#[test]
fn each_page_is_resolved_however_many_end_at_once() {
    let mut fleet = Fleet::new(10_000);
    for minute in 0..130 {
        let now = NOW + minute * MINUTE;
        let id = format!("m{minute:04}");
        fleet.tick(now, vec![sighting(&id, now - 2_000, now - 970)], vec![], now - MINUTE);
    }
    let now = NOW + 130 * MINUTE;
    let back = names(130).iter().map(|id| sighting(id, now - 70, now - 65)).collect();
    fleet.tick(now, vec![], back, now - MINUTE);
    assert_eq!((fleet.pages("trigger"), fleet.pages("resolve")), (130, 100));
    fleet.quiet_tick(now + MINUTE);
    fleet.quiet_tick(now + 2 * MINUTE);
    assert_eq!(fleet.pages("resolve"), 130);
}

#[test]
fn a_pause_of_the_watcher_does_not_look_like_a_late_analytics_engine() {
    let mut fleet = Fleet::new(10);
    fleet.quiet_tick(NOW);
    fleet.quiet_tick(NOW + MINUTE);
    // Its last canary is too old to be found.
    let now = NOW + 2 * 24 * HOUR;
    let _ = decide(
        &fleet.settings,
        &mut fleet.state,
        &Channel::ALL,
        Time(now),
        Observation { canary: None, ..Observation::default() },
    );
    assert_eq!(fleet.state.health().degraded_since, None);
}

#[test]
fn plans_for_machines_that_report_hide_no_silence() {
    let mut fleet = Fleet::new(100_000);
    for part in 0..50 {
        let ids = (0..1_000).map(|number| format!("p{part}-{number}")).collect();
        fleet.away(NOW - 10, Scope::Sandboxes(ids), Some(24 * HOUR), "ops");
    }
    let full = AbsenceRequest {
        scope: one("b"),
        for_seconds: Some(60),
        reason: String::new(),
        by: "ops".into(),
    };
    assert!(fleet.state.plan_absence(Time(NOW), &full).is_err());
    fleet.tick(NOW, vec![sighting("a", NOW - 2_000, NOW - 1_000)], vec![], NOW - MINUTE);
    assert_eq!(fleet.status("a"), Status::Silent);
}

#[test]
fn a_clock_that_is_set_back_closes_nothing() {
    let mut fleet = Fleet::new(10);
    let now = fleet.flap();
    let sent = fleet.sent();
    let earlier = now - 2 * HOUR;
    drop(Tick::start(&fleet.settings, &mut fleet.state, Time(earlier)));
    fleet.quiet_tick(earlier);
    assert_eq!(fleet.sent(), sent);
}

#[test]
fn a_range_that_cannot_be_split_is_read_as_it_is() {
    let settings = Settings::default();
    let mut state = State::default();
    let (mut tick, _) = Tick::start(&settings, &mut state, Time(NOW));
    let answer = |row: &str| format!(r#"{{"data":[{row}]}}"#);
    let row = format!(
        r#"{{"sandboxId":"a","firstSeen":{0},"lastSeen":{0},"supervisorState":"running","flyRegion":"","onPurpose":0,"uptimeSeconds":1}}"#,
        NOW - 2_000
    );
    let canary = format!(r#"{{"number":{0},"time":{0}}}"#, NOW - 10);
    let mut next = tick.read(&[answer(&canary)]).unwrap();
    let mut asked = Vec::new();
    let observation = loop {
        let queries = match next {
            Next::Query(queries) => queries,
            Next::Done(observation) => break observation,
        };
        asked.extend(queries.clone());
        let answers: Vec<_> = queries
            .iter()
            .map(|sql| {
                if sql.contains("sampleInterval") {
                    answer(r#"{"sampleInterval":3,"sandboxes":5}"#)
                } else if sql.contains("OFFSET 1") || !sql.contains("uptimeSeconds") {
                    // No middle remains, and there are no regions and no patterns.
                    answer("")
                } else {
                    answer(&row)
                }
            })
            .collect();
        next = tick.read(&answers).unwrap();
    };
    assert!(asked.iter().any(|sql| sql.contains("OFFSET 1")), "it tried to split");
    assert_eq!(observation.silent.len(), 1);
}
