//! Restarts and bytes that no accepted check-in has reported yet.
//!
//! Counters start at zero with a machine, an interface or a supervisor. The contract requires deltas since the last
//! accepted check-in. So each reading adds the counters' progress since the previous reading to the unreported deltas,
//! and an accepted check-in subtracts the reported ones. After a failure, the next check-in includes the deltas, even
//! if a counter was reset in between.
//!
//! Only the server's 204 subtracts them. If that response is lost, the next check-in reports the same deltas again. The
//! alternative would lose them; a double report is visible, a loss is not.

use serde::{Deserialize, Serialize};

use crate::collect::Readings;
use crate::collect::network::{Bytes, Counters, Interfaces};

/// Maximum number of remembered interfaces; beyond it, the ledger forgets vanished interfaces. On a container host,
/// each new container's interface has a new name.
const MAX_INTERFACES: usize = 256;

/// Unreported deltas, and the last seen counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    // The field names of earlier versions' state files: with other names, an upgrade would lose unreported counters.
    #[serde(rename = "owed")]
    unreported: Unreported,
    /// `None` before the first successful reading.
    seen_restarts: Option<u64>,
    /// All interfaces, since the selection may change, and vanished ones, since they may return. `None` before the
    /// first successful reading.
    seen_network: Option<Counters>,
    /// The [boot](crate::collect::boot) that the counters belong to, if known.
    #[serde(rename = "epoch")]
    boot: Option<String>,
}

/// Deltas since the last accepted check-in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unreported {
    pub restarts: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Ledger {
    /// Adds the progress since the last readings. The progress during a failed reading is added by the next one. The
    /// first readings are the baseline and add nothing.
    pub fn observe(&mut self, readings: &Readings, interfaces: &Interfaces) {
        if let (Some(before), Some(now)) = (&self.boot, &readings.boot)
            && before != now
        {
            // The counters started at zero, even if they are already higher than before.
            self.seen_network = self.seen_network.as_ref().map(|_| Counters::new());
            self.seen_restarts = self.seen_restarts.map(|_| 0);
        }
        if readings.boot.is_some() {
            self.boot.clone_from(&readings.boot);
        }
        if let Some(restarts) = readings.restarts {
            let more = self.seen_restarts.map_or(0, |seen| since(seen, restarts));
            self.unreported.restarts = self.unreported.restarts.saturating_add(more);
            self.seen_restarts = Some(restarts);
        }
        let Some(counters) = &readings.network else { return };
        let Some(seen) = &mut self.seen_network else {
            self.seen_network = Some(counters.clone());
            return;
        };
        for (name, now) in counters {
            // An interface that is new since the last reading counts from zero.
            let before = seen.get(name).copied().unwrap_or_default();
            let (more_in, bytes_in) = byte_progress(before.bytes_in, now.bytes_in);
            let (more_out, bytes_out) = byte_progress(before.bytes_out, now.bytes_out);
            if interfaces.counts(name, counters) {
                self.unreported.bytes_in = self.unreported.bytes_in.saturating_add(more_in);
                self.unreported.bytes_out = self.unreported.bytes_out.saturating_add(more_out);
            }
            seen.insert(name.clone(), Bytes { bytes_in, bytes_out });
        }
        if seen.len() > MAX_INTERFACES {
            seen.retain(|name, _| counters.contains_key(name));
        }
    }

    #[must_use]
    pub fn unreported(&self) -> Unreported {
        self.unreported
    }

    /// Subtracts what an accepted check-in reported.
    pub fn settle(&mut self, reported: Unreported) {
        self.unreported.restarts = self.unreported.restarts.saturating_sub(reported.restarts);
        self.unreported.bytes_in = self.unreported.bytes_in.saturating_sub(reported.bytes_in);
        self.unreported.bytes_out = self.unreported.bytes_out.saturating_sub(reported.bytes_out);
    }

    /// The last known number of restarts in this boot.
    #[must_use]
    pub fn restarts_seen_in(&self, boot: Option<&str>) -> u64 {
        match (self.boot.as_deref(), boot) {
            (Some(before), Some(now)) if before != now => 0,
            _ => self.seen_restarts.unwrap_or_default(),
        }
    }
}

