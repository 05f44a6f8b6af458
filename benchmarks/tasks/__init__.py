"""Segmentation and detection of synthetic shapes: ``uv run python -m benchmarks.tasks``."""
