//! Replaces alerts in a build without the feature `sentry`.

use std::time::Instant;

use crate::cli::{DaemonArguments, Settings};
use crate::config::{Config, ConfigError};

/// Has no value, so the compiler removes all code for alerts.
#[derive(Debug)]
pub enum Alerts {}

impl Alerts {
    /// Returns no alerts, whatever the settings.
    pub fn start(
        _: &Settings,
        _: &DaemonArguments,
        _: &mut Config,
    ) -> Result<Option<Self>, ConfigError> {
        Ok(None)
    }

    /// Cannot be called.
    pub fn reloaded(&self, _: &mut Config) {
        match *self {}
    }

    /// Cannot be called.
    pub fn failed(&self, _: &str, _: &str, _: u64, _: Instant) {
        match *self {}
    }

    /// Cannot be called.
    pub fn stopping(&mut self, _: Instant) {
        match *self {}
    }

    /// Cannot be called.
    pub fn finish(&self, _: Instant) {
        match *self {}
    }
}
