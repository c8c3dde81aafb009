-- source_owner: who answers for a source, as a worker has noted it.                                   (F-37, O-34)
-- takes   source text
-- gives   one row (owner or null), or none where no worker has written a snapshot of it
-- index   mapped_sources_pkey
SELECT owner FROM mapped_sources WHERE source = $1
