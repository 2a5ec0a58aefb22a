//! Messages to channels, and their wording.

use kiloclaw_fleet::{Time, list};
use serde::Serialize;

use crate::delivery::{Channel, OutboxRow};
use crate::settings::Settings;
use crate::state::{Outage, Sandbox, Verdict, announced_kind, announcement};
use crate::transition::Kind;

/// Maximum number of sandboxes that a message names. With 3.2 kB each (id, region and reason in JSON, of control
/// characters), a message has 160 kB.
pub(crate) const MAX_NAMED: usize = 50;

/// Maximum number of sandboxes that a text names.
const MAX_LISTED: usize = 10;

/// The types of messages, as receivers see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MessageType {
    FleetQuiet,
    FleetRecovered,
    WatcherDegraded,
    WatcherRecovered,
    SandboxSilent,
    SandboxOverdue,
    SandboxCrashLoop,
    SandboxClone,
    SandboxFlapping,
    SandboxRecovered,
    WatcherTest,
}

impl MessageType {
    /// The `type` in a message.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::FleetQuiet => "fleet.quiet",
            Self::FleetRecovered => "fleet.recovered",
            Self::WatcherDegraded => "watcher.degraded",
            Self::WatcherRecovered => "watcher.recovered",
            Self::SandboxSilent => "sandbox.silent",
            Self::SandboxOverdue => "sandbox.overdue",
            Self::SandboxCrashLoop => "sandbox.crash_loop",
            Self::SandboxClone => "sandbox.clone",
            Self::SandboxFlapping => "sandbox.flapping",
            Self::SandboxRecovered => "sandbox.recovered",
            Self::WatcherTest => "watcher.test",
        }
    }

    const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Overdue => Self::SandboxOverdue,
            Kind::Flapping => Self::SandboxFlapping,
            Kind::CrashLoop => Self::SandboxCrashLoop,
            Kind::Clone => Self::SandboxClone,
            Kind::Quiet => Self::FleetQuiet,
            Kind::Degraded => Self::WatcherDegraded,
            Kind::Silent | Kind::Stopped | Kind::Absent => Self::SandboxSilent,
        }
    }

    /// What happened to these sandboxes.
    fn headline(self, entries: &[&Entry]) -> String {
        let (subject, is, s) = match entries {
            [entry] => (format!("Sandbox {}", entry.sandbox_id), "is", "s"),
            _ => (format!("{} sandboxes", entries.len()), "are", ""),
        };
        match self {
            Self::SandboxSilent => format!("{subject} stopped checking in"),
            Self::SandboxOverdue => format!("{subject} {is} not back from a planned absence"),
            Self::SandboxCrashLoop => format!("{subject} {is} in a crash loop"),
            Self::SandboxClone => format!("{subject} {is} in use on several machines at once"),
            Self::SandboxFlapping => {
                format!(
                    "{subject} keep{s} falling silent and coming back: no more messages until an hour without a change"
                )
            }
            // A planned absence explains each silence, or the sandbox was forgotten.
            _ if entries.iter().all(|entry| !entry.reason.is_empty()) => {
                format!("{subject} {is} no longer an incident")
            }
            _ => format!("{subject} recovered"),
        }
    }
}

/// A sandbox in a message, as receivers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    sandbox_id: String,
    kind: Kind,
    since: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Time>,
    #[serde(skip_serializing_if = "String::is_empty")]
    region: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

impl Entry {
    pub(crate) fn new(kind: Kind, id: &str, since: Time, region: String, reason: &str) -> Self {
        let (sandbox_id, reason) = (id.to_owned(), reason.to_owned());
        Self { kind, sandbox_id, since, until: None, region, reason }
    }

    /// The entry of a status that is open.
    pub(crate) fn of(id: &str, row: &Sandbox) -> Self {
        let kind = row.status.kind().unwrap_or(Kind::Silent);
        Self::new(kind, id, row.since, row.region.clone(), &row.reason)
    }

    pub(crate) const fn until(mut self, until: Time) -> Self {
        self.until = Some(until);
        self
    }

