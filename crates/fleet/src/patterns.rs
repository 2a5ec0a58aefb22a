//! Crash loops and clones: patterns in several check-ins of a sandbox.

use crate::clones::CloneCandidates;
use crate::crash_loops::CrashLoopCandidates;
use crate::incident::Incident;
use crate::rows::UnexpectedAnswer;
use crate::time::Time;
use crate::{QueryScope, clones, crash_loops};

/// Maximum number of queries for patterns, in both rounds.
pub(crate) const MAX_QUERIES: usize = 2 + clones::MAX_PIECES + 2 * crash_loops::MAX_PIECES;

/// A search for crash loops and clones, in two rounds.
#[derive(Clone, Copy, Debug)]
pub struct Patterns<'a> {
    /// The time, and whose check-ins count.
    pub scope: QueryScope<'a>,
    /// Length of the searched window, in seconds.
    pub window: u64,
    /// A clone's machines that check in after this are current.
    pub heard_since: Time,
}

impl Patterns<'_> {
    /// The queries of the first round.
    #[must_use]
    pub fn queries(&self) -> Vec<String> {
        vec![
            crash_loops::sums_sql(self.scope, self.window),
            clones::sums_sql(self.scope, self.window, self.heard_since),
        ]
    }

    /// Parses the answers of the first round, and returns the queries of the second, which may be none.
    pub fn read(
        &self,
        answers: &[String],
    ) -> Result<(PatternCandidates, Vec<String>), UnexpectedAnswer> {
        let [restarts, machines] = answers else {
            return Err(UnexpectedAnswer::count());
        };
        let (crash_loops, mut restart_queries) =
            CrashLoopCandidates::read(restarts, self.scope, self.window)?;
        let (clones, mut queries) = CloneCandidates::read(machines, self.scope, self.window)?;
        let machine_queries = queries.len();
        queries.append(&mut restart_queries);
        let heard_since = self.heard_since;
        Ok((PatternCandidates { crash_loops, clones, machine_queries, heard_since }, queries))
    }
}

/// Results of the first round.
#[derive(Clone, Debug)]
pub struct PatternCandidates {
    crash_loops: CrashLoopCandidates,
    clones: CloneCandidates,
    machine_queries: usize,
    heard_since: Time,
}

impl PatternCandidates {
    /// Returns what the answers of the second round confirm.
    pub fn find(self, answers: &[String]) -> Result<FoundPatterns, UnexpectedAnswer> {
        let (machines, restarts) =
            answers.split_at_checked(self.machine_queries).ok_or_else(UnexpectedAnswer::count)?;
        let (clones, clones_cut) = self.clones.find(machines, self.heard_since)?;
        let (crash_loops, crash_loops_cut) = self.crash_loops.find(restarts)?;
        Ok(FoundPatterns { clones, clones_cut, crash_loops, crash_loops_cut })
    }
}

/// Crash loops and clones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundPatterns {
    /// Current and earlier clones.
    pub clones: Vec<Incident>,
    /// Whether some clones may be missing.
    pub clones_cut: bool,
    /// Current and earlier crash loops.
    pub crash_loops: Vec<Incident>,
    /// Whether some crash loops may be missing.
    pub crash_loops_cut: bool,
}
