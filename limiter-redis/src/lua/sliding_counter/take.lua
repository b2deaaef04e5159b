x, y, z = r1 - r1 % q2, r2 + m, r3
reset_in = x + 2 * q2 - now
