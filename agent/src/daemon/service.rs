//! `kiloclaw-agent run` and `watch`: executes what the [daemon](crate::daemon) decides.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use rustix::process::{Signal, getpid, set_child_subreaper};
use sd_notify::NotifyState;
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2,
    SIGVTALRM, SIGXCPU,
};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

use crate::alerts::Alerts;
use crate::cli::{
    DaemonArguments, RunArguments, Settings, SourceArguments, VERSION_AND_COMMIT, WatchArguments,
};
use crate::collect::process::ProcessHealth;
use crate::collect::{boot, openclaw, systemd};
use crate::config::{Checked, ConfigError};
use crate::daemon::check_in_thread::{self, Job, JobResult, LoadedConfig, Task};
use crate::daemon::schedule::Completion;
use crate::daemon::supervisor::{self, Action, Supervisor};
use crate::daemon::{Daemon, Effect, Event};
use crate::exit::Exit;
use crate::output;
use crate::process::children::Children;
use crate::process::supervised::{Standing, SupervisedProcess};
use crate::report::explain;
use crate::report::ledger::Ledger;
use crate::report::send::Outcome;
use crate::state::{self, Agent, Failure, InUse, State, StateFile, Time, Uptime};

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The system provides no thread or signal handler.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// Another agent uses the state file.
    #[error("{0}")]
    InUse(#[from] InUse),
}

/// Runs a command and checks in until a signal stops the agent.
#[must_use]
pub fn run(arguments: &RunArguments) -> Exit {
    let command = Some((arguments.command.clone(), Duration::from_secs(arguments.stop_timeout)));
    let source = SourceArguments::default();
    ended(serve(&arguments.settings, &source, &arguments.daemon, command))
}

/// Checks in until a signal stops the agent.
#[must_use]
pub fn watch(arguments: &WatchArguments) -> Exit {
    ended(serve(&arguments.settings, &arguments.source, &arguments.daemon, None))
}

fn ended(result: Result<(), StartError>) -> Exit {
    let exit = match result {
        Ok(()) => Exit::Done,
        Err(StartError::Config(error)) => output::bad_configuration(&error.to_string()),
        Err(error @ (StartError::System(_) | StartError::InUse(_))) => {
            output::error(&error.to_string());
            Exit::SystemError
        }
    };
    output::finish_log();
    exit
}

/// Longest time for readings without the status URL: `openclaw --version`, `systemctl show`, and the time to kill them.
const LONGEST_READING: Duration =
    openclaw::TIMEOUT.saturating_add(systemd::TIMEOUT).saturating_add(Duration::from_secs(2));

/// Timeouts of notifications to systemd.
const NOTIFY_READY: Duration = Duration::from_secs(5);
const NOTIFY: Duration = Duration::from_millis(50);

/// Signals for a graceful shutdown: all that would end a process, except SIGUSR2 and the signals of a defect.
const ENDING: [i32; 9] =
    [SIGTERM, SIGINT, SIGQUIT, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGXCPU];

/// LXC stops containers with SIGPWR.
const SIGPWR: i32 = nix::sys::signal::Signal::SIGPWR as i32;

/// Real-time signals; container runtimes send one of them to stop a container. The C library refuses handlers for the
/// signals below, which it reserves: two in glibc, three in musl.
const REAL_TIME: RangeInclusive<i32> = if cfg!(target_env = "musl") { 35..=64 } else { 34..=64 };

/// Messages to the main thread.
enum Message {
    Signal(i32),
    JobEnded(Box<JobResult>),
}

