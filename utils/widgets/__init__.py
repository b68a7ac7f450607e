"""Explorers: figures with controls, for a learner who wants to ask the next question without writing code.

Each function returns an `Explorer`, which a notebook's cell shows. The controls are ipywidgets' own, so that the keyboard is
enough: Tab goes to the next, arrow keys move a slider, Enter ends a text. What cannot be drawn is said in a
message below the controls, and the figure stays. The figure is an ordinary output: a saved notebook and a web page keep it.
"""

from utils.widgets.browsers import atlas_browser, specification_browser, threshold_explorer
from utils.widgets.explorer import Explorer
from utils.widgets.looking import guise_explorer, head_explorer, prompt_explorer

__all__ = [
    "Explorer",
    "atlas_browser",
    "guise_explorer",
    "head_explorer",
    "prompt_explorer",
    "specification_browser",
    "threshold_explorer",
]
