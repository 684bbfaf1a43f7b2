"""The study file: steps, endpoints, columns, the registry of stages."""
