//! Supervises the command of `run`. Pure: it takes events with their time, and returns
//! what to do; [`process::supervised`](crate::process::supervised) does it.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::collect::process::Status;

/// The delay before the second restart after a crash; it doubles with every further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// The longest delay before a restart.
const MAX_BACKOFF: Duration = Duration::from_mins(5);

/// A command that was up for so long has recovered: the next crash is a first one.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// How long what was killed may take to end. Longer takes what waits for a disk, and what may not be
/// killed, as it runs as another user.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// A command that exits cleanly before this much time, and does so [again and
/// again](MAX_QUICK_CLEAN_EXITS), has nothing to do. Without backoff it would keep a core busy.
const QUICK: Duration = Duration::from_secs(1);

/// So many quick clean exits in a row are restarted at once.
const MAX_QUICK_CLEAN_EXITS: u32 = 5;

/// What the contract calls `supervisorState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupervisorState {
    /// Not started yet, ended for good, or stopped by a signal such as SIGSTOP.
    Stopped,
    /// About to be started.
    Starting,
    /// Up.
    Running,
    /// Asked to end, in order to be started again.
    Stopping,
    /// Ended by itself, and waiting to be started again.
    Crashed,
    /// Asked to end, for good.
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

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the command, then call [`spawned`](Supervisor::spawned) or [`exited`](Supervisor::exited).
    Spawn,
    /// Ask it to end, as the agent itself was asked.
    Terminate,
    /// End it.
    Kill,
    /// It did not end when killed: call [`exited`](Supervisor::exited) if only what it left
    /// behind is there, else [`cannot_end`](Supervisor::cannot_end).
    GiveUp,
    /// Nothing more: it has ended, and will not be started again.
    Finish,
}

/// How the command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandExit {
    /// `code:<N>` or `signal:<NAME>`.
    pub reason: String,
    /// Code 0, and no signal.
    pub clean: bool,
}

impl CommandExit {
    /// What a command that could not be started counts as.
    #[must_use]
    pub fn unspawnable() -> Self {
        Self { reason: "code:1".to_owned(), clean: false }
    }
}

/// Keeps the command running.
#[derive(Debug)]
pub struct Supervisor {
    state: SupervisorState,
    /// How often the command was started again.
    restarts: u64,
    /// The process, if it is up, and since when it has been.
    up: Option<(u32, Instant)>,
    last_exit: String,
    /// The delays before the restarts to come.
    backoff: ExponentialBackoff,
    quick_clean_exits: u32,
    /// Since it was up for so long that it had recovered.
    crashes_in_a_row: u32,
    /// How long it may take to end when asked to.
    stop_timeout: Duration,
    /// When to start it again.
    start_at: Option<Instant>,
    /// When to end it, as asking did not help.
    kill_at: Option<Instant>,
    /// When to wait for its end no longer.
    give_up_at: Option<Instant>,
    /// Whether it has ended, but not all that it started.
    left_behind: bool,
    /// Whether a signal stopped it.
    suspended: bool,
}

impl Supervisor {
    /// A supervisor whose count of restarts goes on from `restarts`.
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

    /// The command was started, as the process `pid`.
    pub fn spawned(&mut self, pid: u32, now: Instant) {
        self.up = Some((pid, now));
        if self.state == SupervisorState::Starting {
            self.state = SupervisorState::Running;
        }
    }

    /// The command has ended, or could not be started.
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

    /// The command has ended, but not all that it started: that was asked to end.
    pub fn left_behind(&mut self, now: Instant) {
        self.left_behind = true;
        if self.give_up_at.is_none() {
            self.kill_at.get_or_insert(now + self.stop_timeout);
        }
    }

    /// A signal stopped the command, or let it go on.
    pub fn suspended(&mut self, suspended: bool) {
        self.suspended = suspended;
    }

    /// The command cannot be ended.
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

    /// When it is started again, where it has ended by itself.
    #[must_use]
    pub fn next_start(&self) -> Option<Instant> {
        self.start_at
    }

    /// Ends the command and starts it again. One that is about to be started is started at once.
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

    /// Ends the command for good. Asked again, it passes the request on again.
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

