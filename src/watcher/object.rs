//! What the object keeps: the state in memory, tables on disk, and its alarm.

use std::cell::{Cell, RefCell};
use std::iter;

use js_sys::Array;
use kiloclaw_fleet::{Time, list};
use kiloclaw_watch::{Channel, State, StateChange, Target, Tick, schema};
use serde::Serialize;
use wasm_bindgen::prelude::*;

use super::context::Context;
use crate::analytics::Analytics;
use crate::bindings::{ConfigError, Env, WatcherConfig};
use crate::clock::now_ms;
use crate::error::{ApiError, message};
use crate::log;

#[wasm_bindgen(module = "/src/watcher.js")]
extern "C" {
    #[wasm_bindgen(catch)]
    fn transact(storage: &JsValue, statements: Vec<Array>) -> Result<Vec<String>, JsValue>;
}

/// Rows of the state that are read or written at a time: 500 x 1 kB is below SQLite's limit of 2 MB.
const ROWS: u16 = 500;

const READ_STATE: &str =
    "SELECT key, value FROM state WHERE ?1 IS NULL OR key > ?1 ORDER BY key LIMIT ?2";

/// The object. Only one step uses it at a time.
pub(super) struct Object {
    pub(super) storage: JsValue,
    pub(super) config: WatcherConfig,
    pub(super) analytics: Result<Analytics, ConfigError>,
    /// Read from the table at first, and again after a failed transaction.
    state: Cell<Option<Box<State>>>,
    /// The tick whose answers are awaited.
    pub(super) tick: Cell<Option<Round>>,
    /// Whether the last tick found the watcher healthy, until a ping uses this.
    pub(super) is_good: Cell<bool>,
    /// The last failure of each channel, and then of the dead-man URL, unless it has worked since.
    pub(super) failures: RefCell<[Option<Failure>; Channel::ALL.len() + 1]>,
    /// For principals who see all sandboxes, and for those who see one.
    pub(super) buckets: [Bucket; 2],
    #[cfg(feature = "panic-route")]
    pub(super) panics: Cell<bool>,
}

impl Object {
    /// Reads the settings, and logs their errors.
    pub(super) fn new(context: &Context, env: &Env) -> Self {
        let object = Self {
            storage: context.storage(),
            config: WatcherConfig::read(env),
            analytics: Analytics::new(env),
            state: Cell::default(),
            tick: Cell::default(),
            is_good: Cell::default(),
            failures: RefCell::default(),
            buckets: <[Bucket; 2]>::default(),
            #[cfg(feature = "panic-route")]
            panics: Cell::default(),
        };
        for error in &object.config.errors {
            log::warn("watcher_setting", &error.to_string());
        }
        if let Some(reason) = object.off() {
            log::warn("watcher_off", &reason.to_string());
        }
        object
    }

    /// Why the watcher does not tick, if it does not.
    pub(super) fn off(&self) -> Option<ConfigError> {
        self.analytics.as_ref().err().or(self.config.canaries.as_ref().err()).copied()
    }

    /// The channel's address and secrets, if it is configured.
    pub(super) fn target(&self, channel: Channel) -> Option<&Target> {
        self.config.targets.iter().find(|target| target.channel() == channel)
    }

    /// Runs statements in one transaction; returns all values of all rows. A failure discards the state in memory,
    /// which may be ahead of the table.
    pub(super) fn run(&self, statements: Vec<Array>) -> Result<Vec<String>, ApiError> {
        transact(&self.storage, statements).map_err(|thrown| {
            self.state.set(None);
            ApiError::internal(format!("the watcher's storage: {}", message(&thrown)))
        })
    }

    /// Reads or changes the state. The caller must write a change before it awaits anything.
    pub(super) fn with_state<T>(&self, f: impl FnOnce(&mut State) -> T) -> Result<T, ApiError> {
        let mut state = self.take_state()?;
        let result = f(&mut state);
        self.state.set(Some(state));
        Ok(result)
    }

    fn take_state(&self) -> Result<Box<State>, ApiError> {
        self.state.take().map_or_else(|| self.load().map(Box::new), Ok)
    }

