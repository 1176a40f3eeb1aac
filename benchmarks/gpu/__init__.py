"""Benchmarks that need a GPU: `python -m benchmarks.gpu`, which `make gpu-run` runs."""
