"""Assets: what is declared, and what workers wrote down of it."""
