"""What ``python -m pipeline.benchmark`` measures, one module per command: ``features``, ``resizing``, ``sweep``."""
