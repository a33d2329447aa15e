"""The site: `make docs` writes it to `build/site`; warnings are errors there."""

import tomllib
from importlib.metadata import version as version_of
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]

project = "CacheBox"
author = "the CacheBox developers"
copyright = f"2026, {author}"
release = version_of("cachebox-cython")
version = ".".join(release.split(".")[:2])

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["plots"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]    # annotations name classes without a page; links in the text are checked
default_role = "py:obj"                     # `Cache` in a docstring is a link, if there is something of that name

myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"                  # the signatures have what matters; types are in the `.pyi` files
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"CacheBox {release}"
html_static_path = []
html_extra_path = ["grafana.json"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "source_repository": URLS["Source"],
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#0b6e4f", "color-brand-content": "#0b6e4f"},
    "dark_css_variables": {"color-brand-primary": "#5fd0a5", "color-brand-content": "#5fd0a5"},
}
pygments_style = "friendly"
pygments_dark_style = "monokai"

linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1)", r"https://[\w.-]+\.example\b"]
linkcheck_timeout = 10
linkcheck_retries = 2
linkcheck_anchors = False
