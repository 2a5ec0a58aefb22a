//! The command line: output and exit codes.

#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]
#![cfg(feature = "cli")]

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs the program. Returns the exit code, standard output and standard error.
fn aesql(args: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_aesql"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Ignores the result: the write fails if the program exits before it reads its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let out = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

#[test]
fn check_prints_location_reason_and_help() {
    let sql =
        "SELECT 1;\nSELECT DISTINCT blob1 FROM t;\n-- fine; really\nSELECT\n  uniq(blob1) FROM t";
    let (code, out, _) = aesql(&["check", "-"], sql);
    assert_eq!(code, 1);
    assert_eq!(
        out,
        "-:2:1: error: selection used unsupported features: SELECT DISTINCT\n  help: write SELECT x … GROUP BY x\n\
         -:5:3: error: unknown function call: UNIQ\n  help: write count(DISTINCT x)\n"
    );
    assert_eq!(
        aesql(&["check", "-"], "SELECT count() FROM t; -- ok"),
        (0, String::new(), String::new())
    );
}

#[test]
fn a_warning_fails_the_check_only_if_warnings_are_denied() {
    let sql = "SELECT blob1 AS b FROM t ORDER BY timestamp; SELECT 1";
    let expected = "-:1:35: warning: unable to find type of column: \"timestamp\"\n  help: ORDER BY takes \
                columns of the output: select timestamp, or order by its alias\n";
    for (args, code) in [(&["check", "-"][..], 0), (&["check", "--deny", "warnings", "-"], 1)] {
        assert_eq!(aesql(args, sql), (code, expected.into(), String::new()));
    }
    let fine = "SELECT blob1 AS b, timestamp FROM t ORDER BY timestamp";
    assert_eq!(aesql(&["check", "--deny=warnings", "-"], fine), (0, String::new(), String::new()));
    assert_eq!(aesql(&["check", "--deny", "errors", "-"], fine).0, 64);
}

#[test]
fn query_runs_over_data_points_at_a_given_time() {
    let data = concat!(env!("CARGO_TARGET_TMPDIR"), "/points.ndjson");
    std::fs::write(
        data,
        "{\"timestamp\": 1761739200000, \"dataset\": \"t\", \"blob1\": \"a\", \"double1\": \"NaN\"}\n\n\
         {\"timestamp\": \"2025-10-29T12:00:05Z\", \"dataset\": \"t\", \"blob1\": \"b\"}\n",
    )
    .unwrap();
    let sql = "SELECT blob1, now() - timestamp AS age FROM t ORDER BY blob1; SHOW TABLES";
    let args = ["query", "-", "--data", data, "--format", "TabSeparated"];
    let at = ["--now", "2025-10-29T12:01:00Z"];
    assert_eq!(
        aesql(&[&args[..], &at].concat(), sql),
        (0, "a\t60\nb\t55\nt\n".into(), String::new())
    );
    let (code, _, error) = aesql(&args, "SELECT 1 FROM nowhere");
    assert_eq!(code, 1);
    assert!(error.contains("-:1:15: error: unable to find type of column: \"timestamp\"\n  help: unknown table nowhere: "), "{error}");
}

#[test]
fn a_wrong_command_line_exits_64() {
    for args in
        [&[][..], &["check"], &["query", "-"], &["nonsense"], &["query", "-", "--format", "CSV"]]
    {
        assert_eq!(aesql(args, "").0, 64, "{args:?}");
    }
    let (code, out, _) = aesql(&["--help"], "");
    assert_eq!(code, 0);
    assert!(out.contains("check") && out.contains("query") && out.contains("Exit codes"));
}

#[test]
fn an_unreadable_file_exits_66() {
    let (code, _, error) = aesql(&["check", "/nowhere/query.sql"], "");
    assert_eq!(code, 66);
    assert!(error.starts_with("aesql: /nowhere/query.sql: "), "{error}");
    let data = concat!(env!("CARGO_TARGET_TMPDIR"), "/wrong.ndjson");
    std::fs::write(data, "{\"timestamp\": 1}\n{\"blob1\": 5}\n").unwrap();
    let (code, _, error) = aesql(&["query", "-", "--data", data], "SELECT 1");
    assert_eq!(code, 66);
    assert!(error.contains("wrong.ndjson:2: "), "{error}");
}
