//! The object's responses to requests: the log of transitions, planned absences, and the watcher's health.

use js_sys::Array;
use kiloclaw_check_in::Refusal;
use kiloclaw_check_in::absence::{ABSENCE_PATH, Absence};
use kiloclaw_fleet::{InvalidParameter, Parameters, Time, digits, list};
use kiloclaw_watch::{
    AbsenceError, AbsenceRequest, Availability, Channel, Health, KEEP_TRANSITIONS, Kind,
    MAX_WIDE_ABSENCES, OpenAlert, PlannedAbsence, Scope, SettingError, StateChange, Target,
    availability, schema, test_messages,
};
use serde::Serialize;
use wasm_bindgen::prelude::*;
use web_sys::Response;

use super::delivery::begin;
use super::object::{Failure, Object, at, now, statement, write_changes};
use super::parts::Parts;
use super::tick::put_message;
use crate::error::{ApiError, message};
use crate::{operators, response};

#[wasm_bindgen(module = "/src/watcher.js")]
extern "C" {
    #[wasm_bindgen(catch)]
    fn absence(body: &str) -> Result<Array, JsValue>;
}

const TEST_PATH: &str = "/api/watcher/test";

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Maximum number of rows that a page scans: scanning all 2,000,000 for a rare kind would take a second.
const SPAN: u32 = 20_000;

/// A column's time in RFC 3339.
macro_rules! time {
    ($column:literal) => {
        concat!("strftime('%Y-%m-%dT%H:%M:%SZ', ", $column, ", 'unixepoch')")
    };
}

/// A page of the log as JSON: after the time `?1`; before the id `?2` and of the kind `?3`, unless these are null; of
/// the sandbox `?4` if the condition says so; at most `?5` of the `?6` newest rows.
macro_rules! page {
    ($condition:literal) => {
        concat!(
            "WITH bounds AS (SELECT coalesce(?2, (SELECT max(id) FROM transitions) + 1) AS top), \
             page AS (SELECT transitions.* FROM transitions, bounds WHERE id < top AND id >= top - ?6 AND at >= ?1 \
             AND (?3 IS NULL OR kind = ?3) ",
            $condition,
            " ORDER BY id DESC LIMIT ?5) \
             SELECT json_object('alerts', json_group_array(json_object('id', id, 'at', ",
            time!("at"),
            ", 'kind', kind, 'event', event, \
             'scope', CASE WHEN kind = 'degraded' THEN 'watcher' WHEN kind <> 'quiet' THEN 'sandbox' \
             WHEN subject = '*' THEN 'fleet' ELSE 'region' END, \
             'sandboxId', iif(kind IN ('quiet', 'degraded'), NULL, subject), \
             'region', iif(kind = 'quiet', iif(subject = '*', NULL, substr(subject, 2)), nullif(region, '')), \
             'since', ",
            time!("since"),
            ", 'until', ",
            time!("until"),
            ", 'reason', reason, 'sent', json(iif(sent, 'true', 'false'))) ORDER BY id DESC), \
             'next', '' || CASE WHEN count(*) = ?5 THEN min(id) \
             WHEN (SELECT at FROM transitions, bounds WHERE id < top - ?6 ORDER BY id DESC LIMIT 1) >= ?1 \
             THEN (SELECT CAST(top - ?6 AS INTEGER) FROM bounds) END) FROM page"
        )
    };
}

const PAGE: &str = page!("");

/// An index groups the rows of each sandbox.
const PAGE_OF_SANDBOX: &str = page!("AND subject = ?4 AND kind NOT IN ('quiet', 'degraded')");

/// Undelivered messages as JSON, the newest first.
const UNDELIVERED: &str = concat!(
    "SELECT json_group_array(json_object('id', id, 'channel', channel, 'type', type, 'createdAt', ",
    time!("created_at"),
    ", 'attempts', attempts, 'nextAt', ",
    time!("next_at"),
    ", 'failure', nullif(failure, ''))) \
     FROM (SELECT * FROM outbox ORDER BY created_at DESC, id LIMIT 50)"
);

/// Responds to a request; `watcher.js` sets the alarm first if it is lost:
///
/// 1. principals of its kind send too many requests → 429
/// 2. otherwise → the response of the route's handler below; for a [test], the messages to send first
pub(super) fn answer(object: &Object, parts: &JsValue) -> JsValue {
    match route(object, &Parts::from_js(parts)) {
        Ok(Answer::Response(response)) => response.into(),
        Ok(Answer::Send(messages)) => messages.into(),
        Err(error) => error.into_response().into(),
    }
}

