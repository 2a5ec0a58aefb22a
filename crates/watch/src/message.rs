//! What channels are sent, and in which words.

use kiloclaw_fleet::Time;
use serde_json::{Map, Value, json};

use crate::delivery::{Channel, OutboxRow};
use crate::settings::Settings;
use crate::state::{Outage, Sandbox, Verdict, announced_kind, announcement};
use crate::transition::Kind;

/// Maximum number of sandboxes that a message names. With 3.2 kB each (id, region and reason in JSON, of control
/// characters), a message has 160 kB.
pub(crate) const MAX_NAMED: usize = 50;

/// Maximum number of sandboxes that a text names.
const MAX_LISTED: usize = 10;

/// Maximum number of resolved `PagerDuty` incidents in one tick.
const MAX_RESOLVED: usize = 100;

/// The types of messages, as receivers see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum MessageType {
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
    /// As the message has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
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
    fn headline(self, entries: &[&(Kind, Entry)]) -> String {
        let (subject, is, s) = match entries {
            [(_, entry)] => (format!("Sandbox {}", entry.sandbox_id), "is", "s"),
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
            _ => format!("{subject} recovered"),
        }
    }
}

/// A sandbox in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) sandbox_id: String,
    since: Time,
    until: Option<Time>,
    region: String,
    reason: String,
}

impl Entry {
    pub(crate) fn new(id: &str, since: Time, region: String, reason: &str) -> Self {
        Self { sandbox_id: id.to_owned(), since, until: None, region, reason: reason.to_owned() }
    }

    /// The entry of a status that is open.
    pub(crate) fn of(id: &str, row: &Sandbox) -> Self {
        Self::new(id, row.since, row.region.clone(), &row.reason)
    }

    pub(crate) const fn until(mut self, until: Time) -> Self {
        self.until = Some(until);
        self
    }

    fn json(&self, kind: Kind) -> Value {
        let mut entry = Map::new();
        entry.insert("sandboxId".into(), self.sandbox_id.clone().into());
        entry.insert("kind".into(), kind.name().into());
        entry.insert("since".into(), self.since.to_string().into());
        if let Some(until) = self.until {
            entry.insert("until".into(), until.to_string().into());
        }
        for (name, text) in [("region", &self.region), ("reason", &self.reason)] {
            if !text.is_empty() {
                entry.insert(name.into(), text.clone().into());
            }
        }
        Value::Object(entry)
    }

