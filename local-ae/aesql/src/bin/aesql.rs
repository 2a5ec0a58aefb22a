//! The command line of aesql.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use aesql::{Error, Format, Kind, Limits, Point, Query, Table};
use clap::{Parser, Subcommand};

/// A query is refused or failed, or has a denied warning.
const REFUSED: u8 = 1;
/// The command line is wrong (`EX_USAGE`).
const USAGE: u8 = 64;
/// A file cannot be read (`EX_NOINPUT`).
const NO_INPUT: u8 = 66;
/// The result cannot be written (`EX_IOERR`).
const IO_ERROR: u8 = 74;

/// Checks and runs queries in the SQL dialect of Workers Analytics Engine, without the cloud.
///
/// Exit codes: 0 success, 1 a query is refused or failed, 64 the command line is wrong, 66 a file cannot be
/// read, 74 the result cannot be written.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[expect(clippy::doc_markdown, reason = "the documentation is the help text")]
enum Command {
    /// Reports queries that Analytics Engine would refuse, and what to write instead.
    ///
    /// Prints FILE:LINE:COLUMN: error: MESSAGE for each, and a help line if Analytics Engine has an
    /// equivalent. A warning is a documented construct that users have seen refused. Does not run the
    /// queries: datasets need not exist.
    Check {
        /// Treats warnings as errors: the exit code is 1
        #[arg(long, value_name = "WHAT", value_parser = ["warnings"])]
        deny: Option<String>,
        /// Files with semicolon-separated queries, comments allowed; - is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Runs queries over data points from a file.
    ///
    /// A data point is a line of JSON: {"timestamp": …, "dataset": "…", "index1": "…", "blob1": "…",
    /// "double1": 1, "_sample_interval": 1}. Only timestamp is required, in milliseconds since 1970 or
    /// as RFC 3339 text.
    Query {
        /// A file with semicolon-separated queries; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The data points, one per line
        #[arg(long, value_name = "NDJSON")]
        data: PathBuf,
        /// JSON, JSONEachRow or TabSeparated; overrides the queries' FORMAT
        #[arg(long, value_parser = parse_format)]
        format: Option<Format>,
        /// The time of now(), as RFC 3339 text [default: the current time]
        #[arg(long, value_name = "TIME", value_parser = parse_now)]
        now: Option<i64>,
    },
}

fn parse_format(name: &str) -> Result<Format, String> {
    Format::named(name)
        .ok_or_else(|| format!("the formats are {}", Format::ALL.map(Format::name).join(", ")))
}

fn parse_now(text: &str) -> Result<i64, String> {
    aesql::parse_rfc_3339(text).ok_or_else(|| "write it as 2026-01-02T03:04:05Z".into())
}

/// A fatal error: its message and exit code.
struct Failure(String, u8);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap reports --help and --version as errors, but they are successes.
            let code = if error.use_stderr() { USAGE } else { 0 };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::from(IO_ERROR),
            };
        }
    };
    let done = match cli.command {
        Command::Check { deny, files } => check(&files, deny.is_some()),
        Command::Query { file, data, format, now } => query(&file, &data, format, now),
    };
    match done {
        Ok(code) => code,
        Err(Failure(message, code)) => {
            eprintln!("aesql: {message}");
            ExitCode::from(code)
        }
    }
}

fn check(files: &[PathBuf], deny_warnings: bool) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::SUCCESS;
    for file in files {
        let sql = read(file)?;
        for finding in aesql::lint(&sql, &Limits::default()) {
            if deny_warnings || finding.kind != Kind::Warning {
                code = ExitCode::from(REFUSED);
            }
            print(&report(file, &finding))?;
        }
    }
    Ok(code)
}

fn query(
    file: &Path,
    data: &Path,
    format: Option<Format>,
    now: Option<i64>,
) -> Result<ExitCode, Failure> {
    let sql = read(file)?;
    let tables = load(data)?;
    let now = now.unwrap_or_else(current_time);
    let failed = |error: Error| Failure(report(file, &error).trim_end().into(), REFUSED);
    for query in Query::parse_all(&sql, &Limits::default()).map_err(failed)? {
        let query = query.map_err(failed)?;
        for warning in query.warnings() {
            eprint!("{}", report(file, warning));
        }
        let result = query.run(&tables, now).map_err(failed)?;
        let format = format.unwrap_or(query.format());
        print(&result.write(format).map_err(failed)?)?;
        if format == Format::Json {
            print("\n")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn report(file: &Path, error: &Error) -> String {
    error.report(&file.display().to_string())
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure(format!("standard output: {error}"), IO_ERROR))
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn unreadable(file: &Path, error: &io::Error) -> Failure {
    Failure(format!("{}: {error}", file.display()), NO_INPUT)
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if is_stdin(file) {
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    read.map_err(|error| unreadable(file, &error))
}

/// Reads data points into one table per dataset.
fn load(file: &Path) -> Result<BTreeMap<String, Table>, Failure> {
    let open = fs::File::open(file).map_err(|error| unreadable(file, &error))?;
    let mut tables = BTreeMap::new();
    for (number, line) in (1..).zip(BufReader::new(open).lines()) {
        let line = line.map_err(|error| unreadable(file, &error))?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong =
            |message: String| Failure(format!("{}:{number}: {message}", file.display()), NO_INPUT);
        let point: Point = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
        let table = tables
            .entry(point.dataset.clone())
            .or_insert_with(|| Table::new(point.dataset.as_str()));
        table.push(&point).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(tables)
}

/// The time in milliseconds since 1970.
fn current_time() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
