
-- The quotas of the batch, behind its head. Algorithms are numbered as limiter-core's `Algorithm::ALL`.

local quota = {}
for i = 1, quotas do
  local number = string.byte(batch, pos)
  local make = number < 2 and bucket or number == 2 and fixed_window or number == 3 and sliding_log or sliding_counter
  quota[i], pos = make(pos + 1)
end
