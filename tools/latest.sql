-- The latest state of each sandbox that checked in within the last day, with the contract's names
-- (docs/contract.md). `npm start` prints a command that sends this query to the local endpoint.
SELECT
  index1 AS sandboxId,
  max(timestamp) AS lastSeen,
  argMax(blob6, timestamp) AS supervisorState,
  argMax(blob2, timestamp) AS controllerVersion,
  argMax(blob4, timestamp) AS openclawVersion,
  argMax(blob7, timestamp) AS flyRegion,
  argMax(blob8, timestamp) AS machineId,
  argMax(blob9, timestamp) AS lastExitReason,
  argMax(double2, timestamp) AS totalRestarts,
  argMax(double3, timestamp) AS uptimeSeconds,
  argMax(double4, timestamp) AS loadAvg5m,
  SUM(_sample_interval) AS checkIns
FROM kiloclaw_controller_telemetry
WHERE timestamp > NOW() - INTERVAL '1' DAY
GROUP BY sandboxId
ORDER BY lastSeen DESC, sandboxId
