local parts = m * q2
y = parts % q3
x = r1 + m * q1 + (parts - y) / q3
y = y + r2
if y >= q3 then
  x, y = x + 1, y - q3
end
z = q3
reset_in = x - now + (y > 0 and 1 or 0)
