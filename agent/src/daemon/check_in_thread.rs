//! The thread that takes readings and sends check-ins, one at a time. Both can take seconds, in which the main thread
//! must handle signals and the command.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::collect::Collector;
use crate::collect::process::{ProcessHealth, ProcessStatus};
use crate::config::{Config, Target};
use crate::process::children::Children;
use crate::report::check_in::{Attempt, observe};
use crate::report::ledger::Ledger;
use crate::report::send::Outcome;

#[derive(Debug)]
pub struct LoadedConfig {
    pub config: Config,
    pub target: Target,
}

#[derive(Debug)]
pub struct Job {
    pub loaded: Arc<LoadedConfig>,
    /// The status of the process, if the agent itself supervises it.
    pub process: Option<ProcessStatus>,
    pub task: Task,
}

#[derive(Clone, Copy, Debug)]
pub enum Task {
    ReadCounters,
    CheckIn,
    /// Check in for the last time, by this time.
    LastCheckIn(Instant),
}

#[derive(Debug)]
pub struct JobResult {
    /// The unreported counters after the job.
    pub ledger: Ledger,
    pub process: ProcessHealth,
    /// The outcome of the check-in, if there was one; or a defect.
    pub outcome: Result<Option<Outcome>, AgentDefect>,
}

/// A check-in failed because of a defect in this program.
#[derive(Debug, thiserror::Error)]
#[error("a defect in the agent: {0}")]
pub struct AgentDefect(String);

/// Starts the thread with the unreported counters. It ends when the last sender is dropped.
pub fn start(
    children: Children,
    ledger: Ledger,
    done: impl Fn(JobResult) + Send + 'static,
) -> io::Result<Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    thread::Builder::new().name("check-in".to_owned()).spawn(move || {
        let mut this =
            CheckInThread { children, ledger, collector: None, warnings: BTreeSet::new() };
        for job in jobs {
            // A panic must fail only this check-in, not the agent.
            let result = catch_unwind(AssertUnwindSafe(|| this.execute(job)));
            done(result.unwrap_or_else(|panic| {
                let reason = panic.downcast_ref::<String>().cloned();
                let reason = reason.or_else(|| panic.downcast_ref().copied().map(str::to_owned));
                JobResult {
                    ledger: this.ledger.clone(),
                    process: ProcessHealth::Unknown,
                    outcome: Err(AgentDefect(reason.unwrap_or_default())),
                }
            }));
        }
    })?;
    Ok(sender)
}

struct CheckInThread {
    children: Children,
    ledger: Ledger,
    /// The collector, with the configuration that it was built from.
    collector: Option<(Arc<LoadedConfig>, Collector)>,
    /// The last job's warnings, so that a lasting problem is logged once.
    warnings: BTreeSet<String>,
}

impl CheckInThread {
    fn execute(&mut self, job: Job) -> JobResult {
        let Job { loaded, process, task } = job;
        let LoadedConfig { config, target } = &*loaded;
        let deadline = match task {
            Task::LastCheckIn(by) => Some(by),
            Task::ReadCounters | Task::CheckIn => None,
        };
        let collector = match &mut self.collector {
            Some((of, collector)) if Arc::ptr_eq(of, &loaded) => collector,
            collector => {
                let new = Collector::new(config.sources.clone(), self.children.clone());
                &mut collector.insert((loaded.clone(), new)).1
            }
        };
        let mut warnings = BTreeSet::new();
        let mut warn = |text: &str| {
            warnings.insert(config.redactor.clean(text));
        };
        let readings = match task {
            Task::ReadCounters => collector.read_counters(&config.local, process, None, &mut warn),
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
            Task::ReadCounters => Ok(None),
            Task::CheckIn | Task::LastCheckIn(_) => {
                let attempt = Attempt::new(config, &readings, &self.ledger, deadline.is_some());
                let body = serde_json::to_string(&attempt.check_in);
                body.map_err(|error| AgentDefect(error.to_string())).map(|body| {
                    let left = deadline.map_or(Duration::MAX, |at| at - Instant::now());
                    Some(attempt.send(target, &body, &mut self.ledger, left))
                })
            }
        };
        JobResult { ledger: self.ledger.clone(), process: readings.process, outcome }
    }
}
