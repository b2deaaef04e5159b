-- Decides a batch of requests in one step: each request all or nothing, in order.
--
-- KEYS     the states' keys, each once; those of sliding logs behind all others
-- ARGV[1]  the batch, packed little-endian as `batch/in_order.rs` writes it:
--            header    plain H (how many keys are no logs), quotas H, requests H,
--                      grace d (ms that a state is kept once it is reset), horizon d (ms, the least in virtual time)
--            quota     algorithm B, then its numbers d: see each algorithm's `look.lua`, and `sliding_log.lua`
--            request   at d (us since the epoch; below 0: this server's clock), count I4 (how many equal ones in a
--                      row; 0: one that is not to be taken), checks H
--            check     key H, quota H (both from 1), cost d
-- Reply    doubles, packed little-endian, as a client takes one string apart faster than many integers: this server's
--          clock in us (0 if nobody asked), how many states were corrupt, then for each request how many of its `count`
--          were granted and, for each check, what was read: see each algorithm
-- Writes   the states of granted requests, each once, with a time to live; nothing before all is decided
--
-- Numbers are integers below 2^53, which a double holds exactly. None becomes text but by `%d`.
--
-- Every table, every function and every local that a function uses is made anew for each call, at a hundredth of what the
-- call costs: hence few of them, functions of the libraries by their full names, and no more fields than eight.

local batch = ARGV[1]
local decode = struct.unpack
local plain, quotas, requests, grace, horizon, pos = decode('<HHHdd', batch)
local clock, corrupt = 0, 0

local values = plain > 0 and redis.call('MGET', unpack(KEYS, 1, plain))

-- The states that were asked for, by key. Each has its own numbers, `write`, and once it was taken from: `reset_in` us
-- from `now` on it is as if never used.
local states = {}

-- The algorithms: a function of each makes a quota of what stands in the batch. Those that are needed follow.
local bucket, fixed_window, sliding_log, sliding_counter

local function read_clock()
  local time = redis.call('TIME')
  clock = time[1] * 1000000 + time[2]
  return clock
end
