-- wrk's side of a benchmark: completion requests of a given size, no two alike, half of each prompt shared by all.
-- wrk ... -s load.lua URL -- SIZE_BYTES SALT

local size, salt, number = 1024, "0", 0
local before, after = '{"model":"m","max_tokens":16,"prompt":"', '"}'
local headers = { ["content-type"] = "application/json" }
local words = "the valve stays open until the pressure falls below the mark on the third gauge "
local shared, own_size = "", 0

function init(args)
  size, salt = tonumber(args[1]), args[2]
  local prompt_size = size - #before - #after
  shared = string.rep(words, math.ceil(prompt_size / 2 / #words)):sub(1, math.floor(prompt_size / 2))
  own_size = prompt_size - #shared
end

function request()
  number = number + 1
  local mark = string.format("%s-%d ", salt, number)
  local own = string.rep(mark, math.ceil(own_size / #mark)):sub(1, own_size)
  return wrk.format("POST", nil, headers, before .. shared .. own .. after)
end

-- Times are in microseconds.
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"duration_us":%d,"failed":%d,"p50_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
