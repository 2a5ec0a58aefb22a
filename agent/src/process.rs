//! The command of `run` as a process: started, signalled, waited for.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::children::{Child, Children};
use crate::collect::process::exit_reason;
use crate::supervisor::Exit;
use crate::variables;

/// No process is waited for as long as this in one go.
const LONG: Duration = Duration::from_hours(24 * 365);

/// The command, while it runs. It leads a process group of its own, and what it starts and leaves
/// in that group shares its fate: it is asked to end with it, and killed when it has ended, as it
/// may hold a port or a file that the next start of the command needs.
#[derive(Debug)]
pub struct Process {
    child: Arc<Child>,
}

impl Process {
    /// Starts the command; `ended` is told how it ended, from another thread.
    ///
    /// It has no standard input, and writes to the agent's standard output and error.
    pub fn start(
        command: &[OsString],
        children: &Children,
        ended: impl FnOnce(Exit) + Send + 'static,
    ) -> io::Result<Self> {
        let [program, arguments @ ..] = command else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no command"));
        };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).process_group(0);
        for name in variables::OF_THE_SERVICE_MANAGER {
            command.env_remove(name);
        }
        let child = Arc::new(children.spawn(&mut command)?);
        let waiting = child.clone();
        thread::Builder::new()
            .name("command".to_owned())
            .spawn(move || ended(wait(&waiting)))
            // Nobody would hear of its end.
            .inspect_err(|_| child.signal_group(Signal::KILL))?;
        Ok(Self { child })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the command and all that is in its group.
    pub fn signal(&self, signal: Signal) {
        self.child.signal_group(signal);
    }
}

fn wait(child: &Child) -> Exit {
    loop {
        match child.wait_for_end(Instant::now() + LONG) {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => {
                // It can be waited for no more; all that is left is to make sure that it is gone.
                tracing::error!("cannot wait for the command, killing it: {error}");
                child.signal_group(Signal::KILL);
                return Exit::unspawnable();
            }
        }
    }
    // Before it is reaped: until then no other group can have its id.
    child.signal_group(Signal::KILL);
    match child.try_wait() {
        Ok(Some(status)) => Exit { reason: exit_reason(status), clean: status.success() },
        Ok(None) | Err(_) => Exit::unspawnable(),
    }
}
