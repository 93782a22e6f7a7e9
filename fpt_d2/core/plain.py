"""Which modules may be computed without being called."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def is_plain(module: nn.Module, *types: type[nn.Module]) -> bool:
    """Whether a call of a module runs the forward of one of these types and nothing else.

    A hook (pruning is one), a parametrisation, a wrapper, a replaced ``forward`` or a hook of all modules hangs on the
    call, and would be missed by whoever reads the parameters instead.
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return type(module) in types and "forward" not in vars(module) and not (any(hooks) or _has_any_global_hook())
