"""Score a model on a split: loss, accuracy, and how far its probabilities can be trusted."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .step import cross_entropy
from .tasks import IGNORED, Batch

BINS = 15
_AT_ONCE = 1 << 22  # Probabilities in memory at a time: 16 MB. A vocabulary has tens of thousands a target.


@dataclass(frozen=True)
class Score:
    """What a model scores on a split.

    Attributes:
        loss: Mean cross-entropy (negative log-likelihood) of a target, in nats.
        accuracy: Fraction of the targets to which the model gives the highest probability, 0 to 1.
        calibration_error: Expected calibration error, 0 to 1: the mean over the targets of the distance between
            confidence and accuracy in the target's bin, of 15 of equal width. None if it is not measured.
        brier: Mean over the targets of the squared distance between the probabilities and the truth, 0 to 2; or None.
    """

    loss: float
    accuracy: float
    calibration_error: float | None = None
    brier: float | None = None


def evaluate(model: nn.Module, batches: Iterable[Batch], *, calibration: bool = False) -> Score:
    """Score a model, which maps inputs to logits (..., classes), on a split; it is left in evaluation mode.

    Calibration error and Brier score are measured if `calibration` asks for them.
    """
    losses: list[Tensor] = []
    counts: list[Tensor] = []
    right: list[Tensor] = []
    confidence: list[Tensor] = []
    brier: list[Tensor] = []
    model.eval()
    with torch.inference_mode():
        for inputs, targets in batches:
            logits = model(inputs).float()
            losses.append(cross_entropy(logits, targets, "sum").double())
            counted = targets != IGNORED
            counts.append(counted.sum())
            right.append((logits.argmax(-1) == targets)[counted])
            if calibration:
                rows = max(1, _AT_ONCE // logits.shape[-1])
                parts = zip(logits.flatten(0, -2).split(rows), targets.flatten().split(rows), strict=True)
                for part, wanted in parts:
                    kept = wanted != IGNORED
                    probabilities = part[kept].softmax(-1)
                    confidence.append(probabilities.amax(-1))
                    brier.append(squared_distance(probabilities, wanted[kept]))
        hits = torch.cat(right)
        return Score(
            loss=float(torch.stack(losses).sum() / torch.stack(counts).sum()),
            accuracy=float(hits.double().mean()),
            calibration_error=calibration_error(torch.cat(confidence), hits) if calibration else None,
            brier=float(torch.cat(brier).double().mean()) if calibration else None,
        )


def squared_distance(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return each target's Brier score, the sum over the classes of (p - truth)^2: (N, classes), (N,) -> (N,).

    Example:
        >>> squared_distance(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([0, 1]))
        tensor([0.5000, 0.0000])
    """
    right = probabilities.gather(-1, targets[:, None])[:, 0]
    # The target's (1 - p)^2 in the place of its p^2: one_hot of a vocabulary would be as large as a batch of logits.
    return (probabilities.square().sum(-1) - 2 * right + 1).clamp(min=0)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Return the expected calibration error of confidences (N,), 0 to 1, and whether each answer is right (N,).

    Example:
        >>> round(calibration_error(torch.tensor([0.8, 0.8]), torch.tensor([True, False])), 6)
        0.3
    """
    # On the CPU in float64: sums over bins on a GPU are not done in the same order each time.
    confidence, hits = confidence.cpu().double(), right.cpu().double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.bincount(bins, confidence - hits, minlength=BINS)
    return float(gaps.abs().sum() / len(confidence))
