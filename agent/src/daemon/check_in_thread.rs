//! The thread that takes readings and sends check-ins, one at a time.
//!
//! Both can take seconds, while the daemon handles signals and the command.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::collect::Collector;
use crate::collect::process::{ProcessHealth, Status};
use crate::config::{Config, Target};
use crate::process::children::Children;
use crate::report::check_in::{Attempt, observe};
use crate::report::ledger::Ledger;
use crate::report::send::Outcome;

/// Everything from the settings.
#[derive(Debug)]
pub struct Setup {
    /// The sandbox and its sources.
    pub config: Config,
    /// The endpoint.
    pub target: Target,
}

/// A job for the thread.
#[derive(Debug)]
pub struct Job {
    /// The settings to use.
    pub setup: Arc<Setup>,
    /// The status of the process, if the agent itself supervises it.
    pub process: Option<Status>,
    pub task: Task,
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// Only read the counters.
    Look,
    /// Check in.
    CheckIn,
    /// Check in for the last time, by this time.
    LastCheckIn(Instant),
}

/// The result of a job.
#[derive(Debug)]
pub struct Done {
    /// The unreported counters after the job.
    pub ledger: Ledger,
    pub process: ProcessHealth,
    /// The outcome of the check-in, if there was one; or a defect.
    pub outcome: Result<Option<Outcome>, Broken>,
}

/// A defect of this program cost a check-in.
#[derive(Debug, thiserror::Error)]
#[error("a defect in the agent: {0}")]
pub struct Broken(String);

/// Starts the thread with the unreported counters. It ends when the last sender is dropped.
pub fn start(
    children: Children,
    ledger: Ledger,
    done: impl Fn(Done) + Send + 'static,
) -> io::Result<Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    thread::Builder::new().name("check-in".to_owned()).spawn(move || {
        let mut this =
            CheckInThread { children, ledger, collector: None, warnings: BTreeSet::new() };
        for job in jobs {
            // A panic in here must cost only this check-in.
            let result = catch_unwind(AssertUnwindSafe(|| this.carry_out(job)));
            done(result.unwrap_or_else(|panic| {
                let reason = panic.downcast_ref::<String>().cloned();
                let reason = reason.or_else(|| panic.downcast_ref().copied().map(str::to_owned));
                Done {
                    ledger: this.ledger.clone(),
                    process: ProcessHealth::Unknown,
                    outcome: Err(Broken(reason.unwrap_or_default())),
                }
            }));
        }
    })?;
    Ok(sender)
}

struct CheckInThread {
    children: Children,
    /// The unreported counters.
    ledger: Ledger,
    /// The collector, with the settings that it was built from.
    collector: Option<(Arc<Setup>, Collector)>,
    /// The last warnings: a lasting problem is logged once.
    warnings: BTreeSet<String>,
}

impl CheckInThread {
    fn carry_out(&mut self, job: Job) -> Done {
        let Job { setup, process, task } = job;
        let Setup { config, target } = &*setup;
        let deadline = match task {
            Task::LastCheckIn(by) => Some(by),
            Task::Look | Task::CheckIn => None,
        };
        let collector = match &mut self.collector {
            Some((of, collector)) if Arc::ptr_eq(of, &setup) => collector,
            collector => {
                let new = Collector::new(config.sources.clone(), self.children.clone());
                &mut collector.insert((setup.clone(), new)).1
            }
        };
        let mut warnings = BTreeSet::new();
        let mut warn = |text: &str| {
            warnings.insert(config.redactor.clean(text));
        };
        let readings = match task {
            Task::Look => collector.look(&config.local, process, None, &mut warn),
            Task::CheckIn | Task::LastCheckIn(_) => {
                collector.collect(&config.local, process, Instant::now(), deadline, &mut warn)
            }
        };
        observe(config, &readings, &mut self.ledger, &mut warn);
        for warning in warnings.difference(&self.warnings) {
            tracing::warn!("{warning}");
        }
        self.warnings = warnings;

        let outcome = match task {
            Task::Look => Ok(None),
            Task::CheckIn | Task::LastCheckIn(_) => {
                let attempt = Attempt::new(config, &readings, &self.ledger, deadline.is_some());
                let body = serde_json::to_string(&attempt.check_in);
                body.map_err(|error| Broken(error.to_string())).map(|body| {
                    let left = deadline.map_or(Duration::MAX, |at| at - Instant::now());
                    Some(attempt.send(target, &body, &mut self.ledger, left))
                })
            }
        };
        Done { ledger: self.ledger.clone(), process: readings.process, outcome }
    }
}
