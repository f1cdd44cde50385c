"""E-GEM that finds its own scale, as an activation of your own in any comparison:

    gem-act compare examples/graph.py:train --activations relu calibrated=examples/calibrated.py:Calibrated \
      --metric error --better lower --baseline relu --seeds 10 --out runs/calibrated

`gem_activations.torch.calibrate_(model, batch)` sets the scale of every E-GEM of a model to a share of the deviation of
its pre-activations on a batch. A module can do that by itself on the first batch that it sees, and the training
function need not know of it.
"""

from torch import Tensor

from gem_activations.torch import EGEM


class Calibrated(EGEM):
    """E-GEM whose scale is a tenth of the deviation of its first pre-activations: near ReLU."""

    ratio, order = 0.1, 1

    def __init__(self) -> None:
        super().__init__(n=self.order)
        self.found = False

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation elementwise; the first call sets the scale."""
        if not self.found:
            self.set_scale(self.ratio * float(x.detach().std(correction=0)))
            self.found = True
        return super().forward(x)


class CalibratedWide(Calibrated):
    """The same with n = 2 and a scale of one deviation, for networks that are differentiated twice."""

    ratio, order = 1.0, 2


class CalibratedNarrow(Calibrated):
    """The same as `Calibrated` with a hundredth of the deviation."""

    ratio = 0.01


class CalibratedSmooth(Calibrated):
    """The same as `Calibrated` with n = 2: four continuous derivatives, near ReLU."""

    order = 2
