"""Measurements, side by side in one run: `python -m benchmarks [names]`. Results are kept in RESULTS.md."""
