"""Measurements: each is one command, and README.md holds what they gave."""
