//! Compiles the git commit into the program as `BUILD_COMMIT`: `unknown` outside a checkout.
//!
//! Shared by the Worker and the agent. `KILOCLAW_BUILD_COMMIT` overrides it, for builds from an
//! exported tree.

use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn main() {
    println!("cargo:rerun-if-env-changed=KILOCLAW_BUILD_COMMIT");
    // HEAD's reflog grows with every commit and checkout; HEAD alone only names a branch.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let commit = std::env::var_os("KILOCLAW_BUILD_COMMIT")
        .and_then(|value| value.into_string().ok())
        .filter(|value| !value.is_empty())
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=BUILD_COMMIT={commit}");
}