    /// One line of a text.
    fn line(&self, kind: Kind) -> String {
        let (id, since) = (code(&self.sandbox_id), self.since);
        let mut line = match (self.until, kind) {
            (Some(until), _) => format!("{id}: {} from {since} to {until}", kind.phrase()),
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
    /// Some of them.
    pub(crate) named: Vec<Entry>,
}

impl OutageNotice {
    fn region(&self) -> Option<&str> {
        self.outage.scope.strip_prefix('=')
    }

    fn json(&self) -> Value {
        let mut scope = Map::new();
        if let Some(region) = self.region() {
            scope.insert("region".into(), region.into());
        }
        scope.insert("since".into(), self.outage.since.to_string().into());
        scope.insert("silent".into(), self.silent.into());
        scope.insert("sandboxes".into(), self.sandboxes.into());
        if self.is_open {
            let reason = self.outage.verdict.why(self.silent, self.sandboxes);
            scope.insert("reason".into(), reason.into());
        }
        Value::Object(scope)
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

/// What a tick has to say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Messages {
    opened: Vec<(Kind, Entry)>,
    closed: Vec<(Kind, Entry)>,
    /// The announcements of which a sandbox closed.
    resolved: Vec<u64>,
    pub(crate) outages: Vec<OutageNotice>,
    watcher: Option<(MessageType, Time, String)>,
    /// Whether no sandbox at all checks in, if that is known.
    pub(crate) nobody_checks_in: Option<bool>,
}

impl Messages {
    pub(crate) fn opened(&mut self, kind: Kind, entry: Entry) {
        self.opened.push((kind, entry));
    }

    pub(crate) fn closed(&mut self, kind: Kind, announced: Time, entry: Entry) {
        self.closed.push((kind, entry));
        self.resolved.push(announcement(kind, announced));
    }

    /// Takes back what was opened in the same tick.
    pub(crate) fn withdraw(&mut self, kind: Kind, id: &str) {
        self.opened.retain(|(other, entry)| *other != kind || entry.sandbox_id != id);
    }

    pub(crate) fn watcher(&mut self, message_type: MessageType, since: Time, reason: &str) {
        self.watcher = Some((message_type, since, reason.to_owned()));
    }

    /// Rows for every channel: one message of a type, and for `PagerDuty` one event of an incident.
    ///
    /// `announced` are the announcements that still have an open sandbox, in order.
    pub(crate) fn outbox(
        mut self,
        settings: &Settings,
        channels: &[Channel],
        now: Time,
        announced: &[u64],
    ) -> Vec<OutboxRow> {
        let mut messages = Vec::new();
        for is_open in [true, false] {
            let outages: Vec<_> =
                self.outages.iter().filter(|outage| outage.is_open == is_open).collect();
            messages.extend(outage_message(&outages, is_open));
        }
        if let Some((message_type, since, reason)) = &self.watcher {
            messages.push(watcher_message(*message_type, *since, reason, now));
        }
        for kind in Kind::ALL {
            let entries: Vec<_> = self.opened.iter().filter(|(other, _)| *other == kind).collect();
            let message_type = MessageType::of(kind);
            messages.extend(sandbox_message(message_type, &entries, now, self.nobody_checks_in));
        }
        let closed: Vec<_> = self.closed.iter().collect();
        let recovered = sandbox_message(MessageType::SandboxRecovered, &closed, now, None);
        if let Some(mut message) = recovered {
            self.resolved.sort_unstable();
            self.resolved.dedup();
            let is_over = |resolved: &&u64| announced.binary_search(resolved).is_err();
            let resolved = self.resolved.iter().filter(is_over).take(MAX_RESOLVED);
            let resolved = resolved.filter_map(|resolved| announced_kind(*resolved));
            message.pages = resolved.map(|(kind, at)| Page::resolve(kind.name(), at)).collect();
            messages.push(message);
        }
        messages.iter().flat_map(|message| message.rows(settings, channels, now)).collect()
    }
}

/// A `PagerDuty` event.
#[derive(Clone, Debug)]
struct Page {
    action: &'static str,
    key: String,
}

impl Page {
    fn trigger(kind: &str, at: Time) -> Self {
        Self { action: "trigger", key: format!("kiloclaw:{kind}:{}", at.0) }
    }

    fn resolve(kind: &str, at: Time) -> Self {
        Self { action: "resolve", ..Self::trigger(kind, at) }
    }
}

/// A message before it has the form of a channel.
#[derive(Clone, Debug)]
struct Message {
    of_type: MessageType,
    headline: String,
    lines: Vec<String>,
    data: Map<String, Value>,
    severity: &'static str,
    pages: Vec<Page>,
}

impl Message {
    fn rows(&self, settings: &Settings, channels: &[Channel], now: Time) -> Vec<OutboxRow> {
        let mut rows = Vec::new();
        for channel in channels {
            let bodies = match channel {
                Channel::Webhook => vec![self.webhook(settings, now)],
                Channel::Slack => vec![json!({ "text": self.text(settings) })],
                Channel::PagerDuty => {
                    self.pages.iter().map(|page| self.pagerduty(page, settings, now)).collect()
                }
            };
            for (index, body) in bodies.into_iter().enumerate() {
                let name = self.of_type.name().replace('.', "_");
                rows.push(OutboxRow {
                    id: format!("msg_{}_{name}_{}_{index}", now.0, channel.name()),
                    channel: *channel,
                    message_type: self.of_type.name(),
                    created_at: now,
                    attempts: 0,
                    next_at: now,
                    body: body.to_string(),
                    failure: String::new(),
                });
            }
        }
        rows
    }

    fn webhook(&self, settings: &Settings, now: Time) -> Value {
        let mut data = self.data.clone();
        data.insert("summary".into(), self.headline.clone().into());
        if !settings.page_url.is_empty() {
            data.insert("url".into(), settings.page_url.clone().into());
        }
        json!({ "type": self.of_type.name(), "timestamp": now.to_string(), "data": data })
    }

    fn text(&self, settings: &Settings) -> String {
        let mut text = plain(&self.headline);
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

    fn pagerduty(&self, page: &Page, settings: &Settings, now: Time) -> Value {
        let mut event = json!({ "event_action": page.action, "dedup_key": page.key });
        if page.action == "trigger"
            && let Some(event) = event.as_object_mut()
        {
            let payload = json!({
                "summary": self.headline,
                "source": "kiloclaw-telemetry",
                "severity": self.severity,
                "timestamp": now.to_string(),
                "custom_details": self.data,
            });
            event.insert("payload".into(), payload);
            if !settings.page_url.is_empty() {
                let link = json!([{ "href": settings.page_url, "text": "Fleet" }]);
                event.insert("links".into(), link);
            }
        }
        event
    }
}

fn sandbox_message(
    message_type: MessageType,
    entries: &[&(Kind, Entry)],
    now: Time,
    nobody_checks_in: Option<bool>,
) -> Option<Message> {
    let (first_kind, _) = entries.first()?;
    let mut data = Map::new();
    data.insert("count".into(), entries.len().into());
    data.insert("sandboxes".into(), named(entries.iter().map(|(kind, entry)| (*kind, entry))));
    let mut headline = message_type.headline(entries);
    if message_type == MessageType::SandboxSilent
        && let Some(nobody) = nobody_checks_in
    {
        let (verdict, why) = if nobody {
            ("ingest", "no other sandbox checks in: suspect the ingest path")
        } else {
            ("machine", "others check in: suspect the machine or its network")
        };
        data.insert("verdict".into(), verdict.into());
        headline = format!("{headline}; {why}");
    }
    let lines = listed(entries.len(), entries.iter().map(|(kind, entry)| (*kind, entry)));
    let severity =
        if message_type == MessageType::SandboxFlapping { "warning" } else { "critical" };
    let pages = vec![Page::trigger(first_kind.name(), now)];
    Some(Message { of_type: message_type, headline, lines, data, severity, pages })
}

/// The sandboxes that a message names.
fn named<'a>(entries: impl Iterator<Item = (Kind, &'a Entry)>) -> Value {
    entries.take(MAX_NAMED).map(|(kind, entry)| entry.json(kind)).collect::<Vec<_>>().into()
}

/// The lines of a text about some of `count` sandboxes.
fn listed<'a>(count: usize, entries: impl Iterator<Item = (Kind, &'a Entry)>) -> Vec<String> {
    let mut lines: Vec<_> =
        entries.take(MAX_LISTED).map(|(kind, entry)| entry.line(kind)).collect();
    if count > lines.len() {
        lines.push(format!("and {} more", count - lines.len()));
    }
    lines
}

