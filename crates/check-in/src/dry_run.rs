//! The dry run: a check-in with the usual responses that is not stored.

use crate::refusal::Refusal;

/// The query of a dry run, for clients to append to the check-in's URL.
pub const DRY_RUN_QUERY: &str = "dry_run=1";

/// The only valid value of [`DRY_RUN_PARAMETER`](crate::DRY_RUN_PARAMETER).
const YES: &str = "1";

/// Whether a check-in is a dry run, by the value of [`DRY_RUN_PARAMETER`](crate::DRY_RUN_PARAMETER) in its query.
///
/// Any other value is an error, not false: a request with `dry_run=true` must not store a data point.
pub fn is_dry_run(parameter: Option<&str>) -> Result<bool, Refusal> {
    match parameter {
        None => Ok(false),
        Some(YES) => Ok(true),
        Some(_) => Err(Refusal::InvalidQuery),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::DRY_RUN_PARAMETER;

    #[test]
    fn the_query_is_the_parameter_with_its_only_value() {
        assert_eq!(DRY_RUN_QUERY, format!("{DRY_RUN_PARAMETER}={YES}"));
    }

    #[test]
    fn only_a_check_in_without_the_parameter_is_written() {
        assert_eq!(is_dry_run(None), Ok(false));
        assert_eq!(is_dry_run(Some("1")), Ok(true));
        for other in ["", "0", "01", "1 ", "11", "true", "TRUE", "yes", "false"] {
            assert_eq!(is_dry_run(Some(other)), Err(Refusal::InvalidQuery), "{other:?}");
        }
    }
}
