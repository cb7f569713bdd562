"""Chooses which neurons go, and masks, zeroes or cuts them.

It may import `ewnprune.model` and `ewnprune.errors`. It does not know how a network was trained:
training is a stranger to it, and so is Lightning. Only `search` knows torch-pruning, and `coupling`
its graph.

A new score is a function in `scores`, found by its name.
"""
