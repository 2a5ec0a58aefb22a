//! The readings of whole machines, and the version's cache.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiloclaw_agent::collect::network::{Bytes, Counters, Interfaces};
use kiloclaw_agent::collect::process::{ProcessHealth, ProcessStatus};
use kiloclaw_agent::collect::status_url::StatusSource;
use kiloclaw_agent::collect::systemd::Unit;
use kiloclaw_agent::collect::{Collector, Readings, Source, Sources};
use kiloclaw_agent::http::Client;
use kiloclaw_agent::process::children::Children;
use kiloclaw_agent::secret::Redactor;
use ureq::tls::RootCerts;

const BOOT: &str = "boot:192c5281-bf1e-4712-86d7-3448f8fb3f2d";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn sources(tree: &str, process: Source) -> Sources {
    Sources {
        proc_root: fixture("proc").join(tree),
        disk_path: None,
        openclaw_command: fixture("openclaw").into(),
        process,
    }
}

fn collector(tree: &str, process: Source) -> Collector {
    Collector::new(sources(tree, process), Children::default())
}

/// Returns the readings and the warnings.
fn collect(
    collector: &mut Collector,
    process: Option<ProcessStatus>,
    now: Instant,
    deadline: Option<Instant>,
) -> (Readings, Vec<String>) {
    let client = Client::new(Duration::from_secs(30), RootCerts::WebPki, None);
    let mut warnings = Vec::new();
    let mut warn = |text: &str| warnings.push(text.to_owned());
    let readings = collector.collect(&client, process, now, deadline, &mut warn);
    (readings, warnings)
}

/// The total bytes of the counted interfaces.
fn sum(counters: &Counters, names: &[&str]) -> (u128, u128) {
    let interfaces = Interfaces::new(names).unwrap();
    counters.iter().filter(|(name, _)| interfaces.counts(name, counters)).fold(
        (0, 0),
        |(bytes_in, bytes_out), (_, bytes)| {
            (bytes_in + u128::from(bytes.bytes_in), bytes_out + u128::from(bytes.bytes_out))
        },
    )
}

/// The expected readings of a fixture.
struct Machine {
    tree: &'static str,
    /// Number of interfaces, and the total bytes of those that count by default.
    network: Option<(usize, (u128, u128))>,
    load: Option<f64>,
    boot: Option<String>,
}

#[test]
fn each_reading_of_a_machine_fails_alone() {
    let namespace = "net:4026531840";
    let max = u128::from(u64::MAX);
    let machines = [
        Machine {
            tree: "fly",
            network: Some((3, (2_386_192_093, 4_007_198))),
            load: Some(0.07),
            boot: Some(format!("{BOOT} {namespace}")),
        },
        Machine {
            tree: "no-eth0",
            network: Some((3, (1_030, 2_040))),
            load: Some(789.01),
            boot: Some(BOOT.to_owned()),
        },
        Machine {
            tree: "veths",
            network: Some((33, (1_031_135, 2_061_235))),
            load: Some(0.07),
            boot: Some(namespace.to_owned()),
        },
        Machine {
            tree: "wrapped",
            network: Some((2, (max, max - 1))),
            load: Some(0.07),
            boot: None,
        },
        Machine {
            tree: "wrapped-32-bit",
            network: Some((2, (4_294_967_295, 4_294_967_294))),
            load: Some(0.07),
            boot: None,
        },
        Machine { tree: "odd-names", network: Some((6, (10, 20))), load: Some(0.07), boot: None },
        Machine { tree: "missing", network: None, load: None, boot: Some(namespace.to_owned()) },
        Machine { tree: "cut-short", network: None, load: None, boot: None },
        Machine { tree: "garbage", network: None, load: None, boot: None },
        Machine { tree: "not-there-at-all", network: None, load: None, boot: None },
    ];
    for Machine { tree, network, load, boot } in &machines {
        let (readings, warnings) =
            collect(&mut collector(tree, Source::None), None, Instant::now(), None);
        let network_seen =
            readings.network.as_ref().map(|counters| (counters.len(), sum(counters, &[])));
        assert_eq!(network_seen, *network, "{tree}");
        assert_eq!(readings.load_avg_5m, *load, "{tree}");
        assert_eq!(readings.boot, *boot, "{tree}");
        assert_eq!(readings.openclaw.unwrap().version, "2026.3.13", "{tree}");
        assert_eq!(readings.process, ProcessHealth::NotWatched, "{tree}");
        let failed = usize::from(network.is_none()) + usize::from(load.is_none());
        assert_eq!(warnings.len(), failed, "{tree}: {warnings:?}");
    }
    let trees: Vec<_> = fs::read_dir(fixture("proc")).unwrap().map(|t| t.unwrap()).collect();
    for tree in trees {
        let tree = tree.file_name();
        assert!(machines.iter().any(|machine| *machine.tree == *tree), "{tree:?} is not tested");
    }
}

