"""The opened cohort: rows linked, selected, read and assembled."""
