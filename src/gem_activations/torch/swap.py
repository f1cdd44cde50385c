"""Other activations in a model that exists already, trained or new; and back again."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from ..errors import ModelError
from .inventory import Choice
from .swapping.keys import Request
from .swapping.plan import Plan, hand_over, make_plan

Key = type[nn.Module] | str | Callable[..., Any]
_MISSING = object()
_FAST = "activation_relu_or_gelu"  # How torch's transformer layers remember an activation that their fast path knows.


@dataclass(frozen=True)
class Change:
    """One activation that was changed: where, what was there, what is there now."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Left:
    """One place that was asked for and left as it was, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class SwapReport:
    """What `swap` has changed and what it could not; `undo` takes it back.

    Attributes:
        model: The model with the new activations: the one given, or its copy.
        changes: Every place that was changed; a module that is used under several names is one change.
        left: Every place that a key asked for and that was left, with the reason.
    """

    model: nn.Module = field(repr=False, compare=False)
    changes: tuple[Change, ...]
    left: tuple[Left, ...]
    _done: "list[_Edit]" = field(repr=False, compare=False)

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
        """Say it in a few lines: each kind of change with its places, then what was left."""
        kinds: dict[str, list[str]] = {}
        for change in self.changes:
            kinds.setdefault(f"{change.old} -> {change.new}", []).append(change.name)
        for left in self.left:
            kinds.setdefault(f"left: {left.reason}", []).append(left.name)
        places = {kind: f"{', '.join(names[:3])}{', ...' * (len(names) > 3)}" for kind, names in kinds.items()}
        return "\n".join(f"{len(names)} x {kind}: {places[kind]}" for kind, names in kinds.items())


class _Edit(NamedTuple):
    """One entry of a dictionary of a module's, with what it was and what it becomes."""

    home: dict[str, Any]
    name: str
    old: Any
    new: Any

    @classmethod
    def of(cls, home: dict[str, Any], name: str, new: Any) -> "_Edit":
        return cls(home, name, home.get(name, _MISSING), new)

    def stands(self) -> bool:
        return self.home.get(self.name, _MISSING) is self.new

    def apply(self) -> None:
        self._put(self.new)

    def revert(self) -> None:
        if isinstance(self.old, nn.Module) and isinstance(self.new, nn.Module):
            hand_over(self.new, self.old)
        self._put(self.old)

    def _put(self, value: Any) -> None:
        if value is _MISSING:
            self.home.pop(self.name, None)
        else:
            self.home[self.name] = value


def swap(model: nn.Module, choices: Mapping[Key, Choice], *, inplace: bool = True) -> SwapReport:
    """Change activations of a model, in place or in a copy.

    Weights, hooks, training mode and the names in the state_dict stay. A module that is used in several places stays
    one. An activation that works in place is followed by one that does, where it can; else its change says "not in
    place", and one that a forward calls as a statement, `self.act(x)`, is left. A slope that is learnt (PReLU) goes
    with its activation; a new one gets the device and dtype of the weights around it.

    Args:
        model: Any model; not the activation itself, and not a scripted one.
        choices: What to change, to which activation (as `make_activation` takes it). Where two keys ask for one place,
            the first counts. A key is one of:

            - a module class such as nn.GELU: its instances, not those of subclasses. A class of your own is taken to be
              an activation, and the change names the weights that go with it;
            - a pattern of dotted names such as "layers.*.act" or "*.mlp.act", read by fnmatch: * stands for any
              characters, dots too, ? for one, [ab] for one of these. A pattern with wildcards takes only what is known
              to be an activation: torch's own, this package's, transformers' and timm's;
            - a predicate: (dotted name, module) -> bool. It alone can take a module of torch that is no activation and
              has no parts, such as nn.Dropout;
            - a function such as torch.nn.functional.gelu, torch.relu or torch.Tensor.relu: every spelling of the same
              activation counts, where a module holds the function as an attribute (torch's transformer layers do) and
              where a forward calls it, by torch.fx. See docs/frameworks/pytorch.md for what torch.fx cannot do.
        inplace: Change the model itself; False changes a deep copy, and the model stays as it was.
    Returns: The report. `report.model` is the changed model, `report.undo()` takes the change back.
    Raises: ActivationNameError, SpecError: no activation; ModelError: nothing to change, a key that matches nothing, a
        predicate that fails, a model that is swapped already, or a key that chooses what is no activation (a container,
        a layer with weights or buffers, a class with a layer inside, a class of torch's other than its activations and
        nn.Identity). The model is then as it was.
    Edge cases: torch's nn.TransformerEncoder leaves out its activation in evaluation on its fast path, which knows ReLU
        and GELU only: the swap turns that path off. An activation class that holds its function, such as transformers'
        GELUActivation, is replaced whole. A forward that torch.fx has rewritten cannot be pickled (PicklingError); its
        state_dict can. A plain list or dict that holds a replaced module keeps the old one, and is named in `left`.
        Swap before `torch.compile`.
    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
        >>> report = swap(model, {nn.GELU: "gem(n=2)"})
        >>> print(report)
        1 x GELU -> GEM(n=2): 1
        >>> report.undo()
        >>> model[1]
        GELU(approximate='none')
    """
    request = Request.read(model, choices)
    plan = make_plan(request if inplace else request._replace(model=copy.deepcopy(model)))
    edits = _list_edits(plan)
    for done, edit in enumerate(edits):
        try:
            edit.apply()
        except BaseException:
            for applied in reversed(edits[: done + 1]):
                applied.revert()
            raise
    changes = tuple(Change(*change) for change in plan.changes)
    return SwapReport(plan.model, changes, tuple(Left(*left) for left in plan.left), edits)


def _list_edits(plan: Plan) -> list[_Edit]:
    edits: list[_Edit] = []
    for parent in plan.model.modules():
        children: dict[str, Any] = parent._modules
        put = {name: plan.modules[id(child)] for name, child in children.items() if id(child) in plan.modules}
        held = plan.attributes.get(id(parent), {})
        edits += [_Edit.of(vars(parent), name, _MISSING) for name in held]
        if id(parent) in plan.forwards:
            rewritten = plan.forwards[id(parent)]
            put |= rewritten.children
            edits.append(_Edit.of(vars(parent), "forward", rewritten.forward))
        edits += [_Edit.of(children, name, new) for name, new in (put | held).items()]
    return edits + _leave_fast_path(plan.model, {id(edit.home) for edit in edits})


def _leave_fast_path(model: nn.Module, homes: set[int]) -> list[_Edit]:
    """Let torch's transformer layers call their new activation: they remember what it was when they were made."""
    edits: list[_Edit] = []
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and id(module._modules) in homes:
            edits.append(_Edit.of(vars(module), _FAST, 0))
        if isinstance(module, nn.TransformerEncoder) and any(id(layer._modules) in homes for layer in module.layers):
            edits.append(_Edit.of(vars(module), "use_nested_tensor", False))
            # Edits that change nothing: they forbid to undo this before a later swap of another layer is undone.
            others = [vars(layer) for layer in module.layers if id(layer._modules) not in homes]
            edits += [_Edit.of(home, _FAST, home[_FAST]) for home in others if _FAST in home]
    return edits
