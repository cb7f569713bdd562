"""Looks at a model without changing it: its layers, who reads their neurons, how large it is.

It may import torch and its own files, nothing else of ewnprune. Nothing here knows of
parametrizations, pruning or Lightning.

A new kind of layer or operation that keeps neurons apart goes into `operations`, a normalization
into `normalization`; what a function must not change of a model is for `preserve` to put back.
Where a forward pass decides by values, `ways` leads it each way.
`copying` copies a user's module: its layers, and nothing else that it holds.
"""
