"""What the net and its steps cost, measured beside what the machine can do and what others need for the same.

``timing`` takes turns, ``peaks`` finds the machine's limits, ``subjects`` are the steps that production runs, ``peers``
the same work as other libraries do it. ``python -m stages.benchmark`` is the command.
"""
