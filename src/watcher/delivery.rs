//! Sends messages of the outbox: at least once, each under its own id.

use js_sys::{Array, Math};
use kiloclaw_fleet::Time;
use kiloclaw_watch::{
    Attempt, Channel, Delivery, TIMEOUT_MS, Target, after_attempt, before_attempt, schema,
};
use wasm_bindgen::prelude::*;

use super::object::{Failure, Object, at, now, statement, write_changes};
use crate::analytics;
use crate::error::ApiError;
use crate::log;

/// How long a message counts as being sent, in seconds: more than its timeout. After a kill, it is tried again then.
const IN_FLIGHT: u64 = TIMEOUT_MS as u64 / 1_000 + 5;

/// Timeout of a ping, in milliseconds.
const PING_TIMEOUT_MS: u32 = 10_000;

/// Some of the messages that are due for a channel. Each channel has its own, so that a slow one delays no other; 3 x 2
/// requests are as many as the runtime makes at a time.
const DUE: &str = "SELECT id, attempts, body FROM outbox WHERE channel = ?1 AND next_at <= ?2 \
     ORDER BY next_at, id LIMIT 2";

const BEGIN: &str = "UPDATE outbox SET attempts = ?2, next_at = ?3 WHERE id = ?1";

const RETRY: &str = "UPDATE outbox SET next_at = ?2, failure = ?3 WHERE id = ?1";

pub(super) const DELETE: &str = "DELETE FROM outbox WHERE id = ?1";

/// The requests for some of the messages that are due.
pub(super) fn due_messages(object: &Object) -> Result<JsValue, ApiError> {
    let requests = Array::new();
    for target in &object.config.targets {
        let channel = target.channel().name();
        let rows = object.run(vec![statement(DUE, [channel.into(), at(now())])])?;
        let (rows, _) = rows.as_chunks::<3>();
        for [id, attempts, body] in rows {
            // What cannot be read is given up.
            let attempts = attempts.parse().unwrap_or(u32::MAX);
            if let Some(request) = begin(object, target, id, attempts, body)? {
                requests.push(&request);
            }
        }
    }
    Ok(requests.into())
}

/// Writes that a message is tried, so that a try that is never recorded counts as well. Returns what [`record`] needs, and
/// the request's parts; `None` if its tries are used up.
pub(super) fn begin(
    object: &Object,
    target: &Target,
    id: &str,
    attempts: u32,
    body: &str,
) -> Result<Option<Array>, ApiError> {
    let channel = target.channel().name();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 2^32")]
    let jitter = (Math::random() * 4_294_967_296.0) as u32;
    let Some((attempts, next_at)) = before_attempt(attempts, now(), jitter) else {
        give_up(object, channel, id, "its tries are used up")?;
        return Ok(None);
    };
    // Not before this try has ended.
    let begun = next_at.max(now().plus(IN_FLIGHT));
    object.run(vec![statement(BEGIN, [id.into(), attempts.into(), at(begun)])])?;
    let message: Array =
        [channel.into(), id.into(), attempts.into(), at(next_at)].into_iter().collect();
    let request = target.request(id, body, now());
    let headers = request.headers.iter().flat_map(|(name, value)| [*name, value]);
    let headers: Array = headers.map(JsValue::from).collect();
    let [url, body] = [request.url, request.body].map(JsValue::from);
    Ok(Some([message.into(), url, headers.into(), body, TIMEOUT_MS.into()].into_iter().collect()))
}

