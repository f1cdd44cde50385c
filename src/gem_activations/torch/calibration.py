"""A scale that fits the pre-activations: chosen from one batch, or checked against it.

What matters is rho = a / sigma, the scale a of the activation over the deviation sigma of its pre-activations. If it is
far above 1 the gate is closed and the layer is nearly dead; as it tends to 0 the activation tends to ReLU.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, SettingError
from ..spec import GemSpec
from .init import calculate_chi, calculate_gain
from .modules import GEMGLU, named_members

Batch = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | Callable[[nn.Module], object]


@dataclass(frozen=True)
class ScaleRow:
    """The scale of one module, and what it does to the pre-activations of the batch.

    Attributes:
        name: Dotted name of the module.
        activation: Its activation as a string of the catalog, after a calibration the new one.
        calls: How often it ran; what is measured is the first call.
        sigma: Standard deviation of its pre-activations, in units of x; None if it did not run.
        scale: The scale a = eps^(1/(2n)), in units of x; the geometric mean if there is one a channel.
        gate_closed: Share of the pre-activations at which the gate is below 1 %, 0 to 1.
        reason: Why it was left as it was by `calibrate_`; empty if it was not.
    """

    name: str
    activation: str
    calls: int
    sigma: float | None
    scale: float
    gate_closed: float | None
    reason: str = ""

    @property
    def eps(self) -> float:
        """The eps of the activation."""
        return GemSpec.parse(self.activation).eps

    @property
    def rho(self) -> float | None:
        """The scale over sigma; None without a sigma above 0."""
        return self.scale / self.sigma if self.sigma else None

    @property
    def gain(self) -> float | None:
        """The gain for a normal pre-activation of that sigma: sigma / sqrt(E f(x)^2)."""
        return None if self.rho is None else calculate_gain(self._relative)

    @property
    def chi(self) -> float | None:
        """The factor by which the layer changes the mean square of gradients: sigma^2 E f'(x)^2 / E f(x)^2."""
        return None if self.rho is None else calculate_chi(self._relative)

    @property
    def _relative(self) -> GemSpec:
        spec = GemSpec.parse(self.activation)
        return GemSpec.from_scale(spec.n, float(self.rho or 0), spec.leak)


