"""Submission: an experiment as a job of a Ray cluster elsewhere, through the HTTP interface of its head.

Read in this order: ``order`` (what is asked for), ``reaching`` (is there a head, and may we in), ``package`` and
``source`` (what is carried), ``environment`` (the cluster has what we have), ``credentials`` (how they travel unseen),
``client`` and ``following`` (jobs and their logs), ``submit`` (all of it together).
"""
