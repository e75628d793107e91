"""Where a lesson's output goes: to a notebook as pictures and Markdown, to a terminal as text."""

import sys


def in_notebook() -> bool:
    """Whether this code runs in IPython, as it does in a notebook."""
    return "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None


def display(data: dict[str, str]) -> bool:
    """Show a dict of representations by MIME type in a notebook -> False where there is none."""
    if not in_notebook():
        return False
    from IPython.display import display as show_data

    show_data(data, raw=True)
    return True


def write(text: str) -> None:
    """Print text; a terminal that cannot print η prints a question mark, from this call on."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    print(text)
