"""How the coordinator asks, combines and stores, for each stage.

Each module gives ``run(step, conduct) -> Artefact`` and ``report(artefact) -> list[Section]``.
"""
