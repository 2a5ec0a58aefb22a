//! The signal state that a process inherits, put in order: whoever started the agent may have blocked
//! or ignored signals that it and its command need.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{FORBIDDEN, SIGCHLD, SIGXFSZ};
use signal_hook::flag;

/// One more than the last signal of Linux.
const END: i32 = 65;

/// Puts the agent's own signals in order, before it starts a thread.
///
/// With SIGCHLD ignored, the kernel would reap children before anyone knows how they ended. SIGXFSZ
/// would kill the agent for a log or a state file at the limit of file sizes; caught, the write
/// fails. SIGTTOU stays blocked, so that a terminal cannot stop the agent for what it logs.
pub fn put_in_order() -> io::Result<()> {
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGTTOU);
    blocked.thread_set_mask()?;
    for signal in [SIGCHLD, SIGXFSZ] {
        catch(signal)?;
    }
    Ok(())
}

/// Puts the signals in order for the program that this process is about to become: none is blocked,
/// and all have their default actions.
pub fn reset_for_exec() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    for signal in (1..END).filter(|signal| !FORBIDDEN.contains(signal)) {
        // What is caught has its default action after an exec; what is ignored stays ignored. The C
        // library keeps two signals to itself.
        let _ = catch(signal);
    }
    Ok(())
}

fn catch(signal: i32) -> io::Result<()> {
    flag::register(signal, Arc::new(AtomicBool::new(false))).map(|_| ())
}
