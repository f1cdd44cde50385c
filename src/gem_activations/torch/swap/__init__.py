"""Other activations in a model that exists already, trained or new; and back again."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...errors import ModelError
from ..inventory import Choice
from .keys import read_choices
from .surgery import Change, Edit, Left, Surgery, name_some

__all__ = ["Change", "Left", "SwapReport", "swap"]

Key = type[nn.Module] | str | Callable[..., Any]
Value = Choice | nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True)
class SwapReport:
    """What `swap` has changed and what it could not; `undo` takes it back.

    Attributes:
        model: The model with the new activations: the one given, or its copy.
        changes: Every place that was changed; a module that is used under several names is one change.
        left: Every place that a key asked for and that was left, with the reason.
        notes: What else to know, a sentence each: keys that match nothing, places that keep their output for the
            backward pass, slopes that several calls share, and what became of a configuration of transformers.
    """

    model: nn.Module = field(repr=False, compare=False)
    changes: tuple[Change, ...]
    left: tuple[Left, ...]
    notes: tuple[str, ...]
    _done: list[Edit] = field(repr=False, compare=False)

    def undo(self) -> None:
        """Put back what was there. Weights, hooks and training mode stay as they are now.

        A learnt slope (PReLU) that comes back has the value, device and dtype it had before the swap.

        Raises: ModelError: it was undone before, or what `swap` put there has been changed since. Nothing is then
            changed.
        """
        if not self._done:
            raise ModelError("this swap has been undone before")
        if not all(edit.stands() for edit in self._done):
            raise ModelError("the model was changed after this swap; undo the later change first")
        for edit in reversed(self._done):
            edit.revert()
        self._done.clear()

    def __str__(self) -> str:
        """Return a few lines: each kind of change with its places, what was left, and the notes."""
        kinds: dict[str, list[str]] = {}
        for change in self.changes:
            kinds.setdefault(f"{change.old} -> {change.new}", []).append(change.name)
        for left in self.left:
            kinds.setdefault(f"left: {left.reason}", []).append(left.name)
        lines = [f"{len(names)} x {kind}: {name_some(names)}" for kind, names in kinds.items()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def swap(model: nn.Module, choices: Mapping[Key, Value], *, inplace: bool = True) -> SwapReport:
    """Change activations of a model, in place or in a copy.

    Weights, hooks, training mode and the names in the state_dict stay. A module that is used in several places stays
    one. An activation that works in place is followed by one that does, if it can; else its change says "not in
    place", and one that a forward calls as a statement, `self.act(x)`, is left. A slope that is learnt (PReLU) goes
    with its activation; a new one gets the device and dtype of the weights around it. If an activation keeps its
    input for the backward pass (GELU, SiLU, Hardswish), what follows may change its output in place: a member of the
    family in its place is made with save="input", and may be followed by the same.

    Args:
        model: Any model; not the activation itself, and not a scripted one.
        choices: What to change, and to what. If two keys ask for one place, the first counts. A key is one of:

            - a module class such as nn.GELU: its instances, not those of subclasses. A class of your own is taken to be
              an activation, and the change names the weights that go with it;
            - a pattern of dotted names such as "layers.*.act" or "*.mlp.act", read by fnmatch: * stands for any
              characters, dots too, ? for one, [ab] for one of these. A pattern with wildcards takes only what is known
              to be an activation: torch's own, this package's, transformers' and timm's;
            - a predicate: (dotted name, module) -> bool. It alone can take a module of torch that is no activation and
              has no parts, such as nn.Dropout;
            - a function such as torch.nn.functional.gelu, torch.relu or torch.Tensor.relu: every spelling of the same
              activation counts, if a module holds the function as an attribute (torch's transformer layers do) and
              if a forward calls it. The calls of one function in one forward go to one new child module, by
              torch.overrides.TorchFunctionMode; what that cannot serve is in
              https://gem-activations.github.io/gem-activations/frameworks/pytorch.html.

            A value is an activation as `make_activation` takes it; a module class; or a module, of which each place
            gets a copy, or a factory, which is called for each place: both are taken as given.
        inplace: Change the model itself; False changes a deep copy, and the model stays as it was.
    Returns: The report. `report.model` is the changed model, `report.undo()` takes the change back.
    Raises: ActivationNameError, SpecError: no activation; ModelError: nothing to change, no key that matches anything
        (one that does not beside one that does is in the report's notes), a predicate that fails, or a key that chooses
        what is no activation (a container, a layer with weights or buffers, a class with a layer inside, a class of
        torch's other than its activations and nn.Identity). The model is then as it was.
    Edge cases: torch's nn.TransformerEncoder leaves out its activation in evaluation on its fast path, which knows ReLU
        and GELU only: the swap turns that path off. An activation class that holds its function, such as transformers'
        GELUActivation, is replaced whole. A plain list or dict that holds a replaced module keeps the old one, and is
        named in `left`. A configuration of transformers that names the activation is changed with it if a model made
        of it is then the swapped one; the notes say so. Swap before `torch.compile`.
    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
        >>> report = swap(model, {nn.GELU: "gem(n=2)"})
        >>> print(report)
        1 x GELU -> GEM(n=2, save='input'): 1
        >>> report.undo()
        >>> model[1]
        GELU(approximate='none')
    """
    asked = read_choices(model, choices)
    surgery = Surgery(model if inplace else copy.deepcopy(model))
    try:
        surgery.perform(asked)
    except BaseException:
        surgery.revert()
        raise
    changes = tuple(change for change, _ in surgery.changes)
    return SwapReport(surgery.model, changes, tuple(surgery.left), tuple(surgery.notes), surgery.edits)
