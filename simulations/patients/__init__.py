"""Made people: bodies, diseases, fates, recordings."""
