"""The monitor in real runs of Lightning's and transformers' trainers, and in TensorBoard's event files."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gem_activations import catalog
from gem_activations.errors import ModelError, SettingError
from gem_activations.torch import GEM, register, swap
from gem_activations.torch.monitor import EDGES, DeadUnitMonitor, read_recording
from gem_activations.torch.monitor.dead import recognise

from ..forked import Forked

pytest.importorskip("lightning")
pytest.importorskip("tensorboard")
transformers = pytest.importorskip("transformers")

import lightning.pytorch as pl  # noqa: E402 -- only where it is installed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

from gem_activations.torch.huggingface import HuggingFaceMonitor, HuggingFaceScaleSchedule  # noqa: E402
from gem_activations.torch.lightning import LightningMonitor, LightningScaleSchedule  # noqa: E402
from gem_activations.torch.monitor.tensorboard import TensorBoardWriter  # noqa: E402

DEAD = (1, 3)


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), GEM(n=2), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 1))
    with torch.no_grad():
        model[0].bias.fill_(0.5)[list(DEAD)] = -100
    return model


class Module(pl.LightningModule):
    """A module whose step calls a part of it, not itself."""

    def __init__(self, net, fails_at=None):
        super().__init__()
        self.net, self.fails_at = net, fails_at

    def training_step(self, batch, number):
        if number == self.fails_at:
            raise RuntimeError("the data ran out")
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, _):
        self.net(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Kept(pl.loggers.logger.DummyLogger):
    """A logger that keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def log_metrics(self, metrics, step=None):
        self.kept.setdefault(step, {}).update(metrics)


def fit(callback, module, logger=False, **options):
    torch.manual_seed(1)
    batches = DataLoader(TensorDataset(torch.randn(48, 4)), batch_size=4)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[callback], logger=logger, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, **options,
    )  # fmt: skip
    trainer.fit(module, batches, batches)
    return trainer


lightnings_own = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*treespec.*:FutureWarning",
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*LeafSpec.*:DeprecationWarning",
)


@lightnings_own
def test_a_fit_of_lightning(tmp_path):
    file, logger = tmp_path / "run" / "monitor.jsonl", Kept()
    ended = []
    callback = LightningMonitor(file, interval=2, window=2, on_window=ended.append)
    module = Module(network())
    fit(callback, module, logger)
    recording = read_recording(file)
    assert recording == callback.monitor.report()
    assert recording.windows == tuple(ended)
    assert [(window.first_step, window.last_step) for window in recording.windows] == [(0, 3), (4, 7), (8, 11)]
    for window in recording.windows:
        assert [(layer.name, layer.units) for layer in window.layers] == [("net.1", 6), ("net.3", 5)]
        assert window.layers[0].never_active == DEAD
        assert window.layers[0].zero_gradient == DEAD
        assert window.layers[1].never_active == ()
        assert window.layers[0].passes == 2  # Validation is not counted.
    logged = {step: metrics for step, metrics in logger.kept.items() if "monitor/never_active/net.1" in metrics}
    assert list(logged) == [3, 7, 11]
    assert all(metrics["monitor/never_active/net.1"] == pytest.approx(2 / 6) for metrics in logged.values())
    assert all(metrics["monitor/gate_closed/net.1"] > 0.3 for metrics in logged.values())
    assert not module.net[1]._forward_pre_hooks
    fit(callback, module, logger)  # The same callback can watch again.
    assert callback.monitor.steps == 12


@lightnings_own
def test_lightning_counts_steps_of_the_optimizer_and_writes_what_it_has_where_a_fit_fails(tmp_path):
    callback = LightningMonitor(interval=1, window=3)
    fit(callback, Module(network()), accumulate_grad_batches=4)
    assert callback.monitor.steps == 3
    assert callback.monitor.windows[0].layers[0].passes == 12
    file = tmp_path / "monitor.jsonl"
    failing = LightningMonitor(file, interval=1)
    module = Module(network(), fails_at=5)
    with pytest.raises(RuntimeError, match="the data ran out"):
        fit(failing, module)
    assert read_recording(file).windows[0].layers[0].passes == 5
    assert not module.net[1]._forward_pre_hooks


@lightnings_own
def test_lightning_is_told_at_once_that_there_is_nothing_to_watch():
    with pytest.raises(ModelError, match="nothing to watch"):
        fit(LightningMonitor(), Module(nn.Linear(4, 1)))


