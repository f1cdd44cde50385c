"""A comparison made of drawn numbers, for the tests of what reads the store."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.report.document import analyse, write_report
from gem_activations.lab.store.comparison import Comparison, EpochRow, RunResult

ARMS = {"relu": 0.95, "gelu": 0.96, "gem": 0.955, "gem(n=2)": 0.965, "segem(eps=1e-4, leak=0.01)": 0.95}


def _epochs(final: float, noise: np.random.Generator, count: int) -> tuple[EpochRow, ...]:
    progress = 1 - 0.5 ** np.arange(1, count + 1)
    return tuple(
        {
            "epoch": number + 1,
            "train_loss": float(2.3 * np.exp(-4 * share) + 0.02 * noise.random()),
            "train_accuracy": final * float(share),
            "validation_loss": float(2.3 * np.exp(-3 * share)),
            "validation_accuracy": min(1.0, final * float(share) + 0.01 * float(noise.random())),
            "learning_rate": 1e-3,
            "seconds": 1.5,
        }
        for number, share in enumerate(progress)
    )


def _figures(accuracy: float, step_time_ratio: float) -> dict[str, float | None]:
    return {
        "test_accuracy": accuracy,
        "test_loss": 0.1,
        "validation_accuracy": accuracy,
        "validation_loss": 0.12,
        "best_epoch": 6,
        "parameters": 4810,
        "step_seconds": 0.002,
        "step_time_ratio": step_time_ratio,
    }


def fabricate_comparison(
    folder: Path,
    *,
    arms: Mapping[str, float] = ARMS,
    baseline: str = "gelu",
    seeds: int = 3,
    failed: Sequence[tuple[str, int]] = (),
    missing: Sequence[tuple[str, int]] = (),
) -> Comparison:
    """Make a comparison whose accuracies are an arm's level plus noise, half of it shared by the runs of a seed."""
    noise = np.random.default_rng(7)
    shared = 0.003 * noise.standard_normal(seeds)
    results: list[RunResult] = []
    curves: dict[tuple[str, int], tuple[EpochRow, ...]] = {}
    for seed in range(seeds):
        for activation, level in arms.items():
            accuracy = round(float(level + shared[seed] + 0.003 * noise.standard_normal()), 4)
            if (activation, seed) in missing:
                continue
            bad = (activation, seed) in failed
            curves[activation, seed] = _epochs(accuracy, noise, 2 if bad else 6)
            results.append(
                RunResult(
                    activation=activation,
                    seed=seed,
                    status="failed" if bad else "finished",
                    reason="the training loss is nan in epoch 3" if bad else "",
                    epochs=2 if bad else 6,
                    seconds=9.5,
                    figures={} if bad else _figures(accuracy, 1.0 if activation == "relu" else 1.2 + 0.01 * seed),
                )
            )
    return Comparison(
        folder=folder,
        recipe=make_recipe("digits").pipeline(),
        activations=tuple(arms),
        baseline=baseline,
        seeds=seeds,
        results=tuple(results),
        curves=curves,
        environment={"command": "gem-act compare digits", "versions": {"torch": "2.13.0"}, "cpu": "2 cores"},
        missing=tuple(missing),
    )


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small do not share; waiting threads would only make the tests slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the plots out of the reports of a test that does not look at them: they take most of its time."""
    monkeypatch.setattr("gem_activations.lab.report.document.comparison_figures", lambda *_: {})


@pytest.fixture
def fabricate(tmp_path: Path) -> Callable[..., Comparison]:
    """Return `fabricate_comparison` for the test's own folder."""

    def make(**choices: object) -> Comparison:
        return fabricate_comparison(tmp_path / "out", **choices)  # pyright: ignore[reportArgumentType]

    return make


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Return a comparison whose report is written; tests only read it."""
    comparison = fabricate_comparison(
        tmp_path_factory.mktemp("reported") / "out", failed=[("gem", 1)], missing=[("relu", 2)]
    )
    write_report(analyse(comparison))
    return comparison
