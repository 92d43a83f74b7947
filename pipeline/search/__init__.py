"""Search: which settings of an experiment give the best score, round by round.

Reading order: ``spec`` (what the YAML says), ``checks`` (what needs the evaluation section beside it), ``trials`` (one
trial: the nodes behind it and the point that its scores make), ``proposals`` (which settings are tried, in which
order), ``run`` (the graph node: its rounds), ``budget`` (what they may spend, and spent), ``choice`` upon ``pareto``
(which trial is chosen, and why), ``earlier_rows`` (a larger draw begins with a smaller one's rows). Trials that draw
are run by ``sweep``, trials that train by ``tuning``: packages of their own.
"""
