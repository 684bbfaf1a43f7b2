"""A hospital's table: cells, columns, rows, and the recordings they name."""