    /// When [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        [self.start_at, self.kill_at, self.give_up_at].into_iter().flatten().min()
    }

    /// How often it crashed in a row, each time before it had [recovered](HEALTHY_AFTER).
    #[must_use]
    pub fn crashes_in_a_row(&self) -> u32 {
        self.crashes_in_a_row
    }

    /// What is due by now.
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

    /// What is reported.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let state = match self.state {
            SupervisorState::Running if self.left_behind => SupervisorState::Stopping,
            SupervisorState::Running if self.suspended => SupervisorState::Stopped,
            state => state,
        };
        let uptime = self.up.map(|(_, since)| now.saturating_duration_since(since));
        Status {
            state: state.name().to_owned(),
            pid: self.up.map(|(pid, _)| pid),
            restarts: self.restarts,
            // To the millisecond: what is beyond that is noise in every check-in.
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

    /// A command that is up, and the time at which it came up.
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
            assert_eq!(supervisor.tick(due), None, "once is enough");
            now = due;
            supervisor.spawned(42, now);
            assert_eq!(supervisor.status(now).restarts, index as u64 + 1);
        }
    }

    #[test]
    fn thirty_seconds_of_health_end_a_backoff() {
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
    fn a_command_that_has_nothing_to_do_does_not_spin() {
        let (mut supervisor, now) = running();
        for _ in 0..MAX_QUICK_CLEAN_EXITS {
            assert_eq!(supervisor.exited(exit("code:0"), now), Some(Action::Spawn));
            supervisor.spawned(42, now);
        }
        assert_eq!(supervisor.exited(exit("code:0"), now), None);
        assert_eq!(supervisor.deadline(), Some(now + seconds(1)));
        assert_eq!(supervisor.tick(now + seconds(1)), Some(Action::Spawn));
        // One that took its time is trusted again.
        supervisor.spawned(42, now + seconds(1));
        assert_eq!(supervisor.exited(exit("code:0"), now + seconds(2)), Some(Action::Spawn));
    }

    #[test]
    fn a_command_that_cannot_be_started_has_crashed_with_code_1() {
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
    fn shutting_down_asks_then_kills_and_never_starts_again() {
        let (mut supervisor, now) = running();
        assert_eq!(supervisor.shut_down(now), Action::Terminate);
        assert_eq!(supervisor.status(now).state, "shutting_down");
        // Asked again: the request is passed on, and the deadline stays.
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
    fn shutting_down_while_it_is_down_is_done_at_once() {
        let (mut supervisor, now) = running();
        supervisor.exited(exit("code:3"), now);
        assert_eq!(supervisor.shut_down(now), Action::Finish);
        assert_eq!((supervisor.deadline(), supervisor.restart(now)), (None, None));
    }

    #[test]
    fn a_restart_on_request_stops_first_and_counts() {
        let (mut supervisor, now) = running();
        assert_eq!(supervisor.restart(now), Some(Action::Terminate));
        assert_eq!(supervisor.status(now).state, "stopping");
        assert_eq!(supervisor.restart(now), None, "it is on its way");
        assert_eq!(supervisor.tick(now + STOP_TIMEOUT), Some(Action::Kill));
        let exited = supervisor.exited(exit("signal:SIGKILL"), now + STOP_TIMEOUT);
        assert_eq!(exited, Some(Action::Spawn));
        assert_eq!(supervisor.status(now).restarts, 1);
    }

    #[test]
    fn a_restart_on_request_cuts_a_backoff_short() {
        let (mut supervisor, now) = running();
        supervisor.exited(exit("code:3"), now);
        assert_eq!(supervisor.restart(now), Some(Action::Spawn));
        assert_eq!(supervisor.deadline(), None);
    }

    #[test]
    fn a_restart_that_turns_into_a_shutdown_keeps_its_deadline() {
        let (mut supervisor, now) = running();
        assert_eq!(supervisor.restart(now), Some(Action::Terminate));
        assert_eq!(supervisor.shut_down(now + seconds(3)), Action::Terminate);
        assert_eq!(supervisor.deadline(), Some(now + STOP_TIMEOUT));
        assert_eq!(supervisor.exited(exit("code:0"), now + seconds(4)), Some(Action::Finish));
    }

    #[test]
    fn what_cannot_be_ended_does_not_keep_the_agent() {
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
    fn what_cannot_be_ended_is_not_restarted_and_goes_on() {
        let (mut supervisor, now) = running();
        let _ = supervisor.restart(now);
        assert_eq!(supervisor.tick(now + STOP_TIMEOUT), Some(Action::Kill));
        assert_eq!(supervisor.tick(now + seconds(60)), Some(Action::GiveUp));
        assert_eq!(supervisor.cannot_end(), None);
        let status = supervisor.status(now);
        assert_eq!((status.state.as_str(), status.restarts), ("running", 0));
    }

    #[test]
    fn what_a_command_leaves_behind_is_ended_before_the_next_start() {
        let (mut supervisor, now) = running();
        supervisor.left_behind(now);
        supervisor.left_behind(now + seconds(5));
        assert_eq!(supervisor.status(now).state, "stopping");
        assert_eq!(supervisor.tick(now + seconds(9)), None);
        assert_eq!(supervisor.tick(now + STOP_TIMEOUT), Some(Action::Kill));
        supervisor.left_behind(now + STOP_TIMEOUT);
        let given_up = now + STOP_TIMEOUT + KILL_GRACE;
        assert_eq!(supervisor.tick(given_up), Some(Action::GiveUp));
        // It still counts as what it is: a crash.
        assert_eq!(supervisor.exited(exit("code:1"), given_up), None);
        assert_eq!(supervisor.next_start(), Some(given_up + seconds(1)));
        assert_eq!(supervisor.status(given_up).state, "crashed");
    }

    #[test]
    fn a_command_that_a_signal_stopped_does_not_run() {
        let (mut supervisor, now) = running();
        supervisor.suspended(true);
        assert_eq!(supervisor.status(now).state, "stopped");
        supervisor.suspended(false);
        assert_eq!(supervisor.status(now).state, "running");
    }

    #[test]
    fn the_count_goes_on_from_where_it_was() {
        let mut supervisor = Supervisor::new(7, STOP_TIMEOUT);
        let _ = supervisor.start();
        let now = Instant::now();
        supervisor.spawned(42, now);
        assert_eq!(supervisor.status(now).restarts, 7);
    }
}
