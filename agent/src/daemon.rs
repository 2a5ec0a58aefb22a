//! Decides what the daemon does, and when. Pure: it takes events with their times and returns effects, which
//! [service] executes. So a test covers a day of check-ins, failures and crashes in a millisecond.

pub mod check_in_thread;
pub mod schedule;
pub mod service;
pub mod signals;
pub mod supervisor;

use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::collect::process::ProcessStatus;
use crate::daemon::schedule::{Completion, Schedule, Timing};
use crate::daemon::supervisor::{Action, CommandExit, Supervisor};

/// Timeout of the last check-in, from the stop signal on: whoever sent it waits for the agent to end.
pub const LAST_CHECK_IN: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The [deadline](Daemon::deadline) has passed.
    Tick,
    /// The command started, as the process with this id.
    Spawned(u32),
    /// The command ended, or could not start.
    Exited(CommandExit),
    /// The command ended, but some of its child processes still run.
    LeftBehind,
    /// The command could not be killed.
    CannotEnd,
    /// A signal stopped (`true`) or continued the command.
    Suspended(bool),
    /// A check-in ended.
    CheckedIn(Completion),
    /// The configuration was reloaded.
    Reloaded,
    /// SIGUSR1: restart the command.
    Restart,
    /// A signal that stops the agent, after a last check-in.
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Command(Action),
    /// Check in, then send [`Event::CheckedIn`].
    CheckIn,
    /// Check in for the last time, and send [`Event::CheckedIn`] by this time.
    LastCheckIn(Instant),
    Quit,
}

#[derive(Debug)]
pub struct Daemon {
    schedule: Schedule,
    /// `None` for `watch`, which has no command.
    supervisor: Option<Supervisor>,
    in_flight: bool,
    /// Whether the check-in in flight began before the configuration was reloaded.
    outdated: bool,
    /// Check-ins in a row that were not accepted.
    failures: u64,
    stopping: Option<Stopping>,
}

#[derive(Debug)]
struct Stopping {
    command_is_down: bool,
    last_check_in: LastCheckIn,
    /// The agent waits for no check-in after this time.
    give_up_at: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum LastCheckIn {
    /// Another check-in is still in flight.
    Waiting,
    Sent,
    /// The last check-in ended, or its time is up.
    Over,
}

impl Daemon {
    /// Returns a daemon whose first check-in is due after the initial delay, and its first effects.
    #[must_use]
    pub fn start(
        timing: Timing,
        mut supervisor: Option<Supervisor>,
        rng: Rng,
        now: Instant,
    ) -> (Self, Vec<Effect>) {
        let effects = supervisor.iter_mut().map(|s| Effect::Command(s.start())).collect();
        let daemon = Self {
            schedule: Schedule::new(timing, rng, now),
            supervisor,
            in_flight: false,
            outdated: false,
            failures: 0,
            stopping: None,
        };
        (daemon, effects)
    }

    #[must_use]
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let action = match event {
            Event::Tick => None,
            Event::Spawned(pid) => {
                self.supervisor.iter_mut().for_each(|supervisor| supervisor.spawned(pid, now));
                None
            }
            Event::Exited(exit) => self.supervisor.as_mut().and_then(|s| s.exited(exit, now)),
            Event::LeftBehind => {
                self.supervisor.iter_mut().for_each(|supervisor| supervisor.left_behind(now));
                None
            }
            Event::CannotEnd => self.supervisor.as_mut().and_then(Supervisor::cannot_end),
            Event::Suspended(is) => {
                self.supervisor.iter_mut().for_each(|supervisor| supervisor.suspended(is));
                None
            }
            Event::Restart => self.supervisor.as_mut().and_then(|s| s.restart(now)),
            Event::CheckedIn(completion) => {
                self.checked_in(completion, now);
                None
            }
            Event::Reloaded => {
                self.outdated = self.in_flight;
                if self.failures > 0 {
                    self.schedule.hasten(now);
                }
                None
            }
            Event::Stop => Some(self.stop(now)),
        };
        let mut effects: Vec<_> = self.acted(action).into_iter().collect();
        let due = self.supervisor.as_mut().and_then(|supervisor| supervisor.tick(now));
        effects.extend(self.acted(due));
        effects.extend(self.check_in(now));
        if let Some(Stopping { command_is_down: true, last_check_in: LastCheckIn::Over, .. }) =
            self.stopping
        {
            effects.push(Effect::Quit);
        }
        effects
    }

