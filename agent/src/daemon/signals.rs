//! Resets inherited signal state: the parent process may have blocked or ignored signals that the agent and its command
//! need.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{FORBIDDEN, SIGCHLD, SIGXFSZ};
use signal_hook::flag;

/// One more than the highest signal number of Linux.
const END: i32 = 65;

/// Resets the agent's own signals. Call it before the first thread starts, since threads inherit the mask.
///
/// If SIGCHLD were ignored, the kernel would reap children and discard their exit statuses. SIGXFSZ would kill the
/// agent when a log or state file reaches the file size limit; with a handler, only the write fails. SIGTTOU is
/// blocked, so that a terminal cannot stop the agent when it writes its log.
pub fn reset_own() -> io::Result<()> {
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGTTOU);
    blocked.thread_set_mask()?;
    for signal in [SIGCHLD, SIGXFSZ] {
        catch(signal)?;
    }
    Ok(())
}

/// Resets signals for the program that this process is about to execute: none is blocked, all have default actions.
pub fn reset_for_exec() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    for signal in (1..END).filter(|signal| !FORBIDDEN.contains(signal)) {
        // Exec resets handlers to the default action, but ignored signals stay ignored. Errors are expected for the
        // signals that the C library reserves.
        let _ = catch(signal);
    }
    Ok(())
}

fn catch(signal: i32) -> io::Result<()> {
    flag::register(signal, Arc::new(AtomicBool::new(false))).map(|_| ())
}
