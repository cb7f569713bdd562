"""The scores, and what they see: `ewnprune.pruning.scores` under the name that users know it by."""

from ewnprune.pruning.scores import *  # noqa: F403
