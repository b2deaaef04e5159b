if #value == 16 then
  x, y = struct.unpack('<dd', value)
else
  x = -1
end
if not (x >= 0 and x < 9007199254740992 and x % 1 == 0 and y >= 0 and y < 9007199254740992 and y % 1 == 0) then
  corrupt = corrupt + 1
  x, y = 0, 0
end
