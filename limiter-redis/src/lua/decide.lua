-- Decides the requests of the batch, with the algorithms and quotas above.

local function take(k, q, now, m, at, r1, r2, r3)
  if not owner[k] then
    touched[#touched + 1] = k
    owner[k] = q.algorithm
  end
  reset_in[k], taken_at[k] = q.algorithm.take(k, q, now, m, r1, r2, r3), now
  if at >= 0 then is_virtual[k] = true end
end

local reply = { 0, 0 }
local o = 3

-- One request of any checks: each is looked at, and all take if all admit, unless it is only asked for (count 0).
local function decide_all(checks, now, at, count)
  local looked, granted = {}, 1
  for i = 1, checks do
    local k, number, n
    k, number, n, pos = decode('<HHd', batch, pos)
    local q = quota[number]
    local admits, r1, r2, r3, r4 = q.algorithm.look(k, q, now, n, 1)
    if admits == 0 then
      granted = 0
      if q.algorithm == sliding_log and n <= q.limit then r4 = sliding_log.frees(k, q, now, n) end
    end
    looked[i] = { k, q, n, r1, r2, r3, r4 }
  end
  reply[o] = granted
  o = o + 1
  for i = 1, checks do
    local k, q, n, r1, r2, r3, r4 = unpack(looked[i], 1, 7)
    if granted == 1 and count > 0 and n > 0 then take(k, q, now, n, at, r1, r2, r3) end
    o = q.algorithm.tell(reply, o, r1, r2, r3, r4)
  end
end

for _ = 1, requests do
  local at, count, checks
  at, count, checks, pos = decode('<dI4H', batch, pos)
  local now = at
  if at < 0 then now = clock > 0 and clock or read_clock() end
  if checks == 1 and count > 0 then
    local k, number, n
    k, number, n, pos = decode('<HHd', batch, pos)
    local q = quota[number]
    local algorithm = q.algorithm
    local granted, r1, r2, r3, r4 = algorithm.look(k, q, now, n, count)
    if granted > 0 and n > 0 then take(k, q, now, granted * n, at, r1, r2, r3) end
    if granted < count and algorithm == sliding_log and n <= q.limit then
      r4 = sliding_log.frees(k, q, now, n)
    end
    reply[o] = granted
    o = algorithm.tell(reply, o + 1, r1, r2, r3, r4)
  else
    decide_all(checks, now, at, count)
  end
end

for i = 1, #touched do
  local k = touched[i]
  local ttl = math.ceil(reset_in[k] / 1000) + grace
  if is_virtual[k] then ttl = max(ttl, horizon) end
  owner[k].write(k, max(ttl, 1), taken_at[k])
end

reply[1], reply[2] = clock, corrupt
return reply
