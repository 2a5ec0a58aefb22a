//! Replacements for functions that Analytics Engine does not document.

use crate::aggregate::AGGREGATES;
use crate::scalar;

/// Functions of `ClickHouse` and other databases in lower case, each with what to write instead.
const INSTEAD: &[(&[&str], &str)] = &[
    (
        &[
            "uniq",
            "uniqexact",
            "uniqcombined",
            "uniqcombined64",
            "uniqhll12",
            "uniqthetasketch",
            "countdistinct",
            "approx_count_distinct",
        ],
        "write count(DISTINCT x)",
    ),
    (&["uniqif", "uniqexactif"], "write count(DISTINCT x), with the condition in WHERE"),
    (&["nullif"], "there is no NULL: to divide by b, write if(b = 0, 0.0, a / b)"),
    (
        &["coalesce", "ifnull", "isnull", "isnotnull", "assumenotnull", "tonullable", "nvl"],
        "there is no NULL: an unset column is '' or 0, as in if(empty(x), 'none', x)",
    ),
    (
        &["multiif", "casewithexpression", "decode", "iff", "transform"],
        "write if(condition, a, if(other, b, c))",
    ),
    (
        &[
            "quantile",
            "quantiles",
            "quantileexact",
            "quantiletiming",
            "quantiletdigest",
            "median",
            "medianexact",
            "percentile",
            "percentile_cont",
            "approx_percentile",
        ],
        "write quantileExactWeighted(0.95)(x, _sample_interval)",
    ),
    (&["any", "anyheavy", "first"], "write first_value(x)"),
    (&["anylast", "last"], "write last_value(x), or argMax(x, timestamp)"),
    (
        &["minif", "maxif", "argmaxif", "argminif", "quantileif", "anyif"],
        "only countIf, sumIf and avgIf are documented: put the condition into WHERE",
    ),
    (&["counteif", "count_if"], "write countIf(condition)"),
    (&["sumdistinct"], "write sum(DISTINCT x)"),
    (&["sumkahan", "sumwithoverflow", "sumcount"], "write sum(x)"),
    (&["avgweighted"], "write sum(x * weight) / sum(weight)"),
    (
        &["grouparray", "groupuniqarray", "array_agg", "string_agg", "group_concat"],
        "write topK(n)(x), or group by x",
    ),
    (&["concat", "concatws"], "write format('{}{}', a, b)"),
    (&["tostring"], "write format('{}', x)"),
    (&["todate", "date"], "write toStartOfDay(x), or today()"),
    (
        &[
            "todatetime64",
            "parsedatetime",
            "parsedatetimebesteffort",
            "from_unixtime",
            "to_timestamp",
        ],
        "write toDateTime(x)",
    ),
    (
        &["datediff", "date_diff", "timestampdiff", "age"],
        "write toUnixTimestamp(b) - toUnixTimestamp(a), in seconds",
    ),
    (
        &[
            "dateadd",
            "date_add",
            "datesub",
            "date_sub",
            "adddays",
            "addhours",
            "addminutes",
            "addmonths",
            "addyears",
            "subtractdays",
            "subtracthours",
            "subtractminutes",
        ],
        "write timestamp + INTERVAL '1' DAY",
    ),
    (
        &["tointervalday", "tointervalhour", "tointervalminute", "tointervalsecond"],
        "write INTERVAL '1' DAY",
    ),
    (
        &["date_trunc", "datetrunc", "time_bucket", "tostartofsecond"],
        "write toStartOfInterval(timestamp, INTERVAL '1' HOUR)",
    ),
    (&["tostartofquarter"], "write toStartOfInterval(timestamp, INTERVAL '3' MONTH)"),
    (&["tomonday"], "write toStartOfWeek(x), which begins on Monday"),
    (&["yesterday"], "write today() - INTERVAL '1' DAY"),
    (
        &["current_timestamp", "localtimestamp", "getdate", "now64", "current_date", "sysdate"],
        "write now(), or today()",
    ),
    (&["unix_timestamp", "tounixtimestamp64milli"], "write toUnixTimestamp(x), in seconds"),
    (&["year"], "write toYear(x)"),
    (&["month"], "write toMonth(x)"),
    (&["day", "dayofmonth"], "write toDayOfMonth(x)"),
    (&["dayofweek", "weekday"], "write toDayOfWeek(x)"),
    (&["hour"], "write toHour(x)"),
    (&["minute"], "write toMinute(x)"),
    (&["second"], "write toSecond(x)"),
    (&["date_format", "strftime", "to_char"], "write formatDateTime(x, '%Y-%m-%d')"),
    (&["totimezone"], "write toDateTime(x, 'Europe/Berlin')"),
    (
        &[
            "toint8",
            "toint16",
            "toint32",
            "toint64",
            "touint16",
            "touint64",
            "toint8orzero",
            "touint32orzero",
            "toint64orzero",
        ],
        "write toUInt32(x), or intDiv(x, 1)",
    ),
    (&["tofloat64", "tofloat32", "todecimal64", "tofloat64orzero"], "write x * 1.0"),
    (&["abs"], "write if(x < 0, -x, x)"),
    (&["sqrt"], "write pow(x, 0.5)"),
    (&["exp"], "write pow(2.718281828459045, x)"),
    (&["log2"], "write log(x) / log(2)"),
    (&["log10"], "write log(x) / log(10)"),
    (&["power"], "write pow(x, y)"),
    (&["mod", "modulo"], "write a % b"),
    (&["div", "intdivorzero"], "write intDiv(a, b)"),
    (&["plus", "minus", "multiply", "divide"], "write +, -, * or /"),
    (
        &["equals", "notequals", "less", "greater", "lessorequals", "greaterorequals"],
        "write =, !=, < or >",
    ),
    (&["and", "or", "not", "xor"], "write AND, OR and NOT between conditions"),
    (&["least"], "write if(a < b, a, b)"),
    (&["greatest"], "write if(a > b, a, b)"),
    (&["trunc", "truncate"], "write intDiv(x, 1)"),
    (&["ceiling"], "write ceil(x)"),
    (&["notempty"], "write NOT empty(x)"),
    (
        &["lengthutf8", "char_length", "character_length", "len"],
        "write length(x), which counts characters",
    ),
    (
        &["substr", "mid", "substringutf8", "left", "right"],
        "write substring(string, offset, length)",
    ),
    (
        &["locate", "instr", "strpos", "positionutf8", "positioncaseinsensitive"],
        "write position(needle IN haystack), with lower() around both to ignore case",
    ),
    (&["lcase"], "write lower(x)"),
    (&["ucase"], "write upper(x)"),
    (&["match", "regexp_like", "multimatchany", "extractall"], "write x LIKE '%pattern%'"),
    (&["like", "notlike", "ilike"], "write x LIKE 'pattern%'"),
    (&["in", "has", "hasany"], "write x IN ('a', 'b')"),
    (
        &[
            "row_number",
            "rank",
            "dense_rank",
            "lag",
            "lead",
            "laginframe",
            "leadinframe",
            "neighbor",
            "runningdifference",
        ],
        "there are no window functions: use argMax(x, timestamp) with GROUP BY for the latest",
    ),
];