@lightnings_own
def test_a_fit_of_lightning_that_is_resumed_continues_the_file(tmp_path):
    file = tmp_path / "monitor.jsonl"
    batches = DataLoader(TensorDataset(torch.randn(24, 4)), batch_size=4)  # The checkpoint ends an epoch.

    def train(steps, **options):
        callback = LightningMonitor(file, interval=2, window=2)
        trainer = pl.Trainer(
            max_steps=steps, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Module(network()), batches, batches, **options)
        return trainer, callback

    trainer, _ = train(6)
    trainer.save_checkpoint(tmp_path / "six.ckpt")
    first = read_recording(file)
    assert [(window.first_step, window.last_step) for window in first.windows] == [(0, 3), (4, 5)]
    _, callback = train(11, ckpt_path=tmp_path / "six.ckpt")
    assert callback.monitor.steps == 11
    whole = read_recording(file)
    assert whole.windows[:2] == first.windows
    assert whole.windows[2:] == callback.monitor.report().windows
    assert [(window.first_step, window.last_step) for window in whole.windows[2:]] == [(6, 7), (8, 10)]
    # From the same checkpoint again: what was made after it is made anew.
    train(7, ckpt_path=tmp_path / "six.ckpt")
    again = read_recording(file)
    assert [(window.first_step, window.last_step) for window in again.windows] == [(0, 3), (4, 5), (6, 6)]
    assert again.windows[:2] == first.windows
    train(2)  # A new fit has a new file.
    assert [window.first_step for window in read_recording(file).windows] == [0]
    other = LightningMonitor(file, interval=3)
    with pytest.raises(SettingError, match="interval=2 and window=2 cannot be continued with interval=3"):
        other._begin(network(), 6, writes=True)


class Sentences(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, number):
        ids = torch.arange(number, number + 8) % 11
        return {"input_ids": ids, "labels": ids}


def gpt2():
    register()
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 11}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**sizes, **tokens, activation_function="egem(n=2, eps=1e-4)")
    )
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.bias[list(DEAD)] = -100
    return model


small_inputs = pytest.mark.filterwarnings("ignore:.*the scale a = 0.1 is:RuntimeWarning")


@small_inputs
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_of_transformers(tmp_path, checkpointing):
    file, ended = tmp_path / "monitor.jsonl", []
    callback = HuggingFaceMonitor(file, interval=2, window=2, on_window=ended.append)
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        activation_checkpointing=checkpointing, bf16=True, use_cpu=True, report_to=[], save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    model = gpt2()
    transformers.Trainer(model=model, args=settings, train_dataset=Sentences(), callbacks=[callback]).train()
    recording = read_recording(file)
    assert recording == callback.monitor.report()
    assert recording.windows[:1] == tuple(ended)
    assert [(window.first_step, window.last_step) for window in recording.windows] == [(0, 3), (4, 5)]
    for window, passes in zip(recording.windows, (4, 2), strict=True):
        assert [layer.name for layer in window.layers] == ["transformer.h.0.mlp.act", "transformer.h.1.mlp.act"]
        assert [layer.source for layer in window.layers] == ["transformer.h.0.mlp.c_fc", "transformer.h.1.mlp.c_fc"]
        assert [layer.units for layer in window.layers] == [32, 32]
        assert [layer.passes for layer in window.layers] == [passes, passes]
        assert [layer.backward_passes for layer in window.layers] == [passes, passes]
        assert [layer.never_active for layer in window.layers] == [(), DEAD]
        assert [layer.zero_gradient for layer in window.layers] == [(), DEAD]
        assert window.layers[0].scale == pytest.approx(0.1)
    assert not model.transformer.h[0].mlp.act._forward_pre_hooks


@lightnings_own
def test_a_schedule_in_a_fit_of_lightning_goes_on_where_it_is_resumed(tmp_path):
    batches = DataLoader(TensorDataset(torch.randn(24, 4)), batch_size=4)

    def train(steps, **options):
        callback, module = LightningScaleSchedule(1.0, 0.1, steps=10, shape="linear"), Module(network())
        trainer = pl.Trainer(
            max_steps=steps, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, batches, batches, **options)
        return trainer, callback.schedule, module.net[1].spec.scale

    trainer, schedule, scale = train(6)
    assert schedule.state_dict() == {"step": 6}
    assert scale == pytest.approx(schedule.scale) == pytest.approx(0.46)
    trainer.save_checkpoint(tmp_path / "six.ckpt")
    _, schedule, scale = train(9, ckpt_path=tmp_path / "six.ckpt")
    assert schedule.state_dict() == {"step": 9}
    assert scale == pytest.approx(0.19)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_a_schedule_in_a_training_of_transformers(tmp_path):
    model, callback = gpt2(), HuggingFaceScaleSchedule(10.0, 1.0, steps=4, shape="linear", relative=True)
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    transformers.Trainer(model=model, args=settings, train_dataset=Sentences(), callbacks=[callback]).train()
    assert callback.schedule.state_dict() == {"step": 2}
    assert model.transformer.h[0].mlp.act.spec.scale == pytest.approx(0.55)


