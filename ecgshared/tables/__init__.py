"""Cox models on anybody's tables."""
