"""A recording: leads, quality, preprocessing, beats, intervals, plot."""
