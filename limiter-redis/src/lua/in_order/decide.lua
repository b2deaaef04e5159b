
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
    local granted, s, r1, r2, r3, r4 = q.look(k, q, now, n, count)
    if granted > 0 and n > 0 then
      s.reset_in, s.now = q.take(s, q, now, granted * n, r1, r2, r3), now
      if at >= 0 then s.is_virtual = true end
    end
    if granted < count and q.frees and n <= q.q1 then r4 = q.frees(k, q, now, n) end
    reply[o] = granted
    o = o + 1
    tell(r1, r2, r3, r4)
  else
    decide_all(checks, now, at, count)
  end
end

for k = 1, #KEYS do
  local s = states[k]
  if s and s.reset_in then
    local ttl = math.ceil(s.reset_in / 1000) + grace
    if s.is_virtual then ttl = math.max(ttl, horizon) end
    s.write(k, s, math.max(ttl, 1))
  end
end
