-- Decides a batch of requests of one check, each key once: in groups of those that are alike in all but their keys.
--
-- KEYS     the states' keys, group by group; those of sliding logs behind all others
-- ARGV[1]  the batch, packed little-endian as `batch/in_groups.rs` writes it:
--            header    plain H (how many keys are no logs), groups H, grace d (ms that a state is kept once it is
--                      reset), horizon d (ms, the least in virtual time)
--            group     size H (how many keys), at d (us since the epoch; below 0: this server's clock), count I4 (how
--                      many equal requests each key has), cost d, algorithm B, then the quota's numbers d: see each
--                      algorithm's `look.lua`, and `sliding_log.lua`
-- Reply    as in order, group by group
-- Writes   as in order
--
-- What it is for is speed, so it is one loop of locals; what is equal in many states is made text once. What stands in
-- capitals is filled in, as far as the batch needs it: `plain.lua` for each algorithm, `log.lua` and `../sliding_log.lua`.

local call, pcall, decode, text, ceil, max = redis.call, redis.pcall, struct.unpack, string.format, math.ceil, math.max
local keys, batch = KEYS, ARGV[1]
local plain, groups, grace, horizon, pos = decode('<HHdd', batch)
local clock, corrupt = 0, 0

local values = plain > 0 and call('MGET', unpack(keys, 1, plain))
-- Of a key that is to be written, when it is to expire, and of an integer that need not, by how much it moves.
local ttls, last_ttl, ttl_text = {}, false, false
local moves, last_move, move_text = {}, false, false

local reply, o = { 0, 0, 0, 0, 0 }, 3

-- The logs.
local states, sliding_log = {}, false
LOGS

local last = 0
for _ = 1, groups do
  local size, at, count, n, algorithm
  size, at, count, n, algorithm, pos = decode('<HdI4dB', batch, pos)
  local first, now, least = last + 1, at, max(horizon, 1)
  last = last + size
  if at < 0 then
    if clock == 0 then
      local time = call('TIME')
      clock = time[1] * 1000000 + time[2]
    end
    now, least = clock, 1
  end
  PLAIN_GROUPS
  LOG_GROUPS
end

for k = 1, plain do
  local ttl = ttls[k]
  if moves[k] then
    -- Moved in place, where a key's time to live is not looked up, which is most of what a write costs. Refused is what
    -- reads as an integer and is none for Redis, or the command.
    if type(pcall('INCRBY', keys[k], moves[k])) ~= 'number' then
      call('SET', keys[k], text('%d', values[k]), 'PX', ttl)
    end
  elseif ttl then
    call('SET', keys[k], values[k], 'PX', ttl)
  end
end
for k = plain + 1, #keys do
  if ttls[k] then states[k].write(k, states[k], ttls[k]) end
end
