
-- The reply in the making, and what `all_or_nothing.lua` and `decide.lua` share.

local reply = { 0, 0, 0, 0, 0 }
local o = 3

local function tell(r1, r2, r3, r4)
  reply[o], reply[o + 1] = r1, r2
  o = o + 2
  if r3 then
    reply[o] = r3
    o = o + 1
  end
  if r4 then
    reply[o] = r4
    o = o + 1
  end
end

-- Only where a batch has such requests.
local decide_all
