-- tagged: live jobs with a tag that are not being cancelled, for one batch.
-- takes   tag text, most int
-- gives   rows (id)
-- index   queue_jobs_tags
SELECT id FROM queue_jobs WHERE tags @> ARRAY[$1::text] AND cancel_reason IS NULL LIMIT $2
