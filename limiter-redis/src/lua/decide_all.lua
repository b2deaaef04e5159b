
-- One request of any checks: each is looked at, and all take if all admit, unless it is only asked for (count 0).
decide_all = function(checks, now, at, count)
  local looked, granted = {}, 1
  for i = 1, checks do
    local k, number, n
    k, number, n, pos = decode('<HHd', batch, pos)
    local q = quota[number]
    local admits, r1, r2, r3, r4 = q.algorithm.look(k, q, now, n, 1)
    if admits == 0 then
      granted = 0
      if q.algorithm.frees and n <= q.limit then r4 = q.algorithm.frees(k, q, now, n) end
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
