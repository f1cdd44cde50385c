import dataclasses
import itertools
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gem_activations.errors import DataError, MissingDependencyError, SettingError
from gem_activations.lab.models import build_language_model, count_parameters
from gem_activations.lab.recipes.pipeline import BertPlan, Gpt2Plan, Recipe, Subset
from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.runs.planning import resolve_recipe
from gem_activations.lab.runs.request import Request
from gem_activations.lab.store.comparison import EpochRow
from gem_activations.lab.training.step import learning_rates, make_optimizer
from gem_activations.lab.training.tasks import MaskedTokens, NextToken, TextTask, load_task, make_windows
from gem_activations.lab.training.trainer import Trainer

from .running import train

GPT2 = Gpt2Plan(layers=2, width=16, heads=2, context=12, vocabulary=300)
BERT = BertPlan(layers=2, width=16, heads=2, feed_forward=32, context=22, positions=24, vocabulary=150)
PLANS = {"gpt2": GPT2, "bert": BERT}
WORDS = ["the", "sea", "was", "calm", "and", "grey", "under", "low", "clouds", "two", "gulls", "cried", "over", "boats"]
SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GEM_ACTIVATIONS_DATA", raising=False)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three documents of drawn words in their usual folder."""
    draw = random.Random(0)
    for name, words in (("train", 3000), ("valid", 400), ("test", 500)):
        path = tmp_path / "data" / "text" / "books" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(draw.choice(WORDS) for _ in range(words)))
    return tmp_path / "data"


def recipe(kind: str, plan: Gpt2Plan | BertPlan | None = None, **changes: Any) -> Recipe:
    whole = make_recipe("gpt2-124m" if kind == "gpt2" else "bert-small", None, "smoke")
    training = dataclasses.replace(whole.training, epochs=2, epoch_steps=3, batch_size=4, **changes)
    return dataclasses.replace(whole, model=plan or PLANS[kind], training=training, subset=Subset())


def state(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict())


@pytest.mark.parametrize(
    ("plan", "parameters"),
    [(make_recipe("gpt2-124m").model, 124_439_808), (make_recipe("bert-small").model, 28_795_194)],
    ids=["gpt2", "bert"],
)
def test_full_models_have_the_published_sizes(plan: Gpt2Plan | BertPlan, parameters: int) -> None:
    with torch.device("meta"):
        assert count_parameters(build_language_model(plan, "gem", 0)) == parameters


def test_recipes_follow_the_literature() -> None:
    gpt2, bert = make_recipe("gpt2-124m"), make_recipe("bert-small")
    assert gpt2.training.total_steps(10**6) == 5000
    assert bert.training.total_steps(10**6) == 3000
    assert (gpt2.training.betas, gpt2.training.weight_decay, gpt2.training.clip) == ((0.9, 0.95), 0.1, 1.0)
    rates = learning_rates(gpt2.training, 5000)
    assert max(rates) == pytest.approx(6e-4)
    assert rates[-1] == pytest.approx(6e-5)
    assert (bert.model.predicted, bert.model.dropout) == (0.15, 0.1)
    assert learning_rates(bert.training, 3000)[-1] == pytest.approx(0, abs=1e-9)
    for small in (make_recipe("gpt2-124m", None, "small"), make_recipe("bert-small", None, "small")):
        assert len(small.activations) >= 5
        assert small.seeds == 5
        assert small.baseline in small.activations


