"""In-silico hospitals with known truth, and federations on one machine."""
