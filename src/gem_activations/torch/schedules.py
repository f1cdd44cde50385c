"""Scales on a schedule: `ScaleSchedule` in any loop; `torch.lightning` and `torch.huggingface` have its callbacks."""

import math
from typing import Any, Literal, get_args

import torch
from torch import nn

from ..errors import ModelError, SettingError
from ..spec import GemSpec
from .modules import named_members

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
        relative: Whether start and end are multiples of the scale that each module has, as after `calibrate_`.
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

    def __init__(
        self,
        model: nn.Module,
        start: float,
        end: float,
        steps: int,
        shape: Shape = "cosine",
        *,
        relative: bool = False,
    ) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise SettingError(f"steps={steps!r}: expected a whole number from 1 up")
        if shape not in get_args(Shape):
            raise SettingError(f"shape={shape!r}: expected one of {', '.join(get_args(Shape))}")
        self._units: list[tuple[Any, float]] = []
        for name, module in named_members(model):
            if "log_scale" in module._parameters or "log_scale" in module.state_dict():
                raise ModelError(
                    f"{name or 'the model'}: its scale is trainable or one a channel; give it one or the other"
                )
            unit = module.spec.scale if relative else 1.0
            for scale in (start, end):
                GemSpec.from_scale(module.n, scale * unit)
            self._units.append((module, unit))
        self.start, self.end, self.steps, self.shape = float(start), float(end), steps, shape
        for module, _ in self._units:
            module.hold_scale()
        self._step = 0
        self._write()

    @property
    def scale(self) -> float:
        """The scale now, in units of x; of a relative schedule, in units of each module's own."""
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
        for module, unit in self._units:
            module.restore_scale((GemSpec.from_scale(module.n, self.scale * unit, module.leak), False, 1, None))

    def _write(self) -> None:
        with torch.no_grad():
            for module, unit in self._units:
                module.log_scale.fill_(math.log(self.scale * unit))


class TrainerSchedule:
    """What the callbacks of trainers share: a `ScaleSchedule` for each training, a step for each of the optimizer.

    Args:
        start, end, steps, shape, relative: As for `ScaleSchedule`.
    Attributes:
        schedule: The schedule of the last training; None before the first.
    Edge cases: A training that is resumed goes on from its step.
    """

    def __init__(
        self, start: float, end: float, steps: int, shape: Shape = "cosine", *, relative: bool = False
    ) -> None:
        self._options = start, end, steps, shape
        self._relative = relative
        self.schedule: ScaleSchedule | None = None

    def _begin(self, model: nn.Module, step: int) -> None:
        self.schedule = ScaleSchedule(model, *self._options, relative=self._relative)
        self.schedule.step(to=step)

    def _go_to(self, step: int) -> None:
        if self.schedule is not None:
            self.schedule.step(to=step)
