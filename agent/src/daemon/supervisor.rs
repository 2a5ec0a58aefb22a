//! Supervises the command of `run`. Pure: it takes events with their times and returns actions, which
//! [`process::supervised`](crate::process::supervised) executes.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::collect::process::ProcessStatus;

/// Delay of the restart after a first crash; it doubles with each further crash.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// Longest delay before a restart.
const MAX_BACKOFF: Duration = Duration::from_mins(5);

/// A command that was up this long has recovered: its next crash counts as the first.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// How long a killed process may take to end. A process that waits for a disk may take longer, and the agent cannot
/// kill a process of another user.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// A clean exit within this time is quick. Without a backoff after [several](MAX_QUICK_CLEAN_EXITS), a command that has
/// nothing to do would keep a core busy.
const QUICK: Duration = Duration::from_secs(1);

/// Number of quick clean exits in a row after which the command restarts at once.
const MAX_QUICK_CLEAN_EXITS: u32 = 5;

/// The contract's `supervisorState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupervisorState {
    /// Not started yet, ended for good, or stopped by a signal such as SIGSTOP.
    Stopped,
    /// About to start.
    Starting,
    Running,
    /// Signalled to end, for a restart.
    Stopping,
    /// Exited by itself, waiting for a restart.
    Crashed,
    /// Signalled to end, without a restart.
    ShuttingDown,
}

impl SupervisorState {
    /// The name in the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Crashed => "crashed",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the command, then call [`spawned`](Supervisor::spawned) or [`exited`](Supervisor::exited).
    Spawn,
    /// Send the stop signal.
    Terminate,
    Kill,
    /// Stop waiting for the killed command. Call [`exited`](Supervisor::exited) if only leftover processes exist, else
    /// [`cannot_end`](Supervisor::cannot_end).
    GiveUp,
    /// Do nothing: the command has ended for good.
    Finish,
}

/// How the command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandExit {
    /// `code:<N>` or `signal:<NAME>`.
    pub reason: String,
    /// Whether it exited with code 0.
    pub clean: bool,
}

impl CommandExit {
    /// The reported exit of a command that could not start.
    #[must_use]
    pub fn unspawnable() -> Self {
        Self { reason: "code:1".to_owned(), clean: false }
    }
}

#[derive(Debug)]
pub struct Supervisor {
    state: SupervisorState,
    restarts: u64,
    /// The running process and its start time.
    up: Option<(u32, Instant)>,
    last_exit: String,
    /// Delays before the next restarts.
    backoff: ExponentialBackoff,
    quick_clean_exits: u32,
    crashes_in_a_row: u32,
    /// How long it may take to end after the stop signal.
    stop_timeout: Duration,
    /// When to restart it.
    start_at: Option<Instant>,
    /// When to kill it.
    kill_at: Option<Instant>,
    /// When to stop waiting after the kill.
    give_up_at: Option<Instant>,
    /// Whether it has ended while some of its processes still run.
    left_behind: bool,
    /// Whether a signal stopped it.
    suspended: bool,
}

impl Supervisor {
    /// A supervisor whose count of restarts continues from `restarts`.
    #[must_use]
    pub fn new(restarts: u64, stop_timeout: Duration) -> Self {
        Self {
            state: SupervisorState::Stopped,
            restarts,
            up: None,
            last_exit: String::new(),
            backoff: backoff(),
            quick_clean_exits: 0,
            crashes_in_a_row: 0,
            stop_timeout,
            start_at: None,
            kill_at: None,
            give_up_at: None,
            left_behind: false,
            suspended: false,
        }
    }

    /// Starts the command for the first time.
    #[must_use]
    pub fn start(&mut self) -> Action {
        self.state = SupervisorState::Starting;
        Action::Spawn
    }

    /// The command started, as the process `pid`.
    pub fn spawned(&mut self, pid: u32, now: Instant) {
        self.up = Some((pid, now));
        if self.state == SupervisorState::Starting {
            self.state = SupervisorState::Running;
        }
    }