#[test]
fn unusual_interface_names_are_parsed() {
    let network = |tree| {
        let mut collector = collector(tree, Source::None);
        collect(&mut collector, None, Instant::now(), None).0.network.unwrap()
    };
    let bytes = |bytes_in, bytes_out| Bytes { bytes_in, bytes_out };
    let expected = [
        ("lo", bytes(1, 1)),
        ("eth0", bytes(10, 20)),
        ("eth0:1", bytes(11, 21)),
        ("eth0.100", bytes(12, 22)),
        ("wlx00c0ca123456", bytes(13, 23)),
        ("caf\u{fffd}", bytes(14, 24)), // no UTF-8, which the kernel allows
    ];
    let expected: BTreeMap<_, _> =
        expected.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    assert_eq!(network("odd-names"), expected);

    let veths = network("veths");
    assert_eq!(sum(&veths, &["!veth*", "!docker0"]), (1_000_000, 2_000_000));
    assert_eq!(sum(&veths, &["veth*"]), (30_435, 60_435));
    // Sums are exact beyond 64 bits.
    let both = 2 * u128::from(u64::MAX);
    assert_eq!(sum(&network("wrapped"), &["*"]), (both, both - 1));
}

#[test]
fn a_unit_is_reported_as_systemd_sees_it() {
    for (unit, state, pid, restarts, last_exit) in [
        ("running", "running", Some(812), 2, None),
        ("restarting", "crashed", None, 2, Some("code:3")),
        ("failed", "crashed", None, 5, Some("signal:SIGKILL")),
        ("stopped", "stopped", None, 0, Some("code:0")),
        ("never-started", "stopped", None, 0, Some("")),
        ("file-gone", "running", Some(812), 2, None),
        ("forking", "running", None, 2, None),
        ("openclaw-gateway", "running", Some(813), 0, Some("")), // a unit of `systemctl --user`
    ] {
        let source =
            Source::SystemdUnit(Unit::new(unit).unwrap().with_systemctl(fixture("systemctl")));
        let (readings, warnings) =
            collect(&mut collector("fly", source), None, Instant::now(), None);
        let ProcessHealth::Known(status) = readings.process else { panic!("{unit}: {warnings:?}") };
        assert_eq!(status.state, state, "{unit}");
        assert_eq!(status.pid, pid, "{unit}");
        assert_eq!(status.restarts, restarts, "{unit}");
        assert_eq!(status.last_exit_reason.as_deref(), last_exit, "{unit}");
        assert_eq!(status.uptime_seconds > 0.0, state == "running", "{unit}");
        assert!(warnings.is_empty(), "{unit}: {warnings:?}");
    }
}

#[test]
fn an_unreadable_unit_is_unknown_with_a_reason() {
    let reasons = [
        ("absent", "systemd knows no unit absent; that of a user (`systemctl --user`)"),
        ("some.target", "systemd reports no valid MainPID: is it a service?"),
        ("no-bus", "failed: exit status: 1: Failed to connect to bus: Host is down"),
    ];
    for (unit, reason) in reasons {
        let source =
            Source::SystemdUnit(Unit::new(unit).unwrap().with_systemctl(fixture("systemctl")));
        let (readings, warnings) =
            collect(&mut collector("fly", source), None, Instant::now(), None);
        assert_eq!(readings.process, ProcessHealth::Unknown);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("reporting `unknown`"), "{warnings:?}");
        assert!(warnings[0].contains(reason), "{warnings:?}");
    }
    let source = Unit::new("a").unwrap().with_systemctl("/does/not/exist");
    let mut collector = collector("fly", Source::SystemdUnit(source));
    let (readings, warnings) = collect(&mut collector, None, Instant::now(), None);
    assert_eq!(readings.process, ProcessHealth::Unknown);
    assert!(warnings[0].contains("`systemctl show` could not be run"), "{warnings:?}");
}

fn supervised(restarts: u64, uptime_seconds: f64) -> ProcessStatus {
    let state = "running".to_owned();
    ProcessStatus { state, pid: Some(7), restarts, uptime_seconds, ..ProcessStatus::default() }
}

