//! Sends the messages in the outbox: each at least once, with a stable id.

use js_sys::{Array, Math};
use kiloclaw_fleet::Time;
use kiloclaw_watch::{
    Attempt, Channel, Delivery, TIMEOUT_MS, Target, after_attempt, before_attempt, schema,
};
use wasm_bindgen::prelude::*;

use super::object::{Failure, Object, array, at, now, statement, write_changes};
use crate::analytics;
use crate::error::ApiError;
use crate::log;

/// How long a message counts as being sent, in seconds: longer than its timeout. If the object is killed meanwhile, the
/// message is retried after this time.
const IN_FLIGHT: u64 = TIMEOUT_MS as u64 / 1_000 + 5;

/// Timeout of a ping, in milliseconds.
const PING_TIMEOUT_MS: u32 = 10_000;

/// Some of the due messages of one channel, so that a slow channel does not delay others. 3 x 2 requests are as many as
/// the runtime makes at a time.
const DUE: &str = "SELECT id, attempts, body FROM outbox WHERE channel = ?1 AND next_at <= ?2 \
     ORDER BY next_at, id LIMIT 2";

const BEGIN: &str = "UPDATE outbox SET attempts = ?2, next_at = ?3 WHERE id = ?1";

const RETRY: &str = "UPDATE outbox SET next_at = ?2, failure = ?3 WHERE id = ?1";

pub(super) const DELETE: &str = "DELETE FROM outbox WHERE id = ?1";

pub(super) fn due_messages(object: &Object) -> Result<JsValue, ApiError> {
    let requests = Array::new();
    for target in &object.config.targets {
        let channel = target.channel().name();
        let rows = object.run(vec![statement(DUE, &[channel.into(), at(now())])])?;
        let (rows, _) = rows.as_chunks::<3>();
        for [id, attempts, body] in rows {
            // An unreadable count gives the message up.
            let attempts = attempts.parse().unwrap_or(u32::MAX);
            if let Some(request) = begin(object, target, id, attempts, body)? {
                requests.push(&request);
            }
        }
    }
    Ok(requests.into())
}

/// Writes the attempt before it is made, so that an attempt counts even if its result is never recorded. Returns the
/// input of [`record`] and the request's parts; `None` if no attempts remain.
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
        give_up(object, channel, id, "no attempts remain")?;
        return Ok(None);
    };
    // Not before this attempt has ended.
    let begun = next_at.max(now().plus(IN_FLIGHT));
    object.run(vec![statement(BEGIN, &[id.into(), attempts.into(), at(begun)])])?;
    let message = array(&[channel.into(), id.into(), attempts.into(), at(next_at)]);
    let request = target.request(id, body, now());
    let headers = request.headers.iter().flat_map(|(name, value)| [*name, value]);
    let headers: Array = headers.map(JsValue::from).collect();
    let [url, body] = [request.url, request.body].map(JsValue::from);
    Ok(Some(array(&[message.into(), url, headers.into(), body, TIMEOUT_MS.into()])))
}

/// Writes the result of an attempt. `sent` has the values from [`begin`], the response's status and its `retry-after`.
/// Returns the channel, and the reason if the message was not delivered.
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
            object.run(vec![statement(RETRY, &[id.into(), at(next_at), (&*failure).into()])])?;
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
    Ok(array(&[name.into(), failure]).into())
}

/// The result of a request, from the status that `watcher.js` returns.
fn attempt(status: f64, retry_after: &str, limit: u32) -> Attempt {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a status")]
    match status {
        0.0 => Attempt::Failed(format!("no answer within {} s", limit / 1_000)),
        1.0.. => Attempt::Status(status as u16, analytics::retry_after(retry_after)),
        _ => Attempt::Failed("cannot be reached".to_owned()),
    }
}

/// Notes why a channel fails, or that it works; `None` is the dead-man URL. Returns whether this differs from before.
fn note(object: &Object, what: Option<Channel>, failure: Option<&str>) -> bool {
    let mut failures = object.failures.borrow_mut();
    let place = Channel::ALL.iter().position(|channel| Some(*channel) == what);
    let Some(noted) = failures.get_mut(place.unwrap_or(Channel::ALL.len())) else { return false };
    let is_news = noted.as_ref().map(|noted| &*noted.reason) != failure;
    *noted = failure.map(|reason| Failure { at: now(), reason: reason.to_owned() });
    is_news
}

/// Deletes a message that arrived. If its channel was off, it was a test message and turns the channel on again.
fn delivered(object: &Object, target: &Target, id: &str) -> Result<(), ApiError> {
    let change =
        object.with_state(|state| state.is_off(target).then(|| state.turn_off(target, false)))?;
    let mut statements = write_changes(change.as_slice());
    statements.push(statement(DELETE, &[id.into()]));
    object.run(statements).map(drop)
}

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
    statements.push(statement(schema::DROP_CHANNEL, &[name.into()]));
    object.run(statements).map(drop)
}

fn give_up(object: &Object, channel: &str, id: &str, why: &str) -> Result<(), ApiError> {
    log::message("alert_given_up", channel, id, why);
    object.run(vec![statement(DELETE, &[id.into()])]).map(drop)
}

/// The parts of a request to the dead-man URL, if there is one and the last tick was good.
pub(super) fn ping(object: &Object) -> JsValue {
    match &object.config.heartbeat {
        Some(url) if object.is_good.take() => {
            let headers = Array::<JsValue>::new().into();
            let body = JsValue::UNDEFINED;
            array(&[url.into(), headers, body, PING_TIMEOUT_MS.into()]).into()
        }
        _ => JsValue::UNDEFINED,
    }
}

/// Notes the result of a ping. Logs a failure only when it changes.
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