@dataclass(frozen=True)
class ScaleReport:
    """What `check_scale` and `calibrate_` found, a row for each module in the order in which they ran.

    Attributes:
        rows: The modules that ran, then those that did not.
        skipped: (name, reason) of gated units, which have no scale of their own here.
        ratio: The ratio of a calibration; None for a check.
    """

    rows: tuple[ScaleRow, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    ratio: float | None = None
    _before: tuple[tuple[Any, Any], ...] = field(default=(), repr=False, compare=False)

    @property
    def chi(self) -> float:
        """The product of chi over the depth: above e, gradients grow on their way back; far below 1, they vanish."""
        return math.prod(row.chi for row in self.rows if row.chi is not None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may go wrong, a sentence each; of the scales that are above sigma the widest is named."""
        # A scale calibrated to 1 sigma is not above it but for rounding.
        wide = [row for row in self.rows if (row.rho or 0) > 1.001]
        found: list[str] = []
        if wide:
            widest = max(wide, key=lambda row: row.rho or 0)
            others = f" ({len(wide)} modules are above it, this one the most)" if len(wide) > 1 else ""
            found.append(warn_of_scale(widest.name, widest.scale, widest.sigma, others))
        if self.chi > math.e:
            found.append(
                f"the product of chi over the depth is {self.chi:.3g}, above e: gradients grow on their way back; "
                "a smaller scale or n brings chi nearer to 1"
            )
        return tuple(found)

    def undo(self) -> None:
        """Restore the scale that every module had before the calibration."""
        for module, state in self._before:
            module.restore_scale(state)

    def __str__(self) -> str:
        """Return a table, a line a module, and the warnings."""
        widest = max(8, *(len(row.name or "the model") for row in self.rows))
        head = f"{'sigma':>9} {'a':>9} {'eps':>9} {'rho':>8} {'chi':>6} {'gain':>8} {'< 1 %':>6}"
        lines = [f"{'module':{widest}} {'activation':22} {head}"]
        for row in self.rows:
            spec, numbers = GemSpec.parse(row.activation), ""
            leak = f", leak={spec.leak:g}" if spec.leak else ""
            activation = f"{row.activation.partition('(')[0]}(n={spec.n}{leak})"
            if row.sigma is not None and row.rho is not None:
                numbers = f"{row.sigma:9.3g} {row.scale:9.3g} {row.eps:9.3g} {row.rho:8.3g} {row.chi:6.3f}"
                numbers += f" {row.gain:8.4g} {row.gate_closed:6.1%} "
            lines.append(f"{row.name or 'the model':{widest}} {activation:22} {numbers}{row.reason}")
        lines += [f"{name}: {reason}" for name, reason in self.skipped]
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n".join(line.rstrip() for line in lines)

    def plot(self, path: str | Path) -> None:
        """Draw rho and the share of closed gates of each module to a file, .svg, .png or .pdf; needs matplotlib."""
        from ..extras import framework

        with framework("matplotlib", at_least="3.8", install="'gem-activations[lab]'"):
            from matplotlib.figure import Figure

        rows = [row for row in self.rows if row.rho is not None]
        figure = Figure(figsize=(8, 1.5 + 0.3 * len(rows)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        places = range(len(rows))
        left.barh(places, [row.rho for row in rows])
        left.axvline(1, color="black", linewidth=0.8)
        left.set(xscale="log", xlabel="rho = a / sigma", yticks=places, yticklabels=[row.name for row in rows])
        left.invert_yaxis()
        right.barh(places, [100 * (row.gate_closed or 0) for row in rows])
        right.set(xlabel="gate below 1 %, % of pre-activations", xlim=(0, 100))
        figure.savefig(path)


def warn_of_scale(name: str, scale: float, sigma: float | None, others: str = "") -> str:
    """Return the sentences that say that a scale is above the deviation of the pre-activations."""
    return (
        f"{name or 'the model'}: the scale a = {scale:.3g} is {scale / (sigma or math.inf):.3g} times the deviation of "
        f"its pre-activations, {sigma:.3g}{others}: its gate is mostly closed and little passes. A hint, no verdict: "
        "such networks have trained worse than with a calibrated scale, as well, and a Vision Transformer better. "
        "Compare with a scale from a batch: gem_activations.torch.calibrate_(model, batch)"
    )


def check_scale(model: nn.Module, batch: Batch) -> ScaleReport:
    """Compare the scale of every member of the family with its pre-activations on a batch; nothing is changed.

    Args:
        model: A model with GEM, EGEM or SEGEM modules.
        batch: A tensor for model(batch), a tuple for model(*batch), a mapping for model(**batch), or a function that
            is called with the model and runs its forward.
    Returns: A report; print it for a table, `plot` draws it, and it warns of rho > 1 and of a product of chi above e;
        both are hints.
    Raises: ModelError: no module, or none of the family.
    Edge cases: The forward runs once, in the mode that the model is in, without gradient and compilation. Buffers, such
        as the statistics of a batch norm, and random states are as before.
    Example:
        >>> from gem_activations.torch import GEM
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> model = nn.Sequential(nn.Linear(64, 32), GEM())
        >>> report = check_scale(model, 0.05 * torch.randn(256, 64))
        >>> report.rows[0].rho > 10, len(report.warnings)
        (True, 1)
    """
    return _measure(model, batch, None, per_channel=False)


def calibrate_(model: nn.Module, batch: Batch, ratio: float = 0.1, *, per_channel: bool = False) -> ScaleReport:
    """Set the scale of every member of the family to `ratio` times the deviation of its pre-activations, in place.

    The modules are set in the order in which they run, each by what the ones before it, already set, give. The scale is
    a plain number, eps = (ratio sigma)^(2n): the state_dict stays as it was. A scale that is learnt or scheduled is set
    where it is kept, as `log_scale`.

    Args:
        model, batch: As for `check_scale`.
        ratio: The scale over the deviation, above 0. At 0.1 the activation is near ReLU; 1 is smooth.
        per_channel: One scale for each channel, kept as a buffer `log_scale`, which the state_dict then holds. The
            channels are dimension 1 of an input with four or more dimensions, else the last.
    Returns: The report, whose `undo` takes the calibration back.
    Raises: ModelError: as `check_scale`; SettingError: a ratio that is not a finite number above 0.
    Edge cases: A module that does not run, or whose pre-activations are constant or not finite, is left as it was, with
        the reason. One that runs several times is set by its first call. GEMGLU units are named and left.
    Example:
        >>> from gem_activations.torch import EGEM
        >>> model = nn.Sequential(nn.Linear(8, 4), EGEM(), nn.Linear(4, 4), EGEM())
        >>> report = calibrate_(model, torch.randn(32, 8))
        >>> [round(row.rho, 6) for row in report.rows]
        [0.1, 0.1]
    """
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < math.inf:
        raise SettingError(f"ratio={ratio!r}: expected a finite number above 0")
    return _measure(model, batch, float(ratio), per_channel=per_channel)


def _measure(model: nn.Module, batch: Batch, ratio: float | None, *, per_channel: bool) -> ScaleReport:
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected a torch.nn.Module, got {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)  # What torch.compile has wrapped.
    members = named_members(model)
    before = tuple((module, module.save_scale()) for _, module in members)
    rows: dict[str, ScaleRow] = {}
    calls = dict.fromkeys((name for name, _ in members), 0)

    def look(name: str, module: Any, x: Tensor) -> None:
        calls[name] += 1
        if calls[name] > 1:
            return
        wide = x.detach().float()
        sigma, reason = float(wide.std(correction=0)) if wide.numel() else 0.0, ""
        if not 0 < sigma < math.inf:
            reason = "its pre-activations are constant" if sigma == 0 else "its pre-activations are not finite"
            reason += ": left as it was"
        elif ratio is not None and per_channel:
            dim = 1 if x.dim() >= 4 else x.dim() - 1
            rest = [axis for axis in range(x.dim()) if axis != dim]
            deviation = wide.std(rest, correction=0) if rest else torch.full_like(wide, sigma)
            module.set_scale(ratio * torch.where(deviation > 0, deviation, sigma), channel_dim=dim)
        elif ratio is not None:
            module.set_scale(ratio * sigma)
        spec: GemSpec = module.spec
        closed = spec.scale * (0.01 / 0.99) ** (1 / (2 * spec.n))
        share = float((wide <= closed).double().mean()) if wide.numel() else None
        rows[name] = ScaleRow(name, str(spec), 1, sigma if math.isfinite(sigma) else None, spec.scale, share, reason)

    _run(model, batch, members, look)
    for name, row in rows.items():
        again = f"ran {calls[name]} times: measured at the first" if calls[name] > 1 else ""
        rows[name] = replace(row, calls=calls[name], reason=row.reason or again)
    missed = [
        ScaleRow(name, str(module.spec), 0, None, module.spec.scale, None, "did not run on this batch")
        for name, module in members
        if name not in rows
    ]
    glu = [
        (name, "a gated unit: its gate is not measured")
        for name, module in model.named_modules()
        if isinstance(module, GEMGLU)
    ]
    return ScaleReport((*rows.values(), *missed), tuple(glu), ratio, before if ratio is not None else ())


def _run(
    model: nn.Module, batch: Batch, members: list[tuple[str, Any]], look: Callable[[str, Any, Tensor], None]
) -> None:
    """Run the forward once and call `look` with the input of each member; leave no trace on the model."""
    handles = [
        module.register_forward_pre_hook(lambda _, given, name=name, module=module: look(name, module, given[0]))
        for name, module in members
    ]
    buffers = [(buffer, buffer.clone()) for name, buffer in model.named_buffers() if not name.endswith("log_scale")]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.is_cuda}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
            torch.manual_seed(0)  # What is random in the forward, such as dropout, is the same each time.
            if isinstance(batch, Tensor):
                model(batch)
            elif isinstance(batch, Mapping):
                model(**batch)
            elif callable(batch):
                batch(model)
            else:
                model(*batch)
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
