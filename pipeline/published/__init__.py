"""Results that others published, as data to stand beside ours, and whether they may.

Reading order: ``rows`` (``rows.yaml``, checked), ``terms`` (why a score of ours is not comparable with a row, and what
is not known), ``tables`` (both in words), ``beside`` (the table of one experiment's report).
"""