def test_only_matrices_decay() -> None:
    model = build_language_model(GPT2, "prelu", 0)
    decayed, others = make_optimizer(model, make_recipe("gpt2-124m").training).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.dim() >= 2 for parameter in decayed["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_gpt2_starts_with_scaled_residual_projections() -> None:
    plan = dataclasses.replace(GPT2, width=64, layers=8)
    model = build_language_model(plan, "relu", 3)
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            wanted = 0.02 / 4 if name.endswith("c_proj.weight") else 0.02
            assert float(parameter.detach().std()) == pytest.approx(wanted, rel=0.08), name


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_initial_weights_depend_on_the_seed_alone(kind: str) -> None:
    before = torch.get_rng_state()
    first = state(build_language_model(PLANS[kind], "gelu", 5))
    assert torch.equal(before, torch.get_rng_state())
    for activation in ("egem(eps=10)", "prelu"):
        other = state(build_language_model(PLANS[kind], activation, 5))
        assert all(torch.equal(first[name], other[name]) for name in first)
    changed = state(build_language_model(PLANS[kind], "gelu", 6))
    assert not all(torch.equal(first[name], changed[name]) for name in first)


@pytest.mark.parametrize(("kind", "places"), [("gpt2", 2), ("bert", 3)])
def test_every_place_has_a_module_of_its_own(kind: str, places: int) -> None:
    # BERT has one activation a block and one in its head.
    model = build_language_model(PLANS[kind], "prelu", 0)
    assert sum(isinstance(module, nn.PReLU) for module in model.modules()) == places
    assert not any("gelu" in type(module).__name__.lower() for module in model.modules())


def test_gpt2_sees_no_later_token() -> None:
    model = build_language_model(GPT2, "gem(n=2)", 0).eval()
    tokens = torch.randint(300, (2, 12), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 300
    with torch.inference_mode():
        before, after = model(tokens), model(changed)
    assert before.shape == (2, 12, 300)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().amax(dim=(0, 2)).min() > 1e-6


def test_bert_head_reads_the_places_and_sees_both_sides() -> None:
    model = build_language_model(BERT, "gem", 0).eval()
    tokens = torch.randint(5, 150, (2, 22), generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[3, 9, 20], [1, 2, 4]])
    with torch.inference_mode():
        chosen = model(torch.cat((tokens, places), dim=1))
        everywhere = model.model(input_ids=tokens).logits
        changed = tokens.clone()
        changed[:, 21] = (changed[:, 21] + 1) % 150
        other = model(torch.cat((changed, places), dim=1))
    assert chosen.shape == (2, 3, 150)
    torch.testing.assert_close(chosen, torch.stack([everywhere[row, places[row]] for row in range(2)]))
    assert (chosen - other).abs().amax() > 1e-6


def test_windows_are_consecutive_and_targets_are_the_next_tokens(corpus: Path) -> None:
    task = load_task(recipe("gpt2"), corpus)
    inputs, targets = task.train_batch(torch.arange(task.sizes["train"]), torch.Generator())
    stream = torch.cat((inputs[0, :1], targets.flatten()))
    torch.testing.assert_close(inputs.flatten(), stream[:-1])
    assert inputs.shape == (task.sizes["train"], 12)


def test_windows_are_spread_evenly_over_the_stream() -> None:
    import numpy as np

    stream = np.arange(101, dtype=np.uint32)
    objective = NextToken(dataclasses.replace(GPT2, context=10))
    assert make_windows(stream, objective, None)[:, 0].tolist() == list(range(0, 100, 10))
    assert make_windows(stream, objective, 4)[:, 0].tolist() == [0, 20, 50, 70]
    assert len(make_windows(stream, objective, 99)) == 10
    assert make_windows(stream[:10], objective, None).shape == (0, 11)
    masked = MaskedTokens(dataclasses.replace(BERT, context=12), 200, SPECIAL)
    assert make_windows(stream, masked, 2)[:, [0, 1, 10, 11]].tolist() == [[2, 0, 9, 3], [2, 50, 59, 3]]


def test_masks_follow_bert() -> None:
    plan = dataclasses.replace(BERT, context=128)
    objective, size = MaskedTokens(plan, 1000, SPECIAL), 1000
    windows = torch.randint(5, size, (4000, 128), generator=torch.Generator().manual_seed(1))
    windows[:, 0], windows[:, 127] = 2, 3
    windows[:, 50] = 3  # The end of a document within the window.
    inputs, targets = objective.make_batch(windows, torch.Generator().manual_seed(2))
    tokens, places = inputs[:, :128], inputs[:, 128:]
    assert places.shape == targets.shape == (4000, round(0.15 * 126))
    torch.testing.assert_close(targets, windows.gather(1, places))
    assert not torch.isin(places, torch.tensor([0, 50, 127])).any()
    assert all(len(set(row)) == 19 for row in places.tolist())
    untouched = torch.ones_like(windows, dtype=torch.bool).scatter(1, places, False)
    assert torch.equal(tokens[untouched], windows[untouched])
    shown = tokens.gather(1, places)
    hidden, kept = (shown == 4).double().mean(), (shown == targets).double().mean()
    # Four standard errors of 76,000 draws; one in a thousand random tokens is the right one.
    assert float(hidden) == pytest.approx(0.8, abs=0.006)
    assert float(kept) == pytest.approx(0.1, abs=0.0045)
    counts = torch.bincount(places.flatten(), minlength=128)[1:127]
    assert counts[counts > 0].min() > 450  # Of 608 expected at each of 125 places.


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_evaluation_is_the_same_for_all_arms_and_draws_nothing(corpus: Path, kind: str) -> None:
    one, two = load_task(recipe(kind), corpus), load_task(recipe(kind), corpus)
    before = torch.get_rng_state()
    for split in ("validation", "test"):
        first, second = list(one.evaluation_batches(split)), list(two.evaluation_batches(split))
        for mine, other in zip(first, second, strict=True):
            assert torch.equal(mine.inputs, other.inputs)
            assert torch.equal(mine.targets, other.targets)
        assert sum(len(batch.targets) for batch in first) == one.sizes[split] > 1
    assert torch.equal(before, torch.get_rng_state())
    assert one.checksums == two.checksums
    assert set(one.checksums) == {"train", "validation", "test", "tokenizer"}


def test_training_masks_are_fresh_and_follow_the_generator(corpus: Path) -> None:
    task = load_task(recipe("bert"), corpus)
    indices, generator = torch.tensor([3, 3]), torch.Generator().manual_seed(1)
    first, second = task.train_batch(indices, generator), task.train_batch(indices, generator)
    assert not torch.equal(first.inputs, second.inputs)
    again = task.train_batch(indices, torch.Generator().manual_seed(1))
    assert torch.equal(first.inputs, again.inputs)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_resumed_run_equals_one_never_stopped(tmp_path: Path, corpus: Path, kind: str) -> None:
    task = load_task(recipe(kind), corpus)

    def start() -> Trainer:
        return Trainer(recipe(kind), "egem(eps=10)", 1, task)

    whole = start()
    result = train(whole, tmp_path / "whole")
    steps = itertools.count()

    def stop(metrics: list[EpochRow]) -> None:
        if metrics and next(steps) == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(start(), tmp_path / "stopped", stop)
    resumed = start()
    again = train(resumed, tmp_path / "stopped")
    assert [epoch["train_loss"] for epoch in resumed.metrics] == [epoch["train_loss"] for epoch in whole.metrics]
    assert (again["test_loss"], again["validation_loss"]) == (result["test_loss"], result["validation_loss"])
    ours, theirs = state(resumed.model), state(whole.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_training_learns(tmp_path: Path, corpus: Path, kind: str) -> None:
    settings = recipe(kind, learning_rate=1e-2)
    settings = dataclasses.replace(settings, training=dataclasses.replace(settings.training, epochs=10, epoch_steps=10))
    run = Trainer(settings, "gem", 0, load_task(settings, corpus))
    result = train(run, tmp_path / "run")
    losses = [epoch["validation_loss"] for epoch in run.metrics]
    assert losses[-1] < losses[0] - 0.3
    assert result["test_loss"] == pytest.approx(min(losses), abs=0.3)  # 14 words, drawn alike in all splits.


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path: Path, corpus: Path, kind: str) -> None:
    plan = dataclasses.replace(BERT, dropout=0.0) if kind == "bert" else GPT2
    task = load_task(recipe(kind, plan), corpus)
    losses: list[list[float]] = []
    for micro_batch in (None, 3):
        settings = recipe(kind, plan, micro_batch=micro_batch)
        run = Trainer(settings, "relu", 0, task)
        train(run, tmp_path / str(micro_batch))
        losses.append(
            [epoch["train_loss"] for epoch in run.metrics] + [epoch["validation_loss"] for epoch in run.metrics]
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_text_file_is_a_corpus_too(tmp_path: Path, corpus: Path, kind: str) -> None:
    path = tmp_path / "story"
    path.write_text((corpus / "text" / "books" / "train.txt").read_text())
    task = load_task(dataclasses.replace(recipe(kind), subset=Subset(20, 3, 4)), path)
    assert dict(task.sizes) == {"train": 20, "validation": 3, "test": 4}


def test_too_little_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("the sea was calm " * 12)
    with pytest.raises(DataError, match=r"has \d+ tokens, fewer than one window of 13"):
        load_task(recipe("gpt2"), path)


def test_a_missing_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected text files"):
        load_task(recipe("gpt2"), tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("bert", {"context": 25}, "expected 3 to 24"),
        ("bert", {"context": 2}, "expected 3 to 24"),
    ],
)
def test_impossible_sizes_are_refused(corpus: Path, kind: str, changes: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        load_task(recipe(kind, dataclasses.replace(PLANS[kind], **changes)), corpus)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"width": 63}, "--width 63: the model has 4 heads, which must divide its width"),
        ({"context": 0}, "--context 0: give a whole number of at least 1"),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_the_text_is_read(choices: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        resolve_recipe(Request("gpt2-124m", scale="smoke", **choices))


def test_a_missing_library_is_named_with_its_extra(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"gem-activations\[lab,huggingface\]"):
        load_task(recipe("gpt2"), corpus)


def test_the_task_moves_as_a_whole(corpus: Path) -> None:
    moved = load_task(recipe("bert"), corpus).to(torch.device("meta"))
    assert isinstance(moved, TextTask)
    assert moved.device == torch.device("meta")
    assert {batch.inputs.device.type for batch in moved.evaluation_batches("test")} == {"meta"}
    assert moved.replicate(3) is moved
