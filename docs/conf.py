"""Settings of the documentation site: `make docs`."""

import contextlib
import os
import re
import sys

import gem_activations

os.environ.setdefault("KERAS_BACKEND", "torch")  # Of the backends the one that is there in any case.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorBoard loads TensorFlow, which logs what processor it found.

project = "gem-activations"
author = "The gem-activations developers"
release = gem_activations.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
default_role = "code"
exclude_patterns = ["_build", "site"]
html_theme = "furo"
html_title = "gem-activations"
html_extra_path = ["site"]
html_copy_source = False
html_show_copyright = False
smartquotes = False
# The pages of docs/properties hang on their table, not on the menu.
suppress_warnings = ["toc.not_included"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "Float64Array": "Float64Array"}
napoleon_custom_sections = [("Edge cases", "notes_style"), ("Source", "notes_style")]

# Sections whose text begins beside the title; napoleon expects it below and reads a colon in it as the end of a type.
_SECTION = re.compile(r"^(Returns|Raises|Edge cases|Source):[ \t]+(\S.*)$")
# What Raises lists: "SpecError: why; TensorError and BackendError (at the call): why".
_ERRORS = r"\w+Error(?:(?:, | and )\w+Error)*"
_RAISED = re.compile(rf"(?:^|; )({_ERRORS})([ ,][^:;]*)?: ")


def _escaped(text: str) -> str:
    """Leave * and | as they are, and `code` untouched."""
    return re.sub(r"`[^`]*`|[*|]", lambda found: found[0] if found[0][0] == "`" else f"\\{found[0]}", text)


def _fields(title: str, text: str) -> list[str]:
    """Give a section as fields of reStructuredText or, where it is a note, as napoleon expects it."""
    if title == "Returns":
        return ["", f":returns: {text}", ""]
    if title == "Raises":
        before, *parts = _RAISED.split(text)
        if before or not parts:
            raise ValueError(f"Raises: {text!r} does not begin with the name of an error and a colon")
        fields = []
        for names, when, why in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            reason = f"{when.strip(' ,')}: {why}" if when else why
            fields.append(f":raises {names.replace(' and ', ', ')}: {reason}")
        return ["", *fields, ""]
    # An initial and a point would begin a numbered list.
    return ["", f"{title}:", "    " + re.sub(r"^([A-Z])\. ", r"\1\\. ", text), ""]


def _as_restructured_text(_app, what, _name, _object, _options, lines: list[str]) -> None:
    """Write sections whose text begins beside the title as fields, and leave *, | and initials as they are."""
    written: list[str] = []
    in_example, rest = False, list(lines)
    while rest:
        line = rest.pop(0)
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        found = None if in_example else _SECTION.match(line)
        if not found:
            written.append(line if in_example else _escaped(line))
            continue
        words = [found[2]]
        while rest and rest[0].startswith("    "):
            words.append(rest.pop(0).strip())
        written += _fields(found[1], _escaped(" ".join(words)))
    # Of a property's first line napoleon takes what is before a colon for the type.
    lines[:] = ["", *written] if what == "property" else written


def _name_aliases(_app, documented, _bound) -> None:
    """Put the name of an alias for the union it stands for, which autodoc would write out."""
    aliases = {str(gem_activations.spec.ArrayLike): "ArrayLike", str(gem_activations.spec.Array): "Float64Array"}
    if jax := sys.modules.get("gem_activations.jax"):
        aliases[str(jax.ArrayLike)] = "ArrayLike"
    with contextlib.suppress(AttributeError):
        for name, annotation in documented.__annotations__.items():
            documented.__annotations__[name] = aliases.get(str(annotation), annotation)


def _no_arguments(_app, what, _name, _documented, _options, signature, returned) -> tuple[str | None, str | None]:
    """Write the signature of a module that has no `__init__` of its own: it takes nothing."""
    inherited = what == "class" and signature == "(*args: Any, **kwargs: Any)"
    return "()" if inherited else signature, returned


def setup(app) -> None:
    """Run before napoleon, which listens with the usual priority of 500."""
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=100)
    app.connect("autodoc-before-process-signature", _name_aliases)
    app.connect("autodoc-process-signature", _no_arguments)
