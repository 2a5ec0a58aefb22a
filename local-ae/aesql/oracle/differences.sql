-- Known differences from ClickHouse with their reasons. compare.py checks that each still differs.

-- Analytics Engine documents LIMIT ALL; ClickHouse does not support it.
SELECT double6 FROM fleet ORDER BY double6 LIMIT ALL OFFSET 2990;
-- ClickHouse reads an invalid date as 1970-01-01. In aesql it is an error: the cloud's setting is unknown, and a
-- wrong result is worse than none.
SELECT toDateTime('2020-13-41 10:00:00');
-- Analytics Engine documents offsets of at least 1. ClickHouse refuses 0 for a column, but accepts it for a
-- literal.
SELECT substring('hello', 0);
-- bitTest(double1, 2) is documented; ClickHouse refuses doubles.
SELECT bitTest(double5, 2) FROM fleet ORDER BY double6 LIMIT 10;
-- SELECT first_value(…) FROM t ORDER BY timestamp is documented; ClickHouse refuses it.
SELECT first_value(blob1) FROM fleet ORDER BY timestamp ASC;
-- Users have seen Analytics Engine refuse these.
SELECT if(0, 1, 2.5);
SELECT true * 2;
SELECT max(blob7) FROM fleet;
SELECT count(DISTINCT if(blob7 = 'ams', blob6, '')) FROM fleet;
SELECT count() FROM fleet WHERE timestamp > '2025-10-26 00:00:00';
SELECT a FROM (SELECT a FROM (SELECT 1 AS a));
SELECT 'it''s';
-- Newer ClickHouse versions have the type Variant for results without a common type; older versions refuse them.
SELECT if(1, 1, 'a');
SELECT if(double1 > 1, double1, count()) FROM fleet GROUP BY double1 ORDER BY double1;
-- Newer ClickHouse versions make a tuple of intervals with different units.
SELECT INTERVAL '1' DAY + INTERVAL '1' HOUR;
-- aesql refuses these, since Analytics Engine does not document them, even if ClickHouse accepts them.
SELECT DISTINCT blob7 FROM fleet ORDER BY blob7;
SELECT CASE WHEN 1 = 1 THEN 'a' ELSE 'b' END;
SELECT count(*) FROM fleet;
SELECT count(double1) FROM fleet;
SELECT uniq(blob7) FROM fleet;
SELECT nullIf(1, 2);
SELECT 'a' || 'b';
SELECT NULL;
SELECT +1;
SELECT a.index1 FROM fleet AS a ORDER BY a.index1 LIMIT 1;
SELECT a.index1 FROM fleet AS a JOIN fleet AS b ON a.index1 = b.index1 ORDER BY a.index1 LIMIT 1;
SELECT 1 UNION ALL SELECT 1;
SELECT blob7, count() FROM fleet GROUP BY 1 ORDER BY 1;
SELECT blob7 FROM fleet ORDER BY blob7 LIMIT 1, 2;
SELECT blob7, count() FROM fleet GROUP BY blob7 WITH TOTALS ORDER BY blob7;
SELECT 1 = '1';
SELECT 1 IN ('1');
SELECT double1 FROM fleet WHERE double1 ORDER BY double6 LIMIT 3;
SELECT double1 FROM fleet HAVING double1 > 1 ORDER BY double6 LIMIT 3;
SELECT bitShiftLeft('a', 1);
SELECT bitNot(1.5);
SELECT bitHammingDistance('abc', 'abd');
SELECT avg(toDateTime(77)) FROM fleet;
SELECT toUnixTimestamp('2020-01-01 00:00:00');
SELECT now() + INTERVAL 1 DAY;