enum Answer {
    Response(Response),
    /// Messages to send before [`tested`] answers.
    Send(Array),
}

fn route(object: &Object, request: &Parts) -> Result<Answer, ApiError> {
    let path = &*request.path;
    if !matches!(path, "" | ABSENCE_PATH) {
        // 1.
        let [all, one] = &object.buckets;
        let bucket = if request.only.is_some() { one } else { all };
        let of_one = request.only.is_some() || request.url.contains("sandbox=");
        let tokens = match path {
            TEST_PATH => 20,
            // Sums up the whole log.
            "/api/availability" if !of_one => 10,
            _ => 1,
        };
        bucket.take(tokens).map_err(ApiError::watcher_busy)?;
    }
    // 2.
    let response = match path {
        "/api/alerts" => alerts(object, request),
        "/api/availability" => report_availability(object, request),
        "/api/absences" => absences(object, request),
        "/api/watcher" => watcher(object, request),
        TEST_PATH => return test(object, request).map(Answer::Send),
        ABSENCE_PATH => plan_own_absence(object, request),
        #[cfg(feature = "panic-route")]
        "/api/watcher/panic" => Ok(panic(object, request)),
        // The cron trigger.
        _ => Ok(response::no_content()),
    };
    response.map(Answer::Response)
}

fn is_get(request: &Parts) -> bool {
    matches!(&*request.method, "GET" | "HEAD")
}

/// `GET /api/alerts`: a page of transitions, the newest first.
///
/// 1. the method is not GET or HEAD → 405
/// 2. a parameter is invalid → 400; the principal may see only another sandbox → 403
/// 3. otherwise → 200
fn alerts(object: &Object, request: &Parts) -> Result<Response, ApiError> {
    // 1.
    if !is_get(request) {
        return Err(ApiError::method_not_allowed("GET, HEAD"));
    }
    // 2.
    let parameters = operators::parameters(&request.url);
    parameters.only(&["window", "kind", "sandbox", "limit", "before"])?;
    let after = now().minus(parameters.window_of(KEEP_TRANSITIONS)?);
    let kind = match parameters.get("kind") {
        Some(name) => Some(Kind::of(name).ok_or_else(|| invalid("kind", kinds()))?.name()),
        None => None,
    };
    let before = match parameters.get("before") {
        Some(id) => {
            let id = digits(id).filter(|id| *id < 1 << 53);
            Some(Time(id.ok_or_else(|| invalid("before", "next of the previous page"))?))
        }
        None => None,
    };
    let sandbox = sandbox(&parameters, request)?;
    let limit = parameters.integer("limit", DEFAULT_LIMIT, MAX_LIMIT)?;
    // 3.
    let (sql, span) = if sandbox.is_some() { (PAGE_OF_SANDBOX, u32::MAX) } else { (PAGE, SPAN) };
    let text = |text: Option<&str>| text.map_or(JsValue::NULL, JsValue::from);
    let page = statement(
        sql,
        &[
            at(after),
            before.map_or(JsValue::NULL, at),
            text(kind),
            text(sandbox.as_deref()),
            limit.into(),
            span.into(),
        ],
    );
    let page = object.run(vec![page])?.pop();
    Ok(response::json_text(&page.unwrap_or_default()))
}

/// `GET /api/availability`: the share of time in which a sandbox, or the fleet, reported.
///
/// 1. the method is not GET or HEAD → 405
/// 2. a parameter is invalid → 400; the principal may see only another sandbox → 403
/// 3. otherwise → 200
fn report_availability(object: &Object, request: &Parts) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct AvailabilityReport<'a> {
        as_of: Time,
        from: Time,
        sandbox_id: Option<&'a str>,
        sandboxes: u64,
        reporting_seconds: u64,
        silent_seconds: u64,
        absent_seconds: u64,
        share: Option<f64>,
    }

    // 1.
    if !is_get(request) {
        return Err(ApiError::method_not_allowed("GET, HEAD"));
    }
    // 2.
    let parameters = operators::parameters(&request.url);
    parameters.only(&["window", "sandbox"])?;
    let as_of = now();
    let from = as_of.minus(parameters.window_of(KEEP_TRANSITIONS)?);
    let sandbox = sandbox(&parameters, request)?;
    // 3.
    let sandbox_id = sandbox.as_deref();
    let mut bounds = vec![at(from), at(as_of)];
    bounds.extend(sandbox_id.map(JsValue::from));
    let sums = statement(&schema::closed_seconds(sandbox_id.is_some()), &bounds);
    let sums = object.run(vec![sums])?;
    let (sums, _) = sums.as_chunks::<2>();
    let closed = sums.iter().filter_map(|[kind, sum]| Some((Kind::of(kind)?, sum.parse().ok()?)));
    let settings = &object.config.settings;
    let found = object
        .with_state(|state| availability(settings, state, from, as_of, sandbox_id, closed))?;
    let Availability { sandboxes, reporting_seconds, silent_seconds, absent_seconds, share } =
        found;
    Ok(response::json(&AvailabilityReport {
        as_of,
        from,
        sandbox_id,
        sandboxes,
        reporting_seconds,
        silent_seconds,
        absent_seconds,
        share,
    }))
}

