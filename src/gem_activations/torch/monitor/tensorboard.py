"""The monitor's windows as curves and histograms of TensorBoard."""

from itertools import pairwise
from pathlib import Path

from ...extras import framework
from .recording import EDGES, LayerCount, Window

with framework("tensorboard", at_least="2.20", install="'gem-activations[monitor]'"):
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardWriter:
    """Write windows to TensorBoard: scalars for each layer, and the distribution of its pre-activations.

    Each layer has scalars under the tag `monitor/NAME/LAYER`: `never_active` and `zero_gradient` (share of the units,
    0 to 1), `gate_closed` and `gate_open` (share of the pre-activations), `rms`. Its histogram `pre_activation` is in
    units of the scale a for a member of the family, else of the root mean square. The global step is the window's last
    step.

    Args:
        target: A folder for a new event file, or a SummaryWriter, which is then not closed here.
    Raises: MissingDependencyError (on import): tensorboard is not installed, or too old.
    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from gem_activations.torch.monitor import DeadUnitMonitor
        >>> with tempfile.TemporaryDirectory() as folder, TensorBoardWriter(folder) as writer:
        ...     model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        ...     monitor = DeadUnitMonitor(model, on_window=writer.write)
        ...     monitor.close()
    """

    def __init__(self, target: "str | Path | SummaryWriter") -> None:
        self._owned = isinstance(target, (str, Path))
        self.writer = SummaryWriter(str(target)) if isinstance(target, (str, Path)) else target

    def write(self, window: Window) -> None:
        """Write one window, as the `on_window` of a monitor."""
        for layer in window.layers:
            label, step = window.label(layer), window.last_step
            for name, value in layer.scalars().items():
                self.writer.add_scalar(f"monitor/{name}/{label}", value, step)
            if sum(layer.histogram):
                self._write_histogram(f"monitor/pre_activation/{label}", layer, step)

    def _write_histogram(self, tag: str, layer: LayerCount, step: int) -> None:
        # Of the end bins, which are open, one bound is not known; a bin's middle stands for what is in it.
        bounds = (2 * EDGES[0], *EDGES, 2 * EDGES[-1])
        middles = [(low + high) / 2 for low, high in pairwise(bounds)]
        weighed = list(zip(layer.histogram, middles, strict=True))
        filled = [number for number, count in enumerate(layer.histogram) if count]
        self.writer.add_histogram_raw(
            tag,
            min=bounds[filled[0]],
            max=bounds[filled[-1] + 1],
            num=sum(layer.histogram),
            sum=sum(count * middle for count, middle in weighed),
            sum_squares=sum(count * middle**2 for count, middle in weighed),
            bucket_limits=list(bounds[1:]),
            bucket_counts=list(layer.histogram),
            global_step=step,
        )

    def close(self) -> None:
        """Write out what is pending, and close the event file if it was opened here."""
        if self._owned:
            self.writer.close()
        else:
            self.writer.flush()

    def __enter__(self) -> "TensorBoardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
