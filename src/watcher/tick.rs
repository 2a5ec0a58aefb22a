//! A tick: asks Analytics Engine, decides, and writes what changed.

use js_sys::Array;
use kiloclaw_fleet::{Time, UnexpectedAnswer, list};
use kiloclaw_watch::{
    Channel, KEEP_TRANSITIONS, MAX_ROUNDS, Next, Observation, OutboxRow, Outcome, Target, Tick,
    decide, schema, transition_rows,
};
use wasm_bindgen::prelude::*;

use super::delivery::DELETE;
use super::object::{Object, Round, at, now, statement, write_changes};
use crate::analytics::QueryError;
use crate::bindings::WatcherConfig as Config;
use crate::error::{ApiError, message};
use crate::log;

#[wasm_bindgen(module = "/src/watcher.js")]
extern "C" {
    #[wasm_bindgen(catch, js_name = writeCanary)]
    fn write_canary(dataset: &JsValue, number: f64) -> Result<(), JsValue>;
}

/// Transitions that are written at a time: 500 x 1 kB is below SQLite's limit of 2 MB.
const TRANSITIONS: usize = 500;

const PUT_MESSAGE: &str = "INSERT OR IGNORE INTO outbox \
     (id, channel, type, created_at, attempts, next_at, body, failure) \
     VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, '')";

/// Starts a tick, if one is due. Returns its first queries.
pub(super) fn start(object: &Object) -> Result<JsValue, ApiError> {
    #[cfg(feature = "panic-route")]
    assert!(!object.panics.get(), "requested of the watcher's alarm");
    let now = now();
    let Config { settings, canaries, .. } = &object.config;
    let (Ok(analytics), Ok(_)) = (&object.analytics, canaries) else {
        return Ok(JsValue::UNDEFINED);
    };
    let started = object.with_state(|state| {
        (state.next_tick(settings, now) <= now).then(|| Tick::start(settings, state, now))
    })?;
    let Some((tick, queries)) = started else { return Ok(JsValue::UNDEFINED) };
    object.tick.set(Some(Round { now, tick, rounds: 1 }));
    Ok(analytics.arguments(queries).into())
}

/// Reads the answers to a round of queries. Returns the queries of the next round; or decides, and writes what changed.
pub(super) fn read(object: &Object, outcome: JsValue) -> Result<JsValue, ApiError> {
    let (Ok(analytics), Some(mut round)) = (&object.analytics, object.tick.take()) else {
        return Ok(JsValue::UNDEFINED);
    };
    let unexpected =
        |error: UnexpectedAnswer| QueryError::Unexpected(analytics.for_log(error.to_string()));
    let next = analytics
        .read(outcome)
        .and_then(|answers| round.tick.read(&answers).map_err(unexpected))
        .map_err(|error| error.to_string());
    let observation = match next {
        Ok(Next::Query(queries)) if round.rounds < MAX_ROUNDS => {
            round.rounds += 1;
            object.tick.set(Some(round));
            return Ok(analytics.arguments(queries).into());
        }
        Ok(Next::Done(observation)) => *observation,
        Ok(Next::Query(_)) => failed("the tick needs too many rounds of queries"),
        Err(why) => failed(&why),
    };
    finish(object, round.now, observation)?;
    Ok(JsValue::UNDEFINED)
}

fn failed(why: &str) -> Observation {
    log::error("watcher_not_answered", why);
    Observation::failed(why)
}

/// Decides, and writes what changed and a canary.
fn finish(object: &Object, now: Time, observation: Observation) -> Result<(), ApiError> {
    let Config { settings, targets, canaries, .. } = &object.config;
    let outcome = object.with_state(|state| {
        let on = targets.iter().filter(|target| !state.is_off(target));
        let channels = list(on.map(Target::channel));
        decide(settings, state, &channels, now, observation)
    })?;
    write(object, now, &outcome)?;
    object.is_good.set(outcome.good);
    if let Ok(canaries) = canaries {
        // After the state, which lists the canaries that the watcher waits for.
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
        write_canary(canaries, outcome.canary as f64)
            .map_err(|thrown| ApiError::write_failed(message(&thrown)))?;
    }
    Ok(())
}

/// Writes all that a tick changed, in one transaction.
fn write(object: &Object, now: Time, outcome: &Outcome) -> Result<(), ApiError> {
    let mut statements = write_changes(&outcome.changes);
    for rows in outcome.transitions.chunks(TRANSITIONS) {
        statements.push(statement(schema::PUT_TRANSITIONS, &[transition_rows(rows).into()]));
    }
    let superseded = outcome.outbox.iter().filter_map(|row| row.supersedes.as_deref());
    statements.extend(superseded.map(|id| statement(DELETE, &[id.into()])));
    statements.extend(outcome.outbox.iter().map(put_message));
    let oldest = now.minus(KEEP_TRANSITIONS);
    #[expect(clippy::cast_precision_loss, reason = "2,000,000")]
    let most = schema::MAX_TRANSITIONS as f64;
    statements.push(statement(schema::TRIM_TRANSITIONS, &[at(oldest), most.into()]));
    if !outcome.outbox.is_empty() {
        #[expect(clippy::cast_precision_loss, reason = "300")]
        let most = schema::MAX_OUTBOX as f64;
        for channel in Channel::ALL {
            let parameters = [channel.name().into(), most.into()];
            statements.push(statement(schema::TRIM_OUTBOX, &parameters));
        }
    }
    // Only trimming the outbox returns rows.
    for id in object.run(statements)? {
        log::message("alert_given_up", "", &id, "too many messages wait for the channel");
    }
    Ok(())
}

pub(super) fn put_message(row: &OutboxRow) -> Array {
    let parameters = [
        (&*row.id).into(),
        row.channel.name().into(),
        row.message_type.into(),
        at(row.created_at),
        at(row.next_at),
        (&*row.body).into(),
    ];
    statement(PUT_MESSAGE, &parameters)
}
