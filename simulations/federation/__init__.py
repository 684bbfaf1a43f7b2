"""A federation on a laptop: in process, on Ray, or over the real network."""
