-- The check-ins of the last 5 minutes, newest first, with the contract's names. `npm start -- --once`
-- reads its check-in back with this query.
SELECT
  timestamp,
  blob1 AS sandboxId,
  blob2 AS controllerVersion,
  blob3 AS controllerCommit,
  blob4 AS openclawVersion,
  blob5 AS openclawCommit,
  blob6 AS supervisorState,
  blob7 AS flyRegion,
  blob8 AS machineId,
  blob9 AS lastExitReason,
  double1 AS restartsSinceLastCheckin,
  double2 AS totalRestarts,
  double3 AS uptimeSeconds,
  double4 AS loadAvg5m,
  double5 AS bandwidthBytesIn,
  double6 AS bandwidthBytesOut,
  double7 AS diskUsedBytes,
  double8 AS diskTotalBytes
FROM kiloclaw_controller_telemetry
WHERE timestamp > NOW() - INTERVAL '5' MINUTE
ORDER BY timestamp DESC
LIMIT 100
