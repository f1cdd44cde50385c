"""The GEM family for PyTorch: functions, modules, and any activation of the catalog by name.

Example:
    >>> import torch
    >>> from gem_activations.torch import GEM, gem
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), GEM(n=2), torch.nn.Linear(8, 1))
    >>> gem(torch.tensor([1.0, 2.0]))
    tensor([0.5000, 1.6000])
"""

from ..extras import framework

with framework("torch", at_least="2.10"):
    import torch as _torch  # noqa: F401  # pyright: ignore[reportUnusedImport]

from .backends import PlainFallbackWarning, backend_info
from .baselines import ISRLU, GoLU, SmeLU, SquaredReLU, Squareplus, TeLU
from .calibration import ScaleReport, ScaleRow, calibrate_, check_scale
from .functional import activate, egem, gem, gem_glu, segem
from .init import InitReport, calculate_gain, init_
from .integrations import act_layer, register, register_timm
from .modules import EGEM, GEM, GEMGLU, SEGEM, make_activation
from .scale import activate_scaled, weight_decay_groups
from .schedules import ScaleSchedule
from .swap import SwapReport, swap

__all__ = [
    "EGEM",
    "GEM",
    "GEMGLU",
    "ISRLU",
    "SEGEM",
    "GoLU",
    "InitReport",
    "PlainFallbackWarning",
    "ScaleReport",
    "ScaleRow",
    "ScaleSchedule",
    "SmeLU",
    "SquaredReLU",
    "Squareplus",
    "SwapReport",
    "TeLU",
    "act_layer",
    "activate",
    "activate_scaled",
    "backend_info",
    "calculate_gain",
    "calibrate_",
    "check_scale",
    "egem",
    "gem",
    "gem_glu",
    "init_",
    "make_activation",
    "register",
    "register_timm",
    "segem",
    "swap",
    "weight_decay_groups",
]
