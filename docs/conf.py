"""How the pages of this folder become a site: ``uv run sphinx-build -W docs site``."""

project = "amc-env"
author = "the authors of amc-env"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
html_theme = "furo"
html_title = "amc-env"
exclude_patterns = ["results/*.csv"]
# Sections are linked to as code hosts link to them.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
# Fields are described under Attributes of their class already.
napoleon_use_ivar = True
