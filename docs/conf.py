# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""How Sphinx builds these pages; `make docs` runs it."""

import re
import shutil
import sys
from pathlib import Path

import math_core
from docutils import nodes
from sphinx.util import logging

# The other packages are used from the repository and not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import pictures

import demp_jax
from experiments.cli import field_help

ROOT = Path(__file__).resolve().parent.parent
setup_py = (ROOT / "setup.py").read_text()
project = "demp_jax"
author = "The demp_jax Authors"
copyright = f"2026, {author}"  # noqa: A001
release = demp_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute"]
# The notebooks are shown with the outputs that they are kept with.
shutil.copytree(ROOT / "notebooks", ROOT / "docs" / "tutorials", dirs_exist_ok=True)
pictures.write(ROOT / "docs" / "_pictures")
html_static_path = ["_pictures"]
html_css_files = ["pictures.css"]
nb_execution_mode = "off"
nb_merge_streams = True
suppress_warnings = ["misc.highlighting_failure"]  # Of lines that start with `!` or `%` in notebooks.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "demp_jax"
html_theme_options = {
    "source_repository": re.search(r'^URL = "(.+?)"', setup_py, re.M)[1],
    "source_branch": "main",
    "source_directory": "docs/",
}
highlight_language = "none"

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {
    name: name for name in ("optax.ScalarOrSchedule", "optax.Schedule", "Builder", "Distribution", "Loss")
}
maximum_signature_line_length = 80
# One entry where a line of a docstring describes several attributes.
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
python_use_unqualified_type_names = True
toc_object_entries = False

# In docstrings a name between backticks is code, and a link where it is documented.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", r".*"),
    # Of other packages, whose inventories would have to be fetched; aliases of types; what is private or left out.
    ("py:class", r"(abc|collections|equinox|flax|jax|jaxlib|jaxtyping|ml_collections|np|numpy|optax)\..*"),
    ("py:class", r"(pathlib|signal|types|typing)\..*"),
    ("py:class", r"Builder|Distribution|Loss|ndarray|tuple\[str|(Some|Unit|Group)[A-Z]\w+"),
    ("py:class", r"AnyArray|Array|Bool|Float32|Inexact|Int|Int32|Integer|Num|Shaped"),
    (
        "py:class",
        r"demp_jax\._src\.(tracing\.(axes|mirror|program|graph\.Absorber)|pruning\.(planning|slicing)).*",
    ),
    ("py:class", r"demp_jax\.(equinox|linen|_src\.frameworks\.nnx_models)\.(BatchStatistics|Updating)"),
    ("py:class", r"experiments\.(recipe\.network\.Network|data\.(arrays\.Arrays|images\.Framing))"),
]

_latex = math_core.LatexToMathML(fancy_error=False)


def _append_formula(translator, node, *, displaystyle):
    try:
        formula = _latex.convert_with_local_state(node.astext(), displaystyle=displaystyle)
    except math_core.LatexError as error:
        logging.getLogger(__name__).warning("%s in %s", error, node.astext(), location=node)
        formula = f"<code>{translator.encode(node.astext())}</code>"
    translator.body.append(f'<div class="math">{formula}</div>' if displaystyle else formula)
    raise nodes.SkipNode


def _fill_config(app, name, source):
    """Writes the tables of options into their page."""
    if name == "reference/config":
        source[0] = source[0].replace("CONFIG_TABLES", field_help.markdown())


def setup(app):
    """Writes the tables of options, and formulas as MathML: MathJax, Sphinx's default, is loaded from the network."""
    app.connect("source-read", _fill_config)
    app.add_html_math_renderer(
        "mathml",
        (lambda translator, node: _append_formula(translator, node, displaystyle=False), None),
        (lambda translator, node: _append_formula(translator, node, displaystyle=True), None),
    )