    /// When the next [tick](Event::Tick) is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let check_in = match &self.stopping {
            None => (!self.in_flight).then(|| self.schedule.due()),
            Some(stopping) => {
                (stopping.last_check_in != LastCheckIn::Over).then_some(stopping.give_up_at)
            }
        };
        let command = self.supervisor.as_ref().and_then(Supervisor::deadline);
        [check_in, command].into_iter().flatten().min()
    }

    /// When the next check-in is due, unless the agent is stopping.
    #[must_use]
    pub fn next_check_in(&self) -> Option<Instant> {
        self.stopping.is_none().then(|| self.schedule.due())
    }

    /// Number of check-ins in a row that were not accepted.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures
    }

    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// When the command restarts, if it waits for that.
    #[must_use]
    pub fn next_start(&self) -> Option<Instant> {
        self.supervisor.as_ref().and_then(Supervisor::next_start)
    }

    #[must_use]
    pub fn command(&self, now: Instant) -> Option<ProcessStatus> {
        self.supervisor.as_ref().map(|supervisor| supervisor.status(now))
    }

    #[must_use]
    pub fn supervisor(&self) -> Option<&Supervisor> {
        self.supervisor.as_ref()
    }

    fn checked_in(&mut self, completion: Completion, now: Instant) {
        self.in_flight = false;
        self.failures =
            if completion == Completion::Accepted { 0 } else { self.failures.saturating_add(1) };
        match &mut self.stopping {
            None => {
                self.schedule.plan(completion, now);
                if std::mem::take(&mut self.outdated) && completion != Completion::Accepted {
                    self.schedule.hasten(now);
                }
            }
            Some(stopping) if stopping.last_check_in == LastCheckIn::Sent => {
                stopping.last_check_in = LastCheckIn::Over;
            }
            Some(_) => {}
        }
    }

    fn stop(&mut self, now: Instant) -> Action {
        self.stopping.get_or_insert_with(|| Stopping {
            command_is_down: false,
            last_check_in: LastCheckIn::Waiting,
            give_up_at: now + LAST_CHECK_IN,
        });
        self.supervisor.as_mut().map_or(Action::Finish, |supervisor| supervisor.shut_down(now))
    }

    /// The effect of an action. `Finish` has none during shutdown: it only marks the command as down.
    fn acted(&mut self, action: Option<Action>) -> Option<Effect> {
        match (action?, &mut self.stopping) {
            (Action::Finish, Some(stopping)) => {
                stopping.command_is_down = true;
                None
            }
            (action, _) => Some(Effect::Command(action)),
        }
    }

    fn check_in(&mut self, now: Instant) -> Option<Effect> {
        let effect = match &mut self.stopping {
            None if self.in_flight || self.schedule.due() > now => return None,
            None => Effect::CheckIn,
            Some(stopping) => {
                if stopping.give_up_at <= now {
                    stopping.last_check_in = LastCheckIn::Over;
                }
                if stopping.last_check_in != LastCheckIn::Waiting || self.in_flight {
                    return None;
                }
                stopping.last_check_in = LastCheckIn::Sent;
                Effect::LastCheckIn(stopping.give_up_at)
            }
        };
        self.in_flight = true;
        Some(effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        initial_delay: Duration::from_mins(2),
        interval: Duration::from_mins(5),
        jitter_percent: 0,
    };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn exit(reason: &str) -> CommandExit {
        CommandExit { reason: reason.to_owned(), clean: reason == "code:0" }
    }

    /// A daemon with a simulated clock, with or without a command.
    struct SimulatedDaemon {
        daemon: Daemon,
        start: Instant,
        now: Instant,
        /// The effects, with their times in seconds since the start.
        done: Vec<(u64, Effect)>,
    }

    impl SimulatedDaemon {
        fn new(timing: Timing, supervisor: Option<Supervisor>) -> Self {
            let now = Instant::now();
            let (daemon, effects) = Daemon::start(timing, supervisor, Rng::with_seed(1), now);
            let done = effects.into_iter().map(|effect| (0, effect)).collect();
            Self { daemon, start: now, now, done }
        }

        fn watching() -> Self {
            Self::new(TIMING, None)
        }

        fn running() -> Self {
            let mut simulated = Self::new(TIMING, Some(Supervisor::new(0, seconds(10))));
            assert_eq!(simulated.take(), [(0, Effect::Command(Action::Spawn))]);
            assert_eq!(simulated.send(Event::Spawned(42)), []);
            simulated
        }

        /// Handles an event now; returns its effects.
        fn send(&mut self, event: Event) -> Vec<Effect> {
            let effects = self.daemon.handle(event, self.now);
            let at = (self.now - self.start).as_secs();
            self.done.extend(effects.iter().map(|&effect| (at, effect)));
            effects
        }

        /// Advances the clock, with a tick at each deadline of the daemon.
        fn pass(&mut self, duration: Duration) {
            let end = self.now + duration;
            while let Some(at) = self.daemon.deadline().filter(|&at| at <= end) {
                assert!(at >= self.now || self.now == self.start, "no time in the past");
                self.now = at.max(self.now);
                let before = self.daemon.deadline();
                let effects = self.send(Event::Tick);
                assert!(
                    self.daemon.deadline() != before || !effects.is_empty(),
                    "the tick at {at:?} does nothing"
                );
            }
            self.now = end;
        }

        /// Advances the clock; every check-in completes at once, as `completion` says.
        fn pass_with(&mut self, duration: Duration, completion: impl Fn(u64) -> Completion) {
            let end = self.now + duration;
            loop {
                let due = self.daemon.deadline().filter(|&at| at <= end);
                self.pass(due.map_or(end - self.now, |at| at.saturating_duration_since(self.now)));
                let at = (self.now - self.start).as_secs();
                if self.done.last() == Some(&(at, Effect::CheckIn)) && self.daemon.in_flight {
                    self.send(Event::CheckedIn(completion(at)));
                }
                if due.is_none() {
                    return;
                }
            }
        }

        /// Takes the effects since the last call.
        fn take(&mut self) -> Vec<(u64, Effect)> {
            std::mem::take(&mut self.done)
        }

        fn state(&self) -> String {
            self.daemon.command(self.now).unwrap().state
        }
    }

    #[test]
    fn checks_in_after_the_delay_and_then_at_the_interval() {
        let mut simulated = SimulatedDaemon::watching();
        simulated.pass_with(seconds(3_600), |_| Completion::Accepted);
        let times: Vec<_> = simulated.take().into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, (0..12).map(|n| 120 + 300 * n).collect::<Vec<_>>());
    }

    #[test]
    fn one_check_in_is_in_flight_at_a_time() {
        let mut simulated = SimulatedDaemon::watching();
        simulated.pass(seconds(100_000));
        assert_eq!(simulated.take(), [(120, Effect::CheckIn)]);
        assert_eq!(simulated.daemon.deadline(), None, "nothing to wake up for");
        assert_eq!(simulated.send(Event::CheckedIn(Completion::Accepted)), []);
        assert_eq!(simulated.daemon.deadline(), Some(simulated.now + seconds(300)));
    }

    #[test]
    fn a_suspend_or_a_clock_jump_causes_no_burst() {
        let mut simulated = SimulatedDaemon::watching();
        simulated.pass_with(seconds(500), |_| Completion::Accepted);
        simulated.take();
        // No event for a week, not even a tick.
        simulated.now += seconds(7 * 86_400);
        assert_eq!(simulated.send(Event::Tick), [Effect::CheckIn]);
        assert_eq!(simulated.send(Event::Tick), []);
        simulated.send(Event::CheckedIn(Completion::Accepted));
        assert_eq!(simulated.send(Event::Tick), []);
        assert_eq!(simulated.daemon.deadline(), Some(simulated.now + seconds(300)));
    }

    #[test]
    fn failures_are_retried_sooner_and_refusals_are_not() {
        let mut simulated = SimulatedDaemon::watching();
        simulated.pass_with(seconds(120), |_| Completion::TryLater(None));
        assert_eq!(simulated.daemon.failures(), 1);
        assert!(simulated.daemon.next_check_in().unwrap() <= simulated.now + seconds(5));
        simulated.pass_with(seconds(5), |_| Completion::Refused);
        assert_eq!(simulated.daemon.failures(), 2);
        assert!(simulated.daemon.next_check_in().unwrap() > simulated.now + seconds(290));
        simulated.pass_with(seconds(300), |_| Completion::Accepted);
        assert_eq!(simulated.daemon.failures(), 0);
    }

    #[test]
    fn an_outage_is_retried_with_jitter_and_recovery_is_noticed_within_an_interval() {
        let mut simulated = SimulatedDaemon::watching();
        simulated.pass_with(seconds(86_400), |_| Completion::TryLater(None));
        let tries = simulated.take().len();
        // Full jitter under a ceiling of 300 s: 150 s on average.
        assert!((450..750).contains(&tries), "{tries}");
        simulated.pass_with(seconds(300), |_| Completion::Accepted);
        assert_eq!(simulated.daemon.failures(), 0);
    }

    #[test]
    fn a_reload_after_a_failure_retries_at_once() {
        let mut simulated = SimulatedDaemon::watching();
        simulated.pass_with(seconds(120), |_| Completion::Refused);
        simulated.send(Event::Reloaded);
        assert!(simulated.daemon.next_check_in().unwrap() <= simulated.now + seconds(5));
        // After a success, a reload does not change the schedule.
        simulated.pass_with(seconds(5), |_| Completion::Accepted);
        let due = simulated.daemon.next_check_in();
        simulated.send(Event::Reloaded);
        assert_eq!(simulated.daemon.next_check_in(), due);
    }

    #[test]
    fn a_reload_during_a_check_in_that_is_then_refused_retries_at_once() {
        let mut simulated = SimulatedDaemon::watching();
        simulated.pass(seconds(120));
        assert_eq!(simulated.take(), [(120, Effect::CheckIn)]);
        simulated.send(Event::Reloaded);
        simulated.send(Event::CheckedIn(Completion::Refused));
        assert!(simulated.daemon.next_check_in().unwrap() <= simulated.now + seconds(5));
        // The refusal of the new keys is not retried at once.
        simulated.pass_with(seconds(5), |_| Completion::Refused);
        assert!(simulated.daemon.next_check_in().unwrap() > simulated.now + seconds(5));
    }

    #[test]
    fn a_crash_loop_does_not_delay_check_ins() {
        let mut simulated = SimulatedDaemon::running();
        let mut check_ins = Vec::new();
        for _ in 0..3_000 {
            simulated.pass_with(seconds(1), |_| Completion::Accepted);
            for (at, effect) in simulated.take() {
                match effect {
                    Effect::CheckIn => check_ins.push(at),
                    Effect::Command(Action::Spawn) => {
                        simulated.send(Event::Spawned(42));
                        simulated.send(Event::Exited(exit("signal:SIGSEGV")));
                    }
                    effect => panic!("{effect:?}"),
                }
            }
            if simulated.state() == "running" {
                simulated.send(Event::Exited(exit("signal:SIGSEGV")));
            }
        }
        assert_eq!(check_ins, (0..10).map(|n| 120 + 300 * n).collect::<Vec<_>>());
        let status = simulated.daemon.command(simulated.now).unwrap();
        // 1 + 2 + 4 + … + 256 s, then every 300 s.
        assert!((16..=18).contains(&status.restarts), "{}", status.restarts);
        assert_eq!(status.state, "crashed");
    }

    #[test]
    fn stop_terminates_the_command_and_checks_in_once_more() {
        let mut simulated = SimulatedDaemon::running();
        let by = simulated.now + LAST_CHECK_IN;
        let effects = simulated.send(Event::Stop);
        assert_eq!(effects, [Effect::Command(Action::Terminate), Effect::LastCheckIn(by)]);
        assert_eq!(simulated.state(), "shutting_down");
        assert_eq!(simulated.daemon.next_check_in(), None);
        // The command and the check-in may end in either order.
        let mut other = SimulatedDaemon::running();
        other.send(Event::Stop);
        assert_eq!(other.send(Event::Exited(exit("signal:SIGTERM"))), []);
        assert_eq!(other.send(Event::CheckedIn(Completion::Refused)), [Effect::Quit]);
        assert_eq!(simulated.send(Event::CheckedIn(Completion::Accepted)), []);
        assert_eq!(simulated.send(Event::Exited(exit("signal:SIGTERM"))), [Effect::Quit]);
    }

    #[test]
    fn kills_a_command_that_does_not_exit_within_ten_seconds() {
        let mut simulated = SimulatedDaemon::running();
        simulated.send(Event::Stop);
        simulated.send(Event::CheckedIn(Completion::Accepted));
        simulated.take();
        simulated.pass(seconds(11));
        assert_eq!(simulated.take(), [(10, Effect::Command(Action::Kill))]);
        assert_eq!(simulated.send(Event::Exited(exit("signal:SIGKILL"))), [Effect::Quit]);
    }

    #[test]
    fn gives_up_on_a_command_that_cannot_be_killed() {
        let mut simulated = SimulatedDaemon::running();
        simulated.send(Event::Stop);
        simulated.send(Event::CheckedIn(Completion::Accepted));
        simulated.take();
        simulated.pass(seconds(60));
        let (kill, give_up) = (Action::Kill, Action::GiveUp);
        assert_eq!(simulated.take(), [(10, Effect::Command(kill)), (12, Effect::Command(give_up))]);
        assert_eq!(simulated.send(Event::CannotEnd), [Effect::Quit]);
    }

    #[test]
    fn the_last_check_in_times_out_after_three_seconds() {
        let mut simulated = SimulatedDaemon::watching();
        simulated.send(Event::Stop);
        simulated.take();
        simulated.pass(seconds(60));
        assert_eq!(simulated.take(), [(3, Effect::Quit)]);
    }

    #[test]
    fn the_last_check_in_waits_for_the_one_in_flight() {
        let mut simulated = SimulatedDaemon::watching();
        simulated.pass(seconds(120));
        let by = simulated.now + LAST_CHECK_IN;
        assert_eq!(simulated.send(Event::Stop), []);
        simulated.pass(seconds(1));
        let effects = simulated.send(Event::CheckedIn(Completion::Accepted));
        assert_eq!(effects, [Effect::LastCheckIn(by)]);
        assert_eq!(simulated.send(Event::CheckedIn(Completion::Accepted)), [Effect::Quit]);
    }

    #[test]
    fn a_check_in_that_hangs_during_shutdown_is_abandoned_after_three_seconds() {
        let mut simulated = SimulatedDaemon::watching();
        simulated.pass(seconds(120));
        simulated.take();
        simulated.send(Event::Stop);
        simulated.pass(seconds(60));
        assert_eq!(simulated.take(), [(123, Effect::Quit)]);
    }

    #[test]
    fn a_second_stop_terminates_the_command_again_without_another_check_in() {
        let mut simulated = SimulatedDaemon::running();
        simulated.send(Event::Stop);
        assert_eq!(simulated.send(Event::Stop), [Effect::Command(Action::Terminate)]);
        simulated.send(Event::CheckedIn(Completion::Accepted));
        assert_eq!(simulated.send(Event::Stop), [Effect::Command(Action::Terminate)]);
    }

    #[test]
    fn stop_does_not_wait_for_a_command_that_is_down() {
        let mut simulated = SimulatedDaemon::running();
        simulated.send(Event::Exited(exit("code:3")));
        simulated.send(Event::Stop);
        assert_eq!(simulated.send(Event::CheckedIn(Completion::Accepted)), [Effect::Quit]);
    }

    #[test]
    fn a_requested_restart_is_counted() {
        let mut simulated = SimulatedDaemon::running();
        assert_eq!(simulated.send(Event::Restart), [Effect::Command(Action::Terminate)]);
        assert_eq!(simulated.state(), "stopping");
        let effects = simulated.send(Event::Exited(exit("signal:SIGTERM")));
        assert_eq!(effects, [Effect::Command(Action::Spawn)]);
        simulated.send(Event::Spawned(43));
        let status = simulated.daemon.command(simulated.now).unwrap();
        assert_eq!((status.state.as_str(), status.restarts), ("running", 1));
    }
}
