"""Formulas as MathML, which browsers show and screen readers read without a script or a network."""

import html
import re

from docutils import nodes
from latex2mathml.converter import convert

_THIN = '<mspace width="0.17em"></mspace>'  # browsers leave it out around the names of functions
_NAME_OF_FUNCTION = r"<mi>(?:log|exp|ln)</mi>"


def formula(latex, display=False):
    """LaTeX -> MathML whose alttext is the LaTeX.

    Raises ValueError where a command would be left over, so that no page shows one.
    """
    latex = latex.strip()
    mathml = convert(latex, display="block" if display else "inline")
    if "\\" in mathml or "<mi>&</mi>" in mathml:
        raise ValueError(f"a formula cannot be shown as MathML: {latex}")
    operand = r"<m(?:i|n|sub|sup|frac|row|over|subsup)\b"
    mathml = re.sub(rf"({_NAME_OF_FUNCTION})(?={operand})", rf"\1{_THIN}", mathml)
    before = r"</mi>|</msub>|</msup>|&#x00029;</mo>"
    mathml = re.sub(rf"({before})(?={_NAME_OF_FUNCTION})", rf"\1{_THIN}", mathml)
    words = html.escape(" ".join(latex.split()), quote=True)
    return mathml.replace("<math ", f'<math alttext="{words}" ', 1)


def _inline(translator, node):
    translator.body.append(formula(node.astext()))
    raise nodes.SkipNode


def _block(translator, node):
    translator.body.append(f'<div class="formula">{formula(node.astext(), display=True)}</div>\n')
    raise nodes.SkipNode


def setup(app):
    """Register the renderer under the name that conf.py asks for."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
