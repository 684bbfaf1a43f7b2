"""Preprocessed signals and median beats on disk, by slot."""
