"""
Sphinx builds the documentation from the pages in this folder and the docstrings: ``make docs``.

Links to other projects' API need the network, so they are made only with INTERSPHINX=1, or on Read the Docs.
"""

import os

import sb3_distrl

project = "sb3-distrl"
author = "The sb3-distrl authors"
copyright = author
version = release = sb3_distrl.__version__
repository = "https://github.com/sb3-distrl/sb3-distrl"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["examples"]

# Markdown: headings are targets of links, and [a file](source:scripts/README.md) is one of the repository
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_url_schemes = {
    "http": None,
    "https": None,
    "source": {"url": repository + "/blob/main/{{path}}", "title": "{{path}}"},
}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autoclass_content = "class"

if os.environ.get("INTERSPHINX") or os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "gymnasium": ("https://gymnasium.farama.org", None),
        "stable_baselines3": ("https://stable-baselines3.readthedocs.io/en/master", None),
        "sb3_contrib": ("https://sb3-contrib.readthedocs.io/en/master", None),
        "ray": ("https://docs.ray.io/en/latest", None),
    }

html_theme = "furo"
html_title = f"sb3-distrl {release}"
html_theme_options = {"source_repository": repository, "source_branch": "main", "source_directory": "docs/"}
