"""transformers: names in configurations, swaps in its models, and its Trainer. All models are tiny and made here."""

import copy
import pickle
import re
import sys

import pytest
import torch
from torch import nn

from gem_activations import catalog
from gem_activations.errors import (
    ActivationNameError,
    MissingDependencyError,
    ModelError,
    RegistrationError,
    SpecError,
)
from gem_activations.torch import GEM, SEGEM, gem, register, swap
from gem_activations.torch.monitor import DeadUnitMonitor
from gem_activations.torch.swap import Change

from ..forked import Forked

transformers = pytest.importorskip("transformers")
from transformers import activations  # noqa: E402 -- only where transformers is installed

SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
TEXT = {"vocab_size": 11, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
PICTURE = {"image_size": 8, "patch_size": 4}


def gpt2(**options):
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16, **TEXT}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **options))


def bert(**options):
    return transformers.BertModel(transformers.BertConfig(**SIZES, vocab_size=11, pad_token_id=2, **options))


def vit(**options):
    return transformers.ViTModel(transformers.ViTConfig(**SIZES, **PICTURE, **options))


def llama(**options):
    return transformers.LlamaModel(transformers.LlamaConfig(**SIZES, **TEXT, num_key_value_heads=1, **options))


def run(model):
    """Return the first output of a model in evaluation."""
    torch.manual_seed(0)
    given = torch.randn(2, 3, 8, 8) if model.config.model_type == "vit" else torch.randint(11, (2, 5))
    with torch.no_grad():
        return model.eval()(given)[0]


# Model, the field of its configuration, the pattern of its activations, and where one is.
MODELS = {
    "gpt2": (gpt2, "activation_function", "*.mlp.act", "transformer.h.1.mlp.act"),
    "bert": (bert, "hidden_act", "*.intermediate_act_fn", "encoder.layer.1.intermediate.intermediate_act_fn"),
    "vit": (vit, "hidden_act", "*.mlp.activation_fn", "layers.1.mlp.activation_fn"),
    "llama": (llama, "hidden_act", "*.mlp.act_fn", "layers.1.mlp.act_fn"),
}
every_model = pytest.mark.parametrize("name", list(MODELS))


@every_model
def test_a_name_in_the_configuration_makes_the_model(name):
    register()
    make, field, _, place = MODELS[name]
    model = make(**{field: "segem(n=2, eps=0.1, leak=0.2)"})
    act = model.get_submodule(place)
    assert isinstance(act, SEGEM)
    assert (act.n, act.eps, act.leak) == (2, 0.1, 0.2)
    assert torch.isfinite(run(model)).all()


@every_model
def test_a_swapped_model_computes_what_a_configured_one_does(name):
    register()
    make, field, pattern, place = MODELS[name]
    model, configured = make(), make(**{field: "gem(n=2)"})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    old = run(model)
    report = swap(model, {pattern: "gem(n=2)"})
    assert len(report.changes) == 2
    assert not report.left
    assert isinstance(model.get_submodule(place), GEM)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    configured.load_state_dict(model.state_dict())
    assert torch.equal(run(model), run(configured))
    assert not torch.equal(run(model), old)
    report.undo()
    assert torch.equal(run(model), old)


@every_model
def test_a_swapped_model_that_is_saved_comes_back_with_its_activation(name, tmp_path):
    make, field, pattern, place = MODELS[name]
    model = make()
    old = getattr(model.config, field)
    report = swap(model, {pattern: "egem(n=2)"})
    wanted = "egem(n=2, eps=1e-4)"
    assert getattr(model.config, field) == wanted
    assert report.notes[-1] == (
        f"the configuration of the model says {type(model.config).__name__}.{field}={wanted!r} now; "
        "call register() before from_pretrained"
    )
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert repr(loaded.get_submodule(place)) == "EGEM(n=2, eps=1e-4)"
    assert torch.equal(run(loaded), run(model))
    report.undo()
    assert getattr(model.config, field) == old


def test_the_configuration_of_a_copy_is_a_copy():
    model = gpt2()
    report = swap(model, {"*.mlp.act": "gem"}, inplace=False)
    assert (report.model.config.activation_function, model.config.activation_function) == ("gem", "gelu_new")


def test_a_name_that_transformers_means_otherwise_is_written_with_parentheses():
    model = gpt2()
    swap(model, {"*.mlp.act": "gelu"})
    assert model.config.activation_function == "gelu()"


