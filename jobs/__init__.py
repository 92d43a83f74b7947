"""What a person types: the ``rayfall`` command and the experiments it runs (``jobs/experiments``)."""
