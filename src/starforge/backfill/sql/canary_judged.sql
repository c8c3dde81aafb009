-- canary_judged: somebody or something has judged the canary; the rest may run.                                    (B-67)
-- takes   id uuid
-- gives   nothing
-- index   backfill_jobs_pkey
UPDATE backfill_jobs SET canary_judged_at = sf_now(), updated_at = sf_now() WHERE id = $1
