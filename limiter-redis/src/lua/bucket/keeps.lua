-- Whoever wrote an integer at this server's time, and under whichever quota, let it expire at the end of the second that
-- it lies in, or later: while it moves within that second, it is kept for long enough.
y == 0 and was - was % 1000000 == x - x % 1000000
