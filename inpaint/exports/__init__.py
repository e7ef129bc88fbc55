"""Generators as files that run without PyTorch."""
