"""A hospital's SuperNode: connection, messages on disk, the process that computes."""
