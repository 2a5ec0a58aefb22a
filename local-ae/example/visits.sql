-- Visits in the last day, by hour and page.
SELECT
  toStartOfInterval(timestamp, INTERVAL '1' HOUR) AS hour,
  blob1 AS page,
  SUM(_sample_interval * double1) AS visits
FROM visits
WHERE timestamp > NOW() - INTERVAL '1' DAY
GROUP BY hour, page
ORDER BY hour, visits DESC
