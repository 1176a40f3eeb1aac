"""Benchmarks that need a GPU: `python -m benchmarks.gpu`, which `make gpu-check` runs."""
