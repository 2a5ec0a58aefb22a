//! Network traffic from `<proc-root>/net/dev`, and the selection of interfaces to count.
//!
//! `/proc/net` shows the reader's own network namespace: in a container, the container's traffic, wherever `/proc` is
//! mounted from.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use procfs_core::FromBufRead;
use procfs_core::net::InterfaceDeviceStatus;
use serde::{Deserialize, Serialize};

use crate::env_vars;

/// The only interface that counts by default, if it exists; it is that of a Fly machine.
const MAIN_INTERFACE: &str = "eth0";

const LOOPBACK: &str = "lo";

/// Longest name of an interface, in bytes: Linux's `IFNAMSIZ` without the final zero.
const MAX_NAME_BYTES: usize = 15;

/// Bytes through an interface since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bytes {
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Counters of each interface, by name.
pub type Counters = BTreeMap<String, Bytes>;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The file is missing or unreadable.
    #[error("{0}")]
    Read(#[from] std::io::Error),
    /// The content does not match `proc_pid_net(5)`.
    #[error("not a list of interfaces")]
    Parse,
}

pub fn read(proc_root: &Path) -> Result<Counters, NetworkError> {
    // An interface name may have any bytes.
    parse(&String::from_utf8_lossy(&fs::read(proc_root.join("net/dev"))?))
}

/// Parses the file: two header lines, then one line per interface.
pub fn parse(text: &str) -> Result<Counters, NetworkError> {
    // The parser skips two lines unchecked, so any two lines would count as a machine without interfaces.
    if !text.lines().nth(1).is_some_and(|headings| headings.contains("|bytes")) {
        return Err(NetworkError::Parse);
    }
    // The parser's own error text blames a bug in the parser.
    let InterfaceDeviceStatus(interfaces) =
        InterfaceDeviceStatus::from_buf_read(text.as_bytes()).map_err(|_| NetworkError::Parse)?;
    Ok(interfaces
        .into_iter()
        .map(|(name, status)| {
            (name, Bytes { bytes_in: status.recv_bytes, bytes_out: status.sent_bytes })
        })
        .collect())
}

/// The interfaces to count.
///
/// A name selects interfaces; a name after `!` excludes them, even if they are selected. A `*` at the end matches any
/// suffix. Without selected names, the default applies to the interfaces that are not excluded: `eth0` if it exists,
/// since bridges and tunnels carry the same bytes again; else all but `lo`. So `!docker0` changes nothing on a machine
/// with `eth0`, and `!eth0` means all but `lo` and `eth0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    named: Vec<Pattern>,
    left_out: Vec<Pattern>,
}

/// A selection is invalid. The value is not quoted: it may be anything, put there by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--net-interface ({variable}) takes names of 1 to {MAX_NAME_BYTES} bytes without white space and \
     `/`; `!` before a name leaves it out, `*` at its end stands for any rest",
    variable = env_vars::NET_INTERFACE
)]
pub struct InvalidInterface;

impl Interfaces {
    /// Validates a selection. An empty one means the default.
    pub fn new<S: AsRef<str>>(names: &[S]) -> Result<Self, InvalidInterface> {
        let mut interfaces = Self::default();
        for name in names {
            match name.as_ref().strip_prefix('!') {
                Some(name) => interfaces.left_out.push(Pattern::new(name)?),
                None => interfaces.named.push(Pattern::new(name.as_ref())?),
            }
        }
        Ok(interfaces)
    }

    /// Whether interface `name` counts, among those in `counters`.
    #[must_use]
    pub fn counts(&self, name: &str, counters: &Counters) -> bool {
        if self.leaves_out(name) {
            false
        } else if !self.named.is_empty() {
            self.named.iter().any(|pattern| pattern.matches(name))
        } else if counters.contains_key(MAIN_INTERFACE) && !self.leaves_out(MAIN_INTERFACE) {
            name == MAIN_INTERFACE
        } else {
            name != LOOPBACK
        }
    }

    /// Selected names that do not exist.
    pub fn missing<'a>(&'a self, counters: &'a Counters) -> impl Iterator<Item = &'a str> {
        self.named
            .iter()
            .filter(|pattern| !counters.keys().any(|name| pattern.matches(name)))
            .map(|pattern| pattern.0.as_str())
    }

