"""Recordings read once: quality, preprocessing, register of files, quality report."""