    /// The command ended, or could not start.
    pub fn exited(&mut self, exit: CommandExit, now: Instant) -> Option<Action> {
        let up_for = self.up.take().map(|(_, since)| now.saturating_duration_since(since));
        self.last_exit = exit.reason;
        (self.kill_at, self.give_up_at) = (None, None);
        (self.left_behind, self.suspended) = (false, false);
        if up_for.is_some_and(|up_for| up_for >= HEALTHY_AFTER) {
            self.backoff = backoff();
            self.crashes_in_a_row = 0;
        }
        let quick = up_for.is_none_or(|up_for| up_for < QUICK);
        self.quick_clean_exits = if exit.clean && quick { self.quick_clean_exits + 1 } else { 0 };
        match self.state {
            SupervisorState::ShuttingDown => {
                self.state = SupervisorState::Stopped;
                Some(Action::Finish)
            }
            SupervisorState::Stopping => Some(self.start_again()),
            _ if exit.clean && self.quick_clean_exits <= MAX_QUICK_CLEAN_EXITS => {
                Some(self.start_again())
            }
            _ => {
                self.state = SupervisorState::Crashed;
                self.crashes_in_a_row = self.crashes_in_a_row.saturating_add(1);
                self.start_at = Some(now + self.backoff.next().unwrap_or(MAX_BACKOFF));
                None
            }
        }
    }

    /// The command ended, but some of its processes still run. They got the stop signal.
    pub fn left_behind(&mut self, now: Instant) {
        self.left_behind = true;
        if self.give_up_at.is_none() {
            self.kill_at.get_or_insert(now + self.stop_timeout);
        }
    }

    /// A signal stopped or continued the command.
    pub fn suspended(&mut self, suspended: bool) {
        self.suspended = suspended;
    }

    /// The command could not be killed.
    pub fn cannot_end(&mut self) -> Option<Action> {
        match self.state {
            SupervisorState::ShuttingDown => {
                self.state = SupervisorState::Stopped;
                Some(Action::Finish)
            }
            SupervisorState::Stopping => {
                self.state = SupervisorState::Running;
                None
            }
            SupervisorState::Stopped
            | SupervisorState::Starting
            | SupervisorState::Running
            | SupervisorState::Crashed => None,
        }
    }

    /// When the command restarts, if it waits for a restart.
    #[must_use]
    pub fn next_start(&self) -> Option<Instant> {
        self.start_at
    }

    /// Ends the command and restarts it. A command that waits for a restart starts at once.
    pub fn restart(&mut self, now: Instant) -> Option<Action> {
        match self.state {
            SupervisorState::Running => {
                self.state = SupervisorState::Stopping;
                self.kill_at = Some(now + self.stop_timeout);
                Some(Action::Terminate)
            }
            SupervisorState::Crashed => {
                self.start_at = None;
                Some(self.start_again())
            }
            SupervisorState::Stopped
            | SupervisorState::Starting
            | SupervisorState::Stopping
            | SupervisorState::ShuttingDown => None,
        }
    }

    /// Ends the command without a restart. A further call sends the stop signal again.
    pub fn shut_down(&mut self, now: Instant) -> Action {
        self.start_at = None;
        if self.up.is_none() {
            self.state = SupervisorState::Stopped;
            return Action::Finish;
        }
        self.state = SupervisorState::ShuttingDown;
        if self.give_up_at.is_none() {
            self.kill_at.get_or_insert(now + self.stop_timeout);
        }
        Action::Terminate
    }

