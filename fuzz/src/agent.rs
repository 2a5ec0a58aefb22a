//! The agent's parsers: the contract accepts every value that they accept.

use std::fmt::Write;

use kiloclaw_agent::collect::network::{Bytes, Interfaces};
use kiloclaw_agent::collect::status_url::StatusResponse;
use kiloclaw_agent::collect::{load, network, openclaw, status_url, systemd};
use kiloclaw_agent::secret::Redactor;
use kiloclaw_check_in::limits::MAX_STRING_BYTES;

/// `/proc/loadavg`: the contract accepts the load.
pub fn loadavg(data: &[u8]) {
    if let Ok(load) = load::parse(&String::from_utf8_lossy(data)) {
        assert!(load.is_finite() && load >= 0.0);
    }
}

/// `/proc/net/dev`: counters survive a round trip through the kernel's format.
pub fn net_dev(data: &[u8]) {
    let Ok(counters) = network::parse(&String::from_utf8_lossy(data)) else { return };
    let mut text = "Inter-|\n face |bytes\n".to_owned();
    for (name, Bytes { bytes_in, bytes_out }) in &counters {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:>6}: {bytes_in:>7} 0 0 0 0 0 0 0 {bytes_out} 0 0 0 0 0 0 0");
        // Any interface name can be selected.
        let _ = Interfaces::default().counts(name, &counters);
        if let Ok(choice) = Interfaces::new(&[name]) {
            assert!(choice.counts(name, &counters) || name.starts_with('!'));
        }
    }
    assert_eq!(network::parse(&text).ok(), Some(counters));
}

/// `openclaw --version`: version and commit are ASCII, and the contract accepts them.
pub fn openclaw_version(data: &[u8]) {
    if let Some(probed) = openclaw::parse(&String::from_utf8_lossy(data)) {
        for text in [Some(probed.version), probed.commit].into_iter().flatten() {
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            assert!((1..=MAX_STRING_BYTES).contains(&text.len()));
        }
    }
}

/// A controller's status: state and exit reason are plain ASCII, and the contract accepts them.
pub fn status_json(data: &[u8]) {
    if let Ok(StatusResponse { status, .. }) = status_url::parse(data, &Redactor::default()) {
        assert!(status.uptime_seconds.is_finite() && status.uptime_seconds >= 0.0);
        assert!(!status.state.is_empty());
        for text in [status.state, status.last_exit_reason.unwrap_or_default()] {
            assert!(text.len() <= MAX_STRING_BYTES && !text.contains(['\n', '\u{1b}']));
            assert!(text.is_ascii());
        }
    }
}

/// `systemctl show`: states and exit reasons are the contract's.
pub fn systemctl_show(data: &[u8]) {
    if let Ok(Some(service)) = systemd::parse(&String::from_utf8_lossy(data)) {
        let states = ["stopped", "starting", "running", "stopping", "crashed"];
        assert!(states.contains(&service.state));
        assert!(service.pid != Some(0));
        if let Some(reason) = service.exit_reason {
            assert!(reason.starts_with("code:") || reason.starts_with("signal:"));
        }
    }
}