fn outage_message(outages: &[&OutageNotice], is_open: bool) -> Option<Message> {
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
        let headline = format!(
            "{back} of {sandboxes} sandboxes of {place} are back, {silent} are still silent"
        );
        (MessageType::FleetRecovered, headline)
    } else if first.outage.verdict == Verdict::Ingest {
        let since = first.outage.since;
        let headline = format!("No check-ins at all since {since}: suspect the ingest path");
        (MessageType::FleetQuiet, headline)
    } else {
        let headline = format!("{silent} of {sandboxes} sandboxes of {place} stopped checking in");
        (MessageType::FleetQuiet, headline)
    };
    let scopes: Vec<_> = outages.iter().map(|notice| notice.json()).collect();
    let entries =
        || outages.iter().flat_map(|notice| &notice.named).map(|entry| (Kind::Silent, entry));
    let mut data = Map::new();
    data.insert("count".into(), silent.into());
    data.insert("sandboxes".into(), named(entries()));
    data.insert("verdict".into(), first.outage.verdict.name().into());
    data.insert("scopes".into(), scopes.into());
    let mut lines: Vec<_> = outages.iter().map(|notice| notice.line()).collect();
    if !is_open {
        lines.extend(listed(usize::try_from(silent).unwrap_or(usize::MAX), entries()));
    }
    let page = if is_open { Page::trigger } else { Page::resolve };
    let pages = outages
        .iter()
        .map(|OutageNotice { outage, .. }| page(&format!("quiet:{}", outage.scope), outage.opened));
    let pages = pages.collect();
    Some(Message { of_type, headline, lines, data, severity: "critical", pages })
}