    /// When [`tick`](Self::tick) is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        [self.start_at, self.kill_at, self.give_up_at].into_iter().flatten().min()
    }

    #[must_use]
    pub fn crashes_in_a_row(&self) -> u32 {
        self.crashes_in_a_row
    }

    /// Returns the action that is due.
    pub fn tick(&mut self, now: Instant) -> Option<Action> {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.give_up_at = Some(now + KILL_GRACE);
            return Some(Action::Kill);
        }
        if self.give_up_at.is_some_and(|at| at <= now) {
            self.give_up_at = None;
            return Some(Action::GiveUp);
        }
        if self.start_at.is_some_and(|at| at <= now) {
            self.start_at = None;
            return Some(self.start_again());
        }
        None
    }

    #[must_use]
    pub fn status(&self, now: Instant) -> ProcessStatus {
        let state = match self.state {
            SupervisorState::Running if self.left_behind => SupervisorState::Stopping,
            SupervisorState::Running if self.suspended => SupervisorState::Stopped,
            state => state,
        };
        let uptime = self.up.map(|(_, since)| now.saturating_duration_since(since));
        ProcessStatus {
            state: state.name().to_owned(),
            pid: self.up.map(|(pid, _)| pid),
            restarts: self.restarts,
            // Rounded to milliseconds, since further digits mean nothing.
            uptime_seconds: (uptime.unwrap_or_default().as_secs_f64() * 1_000.0).round() / 1_000.0,
            last_exit_reason: Some(self.last_exit.clone()),
        }
    }

    fn start_again(&mut self) -> Action {
        self.restarts += 1;
        self.state = SupervisorState::Starting;
        Action::Spawn
    }
}

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_BACKOFF)
        .with_max_delay(MAX_BACKOFF)
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOP_TIMEOUT: Duration = Duration::from_secs(10);

    fn exit(reason: &str) -> CommandExit {
        CommandExit { reason: reason.to_owned(), clean: reason == "code:0" }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A running command, and its start time.
    fn running() -> (Supervisor, Instant) {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(0, STOP_TIMEOUT);
        assert_eq!(supervisor.status(now).state, "stopped");
        assert_eq!(supervisor.start(), Action::Spawn);
        assert_eq!(supervisor.status(now).state, "starting");
        supervisor.spawned(42, now);
        assert_eq!(supervisor.status(now).state, "running");
        (supervisor, now)
    }

    #[test]
    fn before_the_first_exit_there_is_no_reason() {
        let (supervisor, now) = running();
        let status = supervisor.status(now + seconds(90));
        assert_eq!((status.restarts, status.last_exit_reason.as_deref().unwrap()), (0, ""));
        assert!((status.uptime_seconds - 90.0).abs() < f64::EPSILON);
    }

    #[test]
    fn crashes_back_off_from_one_second_to_five_minutes() {
        let (mut supervisor, mut now) = running();
        for (index, delay) in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300].into_iter().enumerate() {
            assert_eq!(supervisor.exited(exit("code:3"), now), None);
            let status = supervisor.status(now);
            assert_eq!((status.state.as_str(), status.uptime_seconds), ("crashed", 0.0));
            assert_eq!(
                (status.restarts, status.last_exit_reason.as_deref().unwrap()),
                (index as u64, "code:3")
            );
            let due = now + seconds(delay);
            assert_eq!(supervisor.deadline(), Some(due));
            let too_soon = now + Duration::from_millis(delay * 1_000 - 1);
            assert_eq!(supervisor.tick(too_soon), None);
            assert_eq!(supervisor.tick(due), Some(Action::Spawn));
            assert_eq!(supervisor.tick(due), None, "it spawns only once");
            now = due;
            supervisor.spawned(42, now);
            assert_eq!(supervisor.status(now).restarts, index as u64 + 1);
        }
    }

    #[test]
    fn thirty_seconds_of_uptime_end_a_backoff() {
        let (mut supervisor, mut now) = running();
        let mut crash = |up_for: u64| {
            now += seconds(up_for);
            assert_eq!(supervisor.exited(exit("signal:SIGSEGV"), now), None);
            let due = supervisor.deadline().unwrap();
            let delay = due - now;
            now = due;
            assert_eq!(supervisor.tick(now), Some(Action::Spawn));
            supervisor.spawned(42, now);
            delay.as_secs()
        };
        assert_eq!([crash(1), crash(29), crash(30), crash(0)], [1, 2, 1, 2]);
    }

    #[test]
    fn a_clean_exit_is_restarted_at_once_and_counts() {
        let (mut supervisor, now) = running();
        let now = now + seconds(5);
        assert_eq!(supervisor.exited(exit("code:0"), now), Some(Action::Spawn));
        assert_eq!(supervisor.status(now).state, "starting");
        supervisor.spawned(42, now);
        let status = supervisor.status(now);
        assert_eq!((status.restarts, status.last_exit_reason.as_deref().unwrap()), (1, "code:0"));
    }

    #[test]
    fn a_clean_exit_does_not_end_a_backoff() {
        let (mut supervisor, now) = running();
        supervisor.exited(exit("code:1"), now);
        supervisor.tick(now + seconds(1));
        supervisor.spawned(42, now + seconds(1));
        assert_eq!(supervisor.exited(exit("code:0"), now + seconds(2)), Some(Action::Spawn));
        supervisor.spawned(42, now + seconds(2));
        supervisor.exited(exit("code:1"), now + seconds(2));
        assert_eq!(supervisor.deadline(), Some(now + seconds(4)));
    }

    #[test]
    fn repeated_quick_clean_exits_back_off() {
        let (mut supervisor, now) = running();
        for _ in 0..MAX_QUICK_CLEAN_EXITS {
            assert_eq!(supervisor.exited(exit("code:0"), now), Some(Action::Spawn));
            supervisor.spawned(42, now);
        }
        assert_eq!(supervisor.exited(exit("code:0"), now), None);
        assert_eq!(supervisor.deadline(), Some(now + seconds(1)));
        assert_eq!(supervisor.tick(now + seconds(1)), Some(Action::Spawn));
        // A run of a second resets the count.
        supervisor.spawned(42, now + seconds(1));
        assert_eq!(supervisor.exited(exit("code:0"), now + seconds(2)), Some(Action::Spawn));
    }

    #[test]
    fn a_command_that_cannot_be_started_counts_as_a_crash_with_code_1() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(0, STOP_TIMEOUT);
        assert_eq!(supervisor.start(), Action::Spawn);
        assert_eq!(supervisor.exited(CommandExit::unspawnable(), now), None);
        let status = supervisor.status(now);
        assert_eq!(
            (status.state.as_str(), status.last_exit_reason.as_deref().unwrap()),
            ("crashed", "code:1")
        );
        assert_eq!(supervisor.tick(now + seconds(1)), Some(Action::Spawn));
        supervisor.exited(CommandExit::unspawnable(), now + seconds(1));
        assert_eq!(supervisor.status(now).restarts, 1);
        assert_eq!(supervisor.deadline(), Some(now + seconds(3)));
    }

    #[test]
    fn a_shutdown_terminates_then_kills_and_never_restarts() {
        let (mut supervisor, now) = running();
        assert_eq!(supervisor.shut_down(now), Action::Terminate);
        assert_eq!(supervisor.status(now).state, "shutting_down");
        // A second request terminates again and keeps the deadline.
        assert_eq!(supervisor.shut_down(now + seconds(4)), Action::Terminate);
        assert_eq!(supervisor.deadline(), Some(now + STOP_TIMEOUT));
        assert_eq!(supervisor.tick(now + STOP_TIMEOUT), Some(Action::Kill));
        let gone = now + STOP_TIMEOUT;
        assert_eq!(supervisor.exited(exit("signal:SIGKILL"), gone), Some(Action::Finish));
        let status = supervisor.status(gone);
        assert_eq!((status.state.as_str(), status.restarts), ("stopped", 0));
        assert_eq!(status.last_exit_reason.as_deref(), Some("signal:SIGKILL"));
        assert_eq!(supervisor.deadline(), None);
    }

    #[test]
    fn a_shutdown_while_the_command_is_down_finishes_at_once() {
        let (mut supervisor, now) = running();
        supervisor.exited(exit("code:3"), now);
        assert_eq!(supervisor.shut_down(now), Action::Finish);
        assert_eq!((supervisor.deadline(), supervisor.restart(now)), (None, None));
    }

    #[test]
    fn a_requested_restart_terminates_first_and_is_counted() {
        let (mut supervisor, now) = running();
        assert_eq!(supervisor.restart(now), Some(Action::Terminate));
        assert_eq!(supervisor.status(now).state, "stopping");
        assert_eq!(supervisor.restart(now), None, "a restart is already in progress");
        assert_eq!(supervisor.tick(now + STOP_TIMEOUT), Some(Action::Kill));
        let exited = supervisor.exited(exit("signal:SIGKILL"), now + STOP_TIMEOUT);
        assert_eq!(exited, Some(Action::Spawn));
        assert_eq!(supervisor.status(now).restarts, 1);
    }

    #[test]
    fn a_requested_restart_ends_a_backoff() {
        let (mut supervisor, now) = running();
        supervisor.exited(exit("code:3"), now);
        assert_eq!(supervisor.restart(now), Some(Action::Spawn));
        assert_eq!(supervisor.deadline(), None);
    }

    #[test]
    fn a_shutdown_during_a_restart_keeps_its_deadline() {
        let (mut supervisor, now) = running();
        assert_eq!(supervisor.restart(now), Some(Action::Terminate));
        assert_eq!(supervisor.shut_down(now + seconds(3)), Action::Terminate);
        assert_eq!(supervisor.deadline(), Some(now + STOP_TIMEOUT));
        assert_eq!(supervisor.exited(exit("code:0"), now + seconds(4)), Some(Action::Finish));
    }

    #[test]
    fn an_unkillable_command_does_not_block_shutdown() {
        let (mut supervisor, now) = running();
        let _ = supervisor.shut_down(now);
        let killed = now + STOP_TIMEOUT;
        assert_eq!(supervisor.tick(killed), Some(Action::Kill));
        assert_eq!(supervisor.shut_down(killed), Action::Terminate, "asked again");
        assert_eq!(supervisor.deadline(), Some(killed + KILL_GRACE));
        assert_eq!(supervisor.tick(killed + KILL_GRACE), Some(Action::GiveUp));
        assert_eq!(supervisor.cannot_end(), Some(Action::Finish));
        assert_eq!(supervisor.deadline(), None);
    }

    #[test]
    fn an_unkillable_command_is_not_restarted_and_keeps_running() {
        let (mut supervisor, now) = running();
        let _ = supervisor.restart(now);
        assert_eq!(supervisor.tick(now + STOP_TIMEOUT), Some(Action::Kill));
        assert_eq!(supervisor.tick(now + seconds(60)), Some(Action::GiveUp));
        assert_eq!(supervisor.cannot_end(), None);
        let status = supervisor.status(now);
        assert_eq!((status.state.as_str(), status.restarts), ("running", 0));
    }

    #[test]
    fn leftover_processes_are_terminated_before_the_next_start() {
        let (mut supervisor, now) = running();
        supervisor.left_behind(now);
        supervisor.left_behind(now + seconds(5));
        assert_eq!(supervisor.status(now).state, "stopping");
        assert_eq!(supervisor.tick(now + seconds(9)), None);
        assert_eq!(supervisor.tick(now + STOP_TIMEOUT), Some(Action::Kill));
        supervisor.left_behind(now + STOP_TIMEOUT);
        let given_up = now + STOP_TIMEOUT + KILL_GRACE;
        assert_eq!(supervisor.tick(given_up), Some(Action::GiveUp));
        // The exit still counts as a crash.
        assert_eq!(supervisor.exited(exit("code:1"), given_up), None);
        assert_eq!(supervisor.next_start(), Some(given_up + seconds(1)));
        assert_eq!(supervisor.status(given_up).state, "crashed");
    }

    #[test]
    fn a_command_suspended_by_a_signal_is_stopped() {
        let (mut supervisor, now) = running();
        supervisor.suspended(true);
        assert_eq!(supervisor.status(now).state, "stopped");
        supervisor.suspended(false);
        assert_eq!(supervisor.status(now).state, "running");
    }

    #[test]
    fn the_restart_count_continues_from_its_initial_value() {
        let mut supervisor = Supervisor::new(7, STOP_TIMEOUT);
        let _ = supervisor.start();
        let now = Instant::now();
        supervisor.spawned(42, now);
        assert_eq!(supervisor.status(now).restarts, 7);
    }
}