@small_inputs
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_a_training_of_transformers_that_is_resumed_continues_the_file(tmp_path):
    file = tmp_path / "monitor.jsonl"

    def train(steps, **options):
        callback = HuggingFaceMonitor(file, interval=2, window=2)
        settings = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=steps, per_device_train_batch_size=4, use_cpu=True, report_to=[],
            save_strategy="steps", save_steps=6, disable_tqdm=True,
        )  # fmt: skip
        trainer = transformers.Trainer(model=gpt2(), args=settings, train_dataset=Sentences(), callbacks=[callback])
        trainer.train(**options)
        return callback

    train(6)
    first = read_recording(file)
    callback = train(9, resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert callback.monitor.steps == 9
    whole = read_recording(file)
    assert whole.windows[:2] == first.windows
    assert [(window.first_step, window.last_step) for window in whole.windows] == [(0, 3), (4, 5), (6, 7), (8, 8)]


SAME = {
    "gelu": "gelu", "gelu_fast": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh", "hardswish": "hardswish", "leaky_relu": "leaky_relu", "linear": None, "mish": "mish",
    "quick_gelu": "quick_gelu", "relu": "relu", "relu2": "relu2", "sigmoid": "sigmoid", "silu": "silu", "tanh": "tanh",
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_activations_of_transformers_are_recognised(name):
    module = transformers.activations.get_activation(name)
    found = recognise(module)
    assert found == (SAME[name] and catalog.parse(SAME[name]))
    if found is not None:
        x = torch.linspace(-6, 6, 41)
        torch.testing.assert_close(module(x).double(), torch.from_numpy(found(x)), rtol=1e-3, atol=1e-6)


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def test_what_tensorboard_reads_back_is_what_was_counted(tmp_path):
    model = network()
    with TensorBoardWriter(tmp_path) as writer:
        monitor = DeadUnitMonitor(model, interval=1, window=3, on_window=writer.write)
        for _ in range(6):
            model(torch.randn(16, 4)).sum().backward()
            monitor.step()
    read = events(tmp_path)
    names = ("never_active", "zero_gradient", "gate_closed", "gate_open", "rms")
    assert set(read.Tags()["scalars"]) == {f"monitor/{name}/{layer}" for name in names for layer in ("1", "3")}
    for window, (step, layers) in zip(monitor.windows, ((2, 0), (5, 1)), strict=True):
        for layer in window.layers:
            for name, value in layer.scalars().items():
                event = read.Scalars(f"monitor/{name}/{layer.name}")[layers]
                assert (event.step, event.value) == (step, pytest.approx(value))
            histogram = read.Histograms(f"monitor/pre_activation/{layer.name}")[layers]
            assert histogram.step == step
            assert histogram.histogram_value.num == layer.values == 3 * 16 * layer.units
            counted = zip([*EDGES, 2 * EDGES[-1]], layer.histogram, strict=True)
            filled = {limit: count for limit, count in counted if count}
            got = zip(histogram.histogram_value.bucket_limit, histogram.histogram_value.bucket, strict=True)
            assert {limit: count for limit, count in got if count} == pytest.approx(filled)


def test_a_writer_of_the_users_own_stays_open(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as own:
        TensorBoardWriter(own).close()
        own.add_scalar("loss", 1.0, 0)
    assert events(tmp_path).Scalars("loss")[0].value == 1.0


@pytest.mark.filterwarnings("ignore:.*the scale a = 1 is:RuntimeWarning")
def test_functions_inside_activations_of_transformers_are_read_after_a_swap():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    model = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=11)).train()
    swap(model, {nn.functional.gelu: "gem"})
    with DeadUnitMonitor(model, interval=1) as monitor:
        model(torch.randint(11, (4, 6)))[0].sum().backward()
        monitor.step()
        layers = {layer.source: layer.activation for layer in monitor.report().windows[0].layers}
    assert layers["encoder.layer.0.intermediate.dense"] == "gem"


FRONTS = """
import importlib, sys
from importlib import metadata
{prepare}
import gem_activations.torch.monitor
for front in ("lightning", "huggingface", "monitor.tensorboard"):
    try:
        importlib.import_module(f"gem_activations.torch.{{front}}")
    except ImportError as error:
        print(type(error).__name__, error)
"""
EXTRAS = {"lightning": "monitor", "transformers": "huggingface", "tensorboard": "monitor"}


def say_the_errors(prepare):
    output, errors = Forked(FRONTS.format(prepare=prepare)).communicate()
    assert not errors
    return output.splitlines()


def test_a_missing_library_is_one_clear_error():
    assert say_the_errors('sys.modules |= dict.fromkeys(["lightning", "transformers", "tensorboard"])') == [
        f"MissingDependencyError {library} is not installed; run: pip install --upgrade 'gem-activations[{extra}]'"
        for library, extra in EXTRAS.items()
    ]


def test_a_library_that_is_too_old_is_refused_before_it_is_imported():
    floors = {"lightning": "2.6", "transformers": "5.0", "tensorboard": "2.20"}
    old = {"lightning": "2.5.6", "transformers": "4.57.1", "tensorboard": "2.19.0"}
    prepare = f"own = metadata.version; metadata.version = lambda name: {old}.get(name) or own(name)"
    assert say_the_errors(prepare) == [
        f"MissingDependencyError {library} {old[library]} is too old, expected {floors[library]} or later; "
        f"run: pip install --upgrade 'gem-activations[{extra}]'"
        for library, extra in EXTRAS.items()
    ]