fn serve(
    settings: &Settings,
    source: &SourceArguments,
    arguments: &DaemonArguments,
    command: Option<(Vec<OsString>, Duration)>,
) -> Result<(), StartError> {
    output::start_log(arguments.log_level, arguments.journal_stream.as_deref())?;
    if command.is_none() && source.status_url.is_none() && source.systemd_unit.is_none() {
        return Err(ConfigError::NoSource.into());
    }
    let mut loaded = load_config(settings, source)?;
    let alerts = Alerts::start(settings, arguments, &mut loaded.config)?;
    let loaded = Arc::new(loaded);
    let (sender, messages) = mpsc::channel();
    // Before anything else starts, so that no signal arrives without a handler.
    listen(&sender)?;
    let children = if command.is_some() || process::id() == 1 {
        // Orphans of the command become children of the agent.
        set_child_subreaper(Some(getpid())).map_err(io::Error::from)?;
        Children::adopting()
    } else {
        Children::default()
    };
    let state_file = StateFile::new(&arguments.state)?;
    let State { ledger, agent: before, .. } = state_file.load(&loaded.config.sandbox_id);
    let boot = boot::read(&loaded.config.sources.proc_root);
    let restarts = ledger.restarts_seen_in(boot.as_deref());
    let jobs = check_in_thread::start(children.clone(), ledger.clone(), move |d| {
        // The send fails only when the agent has ended meanwhile.
        let _ = sender.send(Message::JobEnded(Box::new(d)));
    })?;
    let (command, supervisor) = match command {
        Some((command, timeout)) => (command, Some(Supervisor::new(restarts, timeout))),
        None => (Vec::new(), None),
    };
    let now = Instant::now();
    let (daemon, effects) = Daemon::start(arguments.timing(), supervisor, Rng::new(), now);
    tracing::info!(
        sandbox = %loaded.config.sandbox_id,
        url = %loaded.target.url,
        first_check_in_seconds = daemon.next_check_in().map(|at| (at - now).as_secs()),
        "started {VERSION_AND_COMMIT}"
    );
    let mut service = Service {
        settings,
        source,
        loaded,
        command,
        children,
        process: None,
        stop_signal: Signal::TERM,
        daemon,
        jobs,
        pending: 0,
        busy_since: now,
        agent: Agent::starting(before.as_ref(), SystemTime::now()),
        ledger,
        state_file,
        reported_code: None,
        alerts,
    };
    service.submit(Task::ReadCounters);
    service.execute(effects);
    notify(&[NotifyState::Ready]);
    service.save();
    service.serve(&messages);
    // When PID 1 ends, the kernel ends all processes, and not all of them belong to the command.
    if process::id() != 1 {
        service.children.signal_orphans(|_| Some(Signal::KILL));
    }
    tracing::info!("ended");
    if let Some(alerts) = &service.alerts {
        alerts.finish(Instant::now());
    }
    Ok(())
}

fn load_config(settings: &Settings, source: &SourceArguments) -> Result<LoadedConfig, ConfigError> {
    let (config, target) = Checked::new(settings, source, true).config_and_target()?;
    Ok(LoadedConfig { config, target })
}

