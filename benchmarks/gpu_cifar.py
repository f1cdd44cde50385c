"""Train ResNets on CIFAR-10 or CIFAR-100 on one GPU, several runs at once, and write one row a run.

    python benchmarks/gpu_cifar.py --data DATA --depths 20 56 --seeds 0 1 2 --out benchmarks/results/cifar10-short

DATA holds cifar-10-batches-bin, or cifar-100-binary for `--classes 100`. A run is He's network on full images by a
short schedule: one cycle up to `--learning-rate`, 45,000 training images, random crops and flips, bfloat16 autocast,
SGD. The arms of a seed share the first weights, order and crops. The test set is scored once, after the last epoch,
and nothing is chosen by it. Runs that stand in results.csv are not run again, so that the same command goes on where
it was cut off.

A training step is one CUDA graph, and `--replicas` runs at a time each have a stream: small images leave a GPU idle
otherwise. An arm is a string of the catalog; ` +gain` behind it asks for weights corrected for the activation's gain.

Runs of depth 56 without ` +gain` are also written as a comparison of the lab, of its recipe with what differs from it
here, so that `gem-act claims` and `gem-act report` read them. `--tables-only` writes that from results.csv and needs no
GPU.
"""

import argparse
import csv
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_measuring as measuring
import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from gem_activations.catalog import parse
from gem_activations.lab.models import ResNet, scale_to_gain
from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.store.comparison import Plan, write_plan
from gem_activations.torch import make_activation

ARMS = ("relu", "gelu", "gem", "gem(n=2)", "gem(n=3)", "egem(eps=1e-2)", "egem(eps=1e-4)", "egem(eps=1e-6)")
TRAINED, BATCH, PADDING = 45_000, 128, 4
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
FILES = {
    10: ("cifar-10-batches-bin", "data_batch_*.bin", "test_batch.bin"),
    100: ("cifar-100-binary", "train.bin", "test.bin"),
}


class Data:
    """CIFAR on the device: padded training images as bytes, height and width before the channels."""

    def __init__(self, folder: Path, classes: int) -> None:
        self.classes = classes
        place, training, test = FILES[classes]
        images, labels = _read(sorted((folder / place).glob(training)), classes)
        self.mean, self.deviation = images[:TRAINED].mean((0, 1, 2)) / 255, images[:TRAINED].std((0, 1, 2)) / 255
        padded = np.pad(images[:TRAINED], ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)))
        self.images, self.labels = torch.from_numpy(padded).cuda(), torch.from_numpy(labels[:TRAINED]).cuda()
        test_images, test_labels = _read([folder / place / test], classes)
        self.test_images, self.test_labels = torch.from_numpy(test_images).cuda(), torch.from_numpy(test_labels).cuda()
        self.shift = torch.tensor(self.mean, dtype=torch.float32).cuda()
        self.scale = torch.tensor(1 / self.deviation, dtype=torch.float32).cuda()

    def normalise(self, images: Tensor) -> Tensor:
        """Return bytes (N, H, W, 3) as floats (N, 3, H, W) in channels_last order."""
        return ((images.float() / 255 - self.shift) * self.scale).permute(0, 3, 1, 2)


