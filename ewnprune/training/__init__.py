"""Trains under weight normalization per neuron, in plain torch.

It may import `ewnprune.model` and `ewnprune.errors`. Pruning is a stranger to it, and Lightning is
not known here.

A new parametrization is a class in `parametrizations`; its step in weight space, if it has one, a
rule in `steps` and an optimizer in `optimizers`.
"""
