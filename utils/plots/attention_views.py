"""Attention views (circuitsvis): the patterns of a few heads over their tokens, as HTML that needs no internet."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
import sys
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from IPython import get_ipython

from utils.attribution import head_name
from utils.plots.alt import attention_alt
from utils.plots.inputs import Numbers, as_array, require_count, table

# Draws the view into every element that carries its data and is still empty. Elements are found by what they show, not by
# an id: the same view may be on the page more than once (shown twice, a second tab, an output of an earlier kernel), and
# `document.currentScript` is somewhere else in VS Code. The ids that circuitsvis asks for are given on the page, so that
# saved notebooks do not change. The library may come later on the page: wait for it.
DRAW = (
    "<script>(function draw(tries) {{ if (window.CircuitsVis) "
    """for (const place of document.querySelectorAll('[data-attention="{digest}"]:not([id])')) """
    "CircuitsVis.render(place.id = 'attention-view-' + (window.attentionViews = (window.attentionViews || 0) + 1), "
    "CircuitsVis.AttentionHeads, {data}); else if (tries) setTimeout(draw, 250, tries - 1); }})(100)</script>"
)

# Adds the library to the page, once. A script element is what every front end lets run (VS Code, Colab, pages from disk).
UNPACK = (
    "(async () => {{ if (window.CircuitsVis) return; const packed = '{packed}'; "
    "const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0)); "
    "const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate')); "
    "const script = document.createElement('script'); script.textContent = await new Response(stream).text(); "
    "if (!window.CircuitsVis) document.head.append(script); "
    # Its canvases are images without a name: give them the view's title, for screen readers.
    "const name = () => {{ for (const image of document.querySelectorAll('[data-attention] canvas:not([aria-label])')) "
    "image.setAttribute('aria-label', image.closest('[data-attention]').previousElementSibling.textContent); }}; "
    "new MutationObserver(name).observe(document.body, {{childList: true, subtree: true}}); name(); }})()"
)


class AttentionView:
    """An attention view as HTML that works without the internet. Shown by Jupyter; `str()` gives the HTML."""

    def __init__(self, title: str, body: str) -> None:
        self.title, self.body = title, body

    def __repr__(self) -> str:
        return f"AttentionView({self.title!r})"

    def __str__(self) -> str:
        return self.body

    def _repr_html_(self) -> str:
        return circuitsvis_library() + self.body if _brings_library(self.title) else self.body


_library_cell: str | None = None


def _brings_library(title: str) -> bool:
    """circuitsvis' JavaScript (0.5 MB) goes into the output of one cell, the first that shows a view, and again whenever
    that cell is run again: the page may have been reloaded since. On Colab every output is a page of its own: into each."""
    global _library_cell
    shell = get_ipython()
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    cell = parent.get("metadata", {}).get("cellId", title)  # where there is no JupyterLab to name the cell: its title
    if _library_cell is None:
        _library_cell = cell
    return cell == _library_cell or "google.colab" in sys.modules


def circuitsvis_library() -> str:
    """The script element with circuitsvis' JavaScript, from the installed wheel. It is compressed, to a third of its size,
    and the browser unpacks it: notebooks with a view would otherwise be larger than what GitHub shows."""
    source = importlib.resources.files("circuitsvis").joinpath("dist/cdn/iife.js").read_text(encoding="utf-8")
    source = source.replace("//# sourceMappingURL=iife.js.map", "") + "\nwindow.CircuitsVis = CircuitsVis;"
    packed = base64.b64encode(zlib.compress(source.encode(), 9)).decode()
    return f'<script id="circuitsvis-library">{UNPACK.format(packed=packed)}</script>'


def attention(
    patterns: Numbers,
    tokens: Sequence[str],
    title: str,
    head_names: Sequence[str] | None = None,
) -> AttentionView:
    """Attention patterns of a few heads: small heatmaps, and the chosen one large with its tokens.

    patterns: rows are destinations (queries), columns sources (keys). head_names: L9H9, …
    Raises ValueError when tokens or names do not match the patterns' axes.
    """
    patterns = table(as_array(patterns, digits=3), "patterns", 3)
    tokens = [str(token) for token in tokens]
    names = [f"head {i}" for i in range(len(patterns))] if head_names is None else [str(name) for name in head_names]
    require_count("head names", names, len(patterns), "heads")
    for axis, length in zip(("query", "key"), patterns.shape[1:], strict=True):
        require_count("tokens", tokens, length, f"{axis} positions")
    data = json.dumps({"attention": patterns.tolist(), "tokens": tokens, "attentionHeadNames": names})
    data = data.replace("<", "\\u003c")  # no token can end the script element (</script>) or open a comment (<!--)
    digest = hashlib.sha256((str(title) + data).encode()).hexdigest()[:12]
    alt = html.escape(attention_alt(str(title), names, tokens, patterns), quote=True)
    alt = alt.encode("ascii", "xmlcharrefreplace").decode()
    return AttentionView(
        title,
        f'<div role="group" aria-label="{alt}" style="font-family: sans-serif"><b>{html.escape(str(title))}</b>'
        f'<div data-attention="{digest}"><i>Run the notebook from the top to draw this view.</i></div></div>'
        + DRAW.format(digest=digest, data=data),
    )


def attention_of_heads(
    cache: Any, chosen: Sequence[tuple[int, int]], tokens: Sequence[str], title: str, prompt: int = 0
) -> AttentionView:
    """The attention view of (layer, head) pairs on one prompt of a cached batch."""
    patterns = [as_array(cache["pattern", layer][prompt, head]) for layer, head in chosen]
    return attention(np.stack(patterns) if patterns else [], tokens, title, [head_name(*pair) for pair in chosen])