/// Turns signals into messages.
fn listen(sender: &Sender<Message>) -> io::Result<()> {
    let others = [SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD];
    let mut signals = Signals::new(ENDING.into_iter().chain(REAL_TIME).chain(others))?;
    let sender = sender.clone();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if sender.send(Message::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

struct Service<'a> {
    settings: &'a Settings,
    source: &'a SourceArguments,
    loaded: Arc<LoadedConfig>,
    command: Vec<OsString>,
    children: Children,
    process: Option<SupervisedProcess>,
    /// SIGINT if that stopped the agent, else SIGTERM.
    stop_signal: Signal,
    daemon: Daemon,
    jobs: Sender<Job>,
    /// Number of jobs in the check-in thread.
    pending: usize,
    /// Start of the current job.
    busy_since: Instant,
    agent: Agent,
    ledger: Ledger,
    state_file: StateFile,
    /// Code of the last logged failure, so that a lasting failure is logged once.
    reported_code: Option<String>,
    alerts: Option<Alerts>,
}

impl Service<'_> {
    /// Runs until a signal stops the agent.
    fn serve(&mut self, messages: &Receiver<Message>) {
        let mut watchdog = Watchdog::start(Instant::now());
        loop {
            let now = Instant::now();
            if let Some(watchdog) = &mut watchdog
                && watchdog.due <= now
            {
                // Without notifications, systemd restarts an agent whose check-in thread hangs.
                if self.pending == 0 || now - self.busy_since < self.job_timeout() {
                    notify(&[NotifyState::Watchdog]);
                }
                watchdog.due = now + watchdog.interval;
            }
            let deadlines = [self.daemon.deadline(), watchdog.map(|watchdog| watchdog.due)];
            let deadline = deadlines.into_iter().flatten().min();
            let message = match deadline {
                Some(at) => messages.recv_timeout(at.saturating_duration_since(now)),
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let event = match message {
                Ok(message) => self.handle_message(message),
                Err(RecvTimeoutError::Timeout) => Some(Event::Tick),
                // Unreachable: the signal thread holds a sender.
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(event) = event
                && self.handle(event)
            {
                return;
            }
        }
    }

    /// Handles an event and executes its effects. Returns whether the agent has to end.
    fn handle(&mut self, event: Event) -> bool {
        let time_went_by = event == Event::Tick;
        let effects = self.react(event, "the command has ended");
        // Skips the write if a tick only started a check-in, which changes nothing in the state file.
        let changed = !time_went_by || effects.iter().any(|effect| *effect != Effect::CheckIn);
        let quit = self.execute(effects);
        if changed {
            self.save();
        }
        quit
    }

    fn execute(&mut self, effects: Vec<Effect>) -> bool {
        let mut effects = VecDeque::from(effects);
        let mut quit = false;
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::CheckIn => self.submit(Task::CheckIn),
                Effect::LastCheckIn(by) => self.submit(Task::LastCheckIn(by)),
                Effect::Command(Action::Spawn) => effects.extend(self.spawn()),
                Effect::Command(Action::Terminate) => self.signal(self.stop_signal),
                Effect::Command(Action::Kill) => {
                    tracing::warn!("the command did not end within the stop timeout; killing it");
                    self.signal(Signal::KILL);
                }
                Effect::Command(Action::GiveUp) => effects.extend(self.give_up()),
                Effect::Command(Action::Finish) => {}
                Effect::Quit => quit = true,
            }
        }
        quit
    }

    fn handle_message(&mut self, message: Message) -> Option<Event> {
        match message {
            Message::Signal(SIGCHLD) => self.check_children(),
            Message::Signal(SIGHUP) => self.reload(),
            Message::Signal(SIGUSR1) if self.command.is_empty() => {
                tracing::warn!("SIGUSR1 has no meaning here: `watch` has no command to restart");
                None
            }
            Message::Signal(SIGUSR1) => {
                tracing::info!("restarting the command");
                self.stop_signal = Signal::TERM;
                Some(Event::Restart)
            }
            Message::Signal(SIGUSR2) => {
                tracing::warn!(
                    "SIGUSR2 has no meaning here; SIGUSR1 restarts the command of `run`"
                );
                None
            }
            Message::Signal(signal) => {
                let name = signal_name(signal).unwrap_or("a real-time signal");
                tracing::info!("ending on {name}, after a last check-in");
                self.stop_signal = if signal == SIGINT { Signal::INT } else { Signal::TERM };
                notify(&[NotifyState::Stopping]);
                // A slow `openclaw --version` must not prevent the last check-in.
                self.children.abandon_all_but(self.process.as_ref().map(SupervisedProcess::id));
                if let Some(alerts) = &mut self.alerts {
                    alerts.stopping(Instant::now());
                }
                Some(Event::Stop)
            }
            Message::JobEnded(done) => self.done(*done),
        }
    }

    /// Handles an event. If the command has ended, logs `what` and when it restarts.
    fn react(&mut self, event: Event, what: &str) -> Vec<Effect> {
        let exit = if let Event::Exited(exit) = &event { Some(exit.clone()) } else { None };
        let now = Instant::now();
        let effects = self.daemon.handle(event, now);
        if let Some(exit) = exit {
            let reason = exit.reason;
            match self.daemon.next_start() {
                _ if self.daemon.is_stopping() => tracing::info!(%reason, "{what}"),
                None => tracing::info!(%reason, "{what}; starting it again"),
                Some(at) => {
                    let seconds = at.saturating_duration_since(now).as_secs_f64().round();
                    tracing::warn!(%reason, "{what}; starting it again in {seconds} s");
                }
            }
        }
        effects
    }

    fn spawn(&mut self) -> Vec<Effect> {
        let program = self.command.first().map(|program| program.display().to_string());
        match SupervisedProcess::start(&self.command, &self.children) {
            Ok(process) => {
                let pid = process.id();
                self.process = Some(process);
                tracing::info!(command = program, pid, "the command was started");
                self.react(Event::Spawned(pid), "")
            }
            Err(error) => {
                let program = program.unwrap_or_default();
                let what = format!("the command {program} cannot be started: {error}");
                self.react(Event::Exited(supervisor::CommandExit::unspawnable()), &what)
            }
        }
    }

    fn check_children(&mut self) -> Option<Event> {
        self.children.reap_orphans();
        match self.process.as_mut()?.look() {
            Standing::Same => None,
            Standing::Suspended(signal) => {
                tracing::warn!("the command was stopped by {signal}; SIGCONT continues it");
                Some(Event::Suspended(true))
            }
            Standing::Continued => {
                tracing::info!("the command resumed");
                Some(Event::Suspended(false))
            }
            Standing::LeftBehind(orphans) => {
                for orphan in orphans {
                    let name = self.loaded.config.redactor.clean(&orphan.name);
                    tracing::warn!(
                        pid = %orphan.pid, name,
                        "the command has ended and left a process behind; ending that process, too"
                    );
                }
                Some(Event::LeftBehind)
            }
            Standing::Ended(exit) => {
                self.process = None;
                Some(Event::Exited(exit))
            }
        }
    }

    fn give_up(&mut self) -> Vec<Effect> {
        let exit = self.process.as_ref().and_then(SupervisedProcess::exit).cloned();
        if let Some(exit) = exit {
            tracing::error!(
                "cannot kill leftover processes of the command; continuing without them"
            );
            self.process = None;
            self.react(Event::Exited(exit), "the command has ended")
        } else {
            tracing::error!("cannot kill the command; it may run as another user");
            self.react(Event::CannotEnd, "")
        }
    }

    fn signal(&mut self, signal: Signal) {
        if let Some(process) = &mut self.process {
            process.signal(signal);
        }
    }

    fn reload(&mut self) -> Option<Event> {
        match load_config(self.settings, self.source) {
            Ok(mut loaded) => {
                if let Some(alerts) = &self.alerts {
                    alerts.reloaded(&mut loaded.config);
                }
                self.loaded = Arc::new(loaded);
                tracing::info!("configuration reloaded");
                Some(Event::Reloaded)
            }
            Err(error) => {
                tracing::error!("keeping the configuration as it was: {error}");
                None
            }
        }
    }
}

