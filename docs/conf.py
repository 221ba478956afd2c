"""How Sphinx makes a site of these pages: `sphinx-build -W docs site`, with the extra `docs`.

The pages are plain Markdown, which a forge shows as well. The API comes from docstrings, and the gallery from
the scripts in examples/, which are run while the site is built.
"""

import importlib
import importlib.util
import os
import re
import sys
import warnings
from pathlib import Path

import fastmlp
from fastmlp.system import compiling

sys.path.insert(0, os.path.dirname(__file__))
import chart

compiling.say = lambda line: None  # what this machine compiles is no output of an example
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # examples are small; a second thread waits where others work

project = "fastmlp"
copyright = "the fastmlp developers"
release = fastmlp.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]

exclude_patterns = [
    "examples",
    "gallery/*.ipynb",
    "gallery/*.py",
    "gallery/sg_execution_times.rst",
    "sg_execution_times.rst",
]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]  # the gallery's order is a class, which Sphinx cannot pickle

default_role = "py:obj"  # what stands in backticks in a docstring is a name where there is one
autodoc_member_order = "bysource"
autodoc_mock_imports = [] if importlib.util.find_spec("torch") else ["torch"]  # of 200 MB one class is used
autodoc_typehints = "none"  # docstrings say shapes and dtypes, which types do not
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_param = False  # or `rows` in a shape is taken for the name of an attribute
napoleon_use_rtype = False


def keep_underscores(app, what, name, obj, options, lines):
    """Keep the `_` at an attribute's end, which would be taken for that of a link."""
    lines[:] = [re.sub(r"^(\w+)_( : |$)", r"\1\\_\2", line) for line in lines]


def list_classes(app, docname, source):
    """Have every class of a table where a page says `.. autoclasses:: module:table`."""

    def classes(found):
        table = getattr(importlib.import_module(found[1]), found[2])
        names = table if isinstance(table, dict) else [kind.__name__ for kind in table]
        return "\n\n".join(f".. autoclass:: fastmlp.{name}" for name in names)

    source[0] = re.sub(r"^\.\. autoclasses:: (\S+):(\w+)$", classes, source[0], flags=re.M)


def draw_charts(app):
    """Draw what index.md and second-order.md show."""
    folder = Path(app.srcdir)
    chart.draw((folder / "speed.md").read_text(encoding="utf-8"), folder)
    chart.draw_losses((folder / "second-order.md").read_text(encoding="utf-8"), folder)


def setup(app):
    """Have charts drawn before pages are read, and docstrings changed before napoleon reads them."""
    app.connect("builder-inited", draw_charts)
    app.connect("source-read", list_classes)
    app.connect("autodoc-process-docstring", keep_underscores, priority=400)


def warnings_as_errors(conf, script, when):
    """Make a script that warns fail, and nothing else."""
    warnings.simplefilter("error" if when == "before" else "ignore")


sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "",  # every script is run
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    "capture_repr": (),  # what an example prints, and not the last thing that it drew
    "image_scrapers": ("matplotlib",),
    "reset_modules": ("matplotlib", warnings_as_errors),
    "reset_modules_order": "both",
    "within_subsection_order": "FileNameSortKey",
}

html_theme = "furo"
html_title = f"fastmlp {release}"
html_theme_options = {
    "source_repository": "https://github.com/fastmlp/fastmlp/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_copy_source = False
