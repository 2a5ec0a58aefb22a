//! The command line: checks and runs queries of Analytics Engine's dialect.

fn main() {}
