"""``python -m minideepseek`` is the ``minideepseek`` command."""

from minideepseek.cli import main

main()
