"""Settings of the documentation site: `make docs`."""

import os
import re

import gem_activations

os.environ.setdefault("KERAS_BACKEND", "torch")  # Of the backends the one that is there in any case.

project = "gem-activations"
author = "The gem-activations developers"
release = gem_activations.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "site"]
html_theme = "furo"
html_title = "gem-activations"
html_extra_path = ["site"]
html_copy_source = False
html_show_copyright = False
smartquotes = False
# The pages of docs/properties hang on their table, not on the menu; links out of docs/ are checked by a test.
suppress_warnings = ["toc.not_included", "myst.xref_missing", "toc.empty_glob"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_custom_sections = [("Edge cases", "notes_style"), ("Source", "notes_style")]

_SECTION = re.compile(r"^(Args|Returns|Raises|Edge cases|Source|Example):[ \t]+(\S.*)$")


def _as_restructured_text(_app, _what, _name, _object, _options, lines: list[str]) -> None:
    """Put the text that follows a section's title below it, as napoleon expects, and leave * and | as they are."""
    written: list[str] = []
    in_section = in_example = False
    for line in lines:
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        text = line if in_example else re.sub(r"([*|])", r"\\\1", line)
        found = _SECTION.match(text)
        if found:
            written += ["", f"{found[1]}:", f"    {found[2]}"]
            in_section = True
        elif in_section and line.startswith("    "):
            written.append(text)
        else:
            in_section = in_section and not line.strip()
            written.append(text)
    lines[:] = written


def setup(app) -> None:
    """Run before napoleon, which listens with the usual priority of 500."""
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=100)
