"""``python -m ecgfed`` is ``ecgfed``."""

from ecgshared.cli import main

main()
