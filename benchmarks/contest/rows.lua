-- A script for wrk: posts the lines of a file, one a request, over and over, and prints what was measured as JSON.
-- Arguments: the file, the authorization header or "", and the mean pause of a connection in ms, 0 for none. Pauses
-- are exponential, so that many connections together ask at random moments, whatever the answers take.
local bodies, position, pause_ms = {}, 0, 0

function init(args)
   wrk.headers["content-type"] = "application/json"
   if args[2] ~= "" then wrk.headers["authorization"] = args[2] end
   for line in io.lines(args[1]) do bodies[#bodies + 1] = wrk.format("POST", nil, nil, line) end
   pause_ms = tonumber(args[3])
   if pause_ms > 0 then
      function delay() return math.floor(0.5 - pause_ms * math.log(1 - math.random())) end
   end
end

function request()
   position = position % #bodies + 1
   return bodies[position]
end

function done(summary, latency, requests)
   local failed = summary.errors
   io.write(string.format(
      '{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "refused": %d, "broken": %d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      failed.status, failed.connect + failed.read + failed.write + failed.timeout))
end
