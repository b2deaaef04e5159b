
-- One request of any checks: each is looked at, and all take if all admit, unless it is only asked for (count 0).
decide_all = function(checks, now, at, count)
  local looked, granted = {}, 1
  for i = 1, checks do
    local k, number, n
    k, number, n, pos = decode('<HHd', batch, pos)
    local q = quota[number]
    local admits, s, r1, r2, r3, r4 = q.look(k, q, now, n, 1)
    if admits == 0 then
      granted = 0
      if q.frees and n <= q.q1 then r4 = q.frees(k, q, now, n) end
    end
    looked[i] = { q, n, s, r1, r2, r3, r4 }
  end
  reply[o] = granted
  o = o + 1
  for i = 1, checks do
    local q, n, s, r1, r2, r3, r4 = unpack(looked[i], 1, 7)
    if granted == 1 and count > 0 and n > 0 then
      s.reset_in, s.now = q.take(s, q, now, n, r1, r2, r3), now
      if at >= 0 then s.is_virtual = true end
    end
    tell(r1, r2, r3, r4)
  end
end
