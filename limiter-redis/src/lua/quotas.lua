-- The quotas of the batch, behind its head. Algorithms are numbered as limiter-core's `Algorithm::ALL`.

local algorithms = {
  [0] = bucket,
  [1] = bucket,
  [2] = fixed_window,
  [3] = sliding_log,
  [4] = sliding_counter,
}
local numbers_of = { [0] = 6, [1] = 6, [2] = 2, [3] = 2, [4] = 2 }

local quota = {}
for i = 1, quotas do
  local algorithm = string.byte(batch, pos)
  pos = pos + 1
  local numbers = {}
  for j = 1, numbers_of[algorithm] do
    numbers[j], pos = decode('<d', batch, pos)
  end
  quota[i] = algorithms[algorithm].quota(numbers)
  quota[i].algorithm = algorithms[algorithm]
end

local function read_clock()
  local time = call('TIME')
  clock = time[1] * 1000000 + time[2]
  return clock
end
