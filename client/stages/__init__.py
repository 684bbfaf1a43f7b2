"""What one site computes for each stage, on its own data.

Each module gives ``PHASES: dict[str, Callable[[SiteContext, Request], Answer]]``. A handler sees no Flower type;
the egress gate checks and blanks what it returns.
"""
