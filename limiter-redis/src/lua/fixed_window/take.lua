x, y, z = r1, r2 + m, 0
reset_in = r1 + q2 - now
