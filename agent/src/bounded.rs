//! Reads the files that settings name, with limits on size and time: a file may be a pipe without a writer, or an
//! endless device.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// How long all pipes together may take. For `--api-key-file <(…)` a program writes, and the agent does nothing else
/// meanwhile.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Reads a file of at most `max` bytes, which must end by `deadline`.
pub fn read(path: &Path, max: usize, deadline: Instant) -> io::Result<Vec<u8>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file =
        OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4 * 1024];
    loop {
        // A pipe without a writer only has to wait; a read would return its end.
        if !is_ready(&file, deadline)? {
            let seconds = PATIENCE.as_secs();
            let why = if bytes.is_empty() {
                format!("nothing came within {seconds} s")
            } else {
                format!("it did not end within {seconds} s")
            };
            return Err(io::Error::new(ErrorKind::TimedOut, why));
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend(buffer.iter().take(count)),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if bytes.len() > max {
            let why = format!("it is too large: more than {} KiB", max / 1024);
            return Err(io::Error::new(ErrorKind::FileTooLarge, why));
        }
    }
}

/// Reads a UTF-8 file as [`read`] does.
pub fn read_to_string(path: &Path, max: usize, deadline: Instant) -> io::Result<String> {
    let bytes = read(path, max, deadline)?;
    // `FromUtf8Error` contains the bytes, which may be secret.
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not valid UTF-8"))
}

/// Waits for data or the end of the file; false if neither comes by `deadline`.
fn is_ready(file: &File, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut events = [PollFd::new(file, PollFlags::IN)];
        match poll(&mut events, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::Command;
    use std::sync::mpsc;
    use std::{fs, thread};

    use super::*;

    #[test]
    fn reads_a_file_up_to_the_size_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let deadline = Instant::now() + PATIENCE;
        fs::write(&path, [b'x'; 8192]).unwrap();
        assert_eq!(read(&path, 8192, deadline).unwrap(), [b'x'; 8192]);
        let error = read(&path, 8191, deadline).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert_eq!(read(&path, 0, Instant::now()).unwrap_err().kind(), ErrorKind::FileTooLarge);
        fs::write(&path, "").unwrap();
        assert!(read(&path, 0, Instant::now()).unwrap().is_empty());
        assert_eq!(
            read(directory.path(), 1, deadline).unwrap_err().kind(),
            ErrorKind::IsADirectory
        );
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_to_string(&path, 1, deadline).unwrap_err().kind(), ErrorKind::InvalidData);
        let error = read(Path::new("/dev/zero"), 1024, deadline).unwrap_err();
        assert_eq!(error.to_string(), "it is too large: more than 1 KiB");
    }

    #[test]
    fn reads_a_pipe_that_ends_before_the_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let soon = || Instant::now() + Duration::from_millis(50);
        let error = read(&path, 1024, soon()).unwrap_err();
        assert_eq!(error.to_string(), "nothing came within 5 s");

        let writes = thread::spawn({
            let path = path.clone();
            move || {
                let mut pipe = OpenOptions::new().write(true).open(path).unwrap();
                pipe.write_all(b"in ").unwrap();
                pipe.write_all(b"pieces").unwrap();
            }
        });
        let deadline = Instant::now() + Duration::from_mins(1);
        assert_eq!(read(&path, 1024, deadline).unwrap(), b"in pieces");
        writes.join().unwrap();

        // With a reader of its own, the pipe is never closed between two reads.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let _reader = OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        let (sender, open) = mpsc::channel::<()>();
        let writes = thread::spawn({
            let path = path.clone();
            move || {
                let mut pipe = OpenOptions::new().write(true).open(path).unwrap();
                pipe.write_all(b"a start").unwrap();
                let _ = open.recv();
            }
        });
        // Until the writer opens the pipe, there is nothing to read.
        loop {
            let error = read(&path, 1024, soon()).unwrap_err().to_string();
            if error == "it did not end within 5 s" {
                break;
            }
            assert_eq!(error, "nothing came within 5 s");
        }
        drop(sender);
        writes.join().unwrap();
    }
}
