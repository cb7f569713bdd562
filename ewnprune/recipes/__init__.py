"""Callbacks that change the training itself, to make networks easier to prune: one class a file.

It may import `ewnprune.callback` and what lies below. A new one is a file here and a name in
`ewnprune/__init__.py`.
"""