    /// Creates missing tables, and reads the state.
    fn load(&self) -> Result<State, ApiError> {
        let mut statements: Vec<_> = schema::TABLES.map(|sql| statement(sql, &[])).into();
        for channel in Channel::ALL {
            if self.target(channel).is_none() {
                statements.push(statement(schema::DROP_CHANNEL, &[channel.name().into()]));
            }
        }
        self.run(statements)?;
        let mut last = JsValue::NULL;
        let mut failed = None;
        // Page by page: in an outage, the table may have 100,000 rows.
        let pages = iter::from_fn(|| {
            let page = [statement(READ_STATE, &[last.clone(), ROWS.into()])].into();
            let page = self.run(page).map_err(|error| failed = Some(error)).ok()?;
            let (pairs, _) = page.as_chunks::<2>();
            last = pairs.last().map(|[key, _]| key.into())?;
            Some(pairs.to_vec())
        });
        let (state, unreadable) = State::load(pages.flatten().map(<(String, String)>::from));
        if let Some(error) = failed {
            return Err(error);
        }
        for key in unreadable {
            log::error("watcher_state_unreadable", &key);
        }
        Ok(state)
    }

    /// The latest time of the next alarm, in milliseconds since 1970: a tick from now. Undefined if the watcher is off.
    pub(super) fn next_tick(&self) -> JsValue {
        match self.off() {
            Some(_) => JsValue::UNDEFINED,
            None => milliseconds(Time(now().0 + self.config.settings.tick)),
        }
    }

    /// When the next tick or message is due, in milliseconds since 1970; undefined if none is.
    pub(super) fn next(&self) -> Result<JsValue, ApiError> {
        let now = now();
        let tick = self.with_state(|state| state.next_tick(&self.config.settings, now))?;
        let tick = self.off().is_none().then_some(tick);
        let message = self.run(vec![statement("SELECT min(next_at) FROM outbox", &[])])?;
        let message = message.first().and_then(|at| at.parse().ok()).map(Time);
        Ok(tick.into_iter().chain(message).min().map_or(JsValue::UNDEFINED, milliseconds))
    }
}

#[derive(Clone, Serialize)]
pub(super) struct Failure {
    pub(super) at: Time,
    pub(super) reason: String,
}

/// A tick that is under way.
pub(super) struct Round {
    pub(super) now: Time,
    pub(super) tick: Tick,
    /// Rounds of queries so far.
    pub(super) rounds: usize,
}

#[expect(clippy::cast_precision_loss, reason = "exact up to the year 287396")]
fn milliseconds(time: Time) -> JsValue {
    (time.0 as f64 * 1_000.0).into()
}

/// A statement with its parameters.
pub(super) fn statement(sql: &str, parameters: &[JsValue]) -> Array {
    let statement = array(&[sql.into()]);
    for parameter in parameters {
        statement.push(parameter);
    }
    statement
}

/// These values for `watcher.js`. Collecting them would be compiled for each number of values.
pub(super) fn array(values: &[JsValue]) -> Array {
    let array = Array::new();
    for value in values {
        array.push(value);
    }
    array
}

/// A time as a parameter.
pub(super) fn at(time: Time) -> JsValue {
    #[expect(clippy::cast_precision_loss, reason = "exact up to the year 285428751")]
    JsValue::from(time.0 as f64)
}

pub(super) fn write_changes(changes: &[StateChange]) -> Vec<Array> {
    let mut statements = Vec::new();
    for chunk in changes.chunks(ROWS.into()) {
        let put = list(chunk.iter().filter_map(|row| Some((&row.key, row.value.as_ref()?))));
        let delete = list(chunk.iter().filter(|row| row.value.is_none()).map(|row| &row.key));
        for (sql, count, rows) in [
            (schema::PUT_STATE, put.len(), kiloclaw_json::to_string(&put)),
            (schema::DELETE_STATE, delete.len(), kiloclaw_json::to_string(&delete)),
        ] {
            if count > 0 {
                statements.push(statement(sql, &[rows.into()]));
            }
        }
    }
    statements
}

pub(super) fn now() -> Time {
    Time(now_ms() / 1_000)
}

/// A token bucket.
#[derive(Default)]
pub(super) struct Bucket {
    /// When the bucket is full again, in milliseconds since 1970.
    full_at: Cell<u64>,
}

impl Bucket {
    /// Tokens of a full bucket.
    const SIZE: u64 = 60;

    /// The time for one more token.
    const REFILL_MS: u64 = 500;

    /// Takes tokens; the error is the number of seconds until there are enough.
    pub(super) fn take(&self, tokens: u64) -> Result<(), u64> {
        let now = now_ms();
        let empty = now + Self::SIZE * Self::REFILL_MS;
        // The clock may have been set back.
        let full_at = self.full_at.get().clamp(now, empty) + tokens * Self::REFILL_MS;
        let wait = full_at.saturating_sub(empty);
        if wait > 0 {
            return Err(wait.div_ceil(1_000));
        }
        self.full_at.set(full_at);
        Ok(())
    }
}
