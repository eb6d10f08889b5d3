-- Finished calls by age, for lists and cleanup. Only a finish writes to it, at its end.
CREATE INDEX goverse_reliable_calls_finished ON goverse_reliable_calls (status, finished_at)
    WHERE finished_at IS NOT NULL;