    fn leaves_out(&self, name: &str) -> bool {
        self.left_out.iter().any(|pattern| pattern.matches(name))
    }
}

impl fmt::Display for Interfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |patterns: &[Pattern]| {
            patterns.iter().map(|pattern| pattern.0.as_str()).collect::<Vec<_>>().join(", ")
        };
        if self.named.is_empty() {
            write!(f, "{MAIN_INTERFACE} if there is one, else all but {LOOPBACK}")?;
        } else {
            f.write_str(&list(&self.named))?;
        }
        if !self.left_out.is_empty() {
            write!(f, "; without {}", list(&self.left_out))?;
        }
        Ok(())
    }
}

/// A name, or its start followed by `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(String);

impl Pattern {
    fn new(text: &str) -> Result<Self, InvalidInterface> {
        let name = text.strip_suffix('*').unwrap_or(text);
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '*' | '!');
        if text.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(odd) {
            return Err(InvalidInterface);
        }
        Ok(Self(text.to_owned()))
    }

    fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == self.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Output of Linux 6.1.
    const NET_DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  123456     100    0    0    0     0          0         0   123456     100    0    0    0     0       0          0
  eth0: 18446744073709551615 5000    0    0    0     0          0         0  2000000    4000    0    0    0     0       0          0
";

    fn counted<'a>(asked_for: &[&str], counters: &'a Counters) -> Vec<&'a str> {
        let interfaces = Interfaces::new(asked_for).unwrap();
        counters.keys().map(String::as_str).filter(|n| interfaces.counts(n, counters)).collect()
    }

    fn counters(names: &[&str]) -> Counters {
        let bytes = Bytes { bytes_in: 1, bytes_out: 1 };
        names.iter().map(|&name| (name.to_owned(), bytes)).collect()
    }

    #[test]
    fn reads_bytes_in_and_out_exactly() {
        let counters = parse(NET_DEV).unwrap();
        assert_eq!(counters.len(), 2);
        assert_eq!(counters["eth0"], Bytes { bytes_in: u64::MAX, bytes_out: 2_000_000 });
        assert_eq!(counters["lo"], Bytes { bytes_in: 123_456, bytes_out: 123_456 });
    }

    #[test]
    fn reads_below_the_given_root() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(read(root.path()), Err(NetworkError::Read(_))));
        fs::create_dir(root.path().join("net")).unwrap();
        fs::write(root.path().join("net/dev"), NET_DEV).unwrap();
        assert_eq!(read(root.path()).unwrap().len(), 2);
    }

    #[test]
    fn a_short_line_is_an_error() {
        assert!(parse("\n |bytes\neth0: 1 2 3\n").is_err());
    }

    #[test]
    fn an_invalid_list_is_an_error_and_not_an_empty_one() {
        for text in ["", "\n", "garbage", "garbage\ngarbage\n", "a\nb\nc\n"] {
            assert!(matches!(parse(text), Err(NetworkError::Parse)), "{text:?}");
        }
        for line in ["eth0", "eth0:", "", "a: b"] {
            let text = format!("Inter-|\n face |bytes\n{line}\n");
            assert!(matches!(parse(&text), Err(NetworkError::Parse)), "{line:?}");
        }
    }

    #[test]
    fn an_interface_name_ends_at_the_last_colon() {
        for (line, name, bytes_in) in [
            ("eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "eth0", 1),
            ("eth0:1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "eth0:1", 1),
            ("eth0.100: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17", "eth0.100", 1),
        ] {
            let counters = parse(&format!("Inter-|\n face |bytes\n{line}\n")).unwrap();
            assert_eq!(counters[name], Bytes { bytes_in, bytes_out: 9 }, "{line}");
        }
    }

    #[test]
    fn by_default_only_eth0_counts() {
        assert_eq!(counted(&[], &counters(&["docker0", "eth0", "lo"])), ["eth0"]);
    }

    #[test]
    fn without_eth0_all_but_loopback_count() {
        assert_eq!(counted(&[], &counters(&["ens5", "lo", "wg0"])), ["ens5", "wg0"]);
    }

    #[test]
    fn named_interfaces_count_even_loopback() {
        let counters = counters(&["eth0", "lo", "wg0"]);
        assert_eq!(counted(&["lo", "wg0", "gone"], &counters), ["lo", "wg0"]);
    }

    #[test]
    fn an_excluded_interface_never_counts() {
        let machine = counters(&["docker0", "eth0", "lo", "veth1", "veth2"]);
        // The default applies to the remaining interfaces.
        assert_eq!(counted(&["!docker0"], &machine), ["eth0"]);
        assert_eq!(counted(&["!eth0"], &machine), ["docker0", "veth1", "veth2"]);
        assert_eq!(counted(&["!eth*", "!veth*"], &machine), ["docker0"]);
        assert!(counted(&["!*"], &machine).is_empty());
        assert_eq!(counted(&["!veth*"], &counters(&["ens5", "lo", "veth1"])), ["ens5"]);
        // Mixed, in any order.
        assert_eq!(counted(&["*", "!lo", "!veth1"], &machine), ["docker0", "eth0", "veth2"]);
        assert_eq!(counted(&["!veth2", "veth*"], &machine), ["veth1"]);
        assert!(counted(&["eth0", "!eth0"], &machine).is_empty());
    }

    #[test]
    fn named_interfaces_that_do_not_exist_are_missing() {
        let machine = counters(&["eth0", "lo"]);
        let missing = |names: &[&str]| -> Vec<String> {
            let interfaces = Interfaces::new(names).unwrap();
            interfaces.missing(&machine).map(str::to_owned).collect()
        };
        assert_eq!(missing(&["eth0", "wg0", "tun*", "eth*", "!gone"]), ["wg0", "tun*"]);
        assert!(missing(&[]).is_empty());
    }

    #[test]
    fn an_invalid_selection_is_an_error_that_names_the_flag() {
        for name in
            ["eth0", "!eth0", "eth0.100", "eth0:1", "a23456789012345", "a23456789012345*", "*"]
        {
            assert!(Interfaces::new(&[name]).is_ok(), "{name:?}");
        }
        for name in [
            "",
            "!",
            "!!a",
            "a b",
            " eth0",
            "a/b",
            "a23456789012346x",
            "a*b",
            "**",
            "a\n",
            "a\u{a0}",
        ] {
            let error = Interfaces::new(&["eth0", name]).unwrap_err().to_string();
            assert!(
                error.contains("--net-interface (KILOCLAW_NET_INTERFACE)"),
                "{name:?}: {error}"
            );
        }
    }

    #[test]
    fn a_selection_is_displayed_with_its_default() {
        let shown = |names: &[&str]| Interfaces::new(names).unwrap().to_string();
        assert_eq!(shown(&[]), "eth0 if there is one, else all but lo");
        assert_eq!(shown(&["wg0", "eth*"]), "wg0, eth*");
        assert_eq!(shown(&["!a", "!b*"]), "eth0 if there is one, else all but lo; without a, b*");
    }

    proptest! {
        #[test]
        fn reads_every_line_that_a_kernel_prints(
            name in "[!-.0-9;-~]{1,15}",
            counters: [u64; 16],
        ) {
            let counters = counters.map(|counter| counter.to_string());
            let line = format!("{name:>6}: {}", counters.join(" "));
            let parsed = parse(&format!("Inter-|\n face |bytes\n{line}\n")).unwrap();
            prop_assert_eq!(parsed[&name].bytes_in.to_string(), counters[0].as_str());
            prop_assert_eq!(parsed[&name].bytes_out.to_string(), counters[8].as_str());
        }

        #[test]
        fn an_excluded_name_never_counts(
            names in proptest::collection::vec("!?[a-c]{1,2}[*]?", 0..5),
            there in proptest::collection::btree_set("[a-c]{1,3}|eth0|lo", 0..6),
        ) {
            let there: Vec<_> = there.iter().map(String::as_str).collect();
            let counters = counters(&there);
            let interfaces = Interfaces::new(&names).unwrap();
            for name in there {
                if names.iter().any(|left_out| *left_out == format!("!{name}")) {
                    prop_assert!(!interfaces.counts(name, &counters));
                }
            }
        }

        #[test]
        fn never_panics(text: String) {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_lines_of_words(lines in "(([a-z0-9:]{1,8} ){0,20}\n){0,6}") {
            let _ = parse(&lines);
        }
    }
}
