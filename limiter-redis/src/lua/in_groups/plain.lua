if IS_IT then
  local QUOTAS
  QUOTAS, pos = decode('<QUOTA', batch, pos)
  local last_x, last_y, last_z, written
  for k = first, last do
    local value, x, y, z = values[k], 0, 0, 0
    if value then
      LOAD
    end
    local granted, r1, r2, r3
    LOOK
    if granted > 0 and n > 0 then
      local m, was, reset_in = granted * n, value and y == 0 and x
      TAKE
      local ttl = max(ceil(reset_in / 1000) + grace, least)
      if ttl ~= last_ttl then last_ttl, ttl_text = ttl, text('%d', ttl) end
      ttls[k] = ttl_text
      if was and at < 0 and (KEEPS) then
        local move = x - was
        if move ~= last_move then last_move, move_text = move, text('%d', move) end
        values[k], moves[k] = x, move_text
      else
        if x ~= last_x or y ~= last_y or z ~= last_z then
          WRITE
          last_x, last_y, last_z, written = x, y, z, value
        end
        values[k] = written
      end
    else
      ttls[k] = false
    end
    reply[o], reply[o + 1], reply[o + 2] = granted, r1, r2
    o = o + 3
    if r3 then
      reply[o] = r3
      o = o + 1
    end
  end
end
