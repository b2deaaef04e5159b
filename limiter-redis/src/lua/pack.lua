
-- The reply: its numbers, of which the first two are known last.

reply[1], reply[2] = clock, corrupt
-- At most so many at a time, as they stand on the stack of Lua, which holds 8,000.
local packed, last = '', o - 1
for from = 1, last, 4000 do
  local to = math.min(from + 3999, last)
  packed = packed .. struct.pack('<' .. string.rep('d', to - from + 1), unpack(reply, from, to))
end
return packed
