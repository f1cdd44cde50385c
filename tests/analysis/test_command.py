"""`gem-act certify`, the files it writes, and the pages of docs/properties."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gem_activations import cli
from gem_activations.analysis import Certificate, certify_all, pages
from gem_activations.analysis.certification import EXTRA_MEMBERS, expand, file_stem, to_cell, to_markdown
from gem_activations.analysis.pages import draw
from gem_activations.analysis.source import read
from gem_activations.catalog import ENTRIES, parse
from gem_activations.errors import ActivationNameError, SpecError, StoreError
from gem_activations.files import write_atomically

PROPERTIES = Path(__file__).parents[2] / "docs" / "properties"
NAMES = [str(parse(name)) for name in [*ENTRIES, *EXTRA_MEMBERS]]


def test_certify_prints_and_writes(tmp_path, capsys):
    assert cli.main(["certify", "relu", "egem(eps=1/10000)", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "Lipschitz constant" in printed
    assert "59400" not in printed
    assert "60000" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "egem-eps-1e-4.json", "egem-eps-1e-4.md", "relu.json", "relu.md",
    ]  # fmt: skip
    found = Certificate.from_json((tmp_path / "egem-eps-1e-4.json").read_text())
    assert found["lipschitz"].value.exact == "9/8"
    assert (tmp_path / "relu.md").read_text().startswith("# ReLU: `relu`\n")


@pytest.mark.parametrize(
    "words", [["geluu"], ["gem(n=0)"], ["egem(eps=-1)"], ["relu", "--variance", "-1"], ["gem(n=x)"]]
)
def test_bad_input_is_one_line_and_status_2(words, tmp_path, capsys):
    assert cli.main(["certify", *words, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gem-act: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_bad_name_among_good_ones_stops_before_any_work(tmp_path):
    with pytest.raises(ActivationNameError):
        list(certify_all(("relu", "nope"), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--out"):
        list(certify_all(("relu",), tmp_path / "file"))


def test_variance_is_exact():
    (found,) = certify_all(("relu",), None, "1/3")
    assert found["second_moment"].value.exact == "1/6"
    with pytest.raises(SpecError, match="above 0"):
        list(certify_all(("relu",), None, "0.0"))


def test_each_question_has_a_file_of_its_own_and_no_other_file_is_overwritten(tmp_path):
    for names, variance in ((("relu",), "1"), (("relu",), "1/4"), (("relu", "leaky_relu(negative_slope=0.2)"), "1")):
        list(certify_all(names, tmp_path, variance))
    list(certify_all(("max(x, 0)/2",), tmp_path))
    names = {path.name for path in tmp_path.glob("*.json")}
    assert {"relu.json", "relu-variance-1-4.json", "leaky-relu-negative-slope-0.2.json"} < names
    assert len(names) == 4
    found = Certificate.from_json((tmp_path / "relu-variance-1-4.json").read_text())
    assert found.variance == "1/4"
    assert set(found.tools) == {"gem-activations", "sympy", "python-flint"}
    (tmp_path / "gelu.json").write_text("notes")
    (tmp_path / "gelu.md").write_text("notes")
    with pytest.raises(StoreError, match="choose another --out"):
        list(certify_all(("relu", "gelu"), tmp_path))
    assert (tmp_path / "gelu.json").read_text() == (tmp_path / "gelu.md").read_text() == "notes"


def test_names_are_expanded_once():
    assert expand(["all", "gelu"]) == NAMES
    with pytest.raises(ActivationNameError):
        expand([])
    assert len({file_stem(name) for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", ["certify", "certify_all", "Certificate"])
def test_a_missing_library_is_named_by_what_needs_it(name):
    code = (
        "import sys; sys.modules['flint'] = None\n"
        "from gem_activations.errors import MissingDependencyError\n"
        f"try:\n    from gem_activations.analysis import {name}\n"
        "except MissingDependencyError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    needed = "flint is not installed; run: pip install 'gem-activations[certify]'" in said
    assert needed == name.startswith("certify")


def test_help_imports_no_algebra():
    code = "import sys, gem_activations.commands, gem_activations.analysis; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sympy", "flint", "mpmath", "matplotlib"} & set(modules)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no space")

    (tmp_path / "kept").write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        write_atomically(tmp_path / "kept", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"old"


def test_plots_are_reproducible(tmp_path):
    for name in ("first.svg", "second.svg"):
        draw(read("selu"), tmp_path / name)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    assert (tmp_path / "first.svg").stat().st_size < 60_000


def test_every_activation_has_a_page_and_a_plot():
    stems = {file_stem(name) for name in NAMES}
    assert {path.stem for path in PROPERTIES.glob("*.svg")} == stems
    assert {path.stem for path in PROPERTIES.glob("*.md")} == {
        *stems,
        "README",
        "constants",
        "gallery",
        *(Path(page).stem for page in pages.WRITTEN),
    }
    comparison = (PROPERTIES / "README.md").read_text()
    assert all(f"`{name}`]({file_stem(name)}.md)" in comparison for name in NAMES)


def test_formulas_of_a_cell_are_set_and_words_are_left():
    assert (
        to_cell("C^infinity, sup |f^(3)|: f' jumps")
        == r"$C^\infty$, $\sup \left\lvert f^{(3)} \right\rvert$: $f'$ jumps"
    )
    assert to_cell("x ~ N(0, 1/4), p > 1/3") == r"$x \sim N(0, 1/4)$, $p > 1/3$"
    assert to_cell("f's value | 2*x + sinh/2") == r"f's value \| 2\*x + sinh/2"


@pytest.mark.parametrize("page", sorted(PROPERTIES.glob("*.md")), ids=lambda page: page.name)
def test_no_formula_of_a_page_is_left_plain(page):
    plain = re.sub(
        r"```.*?```|\$\$.*?\$\$|`[^`]*`|\$[^$\n]+\$|!\[[^]]*\]|# Every .*", "", page.read_text(), flags=re.DOTALL
    )
    assert re.findall(r"\S*(?:(?<!ReLU)\^|f'|\\\||eps >)\S*", plain) == []


def test_committed_pages_are_fresh(certificate):
    found = [certificate(name) for name in NAMES]
    assert pages.stale(PROPERTIES, pages.texts(found)) == [], "run `make properties` and commit"


def test_stale_pages_are_named(tmp_path, certificate):
    found = [certificate("relu")]
    pages.write(tmp_path, found)
    assert pages.stale(tmp_path, pages.texts(found)) == []
    (tmp_path / "relu.md").write_text("altered")
    (tmp_path / "relu.svg").unlink()
    (tmp_path / "gone.md").write_text("of an activation that is no more")
    assert pages.stale(tmp_path, pages.texts(found)) == ["relu.md", "relu.svg", "gone.md"]


def test_markdown_tables_have_four_cells(certificate):
    for name in ("gem", "gelu", "hardshrink"):
        lines = [line for line in to_markdown(certificate(name)).splitlines() if line.startswith("|")]
        assert {line.replace("\\|", "").count("|") for line in lines} == {5}
