-- erase_quarantine: the holds of these snapshots go, and bytes that speak of the subject.
-- takes   tenant_id text, source text, subject text, snapshot ids uuid[]
-- gives   nothing; the count is in the command's tag
-- index   snapshot_quarantine_snapshot; bytes are read
DELETE FROM snapshot_quarantine
WHERE snapshot_id = ANY ($4::uuid[])
   OR tenant_id = $1 AND source = $2 AND bytes IS NOT NULL
      AND CASE WHEN position(convert_to($3, 'UTF8') IN bytes) > 0
               THEN sf_mentions(encode(bytes, 'escape'), encode(convert_to($3, 'UTF8'), 'escape')) ELSE false END
