"""Compare the lab's training step with a bare PyTorch loop on the same model and the same batches.

Run: python benchmarks/lab_step.py --out benchmarks/results/lab_step.jsonl

Both loops make the batch, run forward and backward, and step the optimiser. The lab adds the learning-rate schedule
and what it keeps for the metrics. Chunks of steps of both alternate; the figure is the median ratio of the pairs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from gem_activations.lab.data import Dataset, Split
from gem_activations.lab.environment import describe_environment
from gem_activations.lab.group import Alone
from gem_activations.lab.images import ImageTask
from gem_activations.lab.optimisation import make_optimizer
from gem_activations.lab.pipeline import Recipe
from gem_activations.lab.recipes import make_recipe
from gem_activations.lab.step import Stepper
from gem_activations.lab.tasks import Task
from gem_activations.lab.training import Run

CASES = (("digits", "mlp", (8, 8), 20), ("digits", "cnn", (8, 8), 10), ("mnist", "cnn", (28, 28), 2))

Chunk = Callable[[tuple[torch.Tensor, ...]], object]


def noise_dataset(recipe: Recipe, size: tuple[int, int], steps: int) -> Dataset:
    """Examples of the recipe's shape, drawn: the time of a step does not depend on what is in the pixels."""
    noise = torch.Generator().manual_seed(0)
    examples = recipe.training.batch_size * steps * 4
    split = Split(torch.randn(examples, 1, *size, generator=noise), torch.randint(10, (examples,), generator=noise))
    return Dataset(split, split, split, 10, {})


def lab_chunk(run: Run, steps: int) -> Chunk:
    stepper = Stepper(run.model, run.task, run.recipe.training, torch.Generator().manual_seed(1), Alone())
    rates = [run.recipe.training.learning_rate] * steps
    return lambda batches: stepper.train(rates, list(batches))


def bare_chunk(run: Run) -> Chunk:
    model, task = run.model, run.task
    optimizer, generator = make_optimizer(model, run.recipe.training), torch.Generator().manual_seed(1)
    model.train()

    def chunk(batches: tuple[torch.Tensor, ...]) -> None:
        for batch in batches:
            inputs, targets = task.train_batch(batch, generator)
            loss = functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return chunk


def seconds(chunk: Chunk, batches: tuple[torch.Tensor, ...]) -> float:
    started = time.perf_counter()
    chunk(batches)
    return time.perf_counter() - started


def measure(name: str, model: str, size: tuple[int, int], steps: int, activation: str, pairs: int) -> dict[str, object]:
    """Time pairs of chunks of `steps` steps each, in alternating order."""
    recipe = make_recipe(name, model)
    task: Task = ImageTask(recipe, noise_dataset(recipe, size, steps))
    lab, bare = lab_chunk(Run(recipe, activation, 0, task), steps), bare_chunk(Run(recipe, activation, 0, task))
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
        "recipe": name,
        "model": model,
        "activation": activation,
        "batch": recipe.training.batch_size,
        "bare_step_ms": 1e3 * statistics.median(bare_times),
        "ratio": median,
        "ratio_quartiles": [low, high],
        "pairs": pairs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file of JSON lines to append the result to")
    parser.add_argument("--pairs", type=int, default=60, help="pairs of chunks for each case (default 60)")
    parser.add_argument("--activations", nargs="+", default=["relu", "gem"])
    options = parser.parse_args()
    rows = [measure(*case, activation, options.pairs) for case in CASES for activation in options.activations]
    print(f"{'recipe':8} {'model':6} {'activation':12} {'bare step, ms':>14} {'lab / bare':>11}   quartiles")
    for row in rows:
        low, high = row["ratio_quartiles"]  # pyright: ignore[reportGeneralTypeIssues] -- two numbers, set above
        print(
            f"{row['recipe']:8} {row['model']:6} {row['activation']:12} {row['bare_step_ms']:14.3f} "
            f"{row['ratio']:11.3f}   {low:.3f} to {high:.3f}"
        )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"environment": describe_environment(torch.device("cpu")), "rows": rows}
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
