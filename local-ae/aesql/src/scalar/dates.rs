//! Date and time functions.

use super::function::{Argument, CheckResult, Scalar, ScalarCall};
use super::strings::texts_by_row;
use crate::column::Column;
use crate::error::{Error, Result};
use crate::time::{self, Civil, Unit, Zone};
use crate::value::{Type, Value};

const DAY: i64 = 86_400;

pub(super) const FUNCTIONS: &[Scalar] = &[
    Scalar {
        name: "now",
        usage: "now()",
        arity: (0, 0),
        check: |_| Ok(Type::DateTime(None)),
        eval: |call| Ok(Column::Same(Value::Int(call.now))),
    },
    Scalar {
        name: "today",
        usage: "today()",
        arity: (0, 0),
        check: |_| Ok(Type::Date),
        eval: |call| Ok(Column::Same(Value::Int(call.now.div_euclid(DAY)))),
    },
    Scalar {
        name: "toDateTime",
        usage: "toDateTime(x[, 'time zone'])",
        arity: (1, 2),
        check: check_to_date_time,
        eval: eval_to_date_time,
    },
    Scalar {
        name: "toUnixTimestamp",
        usage: "toUnixTimestamp(datetime)",
        arity: (1, 1),
        check: |args| check_moment(args, Type::UInt32),
        eval: |call| call.ints(|row| moment(call, row)),
    },
    Scalar {
        name: "formatDateTime",
        usage: "formatDateTime(datetime, 'format'[, 'time zone'])",
        arity: (2, 3),
        check: check_format,
        eval: eval_format,
    },
    Scalar {
        name: "toStartOfInterval",
        usage: "toStartOfInterval(datetime, INTERVAL 'n' unit[, 'time zone'])",
        arity: (2, 3),
        check: check_start_of_interval,
        eval: eval_start_of_interval,
    },
    of("toStartOfYear", check_date, |call| start(call, 1, Unit::Year)),
    of("toStartOfMonth", check_date, |call| start(call, 1, Unit::Month)),
    of("toStartOfWeek", check_date, |call| part(call, monday)),
    of("toStartOfDay", check_start_of_day, |call| start(call, 1, Unit::Day)),
    of("toStartOfHour", check_start, |call| start(call, 1, Unit::Hour)),
    of("toStartOfFifteenMinutes", check_start, |call| start(call, 15, Unit::Minute)),
    of("toStartOfTenMinutes", check_start, |call| start(call, 10, Unit::Minute)),
    of("toStartOfFiveMinutes", check_start, |call| start(call, 5, Unit::Minute)),
    of("toStartOfMinute", check_start, |call| start(call, 1, Unit::Minute)),
    of(
        "toYear",
        |args| check_moment(args, Type::UInt16),
        |call| part(call, |wall| Civil::of_seconds(wall).year),
    ),
    of("toMonth", check_part, |call| part(call, |wall| Civil::of_seconds(wall).month)),
    of("toDayOfMonth", check_part, |call| part(call, |wall| Civil::of_seconds(wall).day)),
    of("toDayOfWeek", check_part, |call| {
        part(call, |wall| time::day_of_week(wall.div_euclid(DAY)))
    }),
    of("toYYYYMM", |args| check_moment(args, Type::UInt32), |call| part(call, year_month)),
    of("toHour", check_clock, |call| part(call, |wall| wall.rem_euclid(DAY) / 3600)),
    of("toMinute", check_clock, |call| part(call, |wall| wall.rem_euclid(3600) / 60)),
    of("toSecond", check_clock, |call| part(call, |wall| wall.rem_euclid(60))),
];

/// A function with one argument, a `DateTime`.
const fn of(
    name: &'static str,
    check: fn(&[Argument]) -> CheckResult,
    eval: fn(&ScalarCall) -> Result<Column>,
) -> Scalar {
    Scalar { name, usage: "one DateTime", arity: (1, 1), check, eval }
}

/// Takes a `DateTime` or a Date.
fn check_moment(args: &[Argument], ty: Type) -> CheckResult {
    match args {
        [first, ..] if first.ty.is_date() => Ok(ty),
        _ => Err(needs_date_time(args)),
    }
}

fn needs_date_time(args: &[Argument]) -> String {
    match args.first() {
        Some(Argument { ty: Type::String, .. }) => {
            "takes a DateTime, not a String; toDateTime() converts it".into()
        }
        Some(Argument { ty, .. }) => format!("takes a DateTime, not a {ty}"),
        None => "takes a DateTime".into(),
    }
}

fn check_part(args: &[Argument]) -> CheckResult {
    check_moment(args, Type::UInt8)
}

fn check_date(args: &[Argument]) -> CheckResult {
    check_moment(args, Type::Date)
}

/// Takes only a `DateTime`: a Date has no hours.
fn check_start(args: &[Argument]) -> CheckResult {
    match args {
        [Argument { ty: ty @ Type::DateTime(_), .. }, ..] => Ok((*ty).clone()),
        _ => Err(needs_date_time(args)),
    }
}

fn check_clock(args: &[Argument]) -> CheckResult {
    check_start(args).map(|_| Type::UInt8)
}

fn check_start_of_day(args: &[Argument]) -> CheckResult {
    match args {
        [Argument { ty: Type::Date, .. }] => Ok(Type::DateTime(None)),
        _ => check_start(args),
    }
}

/// The time zone in an optional argument.
fn zone_argument(arg: Option<&Argument>) -> std::result::Result<Option<Zone>, String> {
    match arg {
        None => Ok(None),
        Some(Argument { literal: Some(Value::Text(name)), .. }) => match Zone::named(name) {
            Some(zone) => Ok(Some(zone)),
            None => {
                Err(format!("does not know the time zone '{name}'; SHOW TIMEZONES lists the names"))
            }
        },
        Some(_) => Err("takes the time zone as a string, such as 'Europe/Berlin'".into()),
    }
}

