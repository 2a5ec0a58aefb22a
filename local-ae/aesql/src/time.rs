//! The calendar, time zones, intervals, and parsing and formatting of times.
//!
//! An instant is a number of seconds since 1970 in UTC; a date is a number of days since 1970. A zone's
//! wall-clock time is the number of seconds at which a clock in UTC shows the same time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

const DAY: i64 = 86_400;

/// A time zone by its name in the tz database.
#[derive(Clone)]
pub(crate) struct Zone {
    name: Arc<str>,
    rules: TimeZone,
}

impl Zone {
    pub(crate) fn named(name: &str) -> Option<Self> {
        /// By name in lower case. There are some 600 zones, so the map stays small.
        static ZONES: Mutex<BTreeMap<String, TimeZone>> = Mutex::new(BTreeMap::new());
        // A zone's rules take some kilobytes, and a query may name a zone a thousand times.
        let mut zones = ZONES.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = match zones.entry(name.to_ascii_lowercase()) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(new) => new.insert(TimeZoneDatabase::bundled().get(name).ok()?).clone(),
        };
        Some(Self { name: name.into(), rules })
    }

    /// All names in the tz database, sorted.
    pub(crate) fn names() -> Vec<String> {
        let mut names: Vec<_> =
            TimeZoneDatabase::bundled().available().map(|name| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    fn wall_clock(&self, utc: i64) -> i64 {
        Timestamp::from_second(utc)
            .map_or(utc, |at| utc + i64::from(self.rules.to_offset(at).seconds()))
    }

    /// The first instant with the wall-clock time. If a clock change skips the time, the offset after the change
    /// applies.
    fn at_wall_clock(&self, wall: i64) -> i64 {
        let Ok(at) = Timestamp::from_second(wall) else { return wall };
        let civil = TimeZone::UTC.to_datetime(at);
        let found = self.rules.to_ambiguous_timestamp(civil).earlier();
        found.map_or(wall, Timestamp::as_second)
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The wall-clock time of an instant; without a zone, in UTC.
pub(crate) fn wall_clock(utc: i64, zone: Option<&Zone>) -> i64 {
    zone.map_or(utc, |zone| zone.wall_clock(utc))
}

/// The inverse of [`wall_clock`]; see [`Zone::at_wall_clock`].
pub(crate) fn at_wall_clock(wall: i64, zone: Option<&Zone>) -> i64 {
    zone.map_or(wall, |zone| zone.at_wall_clock(wall))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Month,
    Year,
}

impl Unit {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_uppercase().as_str() {
            "SECOND" => Self::Second,
            "MINUTE" => Self::Minute,
            "HOUR" => Self::Hour,
            "DAY" => Self::Day,
            "MONTH" => Self::Month,
            "YEAR" => Self::Year,
            _ => return None,
        })
    }
}

/// A calendar date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Civil {
    pub(crate) year: i64,
    /// 1 to 12.
    pub(crate) month: i64,
    /// 1 to 31.
    pub(crate) day: i64,
}

