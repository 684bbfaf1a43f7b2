"""``python -m ecgshared`` is ``ecgfed``."""

from ecgshared.cli import main

main()
