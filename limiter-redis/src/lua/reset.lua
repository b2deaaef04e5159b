-- Forgets states, and frees them in the background.
--
-- KEYS     the states' keys
-- Reply    how many there were

return redis.call('UNLINK', unpack(KEYS))
