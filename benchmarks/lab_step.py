"""Compare the lab's training step with a bare PyTorch loop on the same model and the same batches.

Run: python benchmarks/lab_step.py --out benchmarks/results/lab_step.jsonl [--recipes cifar10-resnet56 gpt2-124m]

Both loops make the batch, run forward and backward, clip where the recipe clips, and step the optimiser. The lab adds
the learning-rate schedule and what it keeps for the metrics. Chunks of steps of both alternate; the figure is the
median ratio of the pairs. The recipes that take hours are timed at their small scale.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from gem_activations.lab.data.images import Dataset, Split
from gem_activations.lab.recipes.pipeline import Recipe, Scale
from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.store.environment import describe_environment
from gem_activations.lab.training.group import Group
from gem_activations.lab.training.step import Stepper, make_optimizer
from gem_activations.lab.training.tasks import ImageTask, NextToken, Task, TextTask
from gem_activations.lab.training.trainer import Trainer


class Case(NamedTuple):
    """A recipe, the shape of its images (none: text), and the steps of a chunk."""

    recipe: str
    model: str | None
    scale: Scale
    shape: tuple[int, int, int] | None
    steps: int


CASES = (
    Case("digits", "mlp", "full", (1, 8, 8), 20),
    Case("digits", "cnn", "full", (1, 8, 8), 10),
    Case("mnist", "cnn", "full", (1, 28, 28), 2),
    Case("cifar10-resnet56", None, "small", (3, 16, 16), 2),
    Case("gpt2-124m", None, "small", None, 1),
)

Chunk = Callable[[tuple[Tensor, ...]], object]


def noise_task(recipe: Recipe, case: Case) -> Task:
    """Draw examples of the recipe's shape: the time of a step does not depend on what is in them."""
    noise = torch.Generator().manual_seed(0)
    examples = recipe.training.batch_size * case.steps * 4
    if case.shape is None:
        objective = NextToken(recipe.model)
        size = (examples, objective.length)
        windows = torch.randint(recipe.model.vocabulary, size, generator=noise, dtype=torch.int32)
        return TextTask(recipe, objective, windows, {}, {})
    y, colour = torch.randint(10, (examples,), generator=noise), case.shape[0] == 3
    if colour:  # Colour images are kept as bytes.
        x = torch.randint(256, (examples, *case.shape), generator=noise, dtype=torch.uint8)
    else:
        x = torch.randn(examples, *case.shape, generator=noise)
    split = Split(x, y)
    dataset = Dataset(split, split, split, 10, {})
    return ImageTask(recipe, dataset.standardised() if colour else dataset)


def lab_chunk(run: Trainer, steps: int) -> Chunk:
    stepper = Stepper(run.model, run.task, run.recipe.training, torch.Generator().manual_seed(1), Group())
    rates = [run.recipe.training.learning_rate] * steps
    return lambda batches: stepper.train(rates, list(batches))


def bare_chunk(run: Trainer) -> Chunk:
    model, task, training = run.model, run.task, run.recipe.training
    optimizer, generator = make_optimizer(model, training), torch.Generator().manual_seed(1)
    parameters = list(model.parameters())
    model.train()

    def chunk(batches: tuple[Tensor, ...]) -> None:
        for batch in batches:
            inputs, targets = task.train_batch(batch, generator)
            if training.channels_last:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            if training.clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, training.clip)
            optimizer.step()

    return chunk


def seconds(chunk: Chunk, batches: tuple[Tensor, ...]) -> float:
    started = time.perf_counter()
    chunk(batches)
    return time.perf_counter() - started


def measure(case: Case, activation: str, pairs: int) -> dict[str, object]:
    """Time pairs of chunks, in alternating order."""
    recipe = make_recipe(case.recipe, case.model, case.scale)
    task, steps = noise_task(recipe, case), case.steps
    lab, bare = lab_chunk(Trainer(recipe, activation, 0, task), steps), bare_chunk(Trainer(recipe, activation, 0, task))
    batches = torch.arange(task.sizes["train"]).split(recipe.training.batch_size)
    chunks = [batches[start : start + steps] for start in range(0, len(batches), steps)]
    ratios: list[float] = []
    bare_times: list[float] = []
    for number in range(-3, pairs):
        here = chunks[number % len(chunks)]
        if number % 2:
            bare_time = seconds(bare, here)
            lab_time = seconds(lab, here)
        else:
            lab_time = seconds(lab, here)
            bare_time = seconds(bare, here)
        if number >= 0:  # The first pairs warm up.
            ratios.append(lab_time / bare_time)
            bare_times.append(bare_time / steps)
    low, median, high = statistics.quantiles(ratios, n=4)
    return {
        "recipe": case.recipe,
        "model": recipe.model.kind,
        "scale": case.scale,
        "activation": activation,
        "batch": recipe.training.batch_size,
        "bare_step_ms": 1e3 * statistics.median(bare_times),
        "ratio": median,
        "ratio_quartiles": [low, high],
        "pairs": pairs,
    }


def main() -> None:
    names = list(dict.fromkeys(case.recipe for case in CASES))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file of JSON lines to append the result to")
    parser.add_argument("--pairs", type=int, default=60, help="pairs of chunks for each case (default 60)")
    parser.add_argument("--recipes", nargs="+", default=names, choices=names)
    parser.add_argument("--activations", nargs="+", default=["relu", "gem"])
    options = parser.parse_args()
    cases = [case for case in CASES if case.recipe in options.recipes]
    rows = [measure(case, activation, options.pairs) for case in cases for activation in options.activations]
    print(f"{'recipe':16} {'model':6} {'activation':12} {'bare step, ms':>14} {'lab / bare':>11}   quartiles")
    for row in rows:
        low, high = row["ratio_quartiles"]  # pyright: ignore[reportGeneralTypeIssues] -- two numbers, set above
        print(
            f"{row['recipe']:16} {row['model']:6} {row['activation']:12} {row['bare_step_ms']:14.3f} "
            f"{row['ratio']:11.3f}   {low:.3f} to {high:.3f}"
        )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"environment": describe_environment(torch.device("cpu")), "rows": rows}
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
