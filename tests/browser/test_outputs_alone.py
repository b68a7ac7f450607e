"""Each kind of output, alone in a frame, as Colab draws it: nothing there but the output itself."""

import html
import importlib.resources
import sys

import plotly.io as pio
import pytest
import torch

from utils import plots, widgets
from utils.plots import attention_views
from utils.tiny_models import tiny_model

WAIT = 60_000
PROMPT = "When John and Mary went to the store John gave the bag to"


def framed(watched, body, **answered):
    """The only frame of a page, whose document is `body`, as closed to its surroundings as Colab's; and the page."""
    one = watched(answered.get("answered"))
    page = f'<iframe sandbox="allow-scripts" width=1200 height=800 srcdoc="{html.escape(body, quote=True)}"></iframe>'
    one.page.set_content(page)
    return one, one.page.frame_locator("iframe")


def attention():
    return plots.attention(torch.tril(torch.ones(2, 3, 3)) / 2, ["<s>", " a", " b"], "Heads", ["L0H0", "L1H1"])


def test_an_attention_view_brings_its_library_where_it_is_alone(watched, monkeypatch):
    monkeypatch.setattr(attention_views, "_library_cell", "another cell")
    monkeypatch.setitem(sys.modules, "google.colab", object())
    one, frame = framed(watched, attention()._repr_html_())
    frame.get_by_text("Zoomed").first.wait_for(timeout=WAIT)
    assert "L0H0 Zoomed" in frame.locator("body").inner_text() and one.errors == one.outside == []


def test_an_attention_view_unpacks_the_library_once(watched):
    library = plots.circuitsvis_library()
    one, frame = framed(watched, f"{library}{attention()}{library}")
    frame.get_by_text("Zoomed").first.wait_for(timeout=WAIT)
    one.page.wait_for_timeout(500)
    assert one.errors == [] and "Run the notebook" not in frame.locator("body").inner_text()


def test_a_figure_as_plotly_gives_it_to_colab(watched):
    """plotly takes its library from its own server there, which the wheel's copy stands in for."""
    bundle = pio.renderers["colab"].to_mimebundle(plots.heads(torch.eye(3), "Three heads").to_dict())
    library = importlib.resources.files("plotly").joinpath("package_data/plotly.min.js").read_text("utf-8")
    one, frame = framed(watched, bundle["text/html"], answered={"plot.ly": library})
    frame.locator(".heatmaplayer image, .heatmaplayer path").first.wait_for(timeout=WAIT, state="attached")
    assert "Three heads" in frame.locator("body").inner_text()
    assert [url for url in one.outside if "mathjax" not in url] == [], "plotly loads MathJax for formulas, if it can"


@pytest.mark.parametrize("explorer", ["prompt_explorer", "head_explorer"])
def test_an_explorers_figure(watched, explorer):
    figure = getattr(widgets, explorer)(tiny_model(), PROMPT).figure
    body = figure._repr_svg_() if hasattr(figure, "_repr_svg_") else figure._repr_html_()
    one, frame = framed(watched, body)
    frame.get_by_text("gave").first.wait_for(timeout=WAIT)
    assert one.errors == one.outside == [] and "Traceback" not in frame.locator("body").inner_text()


def test_a_drawing(watched):
    one, frame = framed(watched, plots.head_drawing()._repr_svg_())
    frame.locator("svg[role=img][aria-label]").wait_for(timeout=WAIT)
    assert frame.locator("svg").bounding_box()["width"] > 300 and one.errors == one.outside == []