    /// One line of a text.
    fn line(&self) -> String {
        let (id, since, kind) = (code(&self.sandbox_id), self.since, self.kind);
        let mut line = match (self.until, kind) {
            (Some(until), _) => format!("{id}: {} from {since} to {until}", kind.name()),
            (None, Kind::Silent) => format!("{id}: last check-in {since}"),
            (None, Kind::Overdue) => format!("{id}: due back {since}"),
            (None, _) => format!("{id}: since {since}"),
        };
        if !self.region.is_empty() {
            line += ", region ";
            line += &code(&self.region);
        }
        if !self.reason.is_empty() {
            line += ", ";
            line += &plain(&self.reason);
        }
        line
    }
}

/// An outage that began or ended, with the numbers of its sandboxes.
#[derive(Clone, Debug)]
pub(crate) struct OutageNotice {
    pub(crate) outage: Outage,
    pub(crate) is_open: bool,
    pub(crate) silent: u64,
    pub(crate) sandboxes: u64,
    /// Some of its sandboxes.
    pub(crate) named: Vec<Entry>,
}

impl OutageNotice {
    fn region(&self) -> Option<&str> {
        self.outage.scope.strip_prefix('=')
    }

    fn json(&self) -> QuietScope<'_> {
        QuietScope {
            region: self.region(),
            since: self.outage.since,
            silent: self.silent,
            sandboxes: self.sandboxes,
            reason: self.is_open.then(|| self.outage.verdict.why(self.silent, self.sandboxes)),
        }
    }

    fn line(&self) -> String {
        let region = self.region().map(|region| format!("region {}: ", code(region)));
        let why = if self.is_open {
            self.outage.verdict.why(self.silent, self.sandboxes)
        } else {
            format!("quiet since {}", self.outage.since)
        };
        format!("{}{why}", region.unwrap_or_default())
    }
}

/// What a tick announces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Messages {
    opened: Vec<Entry>,
    closed: Vec<Entry>,
    /// The announcements with a sandbox that closed.
    pub(crate) resolved: Vec<u64>,
    pub(crate) outages: Vec<OutageNotice>,
    watcher: Option<(MessageType, Time, String)>,
    /// Whether no sandbox at all checks in, if that is known.
    pub(crate) nobody_checks_in: Option<bool>,
}

impl Messages {
    pub(crate) fn opened(&mut self, entry: Entry) {
        self.opened.push(entry);
    }

    pub(crate) fn closed(&mut self, announced: Time, entry: Entry) {
        self.resolved.push(announcement(entry.kind, announced));
        self.closed.push(entry);
    }

    /// Withdraws what was opened in the same tick.
    pub(crate) fn withdraw(&mut self, kind: Kind, id: &str) {
        self.opened.retain(|entry| entry.kind != kind || entry.sandbox_id != id);
    }

    pub(crate) fn watcher(&mut self, message_type: MessageType, since: Time, reason: &str) {
        self.watcher = Some((message_type, since, reason.to_owned()));
    }

    /// Rows for every channel: one message of a type, and for `PagerDuty` one event of an incident.
    ///
    /// `resolved` are the announcements that have no open sandbox any more.
    pub(crate) fn outbox(
        self,
        settings: &Settings,
        channels: &[Channel],
        now: Time,
        resolved: Vec<u64>,
    ) -> Vec<OutboxRow> {
        let mut rows = Vec::new();
        let mut add = |message: Option<Message<'_>>| {
            if let Some(message) = message {
                rows.append(&mut message.rows(settings, channels, now));
            }
        };
        for is_open in [true, false] {
            let outages = list(self.outages.iter().filter(|outage| outage.is_open == is_open));
            add(outage_message(&outages, is_open));
        }
        if let Some((message_type, since, reason)) = &self.watcher {
            add(Some(watcher_message(*message_type, *since, reason, now)));
        }
        for kind in Kind::ALL {
            let entries = list(self.opened.iter().filter(|entry| entry.kind == kind));
            let message_type = MessageType::of(kind);
            add(sandbox_message(message_type, entries, now, self.nobody_checks_in));
        }
        let closed = list(&self.closed);
        let recovered = sandbox_message(MessageType::SandboxRecovered, closed, now, None);
        add(recovered.map(|message| Message { pages: Vec::new(), ..message }));
        // Incidents also end without a message, and, if they are many, in later ticks.
        if channels.contains(&Channel::PagerDuty) {
            let pages = resolved.into_iter().filter_map(announced_kind);
            let pages = list(pages.map(|(kind, at)| Page::resolve(kind.name(), at)));
            let ends = Message {
                of_type: MessageType::SandboxRecovered,
                lines: Vec::new(),
                data: Data::default(),
                severity: "critical",
                pages,
            };
            rows.append(&mut ends.rows(settings, &[Channel::PagerDuty], now));
        }
        rows
    }
}

