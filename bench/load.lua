-- Sets the requests of wrk, checks the answers and prints the result.
--
--   wrk [OPTIONS] -s load.lua URL -- STATUS BODY 'NAME: VALUE'...
--
-- Every answer must have STATUS. For 2xx, wrk's own count of errors is enough, and costs less.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local status = tonumber(args[1])
  wrk.method = "POST"
  wrk.body = args[2]
  for i = 3, #args do
    local name, value = args[i]:match("^(.-): (.*)$")
    wrk.headers[name] = value
  end
  if status >= 300 then
    -- Global, because done() reads it through the thread.
    unexpected = 0
    function response(got)
      if got ~= status then unexpected = unexpected + 1 end
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  local unexpected = 0
  for _, thread in ipairs(threads) do
    unexpected = unexpected + (thread:get("unexpected") or errors.status)
  end
  io.write(string.format(
    'result: {"requests": %d, "seconds": %f, "unexpected": %d, "failed": %d, "p50": %f, "p99": %f}\n',
    summary.requests, summary.duration / 1e6, unexpected,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)
  ))
end
