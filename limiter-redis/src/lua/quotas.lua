-- The quotas of the batch, behind its head.

local quota = {}
for i = 1, quotas do
  quota[i], pos = algorithms[string.byte(batch, pos)].quota(pos + 1)
end
