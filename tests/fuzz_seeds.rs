//! The fuzzers' seeds, replayed without a fuzzer.

#![expect(
    clippy::panic,
    clippy::indexing_slicing,
    clippy::items_after_statements,
    clippy::cast_precision_loss,
    reason = "a panic is a finding; times are small"
)]

use std::fs;
use std::path::Path;

#[expect(unreachable_pub, reason = "public to the fuzzers")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

type Target = fn(&[u8]);

#[test]
fn what_must_hold_holds_for_every_seed_and_its_ruins() {
    let targets: [(&str, Target); 6] = [
        ("body", targets::body),
        ("credentials", targets::credentials),
        ("jwt", targets::jwt),
        ("jwks", targets::jwks),
        ("parameters", targets::parameters),
        ("answers", targets::answers),
    ];
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    assert_eq!(fs::read_dir(&seeds).unwrap().count(), targets.len(), "every target has seeds");
    for (name, target) in targets {
        for seed in fs::read_dir(seeds.join(name)).unwrap() {
            let seed = fs::read(seed.unwrap().path()).unwrap();
            target(&seed);
            // And cut off, and with a byte that does not belong there.
            for at in (0..seed.len()).step_by(seed.len() / 50 + 1) {
                target(&seed[..at]);
                let mut ruin = seed.clone();
                ruin[at] ^= 0x15;
                target(&ruin);
            }
        }
    }
}
