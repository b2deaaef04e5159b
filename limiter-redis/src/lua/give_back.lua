-- Gives back what one check has taken, as far as it still weighs: restates `give_back` of limiter-core's algorithms.
--
-- KEYS     the state's key
-- ARGV[1]  a batch's head and its one quota, then at d (below 0: this server's clock), cost d, and of the taking its
--          instant d and the first number of its reading d
-- Reply    1 if the state was rewritten
-- Writes   the state; its time to live goes on

local at, n, taken_at, reading = decode('<dddd', batch, pos)
local now = at
if at < 0 then now = read_clock() end

local q = quota[1]
if not q.algorithm.give_back(1, q, now, n, taken_at, reading) then return 0 end
local left = call('PTTL', KEYS[1])
if left > 0 then q.algorithm.write(1, left, now) end
return 1
