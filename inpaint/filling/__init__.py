"""Filling files: one, or thousands."""