def test_the_configuration_of_a_model_within_another_is_found():
    model = nn.ModuleDict({"body": bert(), "head": nn.Sequential(nn.Linear(8, 2), nn.ReLU())})
    assert swap(model, {nn.ReLU: "gem"}).notes[1:] == ()
    report = swap(model, {"*.intermediate_act_fn": "gem(n=2)"})
    assert model["body"].config.hidden_act == "gem(n=2)"
    assert report.notes[-1].startswith("the configuration of body says BertConfig.hidden_act='gem(n=2)' now")


def masked_bert():
    return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, vocab_size=11, pad_token_id=2))


@pytest.mark.parametrize(
    ("make", "choices"),
    [
        (gpt2, {"transformer.h.0.mlp.act": "gem"}),  # One of two layers.
        (gpt2, {"transformer.h.0.mlp.act": "gem", "transformer.h.1.mlp.act": "egem"}),
        (gpt2, {"*.mlp.act": GEM(save="output")}),  # No string says it.
        (masked_bert, {"*.intermediate_act_fn": "gem"}),  # The head has the same activation.
        (bert, {nn.Tanh: "gem"}),  # No field names the pooler's.
    ],
    ids=["one layer", "two strings", "module", "head", "pooler"],
)
def test_a_configuration_that_cannot_say_what_was_swapped_stays_and_the_report_warns(make, choices):
    model = make()
    before = model.config.to_dict()
    report = swap(model, choices)
    assert model.config.to_dict() == before
    assert report.notes[-1].startswith(
        "the configuration of the model stays, since no string in it stands for all that"
    )
    report.undo()


def test_fields_of_parts_are_found_and_those_that_govern_nothing_stay():
    text, picture = {**SIZES, "vocab_size": 11, "bos_token_id": 0, "eos_token_id": 1}, {**SIZES, **PICTURE}
    config = transformers.CLIPConfig(text_config=text, vision_config=picture)
    swap(transformers.CLIPModel(config), {"*": "gem"})
    assert (config.text_config.hidden_act, config.vision_config.hidden_act) == ("gem", "gem")
    other = transformers.DebertaV2Config(**SIZES, vocab_size=11)
    assert (other.hidden_act, other.pooler_hidden_act) == ("gelu", "gelu")
    swap(transformers.DebertaV2Model(other), {"*": "gem"})
    assert (other.hidden_act, other.pooler_hidden_act) == ("gem", "gelu")


def test_an_activation_that_the_configuration_does_not_govern_is_noticed():
    """ResNet's inner layers have ReLU whatever the configuration says."""
    model = transformers.ResNetModel(transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1]))
    assert swap(model, {nn.ReLU: "gem"}).notes[-1].startswith("the configuration of the model stays")
    assert model.config.hidden_act == "relu"


def test_the_losses_of_a_model_are_no_calls_of_its_forward():
    with pytest.raises(ModelError, match=r"nothing to swap: no module holds or calls sigmoid"):
        swap(gpt2(), {torch.sigmoid: "gem"})


def test_a_field_that_is_computed_from_another_is_followed(tmp_path):
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2, "vocab_size": 11}
    model = transformers.T5Model(transformers.T5Config(**sizes))
    swap(model, {nn.ReLU: "gem"})
    model.save_pretrained(tmp_path)
    loaded = transformers.T5Model.from_pretrained(tmp_path)
    assert type(loaded.encoder.block[0].layer[1].DenseReluDense.act) is GEM


def test_a_head_that_is_swapped_too_is_governed_by_the_configuration():
    model = masked_bert()
    assert len(swap(model, {activations.GELUActivation: "gem"}).changes) == 3
    assert model.config.hidden_act == "gem"


def test_a_class_of_transformers_is_a_key():
    model = bert()
    assert len(swap(model, {activations.GELUActivation: "gem"}).changes) == 2


@pytest.mark.filterwarnings("ignore:.*the scale a = 1 is:RuntimeWarning")
def test_a_function_that_a_class_of_transformers_holds_takes_the_class_with_it():
    model, place = bert(), "encoder.layer.1.intermediate.intermediate_act_fn"
    calls = []
    model.get_submodule(place).register_forward_hook(lambda module, *_: calls.append(type(module)))
    report = swap(model, {nn.functional.gelu: "gem(n=2)"})
    assert report.changes[1] == Change(place, "GELUActivation", "GEM(n=2, save='input')")
    assert type(model.get_submodule(place)) is GEM
    with DeadUnitMonitor(model, interval=1) as monitor:
        model(torch.randint(11, (4, 6)))[0].sum().backward()
        monitor.step()
        assert {layer.name: layer.activation for layer in monitor.report().latest.layers}[place] == "gem(n=2)"
    assert calls == [GEM]
    report.undo()
    assert type(model.get_submodule(place)) is activations.GELUActivation


