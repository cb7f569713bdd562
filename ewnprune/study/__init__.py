"""Compares methods over seeds, and tells what that shows.

It may import everything but the other commands (`ewnprune.export`, `ewnprune.experiments`,
`ewnprune.cli`). A new method is an entry in `methods`, a figure of the report a function in
`figures`.
"""
