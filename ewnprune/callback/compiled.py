"""Which parts of a model torch.compile runs, where hooks that come later are not called.

Compiled code is made with the hooks that a module has at that time, and nothing asks for others
before it runs again: ``torch._dynamo.config.skip_nnmodule_hook_guards``.
"""

import torch
from torch import nn

from ewnprune.model.preserve import eager_attributes


def compiled_parts(model: nn.Module) -> list[str]:
    """Names of modules that are compiled, in whole or a method; "" is the model itself.

    >>> net = nn.Sequential(nn.Linear(2, 2), torch.compile(nn.Linear(2, 2)))
    >>> compiled_parts(net), compiled_parts(net[0])
    (['1'], [])
    """
    return [name for name, module in model.named_modules() if eager_attributes(module)]


def forget_compiled(model: nn.Module) -> None:
    """Have compiled parts be compiled anew, with the hooks that are there now."""
    if compiled_parts(model):
        torch.compiler.reset()
