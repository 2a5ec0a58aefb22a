//! The load average, from `<proc-root>/loadavg`.

use std::fs;
use std::path::Path;

use procfs_core::{FromRead, LoadAverage};

#[derive(Debug, thiserror::Error)]
pub enum LoadAverageError {
    /// The file is missing or unreadable.
    #[error("{0}")]
    Read(#[from] std::io::Error),
    /// The content does not match `proc_loadavg(5)`.
    #[error("not a load average")]
    Parse,
    #[error("a load must be finite and at least 0")]
    OutOfRange,
}

/// Reads the load: runnable tasks, averaged over 5 minutes.
pub fn read(proc_root: &Path) -> Result<f64, LoadAverageError> {
    parse(&fs::read_to_string(proc_root.join("loadavg"))?)
}

/// Parses the 5-minute figure of `0.50 0.07 1.42 3/4280 2496732`.
pub fn parse(text: &str) -> Result<f64, LoadAverageError> {
    // The parser's own error text blames a bug in the parser.
    let load = LoadAverage::from_read(text.as_bytes()).map_err(|_| LoadAverageError::Parse)?;
    let load = f64::from(load.five);
    if !load.is_finite() || load < 0.0 {
        return Err(LoadAverageError::OutOfRange);
    }
    // The kernel prints hundredths, and the parser returns f32; as f64, 0.07 would be 0.07000000029802322.
    Ok((load * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "the parsed number is exact")]
    fn reads_the_five_minute_average_as_printed() {
        assert_eq!(parse("0.50 0.07 1.42 3/4280 2496732\n").unwrap(), 0.07);
        assert_eq!(parse("1.00 1234.56 0.00 1/2 3\n").unwrap(), 1234.56);
    }

    #[test]
    fn an_invalid_load_is_an_error() {
        let long = format!("0 {} 0 1/2 3", "9".repeat(400));
        for text in [
            "",
            "1.0",
            "0 0 0 1/2",
            "a b c 1/2 3",
            "0 -1 0 1/2 3",
            "0 NaN 0 1/2 3",
            "0 inf 0 1/2 3",
            "0 . 0 1/2 3",
            &long,
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(read(root.path()), Err(LoadAverageError::Read(_))));
    }

    proptest! {
        #[test]
        fn never_panics_and_returns_only_valid_loads(text: String) {
            if let Ok(load) = parse(&text) {
                prop_assert!(load.is_finite() && load >= 0.0);
            }
        }

        #[test]
        fn reads_every_load_that_a_kernel_prints(hundredths in 0_u32..10_000_000) {
            let printed = format!("{}.{:02}", hundredths / 100, hundredths % 100);
            let text = format!("0.00 {printed} 0.00 1/100 4242\n");
            prop_assert_eq!(format!("{:.2}", parse(&text).unwrap()), printed);
        }
    }
}
