-- tagged: live jobs with a tag that are not being cancelled, for one batch.
-- takes   tag text, the last id of the batch before uuid, most int
-- gives   rows (id), in the order of ids
-- index   queue_jobs_pkey, from one batch to the next: the batches together read the table once. An index of the tags
--         would cost every job that has some, for what an operator asks once in a while
SELECT id FROM queue_jobs WHERE tags @> ARRAY[$1::text] AND cancel_reason IS NULL AND id > $2 ORDER BY id LIMIT $3