pub(crate) fn instead_of(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    if let Some((_, help)) = INSTEAD.iter().find(|(names, _)| names.contains(&lower.as_str())) {
        return (*help).into();
    }
    let known =
        scalar::names().chain(AGGREGATES.iter().map(|(name, ..)| *name)).chain(["if", "extract"]);
    match closest(&lower, known) {
        Some(name) => format!("did you mean {name}?"),
        None => "aesql's README lists the functions that are documented".into(),
    }
}

/// The most similar name, with at most two edits.
pub(crate) fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const FAR: usize = 3;
    known
        .map(|known| (distance(name, &known.to_ascii_lowercase()), known))
        .filter(|(distance, known)| *distance < FAR.min(known.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// The Levenshtein distance in bytes, for short names.
fn distance(a: &str, b: &str) -> usize {
    const LONG: usize = 40;
    if a.len().max(b.len()) > LONG {
        return LONG;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, b) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *slot;
            *slot = (diagonal + usize::from(a != b)).min(above + 1).min(left + 1);
            (diagonal, left) = (above, *slot);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_a_replacement_or_a_similar_name() {
        assert_eq!(instead_of("tostartofhuor"), "did you mean toStartOfHour?");
        assert_eq!(instead_of("uniq"), "write count(DISTINCT x)");
        assert_eq!(closest("xyz", ["blob1"].into_iter()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn no_documented_function_has_a_replacement() {
        let documented: Vec<String> = scalar::names()
            .chain(AGGREGATES.iter().map(|(name, ..)| *name))
            .map(str::to_ascii_lowercase)
            .collect();
        for name in INSTEAD.iter().flat_map(|(names, _)| *names) {
            assert!(!documented.contains(&(*name).to_owned()), "{name}");
        }
    }
}
