if algorithm == 3 then
  local q
  q, pos = sliding_log(pos)
  for k = first, last do
    local granted, log, r1, r2, r3, r4 = q.look(k, q, now, n, count)
    ttls[k] = false
    if granted > 0 and n > 0 then
      local reset_in = q.take(log, q, now, granted * n, r1)
      log.now, ttls[k] = now, max(ceil(reset_in / 1000) + grace, least)
    end
    if granted < count and n <= q.q1 then r4 = q.frees(k, q, now, n) end
    reply[o], reply[o + 1], reply[o + 2], reply[o + 3], reply[o + 4] = granted, r1, r2, r3, r4
    o = o + 5
  end
end