const TRIGGER: &str = "trigger";
const RESOLVE: &str = "resolve";

/// A `PagerDuty` event.
#[derive(Clone, Debug)]
struct Page {
    action: &'static str,
    key: String,
}

impl Page {
    fn trigger(kind: &str, at: Time) -> Self {
        Self { action: TRIGGER, key: format!("kiloclaw:{kind}:{}", at.0) }
    }

    fn resolve(kind: &str, at: Time) -> Self {
        Self { action: RESOLVE, ..Self::trigger(kind, at) }
    }
}

/// The part of a message that depends on its type, as receivers see it.
#[derive(Clone, Debug, Default, Serialize)]
struct Data<'a> {
    summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Time>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes: Vec<QuietScope<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sandboxes: Vec<&'a Entry>,
    #[serde(skip_serializing_if = "str::is_empty")]
    url: &'a str,
}

/// A quiet region, or the fleet, as receivers see it.
#[derive(Clone, Debug, Serialize)]
struct QuietScope<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    since: Time,
    silent: u64,
    sandboxes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The id of a page's row, which does not depend on the row.
fn page_id(page: &Page, action: &str) -> String {
    [&page.key, ":", action].concat()
}

/// A message, independent of the channel's format.
#[derive(Clone, Debug)]
struct Message<'a> {
    of_type: MessageType,
    lines: Vec<String>,
    data: Data<'a>,
    severity: &'static str,
    pages: Vec<Page>,
}

impl Message<'_> {
    fn rows(&self, settings: &Settings, channels: &[Channel], now: Time) -> Vec<OutboxRow> {
        let message_type = self.of_type.name();
        let mut rows = Vec::new();
        for channel in channels {
            let mut add = |id, supersedes, body| {
                let (created_at, next_at) = (now, now);
                let channel = *channel;
                rows.push(OutboxRow {
                    id,
                    channel,
                    message_type,
                    created_at,
                    next_at,
                    body,
                    supersedes,
                });
            };
            // Standard Webhooks allows no full stop in an id.
            let id = format!("{}:{}:{}", message_type.replace('.', "_"), channel.name(), now.0);
            match channel {
                Channel::Webhook => add(id, None, self.webhook(settings, now)),
                Channel::Slack => {
                    add(id, None, kiloclaw_json::to_string(&Slack { text: self.text(settings) }));
                }
                Channel::PagerDuty => {
                    for page in &self.pages {
                        let is_over = page.action == RESOLVE;
                        let trigger = is_over.then(|| page_id(page, TRIGGER));
                        let body = self.pagerduty(page, settings, now);
                        add(page_id(page, page.action), trigger, body);
                    }
                }
            }
        }
        rows
    }

    fn webhook(&self, settings: &Settings, now: Time) -> String {
        let data = Data { url: &settings.page_url, ..self.data.clone() };
        kiloclaw_json::to_string(&Webhook { of_type: self.of_type.name(), timestamp: now, data })
    }

    fn text(&self, settings: &Settings) -> String {
        let mut text = plain(&self.data.summary);
        for line in &self.lines {
            text += "\n• ";
            text += line;
        }
        if !settings.page_url.is_empty() {
            text += "\n";
            text += &settings.page_url;
        }
        text
    }

    fn pagerduty(&self, page: &Page, settings: &Settings, now: Time) -> String {
        let payload = (page.action == TRIGGER).then(|| Payload {
            summary: &self.data.summary,
            source: "kiloclaw-telemetry",
            severity: self.severity,
            timestamp: now,
            custom_details: &self.data,
        });
        let link = Link { href: &settings.page_url, text: "Fleet" };
        let has_link = payload.is_some() && !settings.page_url.is_empty();
        let links = has_link.then_some([link]);
        kiloclaw_json::to_string(&PagerDuty {
            event_action: page.action,
            dedup_key: &page.key,
            payload,
            links,
        })
    }
}

