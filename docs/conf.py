"""Sphinx builds the API documentation from the docstrings: ``make docs``."""

import sb3_distrl

project = "sb3-distrl"
author = "The sb3-distrl authors"
copyright = author
version = release = sb3_distrl.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autoclass_content = "class"
html_theme = "furo"
html_title = f"sb3-distrl {release}"
