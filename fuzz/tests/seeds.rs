//! Replays the seeds of every fuzz target, without a fuzzer.

use std::fs;
use std::path::Path;

use kiloclaw_fuzz::{agent, sql};

type Target = fn(&[u8]);

#[test]
fn properties_hold_for_every_seed_and_its_damaged_copies() {
    let targets: [(&str, Target); 14] = [
        ("answers", kiloclaw_fuzz::answers),
        ("body", kiloclaw_fuzz::body),
        ("credentials", kiloclaw_fuzz::credentials),
        ("jwks", kiloclaw_fuzz::jwks),
        ("jwt", kiloclaw_fuzz::jwt),
        ("loadavg", agent::loadavg),
        ("net_dev", agent::net_dev),
        ("openclaw_version", agent::openclaw_version),
        ("parameters", kiloclaw_fuzz::parameters),
        ("sql_evaluate", sql::evaluate),
        ("sql_generate", sql::generate),
        ("sql_parse", sql::parse),
        ("status_json", agent::status_json),
        ("systemctl_show", agent::systemctl_show),
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["seeds", "fuzz_targets"] {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        assert_eq!(entries.count(), targets.len(), "{folder}");
    }
    for (name, target) in targets {
        for seed in fs::read_dir(root.join("seeds").join(name)).unwrap() {
            let seed = fs::read(seed.unwrap().path()).unwrap();
            target(&seed);
            // Truncated, and with one damaged byte.
            for at in 0..seed.len() {
                target(&seed[..at]);
                let mut damaged = seed.clone();
                damaged[at] ^= 0x15;
                target(&damaged);
            }
        }
    }
}