fn kinds() -> String {
    Kind::ALL.map(Kind::name).join(", ")
}

fn invalid(name: &str, expected: impl Into<String>) -> ApiError {
    InvalidParameter::new(name, expected).into()
}

/// The only sandbox that the request names or the principal may see.
fn sandbox(parameters: &Parameters, request: &Parts) -> Result<Option<String>, ApiError> {
    match (parameters.get("sandbox"), &request.only) {
        (Some(""), _) => Err(invalid("sandbox", "a sandbox's id")),
        (Some(asked), Some(only)) if asked != only => Err(ApiError::other_sandbox()),
        (Some(asked), _) => Ok(Some(asked.to_owned())),
        (None, only) => Ok(only.clone()),
    }
}

/// `/api/absences`: planned absences.
///
/// 1. the method is not GET, HEAD, POST or DELETE → 405
/// 2. POST and DELETE: the principal lacks the scope `absences:write` → 403
/// 3. a parameter or the body is invalid → 400; a principal who may see one sandbox names another one → 403
/// 4. POST: there are too many absences → 409
/// 5. otherwise → 200
fn absences(object: &Object, request: &Parts) -> Result<Response, ApiError> {
    // 1.
    if is_get(request) {
        return list_absences(object, request);
    }
    if !matches!(&*request.method, "POST" | "DELETE") {
        return Err(ApiError::method_not_allowed("GET, HEAD, POST, DELETE"));
    }
    // 2.
    if !request.writes {
        return Err(ApiError::missing_scope());
    }
    // 3.
    let ends = request.method == "DELETE";
    let change = if ends { named_scope(request)? } else { planned(request)? };
    let is_own = |only: &String| match &change.scope {
        Scope::Sandboxes(ids) => ids.iter().all(|id| id == only),
        Scope::Region(_) | Scope::All => false,
    };
    if !request.only.as_ref().is_none_or(is_own) {
        return Err(ApiError::other_sandbox());
    }
    // 4. and 5.
    let changes = if ends {
        object.with_state(|state| state.end_absence(&change.scope, ""))?
    } else {
        plan(object, &change)?
    };
    object.run(write_changes(&changes))?;
    let done = if ends { "ended" } else { "planned" };
    Ok(response::json_text(&format!("{{\"{done}\":{}}}", changes.len())))
}

/// A page of planned absences: of all and of regions first, then of sandboxes by their ids.
fn list_absences(object: &Object, request: &Parts) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Page<'a> {
        absences: Vec<PlannedAbsence<'a>>,
        /// The last id of the page, if there are more.
        next: Option<&'a str>,
    }

    let parameters = operators::parameters(&request.url);
    parameters.only(&["after", "limit", "sandbox"])?;
    let sandbox = sandbox(&parameters, request)?;
    let limit = parameters.integer("limit", DEFAULT_LIMIT, MAX_LIMIT)?;
    let after = parameters.get("after").unwrap_or_default();
    let page = object.with_state(|state| {
        let may_see = |absence: &PlannedAbsence<'_>| {
            sandbox.is_none() || absence.sandbox_id == sandbox.as_deref()
        };
        let is_wide = |absence: &PlannedAbsence<'_>| absence.sandbox_id.is_none();
        // Absences of all and of regions are few, and all are on the first page.
        let most = MAX_WIDE_ABSENCES + limit + 1;
        let mut absences = list(state.absences(now(), after).filter(may_see).take(most));
        let limit = limit + absences.iter().filter(|absence| is_wide(absence)).count();
        let is_last = absences.len() <= limit;
        absences.truncate(limit);
        let next = absences.last().and_then(|last| last.sandbox_id).filter(|_| !is_last);
        kiloclaw_json::to_string(&Page { absences, next })
    })?;
    Ok(response::json_text(&page))
}

