"""A JSON document by itself: what is accepted, how it is parsed, and where in it things lie."""
