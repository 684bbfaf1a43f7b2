"""A heart in a torso."""
