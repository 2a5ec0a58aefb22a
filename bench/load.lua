-- What wrk sends, and what it makes of the answers.
--
--   wrk [OPTIONS] -s load.lua URL -- STATUS STOP_AFTER BODY 'NAME: VALUE'...
--
-- STATUS      every answer must have this one; 2xx: that is left to wrk's own count, which costs less
-- STOP_AFTER  this many answers; 0: the time that wrk was given

local answered, unexpected, threads = 0, 0, {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local status, stop_after = tonumber(args[1]), tonumber(args[2])
  wrk.method = "POST"
  wrk.body = args[3]
  for i = 4, #args do
    local name, value = args[i]:match("^(.-): (.*)$")
    wrk.headers[name] = value
  end
  if status < 300 and stop_after == 0 then return end

  function response(got)
    answered = answered + 1
    if got ~= status then unexpected = unexpected + 1 end
    if answered == stop_after then wrk.thread:stop() end
    -- Read by done(), which sees only globals.
    _G.unexpected_status = unexpected
  end
end

function done(summary, latency)
  local unexpected = 0
  local errors = summary.errors
  local checked = false
  for _, thread in ipairs(threads) do
    local count = thread:get("unexpected_status")
    if count then
      checked = true
      unexpected = unexpected + count
    end
  end
  if not checked then unexpected = errors.status end
  io.write(string.format(
    'result: {"requests": %d, "seconds": %f, "unexpected": %d, "failed": %d, "p50": %f, "p99": %f}\n',
    summary.requests, summary.duration / 1e6, unexpected,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)
  ))
end
