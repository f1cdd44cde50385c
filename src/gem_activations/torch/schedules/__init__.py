"""Scales on a schedule: `ScaleSchedule` in any loop, `schedules.lightning` and `schedules.huggingface` in a trainer."""

import math
from typing import Any, Literal, get_args

import torch
from torch import nn

from ...errors import ModelError, SettingError
from ...spec import GemSpec
from ..scale import named_members

Shape = Literal["cosine", "exponential", "linear"]


class ScaleSchedule:
    """Move the scale of every GEM, EGEM and SEGEM of a model from `start` to `end`.

    The scale is kept in a buffer `log_scale` that is not in the state_dict, so that compiled code is not compiled again
    at each step.

    Args:
        model: A model with members of the family, none of them trainable.
        start, end: Scales a, in units of x; the gate is 1/2 at x = a.
        steps: Steps from start to end, at least 1; the scale stays at `end` afterwards.
        shape: "linear" in a, "exponential" (linear in log a), or "cosine" (slow at both ends).
    Raises: SettingError: a scale that is not above 0, fewer than one step, or another shape; SpecError: a scale out of
        the range of eps; ModelError: no such module, or one whose scale is trainable or one a channel.
    Edge cases: What `torch.save` keeps of the model is without the scale: `freeze` writes it into the modules, and
        `state_dict` has the step, for resuming.
    Example:
        >>> from gem_activations.torch import EGEM
        >>> model = nn.Sequential(nn.Linear(2, 2), EGEM())
        >>> schedule = ScaleSchedule(model, start=1.0, end=0.01, steps=2, shape="exponential")
        >>> for _ in range(2):
        ...     print(round(schedule.scale, 6))
        ...     schedule.step()
        1.0
        0.1
        >>> schedule.freeze()
        >>> model[1]
        EGEM(n=1, eps=1e-4)
    """

    def __init__(self, model: nn.Module, start: float, end: float, steps: int, shape: Shape = "cosine") -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise SettingError(f"steps={steps!r}: expected a whole number from 1 up")
        if shape not in get_args(Shape):
            raise SettingError(f"shape={shape!r}: expected one of {', '.join(get_args(Shape))}")
        self._modules = [module for _, module in named_members(model)]
        for name, module in named_members(model):
            if "log_scale" in module._parameters or "log_scale" in module.state_dict():
                raise ModelError(
                    f"{name or 'the model'}: its scale is trainable or one a channel; give it one or the other"
                )
            for scale in (start, end):
                GemSpec.from_scale(module.n, scale)
        self.start, self.end, self.steps, self.shape = float(start), float(end), steps, shape
        for module in self._modules:
            module.hold_scale()
        self._step = 0
        self._write()

    @property
    def scale(self) -> float:
        """The scale now, in units of x."""
        share = self._step / self.steps
        if share >= 1:
            return self.end
        if self.shape == "exponential":
            return self.start * (self.end / self.start) ** share
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * share

    def step(self, to: int | None = None) -> None:
        """Go on by one step, after that of the optimizer; or to a given number of steps."""
        self._step = self._step + 1 if to is None else to
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps made."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the step of a `state_dict`."""
        self.step(to=int(state["step"]))

    def freeze(self) -> None:
        """Write the scale into the modules as a plain number; they have no buffer any more."""
        for module in self._modules:
            module.restore_scale((GemSpec.from_scale(module.n, self.scale, module.leak), False, 1, None))

    def _write(self) -> None:
        log_scale = math.log(self.scale)
        with torch.no_grad():
            for module in self._modules:
                module.log_scale.fill_(log_scale)