/// The progress of a byte counter, and its new baseline.
///
/// A counter that fell by at most a tenth has a dip, as some drivers and hypervisors cause; counting from zero would
/// report all its bytes again. It continues from the higher value. Any other counter that fell was reset and counts
/// from zero.
fn byte_progress(before: u64, now: u64) -> (u64, u64) {
    match before.checked_sub(now) {
        Some(back) if back > 0 && back <= before / 10 => (0, before),
        _ => (since(before, now), now),
    }
}

/// The progress of a counter. A counter that fell was reset and counts from zero.
fn since(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::collect::process::ProcessHealth;

    fn counters<const N: usize>(interfaces: [(&str, u64, u64); N]) -> Counters {
        interfaces
            .map(|(name, bytes_in, bytes_out)| (name.to_owned(), Bytes { bytes_in, bytes_out }))
            .into()
    }

    fn readings(network: Option<Counters>, restarts: Option<u64>) -> Readings {
        Readings {
            load_avg_5m: None,
            disk: None,
            network,
            openclaw: None,
            process: ProcessHealth::Unknown,
            restarts,
            boot: None,
        }
    }

    fn eth0(bytes_in: u64, bytes_out: u64, restarts: u64) -> Readings {
        readings(Some(counters([("eth0", bytes_in, bytes_out)])), Some(restarts))
    }

    fn at(boot: &str, readings: Readings) -> Readings {
        Readings { boot: Some(boot.to_owned()), ..readings }
    }

    fn observe(ledger: &mut Ledger, readings: &Readings) -> (u64, u64, u64) {
        ledger.observe(readings, &Interfaces::default());
        let Unreported { restarts, bytes_in, bytes_out } = ledger.unreported();
        (restarts, bytes_in, bytes_out)
    }

    #[test]
    fn the_first_readings_report_nothing() {
        assert_eq!(observe(&mut Ledger::default(), &eth0(1_000, 2_000, 7)), (0, 0, 0));
    }

    #[test]
    fn deltas_are_exact_where_doubles_are_not() {
        let mut ledger = Ledger::default();
        observe(&mut ledger, &eth0(u64::MAX - 1, 1 << 53, 0));
        assert_eq!(observe(&mut ledger, &eth0(u64::MAX, (1 << 53) + 1, 0)), (0, 1, 1));
    }

    #[test]
    fn unreported_counts_accumulate_until_settled() {
        let mut ledger = Ledger::default();
        observe(&mut ledger, &eth0(100, 100, 1));
        assert_eq!(observe(&mut ledger, &eth0(150, 101, 2)), (1, 50, 1));
        let reported = ledger.unreported();
        assert_eq!(observe(&mut ledger, &eth0(175, 101, 4)), (3, 75, 1));
        ledger.settle(reported);
        assert_eq!(ledger.unreported(), Unreported { restarts: 2, bytes_in: 25, bytes_out: 0 });
        ledger.settle(ledger.unreported());
        assert_eq!(ledger.unreported(), Unreported::default());
        assert_eq!(observe(&mut ledger, &eth0(175, 101, 4)), (0, 0, 0));
    }

    #[test]
    fn a_reset_counter_counts_from_zero_and_loses_nothing() {
        let mut ledger = Ledger::default();
        observe(&mut ledger, &eth0(1_000, 10, 5));
        observe(&mut ledger, &eth0(5_000, 20, 8));
        // 4,000, 10 and 3 were unreported when the counters were reset.
        assert_eq!(observe(&mut ledger, &eth0(7, 30, 2)), (5, 4_007, 20));
    }

    #[test]
    fn a_counter_that_dips_continues_from_its_maximum() {
        let gigabytes = 5_000_000_000;
        let mut ledger = Ledger::default();
        observe(&mut ledger, &eth0(gigabytes, gigabytes, 0));
        assert_eq!(observe(&mut ledger, &eth0(gigabytes - 4_096, gigabytes + 1, 0)), (0, 0, 1));
        assert_eq!(observe(&mut ledger, &eth0(gigabytes - 1, gigabytes + 2, 0)), (0, 0, 2));
        assert_eq!(observe(&mut ledger, &eth0(gigabytes + 7, gigabytes + 2, 0)), (0, 7, 2));
        // After a reboot, a counter near the old one still started at zero.
        let (old, new) = (eth0(gigabytes, 0, 0), eth0(gigabytes - 1, 0, 0));
        let mut ledger = Ledger::default();
        observe(&mut ledger, &at("boot 1", old));
        assert_eq!(observe(&mut ledger, &at("boot 2", new)), (0, gigabytes - 1, 0));
    }

    #[test]
    fn an_interface_that_returns_adds_only_new_bytes() {
        let gigabytes = 5_000_000_000;
        let machine = |wg0: Option<u64>| {
            let mut counters = counters([("ens5", 1, 1)]);
            counters.extend(wg0.map(|n| ("wg0".to_owned(), Bytes { bytes_in: n, bytes_out: 0 })));
            readings(Some(counters), None)
        };
        let mut ledger = Ledger::default();
        observe(&mut ledger, &machine(Some(gigabytes)));
        assert_eq!(observe(&mut ledger, &machine(None)), (0, 0, 0));
        assert_eq!(observe(&mut ledger, &machine(Some(gigabytes + 3))), (0, 3, 0));
        // A recreated interface counts from zero.
        observe(&mut ledger, &machine(None));
        assert_eq!(observe(&mut ledger, &machine(Some(40))), (0, 43, 0));
    }

    #[test]
    fn the_number_of_remembered_interfaces_is_bounded() {
        let mut ledger = Ledger::default();
        for n in 0..10_000 {
            let name = format!("veth{n}");
            let there = [("eth0".to_owned(), 100), (name, 7)]
                .map(|(name, bytes_in)| (name, Bytes { bytes_in, bytes_out: 0 }));
            observe(&mut ledger, &readings(Some(there.into()), None));
            assert!(ledger.seen_network.as_ref().unwrap().len() <= MAX_INTERFACES);
        }
        assert_eq!(ledger.unreported(), Unreported::default());
    }

    #[test]
    fn after_a_reboot_counters_count_from_zero_even_if_they_are_higher() {
        let mut ledger = Ledger::default();
        observe(&mut ledger, &at("boot 1", eth0(1_000, 10, 5)));
        assert_eq!(observe(&mut ledger, &at("boot 2", eth0(1_500, 11, 6))), (6, 1_500, 11));
        // With the same boot id or none, counters continue.
        assert_eq!(observe(&mut ledger, &at("boot 2", eth0(1_501, 11, 6))), (6, 1_501, 11));
        assert_eq!(observe(&mut ledger, &eth0(1_502, 11, 6)), (6, 1_502, 11));
        assert_eq!(observe(&mut ledger, &at("boot 2", eth0(1_503, 11, 6))), (6, 1_503, 11));
    }

    #[test]
    fn a_reboot_before_the_first_reading_reports_nothing() {
        let mut ledger = Ledger::default();
        observe(&mut ledger, &at("boot 1", readings(None, None)));
        assert_eq!(observe(&mut ledger, &at("boot 2", eth0(1_000, 10, 5))), (0, 0, 0));
    }

    #[test]
    fn a_supervisor_continues_the_restart_count_of_the_same_boot() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.restarts_seen_in(None), 0);
        observe(&mut ledger, &at("boot 1", eth0(0, 0, 5)));
        assert_eq!(ledger.restarts_seen_in(Some("boot 1")), 5);
        assert_eq!(ledger.restarts_seen_in(None), 5);
        assert_eq!(ledger.restarts_seen_in(Some("boot 2")), 0);
    }

    #[test]
    fn the_reading_after_a_failed_one_includes_its_delta() {
        let mut ledger = Ledger::default();
        observe(&mut ledger, &eth0(100, 100, 1));
        assert_eq!(observe(&mut ledger, &readings(None, None)), (0, 0, 0));
        assert_eq!(observe(&mut ledger, &readings(None, Some(3))), (2, 0, 0));
        assert_eq!(observe(&mut ledger, &eth0(200, 100, 3)), (2, 100, 0));
    }

    #[test]
    fn added_and_removed_interfaces_do_not_affect_others() {
        let mut ledger = Ledger::default();
        let before = counters([("ens5", 100, 100), ("lo", 5, 5), ("wg0", 900, 900)]);
        let now = counters([("ens5", 110, 101), ("lo", 50, 50), ("tun0", 3, 4)]);
        observe(&mut ledger, &readings(Some(before), None));
        assert_eq!(observe(&mut ledger, &readings(Some(now), None)), (0, 13, 5));
    }

    #[test]
    fn a_changed_interface_selection_uses_its_own_baselines() {
        let mut ledger = Ledger::default();
        let before = counters([("eth0", 100, 100), ("wg0", 900, 900)]);
        observe(&mut ledger, &readings(Some(before), None));
        let now = counters([("eth0", 200, 200), ("wg0", 901, 902)]);
        let wg0 = Interfaces::new(&["wg0".to_owned()]).unwrap();
        ledger.observe(&readings(Some(now), None), &wg0);
        assert_eq!(ledger.unreported(), Unreported { restarts: 0, bytes_in: 1, bytes_out: 2 });
    }

    #[test]
    fn extreme_counters_do_not_overflow() {
        let mut ledger = Ledger::default();
        observe(&mut ledger, &readings(Some(Counters::new()), Some(0)));
        let full = counters([("a", u64::MAX, 0), ("b", u64::MAX, 0)]);
        assert_eq!(observe(&mut ledger, &readings(Some(full), Some(u64::MAX))).1, u64::MAX);
        observe(&mut ledger, &eth0(1, 1, u64::MAX - 1));
    }

    proptest! {
        /// However often counters dip and interfaces come and go, the reported bytes are exactly the increase
        /// to the highest counter.
        #[test]
        fn within_one_boot_dips_add_no_bytes(
            start in 1_000_000_u64..1 << 50,
            steps in proptest::collection::vec(
                (0_u64..1_000_000, 0_u64..10_000, any::<bool>(), any::<bool>()),
                1..60,
            ),
        ) {
            let mut ledger = Ledger::default();
            let at_boot = |network| at("boot 1", readings(Some(network), None));
            observe(&mut ledger, &at_boot(counters([("eth0", start, start)])));
            let (mut counter, mut seen) = (start, start);
            for (more, dip, dips, gone) in steps {
                counter += more;
                let shown = if dips { counter - dip } else { counter };
                let network = if gone {
                    Counters::new()
                } else {
                    seen = seen.max(shown);
                    counters([("eth0", shown, shown)])
                };
                observe(&mut ledger, &at_boot(network));
                prop_assert_eq!(ledger.unreported().bytes_in, seen - start);
                prop_assert_eq!(ledger.unreported().bytes_out, seen - start);
            }
        }

        /// Whatever is accepted, refused or reset, the reported and the unreported counts add up to the events.
        #[test]
        fn every_count_is_reported_exactly_once(
            steps in proptest::collection::vec(
                (0_u64..1_000, 0_u64..1_000, 0_u64..10, any::<bool>(), any::<bool>()),
                0..50,
            ),
        ) {
            let mut ledger = Ledger::default();
            let mut counter = eth0(17, 4, 2);
            observe(&mut ledger, &counter);
            let (mut happened, mut reported) = (Unreported::default(), Unreported::default());
            let (mut bytes_in, mut bytes_out, mut restarts) = (17, 4, 2);
            for (more_in, more_out, more_restarts, reset, accepted) in steps {
                if reset {
                    // Observed at zero, since only a counter below its last value shows a reset.
                    (bytes_in, bytes_out, restarts) = (0, 0, 0);
                    observe(&mut ledger, &eth0(0, 0, 0));
                }
                bytes_in += more_in;
                bytes_out += more_out;
                restarts += more_restarts;
                happened.bytes_in += more_in;
                happened.bytes_out += more_out;
                happened.restarts += more_restarts;
                counter = eth0(bytes_in, bytes_out, restarts);
                observe(&mut ledger, &counter);
                if accepted {
                    let unreported = ledger.unreported();
                    ledger.settle(unreported);
                    reported.bytes_in += unreported.bytes_in;
                    reported.bytes_out += unreported.bytes_out;
                    reported.restarts += unreported.restarts;
                }
            }
            let unreported = ledger.unreported();
            prop_assert_eq!(reported.bytes_in + unreported.bytes_in, happened.bytes_in);
            prop_assert_eq!(reported.bytes_out + unreported.bytes_out, happened.bytes_out);
            prop_assert_eq!(reported.restarts + unreported.restarts, happened.restarts);
        }
    }
}
