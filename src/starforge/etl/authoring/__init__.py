"""For whoever writes a mapping: a draft from documents, its tables, what it leaves over."""
