#!/usr/bin/env python3
"""Compares aesql with a real ClickHouse (chdb) on the same seeded data.

    npm run test:oracle

Types and values must be identical; so must the order of rows if the query has ORDER BY. Queries in
differences.sql must differ. Exits with 1 on any other difference, or if a known difference has disappeared.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import chdb.session

HERE = Path(__file__).parent
NOW = "2025-10-29 12:34:56"
SETTINGS = {
    # In Analytics Engine's results, 64-bit integers are strings.
    "output_format_json_quote_64bit_integers": 1,
    # With several threads, first_value would depend on the fastest.
    "max_threads": 1,
    # Newer versions guess date formats; Analytics Engine documents one.
    "cast_string_to_date_time_mode": "'basic'",
    "session_timezone": "'UTC'",
    # The optimizer fails for some generated queries.
    "query_plan_enable_optimizations": 0,
    # This optimization rewrites min(x + 1) as min(x) + 1, which is 1 if there are no rows.
    "optimize_arithmetic_operations_in_aggregate_functions": 0,
}


def data(rng):
    """Yields data points. Doubles are multiples of 1/8, so that sums do not depend on the order."""
    regions = ["ams", "ams", "ams", "dfw", "dfw", "sin", "GRU", "nrt", "fra", ""]
    states = ["running"] * 6 + ["stopped", "starting", "crashed", "shutting_down"]
    words = ["", "Ärger", "straße", "日本語", "naïve", "plain", "ÉCOLE"]
    # The points cover a clock change in London.
    start = 1761300000
    for i in range(3000):
        box = rng.randrange(40)
        yield {
            "timestamp": (start + i * 140 + rng.randrange(100)) * 1000 + rng.randrange(1000),
            "dataset": "fleet",
            "index1": f"sandbox-{box:02}",
            "blob1": f"sandbox-{box:02}-{i:04}",
            "blob2": f"1.{box % 5}.0",
            "blob6": rng.choice(states),
            "blob7": rng.choice(regions),
            # Frequencies differ enough that topK has one correct result.
            "blob8": "abcdefgh"[min(7, int(rng.expovariate(0.7)))],
            "blob9": rng.choice(["", "signal:SIGKILL", "signal:SIGTERM", "code:1", "CODE:137"]),
            "blob10": rng.choice(words),
            "double1": rng.choice([0, 0, 0, 1, 1.5, 2, 5]),
            "double2": rng.choice([0, 0.25, 4, -3.5]),
            "double3": rng.randrange(0, 800000) / 8,
            "double4": rng.randrange(0, 64) / 8,
            "double5": rng.randrange(0, 1 << 30),
            "double6": i * 0.5 if i % 2 else -i * 0.5,
            "double7": min(9, int(rng.expovariate(0.5))),
            "double8": rng.choice([0, 1.5, -2, "NaN", "Infinity", "-Infinity"]),
            "_sample_interval": rng.choice([1, 1, 1, 2, 5, 300]),
        }


def column_types():
    types = {"dataset": "String", "timestamp": "DateTime", "_sample_interval": "UInt32", "index1": "String"}
    types |= {f"blob{i}": "String" for i in range(1, 21)}
    types |= {f"double{i}": "Float64" for i in range(1, 21)}
    return types


def load(session, points):
    types = column_types()
    columns = ", ".join(f"{name} {type}" for name, type in types.items())
    session.query(f"CREATE TABLE fleet ({columns}) ENGINE = Memory")
    special = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
    rows = []
    for point in points:
        values = []
        for name, type in types.items():
            value = point.get(name, "" if type == "String" else 0)
            if name == "timestamp":
                value //= 1000
            if type == "String":
                value = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
            values.append(str(special.get(value, value)))
        rows.append("(" + ", ".join(values) + ")")
    session.query("INSERT INTO fleet VALUES " + ", ".join(rows))


def to_clickhouse(sql):
    """Replaces functions that have a different name or meaning in ClickHouse."""
    for name, real in {
        r"length\(": "lengthUTF8(",
        r"substring\(": "substringUTF8(",
        r"toLower\(": "lowerUTF8(",
        r"toUpper\(": "upperUTF8(",
        r"toStartOfWeek\(": "toMonday(",
        r"quantileWeighted\(([^,]*), *": r"quantileExactWeighted(\1)(",
        r"now\(\)": f"toDateTime('{NOW}')",
        r"today\(\)": f"toDate('{NOW[:10]}')",
    }.items():
        sql = re.sub(r"(?i)\b" + name, real, sql)
    return sql


def clickhouse(session, sql):
    settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    try:
        # Unlike JSON, JSONCompact allows columns with the same name.
        text = session.query(f"{to_clickhouse(sql)} SETTINGS {settings}", "JSONCompact").bytes().decode()
    except Exception as error:
        return "error", str(error).split("\n")[0][:200]
    # chdb writes a result without rows twice; raw_decode reads the first.
    answer, _ = json.JSONDecoder().raw_decode(text)
    return [column["type"] for column in answer["meta"]], answer["data"]


def aesql(binary, data_file, sql):
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(sql)
        file.flush()
        command = [binary, "query", file.name, "--data", data_file, "--now", NOW.replace(" ", "T") + "Z"]
        ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode == 1:
        return "error", ran.stderr.strip().replace(file.name, "")
    if ran.returncode != 0:
        return "crash", f"exit {ran.returncode}: {ran.stderr.strip()}"
    answer = json.loads(ran.stdout, object_pairs_hook=list)
    answer = dict(answer)
    types = [dict(column)["type"] for column in answer["meta"]]
    return types, [[value for _, value in row] for row in answer["data"]]


def same(sql, ours, theirs):
    if ours[0] == "crash":
        return False
    if ours[0] == "error" or theirs[0] == "error":
        return ours[0] == theirs[0]
    if ours[0] != theirs[0]:
        return False
    ours, theirs = ours[1], theirs[1]
    if "ORDER BY" not in sql.upper():
        ours, theirs = sorted(map(json.dumps, ours)), sorted(map(json.dumps, theirs))
    return ours == theirs


def statements(file):
    text = "\n".join(line for line in file.read_text().splitlines() if not line.startswith("--"))
    return [statement.strip() for statement in (text + "\n").split(";\n") if statement.strip()]


class QueryGenerator:
    """Generates queries of the documented grammar; types make most of them valid."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def pick(self, *of):
        return self.rng.choice(of)

    def number(self, depth=0):
        if depth > 2 or self.rng.random() < 0.3:
            return self.pick("double1", "double2", "double4", "double5", "double6", "_sample_interval",
                             str(self.rng.randrange(300)), str(-self.rng.randrange(1, 300)),
                             str(self.rng.randrange(1, 100) / 8))
        one, two = self.number(depth + 1), self.number(depth + 1)
        return self.pick(
            f"({one} + {two})", f"({one} - {two})", f"({one} * {two})", f"({one} / {two})",
            f"-({one})", f"round({one})", f"floor({one})", f"ceil({one})", f"length({self.text(depth + 1)})",
            f"position({self.text(depth + 1)} IN {self.text(depth + 1)})", f"toUInt8({self.condition(depth + 1)})",
            f"bitCount({one})", f"toYear({self.date(depth + 1)})", f"toDayOfWeek({self.date(depth + 1)})",
            f"toUnixTimestamp({self.date(depth + 1)})", f"if({self.condition(depth + 1)}, {one} * 1.0, {two} * 1.0)",
            f"intDiv(toUInt32({self.pick('double1', 'double4', '_sample_interval')}), {self.rng.randrange(1, 9)})",
        )

    def text(self, depth=0):
        if depth > 2 or self.rng.random() < 0.4:
            return self.pick("blob1", "blob2", "blob6", "blob7", "blob8", "blob9", "blob10", "index1",
                             "'a'", "''", "'é'", "'running'", "'1'")
        one = self.text(depth + 1)
        return self.pick(
            f"lower({one})", f"upper({one})", f"lowerUTF8({one})", f"upperUTF8({one})",
            f"substring({one}, {self.pick(-4, -2, -1, 1, 2, 5)})",
            f"substring({one}, {self.pick(-4, -2, -1, 1, 2, 5)}, {self.rng.randrange(-3, 8)})",
            f"format('<{{}}|{{}}>', {one}, {self.number(depth + 1)})", f"hex({one})",
            f"if({self.condition(depth + 1)}, {one}, {self.text(depth + 1)})",
            f"formatDateTime({self.date(depth + 1)}, '%F %H')",
        )

    def date(self, depth=0):
        if depth > 2 or self.rng.random() < 0.4:
            return self.pick("timestamp", "timestamp", "now()", "toDateTime('2025-10-26 00:30:00')")
        one = self.date(depth + 1)
        unit = self.pick("SECOND", "MINUTE", "HOUR", "DAY", "MONTH", "YEAR")
        fixed = self.pick("SECOND", "MINUTE", "HOUR", "DAY")
        return self.pick(
            f"({one} + INTERVAL '{self.rng.randrange(1, 9)}' {unit})", f"({one} - INTERVAL '{self.rng.randrange(1, 9)}' {unit})",
            f"toStartOfInterval({one}, INTERVAL '{self.rng.randrange(1, 20)}' {fixed})",
            f"toStartOfHour({one})", f"toStartOfDay({one})", f"toStartOfFifteenMinutes({one})",
            f"({one} + {self.rng.randrange(5000)})",
        )

    def condition(self, depth=0):
        if depth > 2:
            return self.pick("double1 > 1", "blob6 = 'running'", "true")
        sign = self.pick("=", "!=", "<", ">", "<=", ">=")
        return self.pick(
            f"{self.number(depth + 1)} {sign} {self.number(depth + 1)}",
            f"{self.text(depth + 1)} {sign} {self.text(depth + 1)}",
            f"{self.date(depth + 1)} {sign} {self.date(depth + 1)}",
            f"({self.condition(depth + 1)} AND {self.condition(depth + 1)})",
            f"({self.condition(depth + 1)} OR {self.condition(depth + 1)})",
            f"NOT ({self.condition(depth + 1)})",
            f"{self.text(depth + 1)} {self.pick('', 'NOT ')}{self.pick('LIKE', 'ILIKE')} '{self.pick('%', 'a%', '%s', '_a%', 'R%', '%:%')}'",
            f"{self.text(depth + 1)} {self.pick('', 'NOT ')}IN ('ams', 'running', 'a')",
            f"{self.number(depth + 1)} {self.pick('', 'NOT ')}BETWEEN {self.rng.randrange(5)} AND {self.rng.randrange(5, 500)}",
            f"startsWith({self.text(depth + 1)}, {self.text(depth + 1)})", f"empty({self.text(depth + 1)})",
        )

    def aggregate(self, grouped):
        exact = self.pick("double1", "double4", "_sample_interval", "double1 * 2", "double4 - double1", "1", "_sample_interval * double1")
        ordered = self.pick(self.number(1), self.date(1))
        value = self.pick(ordered, self.text(1))
        if not grouped and self.rng.random() < 0.2:
            # Within groups, ClickHouse may process rows in another order.
            return self.pick(f"first_value({value})", f"last_value({value})")
        return self.pick(
            "count()", f"sum({exact})", f"avg({exact})", f"min({ordered})", f"max({ordered})",
            f"count(DISTINCT {self.pick('blob6', 'blob7', 'double1', 'timestamp')})", f"sum(DISTINCT {exact})", f"argMax({value}, double6)", f"argMin({value}, double6)",
            f"countIf({self.condition(1)})", f"sumIf({exact}, {self.condition(1)})",
            f"quantileExactWeighted({self.rng.randrange(101) / 100})({exact}, _sample_interval)",
        )

    def query(self):
        where = f" WHERE {self.condition()}" if self.rng.random() < 0.5 else ""
        if self.rng.random() < 0.4:
            columns = ", ".join(f"{self.pick(self.number, self.text, self.date, self.condition)()} AS c{i}" for i in range(3))
            return f"SELECT {columns} FROM fleet{where} ORDER BY double6 LIMIT 40 OFFSET {self.rng.randrange(100)}"
        grouped = self.rng.random() < 0.7
        calls = [f"{self.aggregate(grouped)} AS a{i}" for i in range(3)]
        if not grouped:
            return f"SELECT {', '.join(calls)} FROM fleet{where}"
        key = self.pick("blob7", "blob6", "double1", "_sample_interval", self.text(1), "toStartOfHour(timestamp)", self.condition(1))
        having = f" HAVING {self.pick('count() > 10', 'k = k', 'max(double6) > 0')}" if self.rng.random() < 0.3 else ""
        return f"SELECT {key} AS k, {', '.join(calls)} FROM fleet{where} GROUP BY k{having} ORDER BY k LIMIT 300"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--aesql", required=True, help="the built binary")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--random", type=int, default=500, help="number of generated queries")
    options = arguments.parse_args()
    points = list(data(random.Random(options.seed)))
    session = chdb.session.Session()
    load(session, points)
    generator = QueryGenerator(options.seed)
    suites = {
        "hand-written": statements(HERE / "queries.sql"),
        "generated": [generator.query() for _ in range(options.random)],
    }
    known = statements(HERE / "differences.sql")
    failed = 0
    with tempfile.NamedTemporaryFile("w", suffix=".ndjson") as file:
        for point in points:
            file.write(json.dumps(point) + "\n")
        file.flush()
        for name, queries in suites.items():
            counts = {"identical": 0, "refused by both": 0, "different": 0}
            for sql in queries:
                ours, theirs = aesql(options.aesql, file.name, sql), clickhouse(session, sql)
                if not same(sql, ours, theirs):
                    counts["different"] += 1
                    print(f"\n{sql}\n  ours:   {str(ours)[:1500]}\n  theirs: {str(theirs)[:1500]}")
                elif ours[0] == "error":
                    counts["refused by both"] += 1
                else:
                    counts["identical"] += 1
            failed += counts["different"]
            print(f"{name}: {len(queries)} queries, {counts}")
        stale = [sql for sql in known if same(sql, aesql(options.aesql, file.name, sql), clickhouse(session, sql))]
    for sql in stale:
        print(f"no longer different: {sql}")
    print(f"known differences: {len(known)}, of which {len(stale)} no longer differ")
    sys.exit(1 if failed or stale else 0)


if __name__ == "__main__":
    main()
