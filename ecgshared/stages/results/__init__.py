"""What each stage's result holds: one frozen model a stage, from which results.schema.json is made.

A stage's module gives its model on as ``Result``; the coordinator makes it, ``artefacts/<step>.json`` keeps it and the
report reads it. A key added later needs a default: runs that lie on disk must stay readable.
"""