fn planned(request: &Parts) -> Result<AbsenceRequest, ApiError> {
    let invalid = |expected: String| ApiError::invalid_body(None, expected);
    let body = absence(&request.body).map_err(|thrown| invalid(message(&thrown)))?;
    let (seconds, reason) = (body.get(1), body.get(2).as_string().unwrap_or_default());
    let mut ids = Vec::new();
    for id in body.iter().skip(3) {
        ids.push(id.as_string().unwrap_or_default());
    }
    let scope = match (body.get(0).as_string(), ids) {
        (None, ids) if ids.is_empty() => Scope::All,
        (None, ids) => Scope::Sandboxes(ids),
        (Some(region), _) => Scope::Region(region),
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    let for_seconds = seconds.as_f64().map(|seconds| seconds as u64);
    Ok(AbsenceRequest { scope, for_seconds, reason, by: request.by.clone() })
}

/// The scope that the parameters name: `sandbox`, once or several times, `region` or `all=true`.
fn named_scope(request: &Parts) -> Result<AbsenceRequest, ApiError> {
    let parameters = operators::parameters(&request.url);
    let pairs = parameters.sorted();
    let scope = match &*pairs {
        [("region", region)] => Scope::Region((*region).to_owned()),
        [("all", "true")] => Scope::All,
        [("sandbox", _), ..]
            if pairs.iter().all(|(name, id)| *name == "sandbox" && !id.is_empty()) =>
        {
            Scope::Sandboxes(list(pairs.iter().map(|(_, id)| (*id).to_owned())))
        }
        _ => {
            return Err(invalid(
                "sandbox",
                "sandbox, once or several times, or region, or all=true",
            ));
        }
    };
    Ok(AbsenceRequest { scope, for_seconds: None, reason: String::new(), by: String::new() })
}

/// Plans an absence in memory. The caller must write the changes at once.
fn plan(object: &Object, absence: &AbsenceRequest) -> Result<Vec<StateChange>, ApiError> {
    let planned = object.with_state(|state| state.plan_absence(now(), absence))?;
    planned.map_err(|error| match error {
        AbsenceError::Full => ApiError::too_many_absences(),
        _ => ApiError::invalid_body(error.field(), error.to_string()),
    })
}

/// A machine plans or ends its own absence. The Worker has checked the request.
fn plan_own_absence(object: &Object, request: &Parts) -> Result<Response, ApiError> {
    let absence = Absence::parse_str(&request.body).map_err(Refusal::from)?;
    let scope = Scope::Sandboxes(vec![request.by.clone()]);
    let changes = if absence.for_seconds == Some(0) {
        object.with_state(|state| state.end_absence(&scope, &request.by))?
    } else {
        let (by, reason) = (request.by.clone(), absence.reason.into_owned());
        plan(object, &AbsenceRequest { scope, for_seconds: absence.for_seconds, reason, by })?
    };
    object.run(write_changes(&changes))?;
    Ok(response::no_content())
}

/// The watcher's health.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WatcherReport<'a> {
    as_of: Time,
    /// `on` or `off`.
    state: &'static str,
    /// Why it is off.
    reason: Option<String>,
    silent_after_seconds: u64,
    tick_seconds: u64,
    watch: Health<'a>,
    sandboxes: Option<u64>,
    attention: Vec<OpenAlert<'a>>,
    channels: Vec<ChannelReport>,
    heartbeat: ChannelReport,
    setting_errors: &'a [SettingError],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChannelReport {
    channel: &'static str,
    /// `on`, `off` (it answered 410), `not_configured` or `misconfigured`.
    state: &'static str,
    undelivered: u64,
    last_failure: Option<Failure>,
}

