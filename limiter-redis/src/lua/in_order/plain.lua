
-- NAME. What stands in capitals is filled in from the files of the folder of that name.

local function NAME_write(k, s, ttl)
  local x, y, z, value = s.x, s.y, s.z
  WRITE
  redis.call('SET', KEYS[k], value, 'PX', string.format('%d', ttl))
end

local function NAME_look(k, q, now, n, count)
  local s = states[k]
  if not s then
    local value, x, y, z = values[k], 0, 0, 0
    if value then
      LOAD
    end
    s = { x = x, y = y, z = z, write = NAME_write, reset_in = false, now = 0 }
    states[k] = s
  end
  local x, y, z = s.x, s.y, s.z
  local q1, q2, q3, q4, q5, q6 = q.q1, q.q2, q.q3, q.q4, q.q5, q.q6
  local granted, r1, r2, r3
  LOOK
  return granted, s, r1, r2, r3
end

-- Takes m permits on a reading; the us until the key is reset.
local function NAME_take(s, q, now, m, r1, r2, r3)
  local q1, q2, q3 = q.q1, q.q2, q.q3
  local x, y, z, reset_in
  TAKE
  s.x, s.y, s.z = x, y, z
  return reset_in
end

NAME = function(from)
  local q1, q2, q3, q4, q5, q6 = struct.unpack('<QUOTA', batch, from)
  local width = 8 * #'QUOTA'
  return { look = NAME_look, take = NAME_take, q1 = q1, q2 = q2, q3 = q3, q4 = q4, q5 = q5, q6 = q6 }, from + width
end