#[test]
fn the_version_is_cached_until_a_restart_or_for_six_hours() {
    let directory = tempfile::tempdir().unwrap();
    let openclaw = directory.path().join("openclaw");
    symlink(fixture("openclaw-counted"), &openclaw).unwrap();
    let runs = || fs::read(openclaw.with_extension("runs")).map_or(0, |lines| lines.len());
    let sources =
        Sources { openclaw_command: openclaw.clone().into(), ..sources("fly", Source::None) };
    let mut collector = Collector::new(sources, Children::default());

    let start = Instant::now();
    let mut collect = |process, at: Duration, expected_runs| {
        let (readings, warnings) = collect(&mut collector, Some(process), start + at, None);
        assert_eq!(readings.openclaw.unwrap().version, "2026.3.13", "{warnings:?}");
        assert_eq!(runs(), expected_runs, "after {at:?}");
    };
    collect(supervised(0, 1.0), Duration::ZERO, 1);
    collect(supervised(0, 301.0), Duration::from_mins(5), 1);
    collect(supervised(1, 10.0), Duration::from_mins(10), 2);
    collect(supervised(1, 310.0), Duration::from_mins(15), 2);
    collect(supervised(1, 21_610.0), Duration::from_mins(370), 3);
}

#[test]
fn a_failing_version_command_runs_again_after_a_backoff_or_when_it_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let openclaw = directory.path().join("openclaw");
    symlink(fixture("openclaw-failing"), &openclaw).unwrap();
    let runs = || fs::read(openclaw.with_extension("runs")).map_or(0, |lines| lines.len());
    let sources =
        Sources { openclaw_command: openclaw.clone().into(), ..sources("fly", Source::None) };
    let mut collector = Collector::new(sources, Children::default());
    let start = Instant::now();
    for (minutes, expected_runs) in [(0, 1), (5, 1), (10, 2), (25, 2), (30, 3)] {
        let now = start + Duration::from_mins(minutes);
        let (readings, warnings) = collect(&mut collector, Some(supervised(0, 1.0)), now, None);
        assert_eq!(readings.openclaw, None);
        assert_eq!(runs(), expected_runs, "after {minutes} minutes: {warnings:?}");
        if minutes == 0 {
            assert!(warnings[0].contains("Error: no such module; run it by hand"), "{warnings:?}");
        }
    }
    fs::remove_file(&openclaw).unwrap();
    symlink(fixture("openclaw-counted"), &openclaw).unwrap();
    let now = start + Duration::from_mins(31);
    let (readings, warnings) = collect(&mut collector, Some(supervised(0, 1.0)), now, None);
    assert_eq!(readings.openclaw.unwrap().version, "2026.3.13", "{warnings:?}");
}

#[test]
fn no_reading_waits_beyond_the_deadline() {
    // Accepts connections but never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let source = StatusSource {
        url,
        authorization: Some("Bearer token".parse().unwrap()),
        redactor: Redactor::default(),
    };
    let started = Instant::now();
    let deadline = started + Duration::from_millis(300);
    let (readings, warnings) =
        collect(&mut collector("fly", Source::StatusUrl(source)), None, started, Some(deadline));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(readings.process, ProcessHealth::Unknown);
    assert_eq!(readings.openclaw, None);
    // A skipped version causes no warning.
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("no answer within 0."), "{warnings:?}");
    // Fast readings are taken.
    assert!(readings.network.is_some() && readings.load_avg_5m.is_some());
}

#[test]
fn a_passed_deadline_queries_nothing_but_keeps_cached_readings() {
    let mut known = collector("fly", Source::None);
    let now = Instant::now();
    assert!(collect(&mut known, Some(supervised(0, 1.0)), now, None).0.openclaw.is_some());
    let (readings, warnings) = collect(&mut known, Some(supervised(0, 2.0)), now, Some(now));
    assert!(readings.openclaw.is_some() && warnings.is_empty(), "{warnings:?}");

    let unit = Unit::new("running").unwrap().with_systemctl(fixture("systemctl"));
    let mut unit = collector("fly", Source::SystemdUnit(unit));
    let (readings, warnings) = collect(&mut unit, None, now, Some(now));
    assert_eq!(readings.process, ProcessHealth::Unknown);
    assert!(warnings[0].ends_with("there is no time to ask"), "{warnings:?}");
}

#[test]
fn the_disk_is_read_where_a_path_is_set_and_a_failure_costs_nothing_else() {
    let with = |path: Option<&str>| {
        let disk_path = path.map(Into::into);
        let sources = Sources { disk_path, ..sources("fly", Source::None) };
        let mut collector = Collector::new(sources, Children::default());
        collect(&mut collector, None, Instant::now(), None)
    };
    let (readings, warnings) = with(None);
    assert_eq!((readings.disk, warnings.len()), (None, 0));
    let (readings, warnings) = with(Some("/"));
    let disk = readings.disk.unwrap();
    assert!(
        disk.used <= disk.total && disk.total > 0 && warnings.is_empty(),
        "{disk:?} {warnings:?}"
    );
    let (readings, warnings) = with(Some("/nowhere"));
    assert_eq!(readings.disk, None);
    assert!(readings.load_avg_5m.is_some() && readings.network.is_some());
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("cannot read the disk of /nowhere: "), "{warnings:?}");
}
