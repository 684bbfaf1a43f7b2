"""Messages: their types, their bytes, and checkpoints."""