/// The body of a webhook.
#[derive(Serialize)]
struct Webhook<'a> {
    #[serde(rename = "type")]
    of_type: &'static str,
    timestamp: Time,
    data: Data<'a>,
}

/// The body of a Slack-compatible webhook.
#[derive(Serialize)]
struct Slack {
    text: String,
}

/// An event of `PagerDuty`'s Events API v2. Delivery adds the routing key.
#[derive(Serialize)]
struct PagerDuty<'a> {
    event_action: &'static str,
    dedup_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Payload<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<[Link<'a>; 1]>,
}

#[derive(Serialize)]
struct Payload<'a> {
    summary: &'a str,
    source: &'static str,
    severity: &'static str,
    timestamp: Time,
    custom_details: &'a Data<'a>,
}

#[derive(Serialize)]
struct Link<'a> {
    href: &'a str,
    text: &'static str,
}

fn sandbox_message(
    message_type: MessageType,
    entries: Vec<&Entry>,
    now: Time,
    nobody_checks_in: Option<bool>,
) -> Option<Message<'_>> {
    let pages = vec![Page::trigger(entries.first()?.kind.name(), now)];
    let count = entries.len() as u64;
    let lines = listed(count, &entries);
    let mut data = Data {
        summary: message_type.headline(&entries),
        count: Some(count),
        sandboxes: named(entries),
        ..Data::default()
    };
    if message_type == MessageType::SandboxSilent
        && let Some(nobody) = nobody_checks_in
    {
        let (verdict, why) = if nobody {
            ("ingest", "no other sandbox checks in: suspect the ingest path")
        } else {
            ("machine", "others check in: suspect the machine or its network")
        };
        data.verdict = Some(verdict);
        data.summary = format!("{}; {why}", data.summary);
    }
    let severity =
        if message_type == MessageType::SandboxFlapping { "warning" } else { "critical" };
    Some(Message { of_type: message_type, lines, data, severity, pages })
}

/// The sandboxes that a message names.
fn named(mut entries: Vec<&Entry>) -> Vec<&Entry> {
    entries.truncate(MAX_NAMED);
    entries
}

/// The lines of a text about some of `count` sandboxes.
fn listed(count: u64, entries: &[&Entry]) -> Vec<String> {
    let mut lines = list(entries.iter().take(MAX_LISTED).map(|entry| entry.line()));
    let more = count.saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

fn outage_message<'a>(outages: &[&'a OutageNotice], is_open: bool) -> Option<Message<'a>> {
    let first = outages.first()?;
    let silent: u64 = outages.iter().map(|outage| outage.silent).sum();
    let sandboxes: u64 = outages.iter().map(|outage| outage.sandboxes).sum();
    let place = match (outages, first.region()) {
        ([_], Some(region)) => format!("region {region}"),
        ([_], None) => "the fleet".to_owned(),
        _ => format!("{} regions", outages.len()),
    };
    let (of_type, headline) = if !is_open {
        let back = sandboxes.saturating_sub(silent);
        let headline = if sandboxes == 0 {
            format!("The sandboxes of {place} are away as planned")
        } else {
            format!(
                "{back} of {sandboxes} sandboxes of {place} are back, {silent} are still silent"
            )
        };
        (MessageType::FleetRecovered, headline)
    } else if first.outage.verdict == Verdict::Ingest {
        let since = first.outage.since;
        let headline = format!("No check-ins at all since {since}: suspect the ingest path");
        (MessageType::FleetQuiet, headline)
    } else {
        let headline = format!("{silent} of {sandboxes} sandboxes of {place} stopped checking in");
        (MessageType::FleetQuiet, headline)
    };
    let page = if is_open { Page::trigger } else { Page::resolve };
    let mut entries = Vec::new();
    let (mut lines, mut scopes, mut pages) = (Vec::new(), Vec::new(), Vec::new());
    for notice in outages {
        let outage = &notice.outage;
        entries.extend(&notice.named);
        lines.push(notice.line());
        scopes.push(notice.json());
        pages.push(page(&format!("quiet:{}", outage.scope), outage.opened));
    }
    if !is_open {
        lines.append(&mut listed(silent, &entries));
    }
    let data = Data {
        summary: headline,
        count: Some(silent),
        verdict: Some(first.outage.verdict.name()),
        scopes,
        sandboxes: named(entries),
        ..Data::default()
    };
    Some(Message { of_type, lines, data, severity: "critical", pages })
}