fn watcher_message(message_type: MessageType, since: Time, reason: &str, now: Time) -> Message {
    let is_degraded = message_type == MessageType::WatcherDegraded;
    let headline = if is_degraded {
        "The watcher is blind: it gives no verdict until Analytics Engine is current".to_owned()
    } else {
        format!("The watcher sees again, after {} min", now.since(since).div_ceil(60))
    };
    let mut data = Map::new();
    data.insert("since".into(), since.to_string().into());
    let mut lines = Vec::new();
    if !reason.is_empty() {
        data.insert("reason".into(), reason.into());
        lines.push(plain(reason));
    }
    if is_degraded {
        data.insert("verdict".into(), "analytics_engine".into());
    }
    let page = if is_degraded { Page::trigger } else { Page::resolve };
    let pages = vec![page("degraded", since)];
    Message { of_type: message_type, headline, lines, data, severity: "error", pages }
}

/// A test message for each of these channels. It opens no incident that stays open.
#[must_use]
pub fn test_messages(settings: &Settings, channels: &[Channel], now: Time) -> Vec<OutboxRow> {
    let message = Message {
        of_type: MessageType::WatcherTest,
        headline: "Test message of Kiloclaw telemetry: this channel works".to_owned(),
        lines: Vec::new(),
        data: Map::new(),
        severity: "info",
        pages: vec![Page::trigger("test", now), Page::resolve("test", now)],
    };
    message.rows(settings, channels, now)
}

/// A text from a machine as code, so that a chat finds no link, mention or markup in it.
fn code(text: &str) -> String {
    format!("`{}`", plain(text))
}

/// A text from a machine for a chat: without control characters, text direction marks and markup.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '<' => plain += "&lt;",
            '>' => plain += "&gt;",
            '&' => plain += "&amp;",
            '`' => plain.push('\''),
            '@' => plain.push('＠'),
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
    use super::*;

    #[test]
    fn texts_of_machines_are_harmless_in_a_chat() {
        let text = "<!channel> @all `x` &amp;\u{202e}\u{200b}\nrm";
        assert_eq!(plain(text), "&lt;!channel&gt; ＠all 'x' &amp;amp; rm");
        assert_eq!(code("a`b"), "`a'b`");
    }

    #[test]
    fn a_message_names_some_and_counts_all() {
        let entries: Vec<_> = (0..9_999)
            .map(|number| {
                let id = format!("{number:0>96}");
                (Kind::Silent, Entry::new(&id, Time(60), "\u{1}".repeat(96), &"\u{2}".repeat(300)))
            })
            .collect();
        let references: Vec<_> = entries.iter().collect();
        let message =
            sandbox_message(MessageType::SandboxSilent, &references, Time(1_000), Some(false))
                .unwrap();
        let rows = message.rows(&Settings::default(), &Channel::ALL, Time(1_000));
        assert_eq!(rows.len(), 3);
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
}