impl Civil {
    /// Converts days since 1970. Computes with years that begin in March, so that a leap day is a year's last
    /// day. For a million rows, jiff's conversion takes several times as long.
    pub(crate) fn of_days(days: i64) -> Self {
        let shifted = days.saturating_add(719_468);
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
        }
    }

    pub(crate) fn of_seconds(seconds: i64) -> Self {
        Self::of_days(seconds.div_euclid(DAY))
    }

    /// Days since 1970.
    pub(crate) fn days(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let march_month = if self.month > 2 { self.month - 3 } else { self.month + 9 };
        let day_of_year = (153 * march_month + 2) / 5 + self.day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }

    fn plus_months(self, months: i64) -> Self {
        let count = self.year * 12 + self.month - 1 + months;
        let first = Self { year: count.div_euclid(12), month: count.rem_euclid(12) + 1, day: 1 };
        Self { day: self.day.min(first.days_in_month()), ..first }
    }

    fn days_in_month(self) -> i64 {
        match self.month {
            2 if self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// 1 to 366.
    fn day_of_year(self) -> i64 {
        self.days() - Self { month: 1, day: 1, ..self }.days() + 1
    }

    /// The ISO 8601 year and week number (1 to 53): a week belongs to the year of its Thursday.
    fn iso_week(self) -> (i64, i64) {
        let days = self.days();
        let thursday = Self::of_days(days - day_of_week(days) + 4);
        (thursday.year, (thursday.day_of_year() - 1) / 7 + 1)
    }
}

/// Monday is 1, Sunday 7.
pub(crate) fn day_of_week(days: i64) -> i64 {
    (days + 3).rem_euclid(7) + 1
}

/// More months than between any two dates, but too few to overflow.
const MAX_MONTHS: i64 = 12 * 100_000;

/// Adds units to an instant. Days, months and years keep the zone's wall-clock time; a day that the month lacks
/// becomes the month's last day. The result may exceed a `DateTime`'s range.
pub(crate) fn plus(seconds: i64, count: i64, unit: Unit, zone: Option<&Zone>) -> i64 {
    let fixed = |length: i64| seconds.wrapping_add(count.wrapping_mul(length));
    let months = |months: i64| {
        let wall = wall_clock(seconds, zone);
        let day = Civil::of_seconds(wall).plus_months(months.clamp(-MAX_MONTHS, MAX_MONTHS));
        // A DateTime is not before 1970; ClickHouse clamps likewise.
        at_wall_clock((day.days() * DAY + wall.rem_euclid(DAY)).max(0), zone)
    };
    match unit {
        Unit::Second => fixed(1),
        Unit::Minute => fixed(60),
        Unit::Hour => fixed(3600),
        Unit::Day if zone.is_none() => fixed(DAY),
        Unit::Day => {
            let wall = wall_clock(seconds, zone);
            at_wall_clock(wall.wrapping_add(count.wrapping_mul(DAY)), zone)
        }
        Unit::Month => months(count),
        Unit::Year => months(count.saturating_mul(12)),
    }
}

/// Adds days, months or years to a date.
pub(crate) fn plus_days(days: i64, count: i64, unit: Unit) -> i64 {
    match unit {
        Unit::Day => days.wrapping_add(count),
        _ => plus(days * DAY, count, unit, None).div_euclid(DAY),
    }
}

/// More of any unit than between two `DateTime`s, but too few to overflow.
const MAX_COUNT: i64 = 1 << 33;

/// The start of the interval that contains an instant. As in `ClickHouse`, seconds, minutes and days count from
/// 1970, hours from midnight, months from 1900, and years from year 0. `count` is at least 1.
pub(crate) fn start_of(seconds: i64, count: i64, unit: Unit, zone: Option<&Zone>) -> i64 {
    let down = |value: i64, step: i64| value - value.rem_euclid(step.max(1));
    let count = count.min(MAX_COUNT);
    let wall = wall_clock(seconds, zone);
    let start = match unit {
        // If the UTC offset is not a whole number of hours, intervals that are not whole minutes count from
        // midnight.
        Unit::Second if count % 60 != 0 && (wall - seconds) % 3600 != 0 => {
            return seconds - wall.rem_euclid(DAY).rem_euclid(count);
        }
        Unit::Second => return down(seconds, count),
        Unit::Minute => return down(seconds, count * 60),
        // If a clock change repeats an hour, each repetition is an interval.
        Unit::Hour if count == 1 => return seconds - wall.rem_euclid(3600),
        Unit::Hour => {
            let midnight = down(wall, DAY);
            midnight + down(wall - midnight, count * 3600)
        }
        Unit::Day => down(wall.div_euclid(DAY), count) * DAY,
        Unit::Month => {
            let civil = Civil::of_seconds(wall);
            let months = down((civil.year - 1900) * 12 + civil.month - 1, count);
            let (year, month) = (1900 + months.div_euclid(12), months.rem_euclid(12) + 1);
            Civil { year, month, day: 1 }.days() * DAY
        }
        Unit::Year => {
            let year = down(Civil::of_seconds(wall).year, count);
            Civil { year, month: 1, day: 1 }.days() * DAY
        }
    };
    at_wall_clock(start, zone)
}

/// Parses `YYYY-MM-DD hh:mm:ss`, `YYYY-MM-DD`, or 5 to 10 digits as seconds since 1970.
pub(crate) fn parse_date_time(text: &str, zone: Option<&Zone>) -> Option<i64> {
    let bytes = text.as_bytes();
    // Like ClickHouse, uses the nearest value in a DateTime's range.
    let nearest = |seconds: i64| seconds.clamp(0, i64::from(u32::MAX));
    if (5..=10).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_digit) {
        return text.parse().ok().map(nearest);
    }
    let days = parse_date(bytes.get(..10)?)?;
    let time = match bytes.get(10..)? {
        [] => 0,
        [b' ' | b'T', h1, h2, b':', m1, m2, b':', s1, s2] => {
            let (hour, minute) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            let second = digits(&[*s1, *s2])?;
            if hour > 23 || minute > 59 || second > 59 {
                return None;
            }
            hour * 3600 + minute * 60 + second
        }
        _ => return None,
    };
    Some(nearest(at_wall_clock(days * DAY + time, zone)))
}

