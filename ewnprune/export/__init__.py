"""Writes the smaller network of a run as a file that needs no ewnprune.

It may import everything but the other commands (`ewnprune.study`, `ewnprune.experiments`,
`ewnprune.cli`). A new format is a function in `formats`.
"""
