"""Whether a device computes what it should: the parts of ``python -m stages.check``."""
