//! Network traffic, from `<proc-root>/net/dev`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use procfs_core::net::InterfaceDeviceStatus;
use procfs_core::{FromRead, ProcError};
use serde::{Deserialize, Serialize};

/// The interface that Fly gives a machine.
const MAIN_INTERFACE: &str = "eth0";

/// The interface to oneself.
const LOOPBACK: &str = "lo";

/// What went through an interface since it came up, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bytes {
    /// Received.
    pub bytes_in: u64,
    /// Sent.
    pub bytes_out: u64,
}

/// Every interface's counters, by its name.
pub type Counters = BTreeMap<String, Bytes>;

/// Why traffic could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is no such file, or it cannot be read.
    #[error("{0}")]
    Read(#[from] std::io::Error),
    /// It is not what `proc_pid_net(5)` describes.
    #[error("not a list of interfaces: {0}")]
    Parse(#[from] ProcError),
}

/// Reads every interface's counters.
pub fn read(proc_root: &Path) -> Result<Counters, NetworkError> {
    parse(File::open(proc_root.join("net/dev"))?)
}

/// Takes the counters out of the file's text.
pub fn parse(text: impl Read) -> Result<Counters, NetworkError> {
    let InterfaceDeviceStatus(interfaces) = InterfaceDeviceStatus::from_read(text)?;
    Ok(interfaces
        .into_iter()
        .map(|(name, status)| {
            (name, Bytes { bytes_in: status.recv_bytes, bytes_out: status.sent_bytes })
        })
        .collect())
}

/// Whether the traffic of interface `name` counts.
///
/// Those that were asked for count. If none was, `eth0` does where there is one: beside it there
/// may be bridges and tunnels whose bytes go through it a second time. Else all but `lo` do.
#[must_use]
pub fn counts(name: &str, asked_for: &[String], counters: &Counters) -> bool {
    if !asked_for.is_empty() {
        asked_for.iter().any(|asked| asked == name)
    } else if counters.contains_key(MAIN_INTERFACE) {
        name == MAIN_INTERFACE
    } else {
        name != LOOPBACK
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Linux 6.1 prints it.
    const NET_DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  123456     100    0    0    0     0          0         0   123456     100    0    0    0     0       0          0
  eth0: 18446744073709551615 5000    0    0    0     0          0         0  2000000    4000    0    0    0     0       0          0
";

    fn counted<'a>(asked_for: &[&str], counters: &'a Counters) -> Vec<&'a str> {
        let asked_for: Vec<_> = asked_for.iter().map(|&name| name.to_owned()).collect();
        counters.keys().map(String::as_str).filter(|n| counts(n, &asked_for, counters)).collect()
    }

    fn counters(names: &[&str]) -> Counters {
        let bytes = Bytes { bytes_in: 1, bytes_out: 1 };
        names.iter().map(|&name| (name.to_owned(), bytes)).collect()
    }

    #[test]
    fn reads_bytes_in_and_out_exactly() {
        let counters = parse(NET_DEV.as_bytes()).unwrap();
        assert_eq!(counters.len(), 2);
        assert_eq!(counters["eth0"], Bytes { bytes_in: u64::MAX, bytes_out: 2_000_000 });
        assert_eq!(counters["lo"], Bytes { bytes_in: 123_456, bytes_out: 123_456 });
    }

    #[test]
    fn reads_below_the_root_that_it_is_given() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(read(root.path()), Err(NetworkError::Read(_))));
        std::fs::create_dir(root.path().join("net")).unwrap();
        std::fs::write(root.path().join("net/dev"), NET_DEV).unwrap();
        assert_eq!(read(root.path()).unwrap().len(), 2);
    }

    #[test]
    fn a_short_line_is_an_error() {
        assert!(parse("header\nheader\neth0: 1 2 3\n".as_bytes()).is_err());
    }

    #[test]
    fn eth0_alone_counts_where_there_is_one() {
        assert_eq!(counted(&[], &counters(&["docker0", "eth0", "lo"])), ["eth0"]);
    }

    #[test]
    fn without_eth0_all_but_loopback_count() {
        assert_eq!(counted(&[], &counters(&["ens5", "lo", "wg0"])), ["ens5", "wg0"]);
    }

    #[test]
    fn those_that_were_asked_for_count_even_loopback() {
        let counters = counters(&["eth0", "lo", "wg0"]);
        assert_eq!(counted(&["lo", "wg0", "gone"], &counters), ["lo", "wg0"]);
    }

    proptest! {
        #[test]
        fn never_panics(text: Vec<u8>) {
            let _ = parse(text.as_slice());
        }

        #[test]
        fn never_panics_on_lines_of_words(lines in "(([a-z0-9:]{1,8} ){0,20}\n){0,6}") {
            let _ = parse(lines.as_bytes());
        }
    }
}
