-- Decides the requests of the batch, and writes what they have taken.

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
    if granted < count and algorithm.frees and n <= q.limit then r4 = algorithm.frees(k, q, now, n) end
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
