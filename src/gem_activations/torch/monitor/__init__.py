"""Dead units, missing gradients, gate saturation and pre-activations of a model, counted while it trains.

`DeadUnitMonitor` does the counting in any training loop. `torch.lightning` and `torch.huggingface` have its callbacks
for trainers, `monitor.tensorboard` writes its windows; each is imported on its own. `gem-act monitor FILE` draws what
was saved.
"""

from .recording import EDGES, LayerCount, Recording, Window, gather, read_recording
from .watching import DeadUnitMonitor

__all__ = ["EDGES", "DeadUnitMonitor", "LayerCount", "Recording", "Window", "gather", "read_recording"]