fn watcher_message(message_type: MessageType, since: Time, reason: &str, now: Time) -> Message<'_> {
    let is_degraded = message_type == MessageType::WatcherDegraded;
    let headline = if is_degraded {
        "The watcher gives no verdicts until Analytics Engine is current".to_owned()
    } else {
        format!("The watcher gives verdicts again, after {} min", now.since(since).div_ceil(60))
    };
    let lines = if reason.is_empty() { Vec::new() } else { vec![plain(reason)] };
    let data = Data {
        summary: headline,
        verdict: is_degraded.then_some("analytics_engine"),
        since: Some(since),
        reason,
        ..Data::default()
    };
    let page = if is_degraded { Page::trigger } else { Page::resolve };
    let pages = vec![page("degraded", since)];
    Message { of_type: message_type, lines, data, severity: "error", pages }
}

/// A test message for each of these channels; `PagerDuty`'s incident is resolved half a minute later.
#[must_use]
pub fn test_messages(settings: &Settings, channels: &[Channel], now: Time) -> Vec<OutboxRow> {
    let message = Message {
        of_type: MessageType::WatcherTest,
        lines: Vec::new(),
        data: Data {
            summary: "Test message of Kiloclaw telemetry: this channel works".to_owned(),
            ..Data::default()
        },
        severity: "info",
        pages: vec![Page::trigger("test", now), Page::resolve("test", now)],
    };
    let mut rows = message.rows(settings, channels, now);
    for row in &mut rows {
        if row.supersedes.take().is_some() {
            // After its trigger.
            row.next_at = now.plus(30);
        }
    }
    rows
}

/// A text from a machine as code, so that a chat recognizes no link, mention or markup in it.
fn code(text: &str) -> String {
    format!("`{}`", plain(text))
}

