"""How the coordinator asks, combines and stores, for each stage.

Each module gives ``run(step, context) -> Artefact`` and ``report(artefact, labels) -> list[Section]``; one that needs
none of the study's words may leave ``labels`` out.
"""