class Training:
    """One run: a network, its momentum, its order of images, and the graph of a step."""

    def __init__(self, arm: str, seed: int, depth: int, epochs: int, rate: float, data: Data) -> None:
        self.arm, self.seed, self.depth, self.data = arm, seed, depth, data
        name, gain, _ = arm.partition(" +gain")
        torch.manual_seed(seed)
        model = ResNet((depth - 2) // 6, data.classes, lambda: make_activation(name))
        if gain:
            scale_to_gain(model, name, torch.zeros(1, 3, 32, 32))
        self.model = model.cuda().to(memory_format=torch.channels_last)
        self.parameters = list(self.model.parameters())
        self.momentum = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = TRAINED // BATCH
        self.draws = np.random.default_rng(seed)
        self.order = torch.zeros(self.steps, BATCH, 4, dtype=torch.long, device="cuda")
        self.rates = torch.tensor(_one_cycle(epochs * self.steps, rate), dtype=torch.float32, device="cuda")
        self.step, self.loss = torch.zeros(1, dtype=torch.long, device="cuda"), torch.zeros((), device="cuda")
        self.pixels = torch.arange(32, device="cuda")
        self.stream = torch.cuda.Stream()
        self._capture()

    def _capture(self) -> None:
        begun = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                self._take_step()
        self.stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._take_step()
        self.model.load_state_dict(begun)
        for value in (*self.momentum, self.step, self.loss):
            value.zero_()
        torch.cuda.synchronize()

    def _take_step(self) -> None:
        which, down, right, flip = self.order.index_select(0, self.step % self.steps)[0].unbind(1)
        rows = (down[:, None] + self.pixels)[:, :, None]
        columns = (right[:, None] + torch.where(flip[:, None] > 0, 31 - self.pixels, self.pixels))[:, None, :]
        images = self.data.normalise(self.data.images[which[:, None, None], rows, columns])
        with torch.autocast("cuda", torch.bfloat16):
            logits = self.model(images)
        loss = functional.cross_entropy(logits.float(), self.data.labels[which])
        grads = list(torch.autograd.grad(loss, self.parameters))
        with torch.no_grad():
            torch._foreach_add_(grads, self.parameters, alpha=WEIGHT_DECAY)
            torch._foreach_mul_(self.momentum, MOMENTUM)
            torch._foreach_add_(self.momentum, grads)
            rate = self.rates.index_select(0, self.step.clamp(max=len(self.rates) - 1))[0]
            torch._foreach_sub_(self.parameters, torch._foreach_mul(self.momentum, rate))
            self.loss.add_(loss.detach())
            self.step.add_(1)

    def begin_epoch(self) -> None:
        """Draw the order, the crops and the flips of an epoch; the same for every arm of a seed."""
        order = self.draws.permutation(TRAINED)[: self.steps * BATCH]
        crops = self.draws.integers(0, 2 * PADDING + 1, (len(order), 2))
        flips = self.draws.integers(0, 2, len(order))
        drawn = np.column_stack([order, crops, flips]).reshape(self.steps, BATCH, 4)
        with torch.cuda.stream(self.stream):
            self.order.copy_(torch.from_numpy(drawn))
            self.loss.zero_()

    @torch.no_grad()
    def score(self) -> dict[str, Any]:
        """Return the test set's accuracy and loss; `status` is failed if a weight is not finite."""
        self.model.eval()
        torch.cuda.synchronize()
        logits = []
        for images in self.data.test_images.split(1000):
            with torch.autocast("cuda", torch.bfloat16):
                logits.append(self.model(self.data.normalise(images)).float())
        scores = torch.cat(logits)
        loss = float(functional.cross_entropy(scores, self.data.test_labels))
        accuracy = float((scores.argmax(1) == self.data.test_labels).double().mean())
        finite = bool(np.isfinite(loss)) and all(bool(p.isfinite().all()) for p in self.parameters)
        figures = {"accuracy": accuracy, "loss": loss, "train_loss": float(self.loss) / self.steps}
        return {"status": "finished" if finite else "failed", **(figures if finite else dict.fromkeys(figures, ""))}


def _read(files: list[Path], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 32, 32, 3) as bytes, and labels: with 100 classes the second byte, after the coarse class."""
    labels = 1 if classes == 10 else 2
    records = np.concatenate([np.fromfile(file, dtype=np.uint8) for file in files]).reshape(-1, labels + 3072)
    images = records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, labels - 1].astype(np.int64)


def _one_cycle(steps: int, peak: float) -> np.ndarray:
    """Return the rates: linear up over the first 30 %, then half a cosine down to 0."""
    part = (np.arange(steps) + 1) / steps
    return peak * np.where(part < 0.3, part / 0.3, 0.5 + 0.5 * np.cos(np.pi * (part - 0.3) / 0.7))


def main() -> None:
    arguments = _arguments()
    if not arguments.tables_only:
        _train(arguments)
    _write_comparison(arguments.out, arguments.learning_rate, arguments.classes)


def _train(arguments: argparse.Namespace) -> None:
    measuring.require_cuda()
    arguments.out.mkdir(parents=True, exist_ok=True)
    begun, data = time.monotonic(), Data(arguments.data, arguments.classes)
    environment = {**measuring.machine(), "epochs": arguments.epochs, "learning_rate": arguments.learning_rate}
    (arguments.out / f"environment-{int(time.time())}.json").write_text(json.dumps(environment, indent=2) + "\n")
    waiting = list(_plan(arguments))
    while waiting and time.monotonic() - begun < arguments.seconds:
        group = [place for place in waiting if place[0] == waiting[0][0]][: arguments.replicas]
        waiting = [place for place in waiting if place not in group]
        _run_group(group, arguments, data)
    print(f"{len(waiting)} runs are left for the next call; {time.monotonic() - begun:.0f} s")


def _plan(arguments: argparse.Namespace) -> Iterator[tuple[int, int, str]]:
    """Yield depth, seed and arm of the runs that results.csv lacks: all arms of a seed before the next seed."""
    done = set()
    if (arguments.out / "results.csv").exists():
        with (arguments.out / "results.csv").open(newline="") as file:
            done = {(int(row["depth"]), int(row["seed"]), row["activation"]) for row in csv.DictReader(file)}
    for depth in arguments.depths:
        for seed in arguments.seeds:
            for arm in arguments.arms:
                if (depth, seed, arm) not in done:
                    yield depth, seed, arm


def _run_group(group: list[tuple[int, int, str]], arguments: argparse.Namespace, data: Data) -> None:
    trainings = [
        Training(arm, seed, depth, arguments.epochs, arguments.learning_rate, data) for depth, seed, arm in group
    ]
    start = time.monotonic()
    for _ in range(arguments.epochs):
        for training in trainings:
            training.begin_epoch()
        for _ in range(trainings[0].steps):
            for training in trainings:
                with torch.cuda.stream(training.stream):
                    training.graph.replay()
    torch.cuda.synchronize()
    seconds = time.monotonic() - start
    images = arguments.epochs * trainings[0].steps * BATCH * len(trainings) / seconds
    rows = [
        {"activation": t.arm, "seed": t.seed, "depth": t.depth, "epochs": arguments.epochs, **t.score()}
        for t in trainings
    ]
    _append(arguments.out / "results.csv", rows)
    print(
        f"{len(group)} runs, {seconds:.1f} s, {images:,.0f} images/s",
        *(_line(row) for row in rows),
        sep="\n  ",
        flush=True,
    )


def _line(row: dict[str, Any]) -> str:
    return f"ResNet-{row['depth']} {row['activation']} seed {row['seed']}: {row['accuracy']}"


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the table anew with the rows added; it appears whole or not at all."""
    old = path.read_text() if path.exists() else ",".join(rows[0]) + "\n"
    partial = path.with_suffix(".part")
    with partial.open("w", newline="") as file:
        file.write(old)
        csv.DictWriter(file, list(rows[0]), lineterminator="\n").writerows(rows)
    partial.replace(path)


def _write_comparison(out: Path, rate: float, classes: int) -> None:
    """Write the runs of depth 56 that the lab could have made, as its `comparison.json` and `results.parquet`."""
    with (out / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["depth"] == "56" and "+gain" not in row["activation"]]
    if not rows:
        return
    recipe = make_recipe(f"cifar{classes}-resnet56", scale="short")
    training = dataclasses.replace(recipe.training, epochs=int(rows[0]["epochs"]), learning_rate=rate)
    runs = [
        {
            "activation": str(parse(row["activation"])),
            "seed": int(row["seed"]),
            "status": row["status"],
            "reason": "" if row["status"] == "finished" else "a weight or the loss is not finite",
            "test_accuracy": float(row["accuracy"]) if row["accuracy"] else None,
            "test_loss": float(row["loss"]) if row["loss"] else None,
            "epochs": int(row["epochs"]),
            "seconds": 0.0,  # Runs shared the GPU; what one of them takes by itself is not known.
        }
        for row in rows
    ]
    arms = tuple(dict.fromkeys(run["activation"] for run in runs))
    seeds = tuple(sorted({run["seed"] for run in runs}))
    pipeline = dataclasses.replace(recipe, training=training).pipeline()
    write_plan(out, Plan(pipeline, "gelu", "cuda", threads=1, data={}, activations=arms, seeds=seeds))
    pl.DataFrame(runs).write_parquet(out / "results.parquet")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds cifar-10-batches-bin or cifar-100-binary")
    parser.add_argument("--classes", type=int, choices=list(FILES), default=10, help="CIFAR-10 or CIFAR-100")
    parser.add_argument(
        "--tables-only", action="store_true", help="write the lab's tables from results.csv, train nothing"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10-short"), help="folder of results.csv")
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), help="strings of the catalog, ' +gain' behind them or not"
    )
    parser.add_argument("--depths", type=int, nargs="+", default=[56], help="20, 32, 44, 56 or 110")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=0.1, help="highest rate of the cycle")
    parser.add_argument("--replicas", type=int, default=4, help="runs at a time")
    parser.add_argument("--seconds", type=float, default=480.0, help="no further runs are begun after this time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
