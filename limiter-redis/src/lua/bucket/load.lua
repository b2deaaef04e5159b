if #value == 24 then
  x, y, z = struct.unpack('<ddd', value)
else
  x, z = tonumber(value), 1
end
if not (x and x >= 0 and x < 9007199254740992 and x % 1 == 0 and y >= 0 and y < z and y % 1 == 0 and z % 1 == 0) then
  corrupt = corrupt + 1
  x, y, z = 0, 0, 1
end
