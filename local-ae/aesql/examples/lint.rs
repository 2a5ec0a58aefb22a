//! Lints SQL in a program's source: reports what Analytics Engine would refuse, and what to write instead.
//!
//! `cargo run --example lint`

use aesql::{Kind, Limits, lint};

const QUERIES: &str = "
SELECT blob1 AS page, uniq(index1) AS visitors FROM visits GROUP BY page;
SELECT blob1 AS page FROM visits ORDER BY timestamp;
SELECT blob1 AS page, count() AS visits FROM visits GROUP BY page";

fn main() {
    let findings = lint(QUERIES, &Limits::default());
    for finding in &findings {
        print!("{}", finding.report("QUERIES"));
    }
    let warnings = findings.iter().filter(|finding| finding.kind == Kind::Warning).count();
    println!("{} errors, {warnings} warnings", findings.len() - warnings);
}
