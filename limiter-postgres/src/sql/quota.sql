IF o <> 7 * requests[first + 3 * j + 1] - 7 THEN
  o := 7 * requests[first + 3 * j + 1] - 7;
  kind := quotas[o + 1]; q1 := quotas[o + 2]; q2 := quotas[o + 3]; q3 := quotas[o + 4];
  q4 := quotas[o + 5]; q5 := quotas[o + 6]; q6 := quotas[o + 7];
END IF;
