"""What `rayfall doctor` looks at before an experiment costs anything: each finding one line and what to do about it.

Reading order: ``findings``; ``versions``, ``stores``, ``tracking``, ``places``: what this process sees; ``nodes``: what
every node of the cluster sees; ``gpus``: what its GPUs can do; ``run``: all of it in order.
"""
