"""The rows of the benchmark that ``python -m benchmarks`` runs."""