fn check_to_date_time(args: &[Argument]) -> CheckResult {
    let zone = zone_argument(args.get(1))?;
    match args {
        [Argument { ty: Type::DateTime(own), .. }, ..] => {
            Ok(Type::DateTime(zone.or_else(|| own.clone())))
        }
        [Argument { ty, .. }, ..] if ty.is_number() || matches!(ty, Type::String | Type::Date) => {
            Ok(Type::DateTime(zone))
        }
        _ => Err("takes a string, a number or a date".into()),
    }
}

fn zone_of(ty: &Type) -> Option<&Zone> {
    match ty {
        Type::DateTime(zone) => zone.as_ref(),
        _ => None,
    }
}

fn eval_to_date_time(call: &ScalarCall) -> Result<Column> {
    let (x, from) = call.arg(0);
    let zone = zone_of(call.ty);
    let latest = i64::from(u32::MAX);
    match from {
        Type::String => call.ints_of_text(|text| {
            time::parse_date_time(text, zone).ok_or_else(|| {
                Error::failed(format!("'{text}' is not a DateTime"))
                    .help("write YYYY-MM-DD hh:mm:ss, or seconds since 1970")
            })
        }),
        #[expect(clippy::cast_possible_truncation, reason = "saturates")]
        Type::Float64 => call.ints(|row| (x.float(row) as i64).clamp(0, latest)),
        Type::UInt64 => call.ints(|row| {
            i64::try_from(x.int(row).cast_unsigned()).map_or(latest, |at| at.min(latest))
        }),
        Type::Date => call.ints(|row| time::at_wall_clock(x.int(row) * DAY, zone)),
        _ => call.ints(|row| x.int(row).clamp(0, latest)),
    }
}

fn check_format(args: &[Argument]) -> CheckResult {
    check_moment(args, Type::String)?;
    zone_argument(args.get(2))?;
    match args {
        [_, Argument { literal: Some(Value::Text(format)), .. }, ..] => time::check_format(format)
            .map(|()| Type::String)
            .map_err(|message| format!("does not take that format: {message}")),
        _ => Err("takes the format as a string, such as '%Y-%m-%d'".into()),
    }
}

/// The row's instant in seconds since 1970; for a Date, its midnight in UTC.
fn moment(call: &ScalarCall, row: usize) -> i64 {
    match call.arg(0) {
        (column, Type::Date) => column.int(row) * DAY,
        (column, _) => column.int(row),
    }
}

/// The time zone in the third argument, or else the first argument's time zone.
fn zone(call: &ScalarCall) -> Option<Zone> {
    match call.args {
        [_, _, (zone, _)] => Zone::named(zone.text(0)),
        _ => zone_of(call.arg(0).1).cloned(),
    }
}

fn eval_format(call: &ScalarCall) -> Result<Column> {
    let zone = zone(call);
    let format = call.column(1).text(0);
    texts_by_row(call, |row, text| {
        Ok(time::format_date_time(moment(call, row), zone.as_ref(), format, text)?)
    })
}

fn check_start_of_interval(args: &[Argument]) -> CheckResult {
    check_moment(args, Type::Date)?;
    let zone = zone_argument(args.get(2))?;
    let own = args.first().and_then(|arg| zone_of(arg.ty).cloned());
    match args {
        [_, Argument { ty: Type::Interval(_), literal: Some(Value::Int(..1)), .. }, ..] => {
            Err("takes an interval of at least 1".into())
        }
        [
            _,
            Argument { ty: Type::Interval(Unit::Month | Unit::Year), literal: Some(_), .. },
            ..,
        ] => Ok(Type::Date),
        [
            Argument { ty: Type::Date, .. },
            Argument { ty: Type::Interval(Unit::Second | Unit::Minute | Unit::Hour), .. },
            ..,
        ] => Err(needs_date_time(args)),
        [_, Argument { ty: Type::Interval(_), literal: Some(_), .. }, ..] => {
            Ok(Type::DateTime(zone.or(own)))
        }
        _ => Err("takes an interval, such as INTERVAL '15' MINUTE".into()),
    }
}

fn eval_start_of_interval(call: &ScalarCall) -> Result<Column> {
    match call.arg(1) {
        (count, Type::Interval(unit)) => start(call, count.int(0), *unit),
        (other, _) => Ok(other.clone()),
    }
}

/// The start of the interval that contains each row's time, as a `DateTime` or a Date.
fn start(call: &ScalarCall, count: i64, unit: Unit) -> Result<Column> {
    let zone = zone(call);
    let zone = zone.as_ref();
    call.ints(|row| {
        let start = time::start_of(moment(call, row), count, unit, zone);
        // Neither type has values before 1970.
        match call.ty {
            Type::Date => time::wall_clock(start, zone).div_euclid(DAY).max(0),
            _ => start.max(0),
        }
    })
}

/// The week's Monday, in days since 1970.
fn monday(wall: i64) -> i64 {
    let day = wall.div_euclid(DAY);
    (day + 1 - time::day_of_week(day)).max(0)
}

fn year_month(wall: i64) -> i64 {
    let Civil { year, month, .. } = Civil::of_seconds(wall);
    year * 100 + month
}

/// Computes a part of the wall-clock time in the argument's time zone.
fn part(call: &ScalarCall, f: impl Fn(i64) -> i64) -> Result<Column> {
    let zone = zone_of(call.arg(0).1);
    call.ints(|row| f(time::wall_clock(moment(call, row), zone)))
}
