if #value == 24 then
  x, y, z = struct.unpack('<ddd', value)
else
  x = -1
end
if not (x >= 0 and x < 9007199254740992 and x % 1 == 0 and y >= 0 and y < 9007199254740992 and y % 1 == 0
  and z >= 0 and z < 9007199254740992 and z % 1 == 0) then
  corrupt = corrupt + 1
  x, y, z = 0, 0, 0
end
