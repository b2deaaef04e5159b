local parts = m * q2
y = parts % q3
x = r1 + m * q1 + (parts - y) / q3
y = y + r2
if y >= q3 then
  x, y = x + 1, y - q3
end
z = q3
-- Kept to the end of the second that x lies in, and what is left of a microsecond too: see `keeps.lua`.
reset_in = x - x % 1000000 + 1000000 - now
