"""A sweep: the round of a search whose trials only draw, on reused actors, with what trials share computed once.

Reading order: ``run`` (a round), ``trial`` (one of them on its way), ``screening`` (which are dropped after a first
look), ``graph`` upon ``actors`` (nodes on a pool of processes, whoever asks for them first), ``sharing`` (what was
shared and what that saved), ``reckoning`` (what is kept of a budget for what runs). Which settings are tried is said in
``search.proposals``.
"""
