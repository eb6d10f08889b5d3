-- Calls of 64 objects in turn with the same JSON body; the last line printed is one JSON object.
-- A server that is not ours takes the paths as it likes.

local requests = {}
local sent = 0

function init(args)
   local body = '{"text":"' .. string.rep("x", 64) .. '"}'
   local headers = { ["Content-Type"] = "application/json" }
   for number = 1, 64 do
      local path = "/v1/objects/Echo/http-" .. number .. "/say"
      requests[number] = wrk.format("POST", path, headers, body)
   end
end

function request()
   sent = sent + 1
   return requests[sent % 64 + 1]
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"errors":' ..
      '{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
