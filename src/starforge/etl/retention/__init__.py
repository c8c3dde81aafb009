"""What goes: by age, by a subject's wish, or because no row names it."""
