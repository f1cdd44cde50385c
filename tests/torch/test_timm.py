"""timm takes our names and factories: a table of its shape, and the real package's files where they are at hand."""

import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from gem_activations import GemSpec, catalog
from gem_activations.errors import ActivationNameError, MissingDependencyError, RegistrationError, SpecError
from gem_activations.torch import EGEM, GEM, act_layer, gem, register_timm

ROOT = Path(__file__).parents[2]
MODELS = Path(__file__).with_name("timm_models.py")


def timm_folder():
    """Return timm's folder: of the installed package, or in the folder that GEM_ACTIVATIONS_TIMM names."""
    named = os.environ.get("GEM_ACTIVATIONS_TIMM")
    if named and Path(named, "timm").is_dir():
        return Path(named, "timm")
    spec = importlib.util.find_spec("timm")
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


FOLDER = timm_folder()
with_real_files = pytest.mark.skipif(
    FOLDER is None, reason="timm is not here: install it, or name the folder of its packages in GEM_ACTIVATIONS_TIMM"
)


def hide(monkeypatch, name):
    for known in [module for module in sys.modules if module == name or module.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, known)


@pytest.fixture
def create_act(monkeypatch):
    """timm's real create_act, without the rest of timm, which needs torchvision."""
    hide(monkeypatch, "timm")
    for name, folder in (("timm", FOLDER), ("timm.layers", FOLDER / "layers")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        monkeypatch.setitem(sys.modules, name, package)
    yield importlib.import_module("timm.layers.create_act")
    hide(monkeypatch, "timm")


LIKENESS = """
from torch import nn
_ACT_LAYER_DEFAULT = {"relu": nn.ReLU, "gelu": nn.GELU, "swish": nn.SiLU}
_ACT_LAYER_ME = {"swish": nn.SiLU}
def get_act_layer(name):
    name = name.lower()
    return _ACT_LAYER_ME[name] if name in _ACT_LAYER_ME else _ACT_LAYER_DEFAULT[name]
"""


@pytest.fixture
def likeness(monkeypatch, tmp_path):
    """A module with the parts of timm's that `register_timm` touches."""
    hide(monkeypatch, "timm")
    (tmp_path / "create_act.py").write_text(LIKENESS)
    for name in ("timm", "timm.layers"):
        package = types.ModuleType(name)
        package.__path__ = [str(tmp_path)]
        monkeypatch.setitem(sys.modules, name, package)
    yield importlib.import_module("timm.layers.create_act")
    hide(monkeypatch, "timm")


def test_names_are_found_after_registration(likeness):
    assert register_timm() == register_timm() == ("relu", "gelu")
    assert likeness.get_act_layer("relu") is nn.ReLU
    assert repr(likeness.get_act_layer("EGEM(n=2, eps=1E-4)")(inplace=True)) == "EGEM(n=2, eps=1e-4, inplace=True)"
    assert repr(likeness.get_act_layer("gelu()")()) == "GELU(approximate='none')"
    with pytest.raises(KeyError, match="nope"):
        likeness.get_act_layer("nope")
    with pytest.raises(SpecError, match="n=0"):
        likeness.get_act_layer("gem(n=0)")


def test_a_name_of_the_family_that_is_taken_is_refused(likeness):
    likeness._ACT_LAYER_DEFAULT["egem"] = nn.ReLU
    with pytest.raises(RegistrationError, match="has a 'egem' that is not this package's"):
        register_timm()
    assert type(likeness._ACT_LAYER_DEFAULT) is dict


@pytest.mark.parametrize("table", ["_ACT_LAYER_DEFAULT", "_ACT_LAYER_ME"])
@pytest.mark.parametrize("registered", [False, True], ids=["first", "again"])
def test_any_name_of_the_catalog_that_somebody_else_has_put_there_is_refused(likeness, table, registered):
    if registered:
        register_timm()
    getattr(likeness, table)["golu"] = nn.ReLU
    with pytest.raises(
        RegistrationError, match=r"timm's table of activations has a 'golu' .* remove that entry"
    ) as caught:
        register_timm()
    assert "\n" not in str(caught.value)
    del getattr(likeness, table)["golu"]
    assert register_timm() == ("relu", "gelu")
    assert repr(likeness.get_act_layer("golu")()) == "GoLU()"


def test_another_layout_of_timm_is_one_clear_error(likeness):
    del likeness._ACT_LAYER_DEFAULT
    with pytest.raises(RegistrationError, match=r"act_layer=gem_activations.torch.act_layer"):
        register_timm()


def test_a_missing_timm_is_one_clear_error(monkeypatch):
    hide(monkeypatch, "timm")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError, match="timm is not installed; run: pip install --upgrade timm"):
        register_timm()


@with_real_files
def test_the_real_registry_takes_every_name(create_act):
    own = set(create_act._ACT_LAYER_DEFAULT)
    kept = register_timm()
    assert set(kept) == own & set(catalog.ENTRIES)
    for name in catalog.ENTRIES:
        layer = create_act.create_act_layer(name, inplace=True)
        x = torch.linspace(-3, 3, 7)
        assert layer(x.clone()).shape == x.shape
    assert isinstance(create_act.create_act_layer("gem(n=2)"), GEM)
    assert isinstance(create_act.get_act_layer("egem(n=2, eps=1e-4)")(inplace=True), EGEM)
    assert create_act.get_act_layer("gelu") is create_act._ACT_LAYER_DEFAULT["gelu"]
    with pytest.raises(KeyError):
        create_act.get_act_layer("nope")


@with_real_files
def test_the_real_registry_refuses_a_name_that_timm_has_not(create_act):
    register_timm()
    create_act._ACT_LAYER_DEFAULT["softplus"] = nn.ReLU
    with pytest.raises(RegistrationError, match="has a 'softplus' that is not this package's"):
        register_timm()


@with_real_files
def test_the_real_registry_takes_factories_and_classes_unregistered(create_act):
    for given in (GEM, act_layer("gem(n=2)"), act_layer(GemSpec(1, 0.5))):
        assert create_act.get_act_layer(given) is given
        assert create_act.create_act_layer(given, inplace=True).inplace


@with_real_files
def test_a_real_mlp_of_timm_runs_with_our_names(create_act):
    mlp = importlib.import_module("timm.layers.mlp")
    register_timm()
    for given in ("gem(n=2)", act_layer("gem(n=2)")):
        block = mlp.Mlp(4, 8, act_layer=create_act.get_act_layer(given))
        x = torch.randn(3, 4)
        assert torch.equal(block(x), block.fc2(gem(block.fc1(x), n=2)))


@pytest.mark.parametrize("name", list(catalog.ENTRIES))
def test_factories_take_inplace_for_every_name(name):
    make = act_layer(name)
    assert type(make(inplace=True)) is type(make()) is type(make(inplace=False))
    assert not getattr(make(), "inplace", False)


def test_factories_can_be_pickled_and_refuse_at_once():
    assert repr(pickle.loads(pickle.dumps(act_layer("segem(n=2)")))()) == "SEGEM(n=2, eps=1e-4, leak=0.01)"
    with pytest.raises(ActivationNameError, match="did you mean"):
        act_layer("gme")
    with pytest.raises(TypeError):
        act_layer("gem")(slope=1)


@with_real_files
def test_real_models_take_and_swap_our_names():
    """In a process of its own: transformers and torchmetrics would find an importable torchvision as well."""
    program = [sys.executable, "-m", "pytest", str(MODELS), "-p", "no:cacheprovider", "-p", "no:xdist"]
    paths = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
