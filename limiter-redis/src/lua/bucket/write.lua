if y == 0 then
  value = string.format('%d', x)
else
  value = struct.pack('<ddd', x, y, z)
end