/// Parses `YYYY-MM-DD` as days since 1970.
pub(crate) fn parse_date(text: &[u8]) -> Option<i64> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let civil = Civil {
        year: digits(&[*y1, *y2, *y3, *y4])?,
        month: digits(&[*m1, *m2])?,
        day: digits(&[*d1, *d2])?,
    };
    let valid = (1..=12).contains(&civil.month) && (1..=civil.days_in_month()).contains(&civil.day);
    valid.then(|| civil.days())
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0'))
    })
}

/// Parses an RFC 3339 timestamp as milliseconds since 1970.
#[must_use]
pub fn parse_rfc_3339(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

pub(crate) fn write_date(days: i64, out: &mut impl Write) -> fmt::Result {
    let Civil { year, month, day } = Civil::of_days(days);
    write!(out, "{year:04}-{month:02}-{day:02}")
}

pub(crate) fn write_date_time(
    seconds: i64,
    zone: Option<&Zone>,
    out: &mut impl Write,
) -> fmt::Result {
    let wall = wall_clock(seconds, zone);
    write_date(wall.div_euclid(DAY), out)?;
    out.write_char(' ')?;
    write_clock(wall.rem_euclid(DAY), out)
}

fn write_clock(second_of_day: i64, out: &mut impl Write) -> fmt::Result {
    let (hour, minute, second) =
        (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    write!(out, "{hour:02}:{minute:02}:{second:02}")
}

const MONTH_NAMES: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const DAY_NAMES: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Checks a `formatDateTime` format.
pub(crate) fn check_format(format: &str) -> Result<(), String> {
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            continue;
        }
        match rest.next() {
            None => return Err("it ends in %; write %% for a percent sign".into()),
            Some(c) if "YyCGgVQmcMbdejuwWaDFHkhIliSspRrTfznt%".contains(c) => {}
            Some(c) => return Err(format!("%{c} is not a format specifier")),
        }
    }
    Ok(())
}

