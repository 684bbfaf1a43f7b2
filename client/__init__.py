"""The hospital: reads its own ECGs, trains and evaluates on them, and lets only released statistics out."""