/// A text from a machine for a chat: without control characters, text direction marks, markup and links.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '<' => plain += "&lt;",
            '>' => plain += "&gt;",
            '&' => plain += "&amp;",
            '`' => plain.push('\''),
            '@' => plain.push('＠'),
            // A word joiner breaks the link.
            '/' if plain.ends_with(':') => plain += "\u{2060}/",
            '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}' => {}
            char if char.is_control() => plain.push(' '),
            char => plain.push(char),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn texts_of_machines_are_harmless_in_a_chat() {
        let text = "<!channel> @all `x` &amp;\u{202e}\u{200b}\nrm";
        assert_eq!(plain(text), "&lt;!channel&gt; ＠all 'x' &amp;amp; rm");
        let link = "[here](https://example.com) a:/b";
        assert_eq!(plain(link), "[here](https:\u{2060}//example.com) a:\u{2060}/b");
        assert_eq!(code("a`b"), "`a'b`");
    }

    #[test]
    fn a_message_names_some_and_counts_all() {
        let entries: Vec<_> = (0..9_999)
            .map(|number| {
                let id = format!("{number:0>96}");
                Entry::new(Kind::Silent, &id, Time(60), "\u{1}".repeat(96), &"\u{2}".repeat(300))
            })
            .collect();
        let references: Vec<_> = entries.iter().collect();
        let message =
            sandbox_message(MessageType::SandboxSilent, references, Time(1_000), Some(false))
                .unwrap();
        let rows = message.rows(&Settings::default(), &Channel::ALL, Time(1_000));
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].id, "sandbox_silent:webhook:1000");
        for row in &rows {
            assert!(row.body.len() < 200_000, "{} {}", row.id, row.body.len());
            assert!(row.body.contains("9999 sandboxes stopped checking in"), "{}", row.id);
        }
        assert!(rows[1].body.contains("and 9989 more"));
    }

    #[test]
    fn a_test_message_leaves_no_open_page() {
        let settings =
            Settings { page_url: "https://fleet.example/".into(), ..Settings::default() };
        let rows = test_messages(&settings, &Channel::ALL, Time(1_000));
        let bodies: Vec<Value> =
            rows.iter().map(|row| serde_json::from_str(&row.body).unwrap()).collect();
        assert_eq!(bodies.len(), 4);
        assert_eq!(bodies[0]["data"]["url"], "https://fleet.example/");
        assert_eq!(bodies[2]["dedup_key"], bodies[3]["dedup_key"]);
        assert_eq!(bodies[2]["links"][0]["href"], "https://fleet.example/");
        assert_eq!(bodies[3]["event_action"], "resolve");
    }

    /// A body of each type of messages.
    fn examples() -> Vec<String> {
        let settings =
            Settings { page_url: "https://fleet.example.com/".into(), ..Settings::default() };
        let now = Time(1_795_921_445);
        let entry = |kind, ago, reason: &str| {
            Entry::new(kind, "sandbox-7", now.minus(ago), "fra".into(), reason)
        };
        let outage = |is_open| OutageNotice {
            outage: Outage {
                scope: "=fra".into(),
                since: now.minus(960),
                opened: now,
                verdict: Verdict::Region,
                members: 0,
                peak: 0,
                changed: now,
            },
            is_open,
            silent: if is_open { 118 } else { 1 },
            sandboxes: 120,
            named: vec![entry(Kind::Silent, 950, "last state: running")],
        };
        let mut all = [Messages::default(), Messages::default()];
        let [first, second] = &mut all;
        first.nobody_checks_in = Some(false);
        first.outages = vec![outage(true)];
        let late = "Analytics Engine is late: a data point is not visible after 305 s";
        first.watcher(MessageType::WatcherDegraded, now, late);
        first.opened(entry(Kind::Silent, 950, "last state: running"));
        first.opened(entry(Kind::Overdue, 30, "planned by sandbox-7: kernel upgrade"));
        first.opened(entry(
            Kind::CrashLoop,
            2_400,
            "6 restarts within an hour, last exit: signal:SIGSEGV",
        ));
        first.opened(entry(Kind::Clone, 1_500, "2 machines check in under its id"));
        first.opened(entry(Kind::Flapping, 3_000, "3 changes within an hour"));
        second.outages = vec![outage(false)];
        second.watcher(MessageType::WatcherRecovered, now.minus(1_200), "");
        second.closed(now.minus(600), entry(Kind::Silent, 1_550, "").until(now.minus(40)));
        let channels = [Channel::Webhook];
        let rows =
            all.into_iter().flat_map(|messages| messages.outbox(&settings, &channels, now, vec![]));
        let rows: Vec<_> = rows.chain(test_messages(&settings, &channels, now)).collect();
        rows.into_iter().map(|row| row.body).collect()
    }

    #[test]
    fn the_documentation_shows_each_message() {
        let documentation = include_str!("../../../docs/alerts.md");
        let mut missing = Vec::new();
        for body in examples() {
            let body: Value = serde_json::from_str(&body).unwrap();
            let name = body["type"].as_str().unwrap();
            let pretty = serde_json::to_string_pretty(&body).unwrap();
            let section = format!("### `{name}`\n\n```json\n{pretty}\n```\n");
            if !documentation.contains(&section) {
                missing.push(section);
            }
        }
        assert!(missing.is_empty(), "docs/alerts.md lacks:\n\n{}", missing.join("\n"));
    }
}
