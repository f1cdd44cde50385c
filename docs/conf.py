"""Settings of the documentation site: `make docs`."""

import contextlib
import os
import re
import sys

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import gem_activations

os.environ.setdefault("KERAS_BACKEND", "torch")  # Of the backends the one that is there in any case.
# TensorBoard loads TensorFlow where it is installed, which logs how it computes.
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0")

project = "gem-activations"
author = "The gem-activations developers"
release = gem_activations.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"  # What has run stays in build/.jupyter_cache until a cell changes.
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_in_temp = True
nb_output_stderr = "remove"  # Progress bars.
copybutton_exclude = ".linenos, .gp, .go"
html_math_renderer = "mathml"
default_role = "code"
exclude_patterns = ["_build", "site"]
html_theme = "furo"
# Until it is on an index, on every page.
html_theme_options = {
    "announcement": "Not on PyPI yet: <code>pip install &quot;path/to/checkout[torch]&quot;</code>, or a wheel's path."
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = "gem-activations"
html_extra_path = ["site"]
html_copy_source = False
html_show_copyright = False
smartquotes = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "Float64Array": "Float64Array"}
napoleon_custom_sections = [("Edge cases", "notes_style"), ("Source", "notes_style")]

# Sections whose text begins beside the title; napoleon expects it below and reads a colon in it as the end of a type.
_SECTION = re.compile(r"^(Returns|Raises|Edge cases|Source):[ \t]+(\S.*)$")
# What Raises lists: "SpecError: why; TensorError and BackendError (at the call): why".
_ERROR = r"\w+(?:Error|Interrupt)"
_ERRORS = rf"{_ERROR}(?:(?:, | and ){_ERROR})*"
_RAISED = re.compile(rf"(?:^|; )({_ERRORS})([ ,][^:;]*)?: ")


# Of a docstring's formulas the family's own and every power, with one pair of brackets within its exponent's.
_POWER = r"\w+\^\((?:[^()]|\([^()]*\))*\)"
_FRACTION = rf"({_POWER}) / \(((?:1|eps) \+ {_POWER}|{_POWER} \+ eps)\)"
_FORMULA = re.compile(rf"`[^`]*`|(?:F\(x\) = )?{_FRACTION}|x \(leak \+ \(1 - leak\) F\(x\)\)|{_POWER}|f'+\(0\)|[*|]")


def _as_markup(text: str) -> str:
    """Set formulas as mathematics, leave * and | as they are, and `code` untouched."""

    def mark(found: re.Match[str]) -> str:
        if found[0][0] == "`":
            return found[0]
        if found[0] in "*|":
            return f"\\{found[0]}"
        latex = re.sub(_FRACTION, r"\\frac{\1}{\2}", found[0])
        latex = re.sub(r"\^\(((?:[^()]|\([^()]*\))*)\)", r"^{\1}", latex)
        for word, symbol in (("eps", r"\varepsilon "), ("leak", r"\ell "), ("scale", r"\mathrm{scale}")):
            latex = latex.replace(word, symbol)
        return f":math:`{latex}`"

    return _FORMULA.sub(mark, text)


def _fields(title: str, text: str) -> list[str]:
    """Return a section as fields of reStructuredText or, where it is a note, as napoleon expects it."""
    if title == "Returns":
        return ["", f":returns: {text}", ""]
    if title == "Raises":
        before, *parts = _RAISED.split(text)
        if before or not parts:
            raise ValueError(f"Raises: {text!r} does not begin with the name of an error and a colon")
        fields = []
        for names, when, why in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            # Of "SpecError (at the call): why" what stands in brackets is no name: it goes before the reason.
            condition = re.sub(r"^ \((.*)\)$", r"\1", when or "").strip(" ,")
            fields.append(f":raises {names.replace(' and ', ', ')}: {': '.join(filter(None, (condition, why)))}")
        return ["", *fields, ""]
    # An initial and a point would begin a numbered list.
    return ["", f"{title}:", "    " + re.sub(r"^([A-Z])\. ", r"\1\\. ", text), ""]


def _as_restructured_text(_app, what, _name, _object, _options, lines: list[str]) -> None:
    """Write sections whose text begins beside the title as fields, and leave *, | and initials as they are."""
    written: list[str] = []
    # A short docstring has its errors in the line of its summary.
    in_example, rest = False, [part for line in lines for part in re.split(r"(?<=\.) (?=Raises: )", line)]
    while rest:
        line = rest.pop(0)
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        found = None if in_example else _SECTION.match(line)
        if not found:
            written.append(line if in_example else _as_markup(line))
            continue
        words = [found[2]]
        while rest and rest[0].startswith("    "):
            words.append(rest.pop(0).strip())
        written += _fields(found[1], _as_markup(" ".join(words)))
    # Of a property's first line napoleon takes what is before a colon for the type: let it be an empty comment.
    lines[:] = ["..", "", *written] if what == "property" else written


def _name_aliases(_app, documented, _bound) -> None:
    """Put the name of an alias for the union it stands for, which autodoc would write out."""
    array_like = gem_activations.spec.ArrayLike
    aliases = {str(array_like): "ArrayLike", str(gem_activations.spec.Array): "Float64Array"}
    aliases[str(array_like | None)] = "ArrayLike | None"
    if jax := sys.modules.get("gem_activations.jax"):
        aliases[str(jax.ArrayLike)] = "ArrayLike"
    with contextlib.suppress(AttributeError):
        for name, annotation in documented.__annotations__.items():
            documented.__annotations__[name] = aliases.get(str(annotation), annotation)


def _legible(_app, what, _name, _documented, _options, signature, returned) -> tuple[str | None, str | None]:
    """Mend a signature: a module without an `__init__` of its own takes nothing; `<factory>` is no Python."""
    if what == "class" and re.fullmatch(r"\(\*args: \S+, \*\*kwargs: \S+\)", signature or ""):
        signature = "()"
    if signature:  # Sphinx spells an alias within a union by the name of its own placeholder
        signature = re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", signature).replace("<factory>", "...")
    return signature, returned


def _write_formula(translator, node) -> None:
    """Write a formula as MathML, which browsers set without a script or a font from elsewhere."""
    # docutils sets the prime of f' on the line, where the letter hides it.
    text = re.sub("'+", lambda primes: "^{" + r"\prime" * len(primes[0]) + "}", node.astext())
    translator.body.append(tex2mathml(text, as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def setup(app) -> None:
    """Run before napoleon, which listens with the usual priority of 500."""
    app.add_html_math_renderer("mathml", (_write_formula, None), (_write_formula, None))
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=100)
    app.connect("autodoc-before-process-signature", _name_aliases)
    app.connect("autodoc-process-signature", _legible)
