"""What Sphinx needs to make the site of these pages: `python tutorials/build.py` runs it.

With MINIMIXCE_REPOSITORY set to an address such as https://github.com/OWNER/NAME the pages also
have buttons that edit them there and open the lessons on Binder and Colab.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_site"), str(HERE)]  # extensions of this site, and the explorer

import minimixce  # noqa: E402

project = "minimixce"
author = "The minimixce authors"
copyright = "The minimixce authors; texts under CC BY 4.0, code under Apache-2.0"
version = release = minimixce.__version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx_copybutton",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "mathml",
    "sources",
    "reference",
]
root_doc = "index"
include_patterns = [
    "*.md",
    "[0-9]_*.ipynb",
    "api/*.rst",
    "assignments/README.md",
    "assignments/a?/README.md",
    "assignments/a4/rubric.md",
    "assignments/a4/example/report.md",
    "assignments/concept_test/form_?.md",
]

nb_execution_mode = "off"  # build.py has executed them
nb_render_markdown_format = "myst"  # tables and formulas in what cells say
nb_merge_streams = True
nb_code_prompt_show = "The code of this picture or table"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
smartquotes = False  # --steps is no dash

default_role = "py:obj"  # `names` in docstrings are links where there is such a name
autodoc_member_order = "bysource"
autosummary_generate = False  # reference.py writes the pages
add_module_names = False
maximum_signature_line_length = 80
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"

html_theme = "sphinx_book_theme"
html_title = "minimixce"
templates_path = ["_site/templates"]
html_domain_indices = False  # api.md is the index of modules
viewcode_follow_imported_members = False
html_static_path = ["_site/static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = True
html_show_sphinx = False
pygments_style = "a11y-high-contrast-light"
html_theme_options = {
    "navbar_persistent": [],
    "collapse_navbar": True,  # a hundred modules would stand in every page
    "show_toc_level": 2,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True

if repository := os.environ.get("MINIMIXCE_REPOSITORY"):
    html_theme_options |= {
        "repository_url": repository,
        "repository_branch": os.environ.get("MINIMIXCE_BRANCH", "main"),
        "path_to_docs": "tutorials",
        "use_repository_button": True,
        "use_edit_page_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
    }
