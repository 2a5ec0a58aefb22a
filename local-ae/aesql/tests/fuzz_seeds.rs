//! The fuzzers' seeds, replayed without a fuzzer.

use std::fs;
use std::path::Path;

#[expect(unreachable_pub, reason = "public to the fuzzers")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

type Target = fn(&[u8]);

#[test]
fn what_must_hold_holds_for_every_seed_and_its_ruins() {
    let targets: [(&str, Target); 3] = [
        ("parse", targets::parse),
        ("evaluate", targets::evaluate),
        ("generate", targets::generate),
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