fn state_name(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

/// `GET /api/watcher`: the watcher's health, and undelivered messages.
///
/// 1. the method is not GET or HEAD → 405
/// 2. the principal may see only one sandbox → 403
/// 3. a parameter is given → 400
/// 4. otherwise → 200
fn watcher(object: &Object, request: &Parts) -> Result<Response, ApiError> {
    // 1.
    if !is_get(request) {
        return Err(ApiError::method_not_allowed("GET, HEAD"));
    }
    // 2.
    if request.only.is_some() {
        return Err(ApiError::other_sandbox());
    }
    // 3.
    operators::parameters(&request.url).only(&[])?;
    // 4.
    let counts = "SELECT channel, count(*) FROM outbox GROUP BY channel";
    let counts = object.run(vec![statement(counts, &[])])?;
    let (counts, _) = counts.as_chunks::<2>();
    let undelivered = object.run(vec![statement(UNDELIVERED, &[])])?.pop().unwrap_or_default();
    let off = object.off();
    let failures = object.failures.borrow();
    let failure = |place: usize| failures.get(place).cloned().flatten();
    // A channel without a target: its settings are missing or wrong.
    let without = |prefix: &str| {
        let errors = &object.config.errors;
        let is_wrong = errors.iter().any(|error| error.name.starts_with(prefix));
        if is_wrong { "misconfigured" } else { "not_configured" }
    };
    let mut body = object.with_state(|state| {
        let mut places = 0..;
        let channels = Channel::ALL.map(|channel| {
            let count = counts.iter().find(|[name, _]| name == channel.name());
            let is_on = |target| state_name(!state.is_off(target));
            ChannelReport {
                channel: channel.name(),
                state: object.target(channel).map_or_else(
                    || without(&format!("ALERT_{}_", channel.name().to_ascii_uppercase())),
                    is_on,
                ),
                undelivered: count.and_then(|[_, n]| n.parse().ok()).unwrap_or_default(),
                last_failure: places.next().and_then(failure),
            }
        });
        kiloclaw_json::to_string(&WatcherReport {
            as_of: now(),
            state: state_name(off.is_none()),
            reason: off.map(|reason| reason.to_string()),
            silent_after_seconds: object.config.settings.silent_after,
            tick_seconds: object.config.settings.tick,
            watch: state.health(),
            sandboxes: state.sandboxes(&object.config.settings),
            attention: state.attention(),
            channels: channels.into(),
            heartbeat: ChannelReport {
                channel: "heartbeat",
                state: match object.config.heartbeat {
                    Some(_) => "on",
                    None => without("WATCHER_HEARTBEAT_URL"),
                },
                undelivered: 0,
                last_failure: failure(Channel::ALL.len()),
            },
            setting_errors: &object.config.errors,
        })
    })?;
    // SQLite built this part as JSON.
    body.truncate(body.len() - 1);
    let body = format!("{body},\"undelivered\":{undelivered}}}");
    Ok(response::json_text(&body))
}

/// `POST /api/watcher/test`: sends a test message to every configured channel. A channel that is off after a 410 is on
/// again when the message arrives.
///
/// 1. the method is not POST → 405
/// 2. the principal may see only one sandbox, or lacks the scope `absences:write` → 403
/// 3. otherwise → 200, with the [result](tested) of each message
fn test(object: &Object, request: &Parts) -> Result<Array, ApiError> {
    // 1.
    if request.method != "POST" {
        return Err(ApiError::method_not_allowed("POST"));
    }
    // 2.
    if request.only.is_some() {
        return Err(ApiError::other_sandbox());
    }
    if !request.writes {
        return Err(ApiError::missing_scope());
    }
    // 3.
    let targets = &object.config.targets;
    let channels = list(targets.iter().map(Target::channel));
    let rows = test_messages(&object.config.settings, &channels, now());
    object.run(list(rows.iter().map(put_message)))?;
    let messages = Array::new();
    for row in rows.iter().filter(|row| row.next_at == row.created_at) {
        if let Some(target) = object.target(row.channel)
            && let Some(message) = begin(object, target, &row.id, 0, &row.body)?
        {
            messages.push(&message);
        }
    }
    Ok(messages)
}

/// The response to a [test], from what [`record`](super::delivery::record) returned for each message.
pub(super) fn tested(results: &JsValue) -> JsValue {
    #[derive(Serialize)]
    struct Test {
        channel: Option<String>,
        delivered: bool,
        failure: Option<String>,
    }

    let mut tests = Vec::new();
    for result in Array::from(results).iter() {
        let result = Array::<JsValue>::from(&result);
        let (channel, failure) = (result.get(0).as_string(), result.get(1).as_string());
        tests.push(Test { channel, delivered: failure.is_none(), failure });
    }
    response::json(&tests).into()
}

/// `GET /api/watcher/panic`: panics now, or with `?alarm=1` in each alarm of this instance.
#[cfg(feature = "panic-route")]
#[expect(clippy::panic, reason = "that is what this route is for")]
fn panic(object: &Object, request: &Parts) -> Response {
    if request.url.ends_with("?alarm=1") {
        object.panics.set(true);
        return response::no_content();
    }
    panic!("requested of the watcher")
}
