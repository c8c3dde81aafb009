"""Where raw documents are kept: the object store and the column."""
