"""Dead units, missing gradients, gate saturation and pre-activations of a model, counted while it trains.

`DeadUnitMonitor` does the counting in any training loop. `monitor.lightning`, `monitor.huggingface` and
`monitor.tensorboard` are its fronts, each imported on its own; `gem-act monitor FILE` draws what was saved.
"""

from .recording import EDGES, LayerCount, Recording, Window, gather, read_recording
from .watching import DeadUnitMonitor

__all__ = ["EDGES", "DeadUnitMonitor", "LayerCount", "Recording", "Window", "gather", "read_recording"]
