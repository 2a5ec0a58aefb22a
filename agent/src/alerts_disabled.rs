//! Stands in for `alerts` in a build without the feature `sentry`.

use std::time::Instant;

use crate::cli::{DaemonArguments, Settings};
use crate::config::{Config, ConfigError};

/// Has no values, so the compiler removes all code that uses it.
#[derive(Debug)]
pub enum Alerts {}

impl Alerts {
    pub fn start(
        _: &Settings,
        _: &DaemonArguments,
        _: &mut Config,
    ) -> Result<Option<Self>, ConfigError> {
        Ok(None)
    }

    pub fn reloaded(&self, _: &mut Config) {
        match *self {}
    }

    pub fn failed(&self, _: &str, _: &str, _: u64, _: Instant) {
        match *self {}
    }

    pub fn stopping(&mut self, _: Instant) {
        match *self {}
    }

    pub fn finish(&self, _: Instant) {
        match *self {}
    }
}