def test_a_class_that_does_more_with_the_function_it_holds_stays():
    class Doubled(activations.GELUActivation):
        def forward(self, x):
            return 2 * self.act(x)

    model = nn.Sequential(Doubled())
    assert [change.name for change in swap(model, {nn.functional.gelu: "gem"}).changes] == ["0.act"]
    x = torch.linspace(-1, 2, 5)
    assert torch.equal(model(x), 2 * gem(x))


def test_a_block_with_weights_is_no_activation():
    model = gpt2()
    kind, state = type(model.transformer.h[0].mlp), list(model.state_dict())
    for key in (kind, "transformer.h.0.mlp", lambda name, _: name.endswith(".mlp")):
        with pytest.raises(
            ModelError, match=r"'transformer.h.0.mlp' is chosen, a GPT2MLP with the layer 'c_fc' \(Conv1D\)"
        ):
            swap(model, {key: "gem"})
    with pytest.raises(ModelError, match=r"matches the pattern '\*.mlp'; it matches 'transformer.h.0.mlp', a GPT2MLP"):
        swap(model, {"*.mlp": "gem"})
    assert list(model.state_dict()) == state


def test_a_swapped_llama_compiles():
    model = llama().eval()
    swap(model, {"*.act_fn": "gem(n=2)"})
    compiled = torch.compile(model.layers[0].mlp, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(compiled(x), model.layers[0].mlp(x), rtol=1e-5, atol=1e-6)


def test_every_name_of_the_catalog_is_valid_and_taken_names_keep_their_meaning():
    own = dict(activations.ACT2CLS)
    kept = register()
    assert set(kept) == set(own) & set(catalog.ENTRIES)
    assert {"relu", "gelu", "silu", "mish"} <= set(kept)
    for name in catalog.ENTRIES:
        assert name in activations.ACT2FN
        made = activations.ACT2FN[name]
        if name in kept:
            kind = own[name][0] if isinstance(own[name], tuple) else own[name]
            assert type(made) is kind
        else:
            assert made(torch.zeros(2)).shape == (2,)
    assert isinstance(activations.get_activation("gem(n=3)"), GEM)
    assert activations.ACT2FN["leaky_relu(negative_slope=0.25)"].negative_slope == 0.25
    assert activations.ACT2FN["gem"] is not activations.ACT2FN["gem"]
    assert set(activations.ACT2FN) == set(own)
    assert register() == kept


def test_the_table_of_classes_knows_the_names_as_well():
    register()
    assert repr(activations.ACT2CLS["egem(n=2)"]()) == "EGEM(n=2, eps=1e-4)"
    assert "gem" in activations.ACT2CLS
    from transformers.models.rt_detr_v2 import modeling_rt_detr_v2

    assert modeling_rt_detr_v2.ACT2CLS is activations.ACT2CLS


def test_the_tables_are_pickled_and_copied():
    register()
    for table in (activations.ACT2FN, activations.ACT2CLS):
        for twin in (pickle.loads(pickle.dumps(table)), copy.deepcopy(table), copy.copy(table)):
            assert type(twin) is type(table)
            assert list(dict.items(twin)) == list(dict.items(table))
            assert "gem(n=2)" in twin
    assert isinstance(pickle.loads(pickle.dumps(activations.ACT2FN))["gem(n=2)"], GEM)


def test_names_are_taken_in_any_case_and_as_our_own_repr():
    register()
    for name in ("GEM(n=2)", "Gem(N=2)", repr(GEM(2)), "lrelu", "SquaredReLU"):
        assert name in activations.ACT2FN
    assert repr(activations.ACT2FN["GEM(n=2)"]) == "GEM(n=2)"


def test_wrong_names_are_refused_where_the_model_is_made():
    register()
    with pytest.raises(SpecError, match="n=0"):
        gpt2(activation_function="gem(n=0)")
    with pytest.raises(ActivationNameError, match="gem takes n, not 'eps'"):
        gpt2(activation_function="gem(eps=1)")
    assert "gme" not in activations.ACT2FN
    with pytest.raises(KeyError, match=r"gme; did you mean .*gem"):
        gpt2(activation_function="gme")


LOAD = """
import sys
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(model.transformer.h[0].mlp.act)
"""


def test_a_saved_model_is_loaded_in_a_fresh_process(tmp_path):
    register()
    gpt2(activation_function="egem(n=2, eps=1e-4)").save_pretrained(tmp_path)
    loading = Forked("import gem_activations.torch as g; g.register()" + LOAD, tmp_path)
    # Without the package transformers can only name what it does not know.
    alone = Forked(LOAD, tmp_path)
    output, errors = loading.communicate()
    assert loading.returncode == 0, errors
    assert output.splitlines()[-1] == "EGEM(n=2, eps=1e-4)"
    _, errors = alone.communicate()
    assert alone.returncode == 1
    assert errors.splitlines()[-1] == "KeyError: 'egem(n=2, eps=1e-4)'"


@pytest.fixture
def untouched(monkeypatch):
    """A table of transformers' class that `register` has not seen."""

    def put(table):
        monkeypatch.setattr(activations, "ACT2FN", table)
        return table

    return put


def test_a_name_of_the_family_that_is_taken_is_one_clear_error(untouched):
    table = untouched(activations.ClassInstantier({"gem": nn.ReLU}))
    with pytest.raises(RegistrationError, match="has a 'gem' that is not this package's") as caught:
        register()
    assert "\n" not in str(caught.value)
    assert type(table) is activations.ClassInstantier


@pytest.mark.parametrize("name", ["golu", "gem", "softplus", "elu()"])
def test_a_name_that_another_package_takes_is_refused_on_every_call(untouched, name):
    table = untouched(activations.ClassInstantier(activations.ACT2CLS))
    table[name] = nn.ReLU
    with pytest.raises(RegistrationError, match=f"has a {re.escape(repr(name))} that is not this package's"):
        register()
    assert type(table) is activations.ClassInstantier
    del table[name]
    kept = register()
    table[name] = nn.ReLU
    with pytest.raises(RegistrationError, match=f"has a {re.escape(repr(name))} that is not this package's"):
        register()
    del table[name]
    assert register() == kept
    assert name not in kept


def test_a_name_of_transformers_own_stays_whoever_wrote_it_last(untouched):
    table = untouched(activations.ClassInstantier({**activations.ACT2CLS, "gelu": nn.Mish}))
    assert "gelu" in register()
    assert type(table["gelu"]) is nn.Mish


@pytest.mark.parametrize("table", [{"relu": nn.ReLU}, None])
def test_another_layout_of_transformers_is_one_clear_error(untouched, table):
    untouched(table)
    with pytest.raises(RegistrationError, match="this version of transformers"):
        register()


def test_a_missing_transformers_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "transformers.activations")
    with pytest.raises(MissingDependencyError, match=r"not installed; run: pip .*'gem-activations\[huggingface\]'"):
        register()


