-- reset_keys: of some limit keys nothing is overridden any more.                                    (X-16)
-- takes   names text[], setting text
-- gives   rows (name) of those that were
-- index   setting_overrides_pkey
DELETE FROM setting_overrides WHERE scope = 'key' AND name = ANY ($1::text[]) AND setting = $2
RETURNING name
