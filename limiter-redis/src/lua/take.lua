-- Taking, and the reply: what `decide_all.lua` and `decide.lua` share.

local function take(k, q, now, m, at, r1, r2, r3)
  if not owner[k] then
    touched[#touched + 1] = k
    owner[k] = q.algorithm
  end
  reset_in[k], taken_at[k] = q.algorithm.take(k, q, now, m, r1, r2, r3), now
  if at >= 0 then is_virtual[k] = true end
end

local reply = { 0, 0 }
local o = 3

-- Only where a batch has such requests.
local decide_all