impl Service<'_> {
    /// After this time, a job hangs: twice the longest time that it can take.
    fn job_timeout(&self) -> Duration {
        2 * self.attempt_timeout()
    }

    /// Longest time for a check-in: readings, then the request.
    fn attempt_timeout(&self) -> Duration {
        LONGEST_READING + 2 * self.loaded.config.timeout
    }

    /// Sends a job to the check-in thread.
    fn submit(&mut self, task: Task) {
        let now = Instant::now();
        if self.pending == 0 {
            self.busy_since = now;
        }
        self.pending += 1;
        let process = self.daemon.command(now);
        // The thread ends when this sender is dropped.
        let _ = self.jobs.send(Job { loaded: self.loaded.clone(), process, task });
    }

    fn done(&mut self, done: JobResult) -> Option<Event> {
        self.pending = self.pending.saturating_sub(1);
        self.busy_since = Instant::now();
        self.ledger = done.ledger;
        let now = SystemTime::now();
        let status = match &done.process {
            ProcessHealth::Known(status) => Some(status),
            ProcessHealth::NotWatched | ProcessHealth::Unknown => None,
        };
        self.agent.process = state::Process::new(status, Time::new(now));
        match done.outcome {
            Ok(None) => {
                self.save();
                None
            }
            Ok(Some(outcome)) => {
                self.log_outcome(&outcome, now);
                Some(Event::CheckedIn(outcome.completion(now)))
            }
            Err(defect) => {
                self.failed("agent_defect", &defect.to_string(), "please report it", now);
                Some(Event::CheckedIn(Completion::TryLater(None)))
            }
        }
    }

    /// Logs the outcome of a check-in, unless it is the same as the last one.
    fn log_outcome(&mut self, outcome: &Outcome, now: SystemTime) {
        let summary = explain::summary(outcome, &self.loaded.config.redactor);
        let Some(code) = outcome.code() else {
            let failures = self.daemon.failures();
            match (self.reported_code.take(), self.agent.last_accepted) {
                (Some(_), _) => {
                    tracing::info!(
                        failures,
                        "check-ins are accepted again; they have reported all counters"
                    );
                }
                (None, None) => tracing::info!("first check-in accepted"),
                (None, Some(_)) => tracing::debug!("{summary}"),
            }
            self.agent.last_accepted = Some(Time::new(now));
            return;
        };
        let code = self.loaded.config.redactor.clean(&code);
        self.failed(&code, &summary, &explain::hint(outcome), now);
    }

    fn failed(&mut self, code: &str, summary: &str, hint: &str, now: SystemTime) {
        if self.reported_code.as_deref() == Some(code) {
            tracing::debug!(code, "{summary}");
        } else {
            tracing::warn!(code, hint, "{summary}; the next check-in will include its counters");
            self.reported_code = Some(code.to_owned());
        }
        if let Some(alerts) = &self.alerts {
            // The daemon counts this failure later, when it handles the event.
            alerts.failed(code, hint, self.daemon.failures() + 1, Instant::now());
        }
        let message = format!("{summary}; {hint}");
        self.agent.last_error =
            Some(Failure { at: Time::new(now), code: code.to_owned(), message });
    }

    /// Writes the state file, and sends systemd the status.
    fn save(&mut self) {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let until = |at: Instant| Time::new(wall + at.saturating_duration_since(now));
        if let Some(supervisor) = self.daemon.supervisor() {
            self.agent.process = state::Process {
                crashes_in_a_row: supervisor.crashes_in_a_row(),
                next_start: supervisor.next_start().map(until),
                ..state::Process::new(Some(&supervisor.status(now)), Time::new(wall))
            };
        }
        self.agent.next_attempt = self.daemon.next_check_in().map(until);
        let until = |at: Instant| Uptime::now().plus(at.saturating_duration_since(now));
        self.agent.next_attempt_uptime = self.daemon.next_check_in().map(until);
        self.agent.failures_in_a_row = self.daemon.failures();
        self.agent.updated = Time::new(wall);
        self.agent.attempt_timeout_seconds = self.attempt_timeout().as_secs();
        notify(&[NotifyState::Status(&self.agent.summary())]);
        self.state_file.save(&State {
            sandbox_id: self.loaded.config.sandbox_id.clone(),
            ledger: self.ledger.clone(),
            agent: Some(self.agent.clone()),
        });
    }
}

/// Notifies systemd, if it started the agent.
fn notify(states: &[NotifyState]) {
    if let Err(error) = try_notify(states) {
        tracing::debug!("cannot notify systemd: {error}");
    }
}

/// Unlike `sd_notify::notify`, does not block while systemd does not read.
fn try_notify(states: &[NotifyState]) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let is_ready = states.iter().any(|state| matches!(state, NotifyState::Ready));
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(if is_ready { NOTIFY_READY } else { NOTIFY }))?;
    let text = states.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    socket.send_to_addr(text.as_bytes(), &address).map(|_| ())
}

#[derive(Clone, Copy)]
struct Watchdog {
    /// Half of the interval that systemd requires.
    interval: Duration,
    due: Instant,
}

impl Watchdog {
    fn start(now: Instant) -> Option<Self> {
        let interval = sd_notify::watchdog_enabled()? / 2;
        Some(Self { interval, due: now + interval })
    }
}
