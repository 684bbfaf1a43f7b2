"""Made ECGs beside real ones."""