class Sentences(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, number):
        ids = torch.arange(number, number + 8) % 11
        return {"input_ids": ids, "labels": ids}


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_ten_steps_of_the_trainer_with_checkpointing_and_bfloat16(tmp_path):
    register()
    model = gpt2(activation_function="egem(n=2, eps=1e-4)")
    before = model.transformer.h[0].mlp.c_fc.weight.detach().clone()
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=10,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        activation_checkpointing=True,
        bf16=True,
        use_cpu=True,
        report_to=[],
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    dtypes = []
    model.transformer.h[0].mlp.act.register_forward_hook(lambda *given: dtypes.append(given[-1].dtype))
    trainer = transformers.Trainer(model=model, args=settings, train_dataset=Sentences())
    result = trainer.train()
    assert result.global_step == 10
    # Once forwards and once more in the backward pass, for each step; without checkpointing 10.
    assert dtypes == [torch.bfloat16] * 20
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    assert not torch.equal(model.transformer.h[0].mlp.c_fc.weight, before)


def test_the_activation_of_a_configured_model_is_ours():
    register()
    mlp = gpt2(activation_function="gem(n=2)").transformer.h[0].mlp.eval()
    x = torch.randn(2, 3, 8)
    assert torch.equal(mlp(x), mlp.c_proj(gem(mlp.c_fc(x), n=2)))