/// Writes an instant in a format that [`check_format`] accepts.
pub(crate) fn format_date_time(
    seconds: i64,
    zone: Option<&Zone>,
    format: &str,
    out: &mut String,
) -> fmt::Result {
    let wall = wall_clock(seconds, zone);
    let days = wall.div_euclid(DAY);
    let civil = Civil::of_days(days);
    let Civil { year, month, day } = civil;
    let time = wall.rem_euclid(DAY);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let hour12 = (hour + 11) % 12 + 1;
    let half = if hour < 12 { "AM" } else { "PM" };
    let weekday = day_of_week(days);
    let name = |names: &[&'static str], number: i64| -> &'static str {
        usize::try_from(number - 1).ok().and_then(|i| names.get(i).copied()).unwrap_or_default()
    };
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match rest.next().unwrap_or('%') {
            'Y' => write!(out, "{year:04}")?,
            'y' => write!(out, "{:02}", year % 100)?,
            'C' => write!(out, "{:02}", year / 100)?,
            'G' => write!(out, "{:04}", civil.iso_week().0)?,
            'g' => write!(out, "{:02}", civil.iso_week().0 % 100)?,
            'V' => write!(out, "{:02}", civil.iso_week().1)?,
            'Q' => write!(out, "{}", (month - 1) / 3 + 1)?,
            'm' | 'c' => write!(out, "{month:02}")?,
            'M' => out.push_str(name(&MONTH_NAMES, month)),
            'b' => out.extend(name(&MONTH_NAMES, month).chars().take(3)),
            'd' => write!(out, "{day:02}")?,
            'e' => write!(out, "{day}")?,
            'j' => write!(out, "{:03}", civil.day_of_year())?,
            'u' => write!(out, "{weekday}")?,
            'w' => write!(out, "{}", weekday % 7)?,
            'W' => out.push_str(name(&DAY_NAMES, weekday)),
            'a' => out.extend(name(&DAY_NAMES, weekday).chars().take(3)),
            'D' => write!(out, "{month:02}/{day:02}/{:02}", year % 100)?,
            'F' => write_date(days, out)?,
            'H' | 'k' => write!(out, "{hour:02}")?,
            'h' | 'I' | 'l' => write!(out, "{hour12:02}")?,
            'i' => write!(out, "{minute:02}")?,
            'S' | 's' => write!(out, "{second:02}")?,
            'p' => out.push_str(half),
            'R' => write!(out, "{hour:02}:{minute:02}")?,
            'r' => write!(out, "{hour12:02}:{minute:02} {half}")?,
            'T' => write_clock(time, out)?,
            'f' => out.push_str("000000"),
            'z' => {
                let minutes = (wall - seconds) / 60;
                let sign = if minutes < 0 { '-' } else { '+' };
                write!(out, "{sign}{:02}{:02}", minutes.abs() / 60, minutes.abs() % 60)?;
            }
            'n' => out.push('\n'),
            't' => out.push('\t'),
            other => out.push(other),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        parse_date_time(text, None).unwrap()
    }

    fn shown(seconds: i64) -> String {
        let mut out = String::new();
        write_date_time(seconds, None, &mut out).unwrap();
        out
    }

    #[test]
    fn a_date_converts_to_days_and_back() {
        for days in [-1, 0, 59, 60, 11_016, 20_390, 49_710] {
            assert_eq!(Civil::of_days(days).days(), days);
        }
        assert_eq!(Civil::of_days(11_016), Civil { year: 2000, month: 2, day: 29 });
    }

    #[test]
    fn parses_the_documented_date_formats_and_nothing_else() {
        assert_eq!(at("1981-04-12 12:00:04"), 355_924_804);
        assert_eq!(at("355924804"), 355_924_804);
        assert_eq!(at("2020-01-01"), 1_577_836_800);
        for text in ["", "abc", "2020-13-01 00:00:00", "2020-02-30 00:00:00", "12:00", "é", "5"] {
            assert_eq!(parse_date_time(text, None), None, "{text}");
        }
    }

    #[test]
    fn resolves_clock_changes_as_clickhouse_does() {
        let new_york = Zone::named("America/New_York").unwrap();
        let at = |text| parse_date_time(text, Some(&new_york));
        assert_eq!(at("2022-03-13 02:30:00"), Some(1_647_153_000));
        assert_eq!(at("2022-11-06 01:30:00"), Some(1_667_712_600));
    }

    #[test]
    fn a_day_that_a_month_lacks_becomes_its_last() {
        let after = |from, count, unit| shown(plus(at(from), count, unit, None));
        assert_eq!(after("2020-01-31 00:00:00", 1, Unit::Month), "2020-02-29 00:00:00");
        assert_eq!(after("2020-02-29 01:02:03", -1, Unit::Year), "2019-02-28 01:02:03");
        assert_eq!(after("2020-02-29 01:02:03", i64::MIN, Unit::Year), "1970-01-01 00:00:00");
    }

    #[test]
    fn intervals_start_as_in_clickhouse() {
        let moment = at("2025-10-29 16:55:25");
        for (count, unit, start) in [
            (15, Unit::Minute, "2025-10-29 16:45:00"),
            (7, Unit::Hour, "2025-10-29 14:00:00"),
            (3, Unit::Day, "2025-10-27 00:00:00"),
            (7, Unit::Month, "2025-06-01 00:00:00"),
            (11, Unit::Month, "2025-08-01 00:00:00"),
            (17, Unit::Year, "2023-01-01 00:00:00"),
            (7, Unit::Second, "2025-10-29 16:55:20"),
        ] {
            assert_eq!(shown(start_of(moment, count, unit, None)), start, "{count} {unit:?}");
        }
    }

    #[test]
    fn the_longest_intervals_do_not_overflow() {
        let new_york = Zone::named("America/New_York");
        for unit in [Unit::Second, Unit::Minute, Unit::Hour, Unit::Day, Unit::Month, Unit::Year] {
            for (seconds, count) in
                [(0, i64::MAX), (0, i64::MAX / 86_400), (u32::MAX.into(), 1 << 40)]
            {
                assert!(start_of(seconds, count, unit, new_york.as_ref()) <= seconds);
                plus(seconds, count, unit, new_york.as_ref());
                plus(seconds, -count, unit, None);
            }
        }
    }

    #[test]
    fn formats_every_documented_part_of_a_date() {
        let mut out = String::new();
        let format =
            "%Y-%m-%d %H:%i:%s|%M %b %W %a|%D %F %T %R %r|%y %C %G %g %V %Q %j %u %w|%e %z %%";
        assert_eq!(check_format(format), Ok(()));
        format_date_time(at("2022-12-01 16:17:08"), None, format, &mut out).unwrap();
        assert_eq!(
            out,
            "2022-12-01 16:17:08|December Dec Thursday Thu|12/01/22 2022-12-01 16:17:08 16:17 \
             04:17 PM|22 20 2022 22 48 4 335 4 4|1 +0000 %"
        );
        assert!(check_format("%q").is_err());
        assert!(check_format("%").is_err());
    }
}
