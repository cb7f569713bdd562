"""The experiments of Morwani & Ramaswamy, https://arxiv.org/abs/2010.12909, one room each.

`ewnprune.experiments.command.reproduce` runs them and says which acceptance criteria hold.
"""