/// Writes what follows a try: what [`begin`] returned for it, the answer's status and its `retry-after`. Returns the
/// channel and why the message was not delivered, if it was not.
pub(super) fn record(object: &Object, sent: &JsValue) -> Result<JsValue, ApiError> {
    let sent = Array::from(sent);
    let text = |index| sent.get(index).as_string().unwrap_or_default();
    let number = |index| sent.get(index).as_f64().unwrap_or_default();
    let (name, id) = (text(0), text(1));
    let Some(target) = Channel::of(&name).and_then(|channel| object.target(channel)) else {
        return Ok(JsValue::UNDEFINED);
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    let (attempts, next_at) = (number(2) as u32, Time(number(3) as u64));
    let answer = attempt(number(4), &text(5), TIMEOUT_MS);
    let failure = match after_attempt(attempts, next_at, now(), &answer) {
        Delivery::Delivered => {
            delivered(object, target, &id)?;
            None
        }
        Delivery::Retry { next_at, failure } => {
            log::message("alert_not_delivered", &name, &id, &failure);
            object.run(vec![statement(RETRY, [id.into(), at(next_at), (&*failure).into()])])?;
            Some(failure)
        }
        Delivery::GivenUp(failure) => {
            give_up(object, &name, &id, &failure)?;
            Some(failure)
        }
        Delivery::Gone => {
            turn_off(object, target)?;
            Some("answered 410: the channel is turned off".to_owned())
        }
    };
    note(object, Some(target.channel()), failure.as_deref());
    let failure = failure.map_or(JsValue::UNDEFINED, JsValue::from);
    Ok([name.into(), failure].into_iter().collect::<Array>().into())
}

/// What came of a request, as `watcher.js` says it.
fn attempt(status: f64, retry_after: &str, limit: u32) -> Attempt {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a status")]
    match status {
        0.0 => Attempt::Failed(format!("no answer within {} s", limit / 1_000)),
        1.0.. => Attempt::Status(status as u16, analytics::retry_after(retry_after)),
        _ => Attempt::Failed("it cannot be reached".to_owned()),
    }
}

/// Notes why a channel, or under `None` the dead-man URL, fails, or that it works. Returns whether that is news.
fn note(object: &Object, what: Option<Channel>, failure: Option<&str>) -> bool {
    let mut failures = object.failures.borrow_mut();
    let place = Channel::ALL.iter().position(|channel| Some(*channel) == what);
    let Some(noted) = failures.get_mut(place.unwrap_or(Channel::ALL.len())) else { return false };
    let is_news = noted.as_ref().map(|noted| &*noted.reason) != failure;
    *noted = failure.map(|reason| Failure { at: now(), reason: reason.to_owned() });
    is_news
}

/// A message arrived. If its channel is turned off, it was a test, and the channel is on again.
fn delivered(object: &Object, target: &Target, id: &str) -> Result<(), ApiError> {
    let change =
        object.with_state(|state| state.is_off(target).then(|| state.turn_off(target, false)))?;
    let mut statements = write_changes(change.as_slice());
    statements.push(statement(DELETE, [id.into()]));
    object.run(statements).map(drop)
}

/// The channel is gone for good.
fn turn_off(object: &Object, target: &Target) -> Result<(), ApiError> {
    let name = target.channel().name();
    log::message(
        "channel_turned_off",
        name,
        "",
        "it answered 410; POST /api/watcher/test turns it on again",
    );
    let change = object.with_state(|state| state.turn_off(target, true))?;
    let mut statements = write_changes(&[change]);
    statements.push(statement(schema::DROP_CHANNEL, [name.into()]));
    object.run(statements).map(drop)
}

fn give_up(object: &Object, channel: &str, id: &str, why: &str) -> Result<(), ApiError> {
    log::message("alert_given_up", channel, id, why);
    object.run(vec![statement(DELETE, [id.into()])]).map(drop)
}

/// The parts of a request to the dead-man URL, if there is one and the last tick was good.
pub(super) fn ping(object: &Object) -> JsValue {
    match &object.config.heartbeat {
        Some(url) if object.is_good.take() => {
            let headers = Array::<JsValue>::new().into();
            let body = JsValue::UNDEFINED;
            let parts = [url.into(), headers, body, PING_TIMEOUT_MS.into()];
            parts.into_iter().collect::<Array>().into()
        }
        _ => JsValue::UNDEFINED,
    }
}

/// Notes what came of a ping: its answer's status. Failures are logged when they change.
pub(super) fn pinged(object: &Object, answer: &JsValue) -> JsValue {
    let status = Array::from(answer).get(0).as_f64().unwrap_or_default();
    let failure = match attempt(status, "", PING_TIMEOUT_MS) {
        Attempt::Status(200..=299, _) => None,
        Attempt::Status(status, _) => Some(format!("answered {status}")),
        Attempt::Failed(why) => Some(why),
    };
    if note(object, None, failure.as_deref()) {
        let detail = failure.as_deref().unwrap_or("works again");
        log::warn("heartbeat", detail);
    }
    JsValue::UNDEFINED
}
