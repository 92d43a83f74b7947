"""From stored results to what a report holds: reads what the graph holds, computes nothing new.

Reading order: ``experiment``, which calls ``searches`` and ``memorisation``.
"""
