//! The size and use of a file system.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

/// A network file system whose server is gone never answers.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Use and size of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// `df`'s size less available. Space that is reserved for root counts as used, so the disk is full when it is full
    /// for ordinary users.
    pub used: u64,
    pub total: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{0}")]
    Read(#[from] io::Error),
    /// Such as /proc.
    #[error("its file system has no size")]
    NoSize,
    #[error("its file system does not answer")]
    Timeout,
}

/// Reads the file system that holds a path.
///
/// A separate thread calls `statvfs`, which cannot be interrupted. If the call hangs, later readings wait for the same
/// thread, so there is never more than one.
#[derive(Debug)]
pub struct DiskReader {
    path: PathBuf,
    asked: Option<Receiver<Result<Disk, DiskError>>>,
}

impl DiskReader {
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path, asked: None }
    }

    /// The path, as it was set.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file system's figures.
    ///
    /// # Errors
    ///
    /// The path does not exist or may not be read; its file system has no size; or it does not answer in time.
    pub fn read(&mut self) -> Result<Disk, DiskError> {
        let asked = match self.asked.take() {
            Some(asked) => asked,
            None => ask(self.path.clone())?,
        };
        match asked.recv_timeout(TIMEOUT) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                self.asked = Some(asked);
                Err(DiskError::Timeout)
            }
            Err(RecvTimeoutError::Disconnected) => Err(DiskError::Timeout),
        }
    }
}

fn ask(path: PathBuf) -> io::Result<Receiver<Result<Disk, DiskError>>> {
    let (answer, asked) = sync_channel(1);
    thread::Builder::new()
        .name("disk".to_owned())
        .spawn(move || drop(answer.send(of_file_system(&path))))?;
    Ok(asked)
}

fn of_file_system(path: &Path) -> Result<Disk, DiskError> {
    let found = rustix::fs::statvfs(path).map_err(io::Error::from)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    match bytes(found.f_blocks) {
        0 => Err(DiskError::NoSize),
        total => Ok(Disk { used: total.saturating_sub(bytes(found.f_bavail)), total }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_df_prints() {
        let folder = tempfile::tempdir().unwrap();
        let disk = DiskReader::new(folder.path().to_owned()).read().unwrap();
        let df = std::process::Command::new("df")
            .args(["--block-size=1", "--output=avail,size"])
            .arg(folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8(df.stdout).unwrap();
        let figures: Vec<u64> =
            text.lines().last().unwrap().split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert_eq!(disk.total, figures[1]);
        // Other processes write to the disk at the same time.
        assert!(disk.used.abs_diff(figures[1] - figures[0]) < 1 << 30, "{disk:?} {figures:?}");
    }

    #[test]
    fn what_has_no_figures_is_an_error() {
        let read = |path: &str| DiskReader::new(path.into()).read();
        assert!(matches!(read("/proc"), Err(DiskError::NoSize)));
        assert!(matches!(read("/nowhere"), Err(DiskError::Read(_))));
        assert!(matches!(read("a\0b"), Err(DiskError::Read(_))));
    }

    #[test]
    fn a_file_system_that_hangs_delays_a_reading_only_so_long_and_is_asked_once() {
        let (answer, asked) = sync_channel(1);
        let mut reader = DiskReader { path: "/".into(), asked: Some(asked) };
        assert!(matches!(reader.read(), Err(DiskError::Timeout)));
        assert!(reader.asked.is_some(), "the same thread is waited for");
        let late = Disk { used: 1, total: 2 };
        answer.send(Ok(late)).unwrap();
        assert_eq!(reader.read().unwrap(), late);
        assert!(reader.asked.is_none());
    }
}
