"""The reference of the documentation, as Sphinx makes it from the docstrings: every public name, in its own words."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Build docs/reference alone, as text without line breaks within a paragraph."""
    folder = tmp_path_factory.mktemp("reference")
    shutil.copy(DOCS / "conf.py", folder)
    pages = sorted((DOCS / "reference").glob("*.md"))
    (folder / "index.md").write_text("# Reference\n\n" + "".join(f"#{page.read_text()}\n" for page in pages))
    words = ["-q", "-W", "-b", "text", "-D", "html_extra_path=", "-D", "html_static_path=", folder, folder / "out"]
    done = subprocess.run([sys.executable, "-m", "sphinx", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "out" / "index.txt").read_text()


def entry(reference, name):
    """Return what stands under a name: its signature, then its text with one space for every run of white space."""
    (found,) = re.findall(
        rf"^((?:class |exception |property |classmethod )?{re.escape(name)}\b[^\n]*)\n(.*?)(?=\n\S|\Z)",
        reference,
        re.MULTILINE | re.DOTALL,
    )
    return found[0], " ".join(found[1].split())


FRONTS = ["gem_activations.torch", "gem_activations.torch.monitor", "gem_activations.jax", "gem_activations.edge"]


@pytest.mark.parametrize("module", FRONTS)
def test_it_has_every_public_name_of_a_front(reference, module):
    for name in importlib.import_module(module).__all__:
        assert re.search(rf"^[a-z ]*{module}\.(recording\.)?{name}\b", reference, re.MULTILINE), name


# To import Keras takes seconds: its names are written here.
@pytest.mark.parametrize("name", ["gem", "egem", "segem", "activate", "int8_form", "GEM", "EGEM", "SEGEM"])
def test_it_has_every_public_name_of_keras(reference, name):
    assert entry(reference, f"gem_activations.keras.{name}")[1]


def test_it_has_every_error_and_the_callbacks(reference):
    errors = importlib.import_module("gem_activations.errors")
    names = [f"gem_activations.errors.{name}" for name in vars(errors) if name.endswith("Error")]
    assert len(names) > 10
    front = "gem_activations.torch"
    names += [f"{front}.lightning.Lightning{word}" for word in ("Monitor", "ScaleSchedule")]
    names += [f"{front}.huggingface.HuggingFace{word}" for word in ("Monitor", "ScaleSchedule")]
    names += [f"{front}.monitor.tensorboard.TensorBoardWriter", "gem_activations.catalog.Activation"]
    for name in names:
        signature, text = entry(reference, name)
        assert text, signature


def test_signatures_can_be_read(reference):
    assert entry(reference, "gem_activations.keras.EGEM")[0].endswith("EGEM(n=1, eps=1e-4, **kwargs)")
    assert entry(reference, "gem_activations.torch.TeLU")[0].endswith(".TeLU")
    assert entry(reference, "gem_activations.jax.gem")[0].endswith("gem(x: ArrayLike, n: int = 1) -> Array")
    assert "   gate(x: ArrayLike) -> Float64Array\n" in reference
    assert "log_predictions(predictions: ArrayLike, targets: ArrayLike | None = None) -> None" in reference
    assert "*args" not in reference
    assert "_SupportsArray" not in reference
    assert "<factory>" not in reference


def test_sections_keep_their_words(reference):
    _, init = entry(reference, "gem_activations.torch.init_")
    assert " Returns: What was drawn, and what was skipped for which reason: other layers with parameters" in init
    _, segem = entry(reference, "gem_activations.torch.SEGEM")
    assert " Raises: * **SpecError** -- a parameter out of its range * **TensorError** -- at the call: an inte" in segem
    _, smelu = entry(reference, "gem_activations.torch.SmeLU")
    assert "-[ Source ]- G. Shamir, D. Lin" in smelu
    _, spec = entry(reference, "gem_activations.GemSpec")
    assert "property smoothness: int The largest k with f in C^k on the real line: 2n. The next" in spec
    call = "__call__(x: ArrayLike) -> Float64Array Return f(x) in float64, in the shape of x. Raises: **SpecError**"
    assert call in spec
    assert "Return type" not in reference
    # A reason that was taken for the name of an error, or cut in two, leaves a dash with nothing after it.
    assert not re.search(r"^ *\*\*\w*(?:Error|Interrupt)\*\* --\n *\n", reference, re.MULTILINE)
    assert not re.search(r"\*\* [^\n]*--\n\n *\w+Error", reference)
