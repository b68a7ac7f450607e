"""The explorers, driven without a browser: what a control changes, what bad input says, and what a saved notebook keeps."""

import re

import ipywidgets
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from utils import dialect, widgets
from utils.attribution import apply_final_norm, head_results
from utils.inference import end_logits
from utils.plots.head_views import head_view
from utils.prompts import single_token, token_row
from utils.tiny_models import tiny_model
from utils.widgets.explorer import Table

PROMPT = "When John and Mary went to the store John gave the bag to"
FRAME = "The person who says '{}' is"


def test_prompt_explorer_states_the_logit_difference_and_the_tokens(model):
    shown = widgets.prompt_explorer(model, PROMPT, k=5)
    text, right, wrong = shown.controls
    logits = end_logits(model, [PROMPT])[0]
    difference = logits[single_token(model, " Mary")] - logits[single_token(model, " John")]
    assert f"Mary minus John: {difference.item():+.2f}; {len(token_row(model, PROMPT))} tokens" in shown.message.value
    best = logits.softmax(-1).max().item()
    assert f"{best:.3f}" in shown.figure.body and "␣gave" in shown.figure.body and "When" in shown.figure.body
    right.value, wrong.value = "John", "Mary"
    assert f"John minus Mary: {-difference.item():+.2f}" in shown.message.value
    text.value = "Mary and John"
    assert f"; {len(token_row(model, 'Mary and John'))} tokens" in shown.message.value


@pytest.mark.parametrize(
    ("control", "value", "words"),
    [
        (0, "  ", "the prompt is empty"),
        (0, "John gave it to ", "ends with a space"),
        (0, "a " * 200 + "a", "longer than tiny-gpt2 reads"),
        (1, "Marianne", "tokens in tiny-gpt2"),
        (2, "", "one of the two words is empty"),
    ],
)
def test_prompt_explorer_says_what_is_wrong_and_keeps_the_figure(control, value, words):
    shown = widgets.prompt_explorer(tiny(), PROMPT)
    before, text = shown.figure, shown.controls[control].value
    shown.controls[control].value = value
    assert "✗" in shown.message.value and words in shown.message.value and 'role="alert"' in shown.message.value
    assert shown.figure is before
    shown.controls[control].value = text
    assert "logit difference" in shown.message.value


def tiny():
    return tiny_model("gpt2")


def test_markup_in_a_prompt_is_shown_as_text():
    shown = widgets.prompt_explorer(tiny(), "<b>Mary</b> & John")
    assert "<b>" not in shown.figure.body and "&lt;" in shown.figure.body
    shown.controls[1].value = "<i>x"
    assert "<i>" not in shown.message.value
    head = widgets.head_explorer(tiny(), "<b>Mary</b> & John")
    assert "<b>" not in head.figure.body and "<b>" not in head.message.value.replace("<p", "")


def test_head_explorer_draws_the_pattern_and_what_the_head_writes(model):
    shown = widgets.head_explorer(model, PROMPT, layer=1, head=2, k=3)
    _, cache = model.run_with_cache(token_row(model, PROMPT)[None])
    row = cache["pattern", 1][0, 2, -1]
    assert f"L1H2: from the last position it looks most at position {row.argmax().item()}" in shown.message.value
    assert f"({row.max().item():.2f})" in shown.message.value
    written = (apply_final_norm(head_results(model, cache)[1, 2], cache) @ model.W_U)[0]
    assert (
        f">{written.max().item():+.2f}<" in shown.figure.body and f">{written.min().item():+.2f}<" in shown.figure.body
    )
    before = shown.figure
    shown.controls[2].value = 0
    assert "L1H0" in shown.message.value and shown.figure.body != before.body
    shown.controls[0].value = "Mary " * 60 + "Mary"
    assert "at most 40 can be drawn" in shown.message.value


def test_head_view_has_a_square_for_each_share_and_refuses_a_wrong_number_of_tokens():
    pattern = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    drawing = head_view(pattern, ["a", " b"], "L0H0", [(" x", 1.5)], [(" y", -3.0)])
    assert drawing.body.count("fill-opacity") == 3 and 'fill-opacity="0.75"' in drawing.body
    assert "x (+1.50)" in drawing.alt and "y (-3.00)" in drawing.alt
    with pytest.raises(ValueError, match="1 tokens for 2 query positions"):
        head_view(pattern, ["a"], "L0H0", [], [])


EFFECTS = torch.tensor([[0.0, 0.5, -0.02], [-0.3, 0.1, 0.04]])


def heads_in(figure):
    return set(re.findall(r">(L\d+H\d+)<", figure.body))


def test_threshold_explorer_draws_the_heads_that_remain_and_asks_once_for_each():
    asked = []

    def place(layer, head):
        asked.append((layer, head))
        return ("S2", "END") if layer else ("S1", "S2")

    shown = widgets.threshold_explorer(EFFECTS, ["S1", "S2", "END"], place, first=2)
    assert heads_in(shown.figure) == {"L0H1", "L1H0"}
    assert "2 of 6 heads remain: 1 help, and 1 hurt" in shown.message.value
    (slider,) = shown.controls
    assert [value for _, value in slider.options] == [0.02, 0.04, 0.1, 0.3, 0.5], "no step without a change"
    slider.value = 0.02
    assert heads_in(shown.figure) == {"L0H1", "L0H2", "L1H0", "L1H1", "L1H2"}
    slider.value = 0.5
    assert heads_in(shown.figure) == {"L0H1"} and len(asked) == len(set(asked)) == 5


def test_threshold_explorer_takes_any_number_of_heads_and_refuses_a_sweep_of_nothing():
    few = widgets.threshold_explorer(EFFECTS, ["S2", "END"], lambda *_: ("S2", "END"), most=2, first=50)
    assert [value for _, value in few.controls[0].options] == [0.3, 0.5]
    with pytest.raises(ValueError, match="every effect of the sweep is zero"):
        widgets.threshold_explorer(torch.zeros(2, 2), ["END"], lambda *_: ("END", "END"))
    with pytest.raises(ValueError, match="a role of head L0H1 is 'X'"):
        widgets.threshold_explorer(EFFECTS, ["END"], lambda *_: ("X", "END"))


def test_guise_explorer_draws_the_ratios_that_the_course_computes(model):
    shown = widgets.guise_explorer(model, "he be working", "he is working", FRAME)
    words = [word for word in ("kind", "lazy", "rude", "honest", "loud") if word in dialect.favorability()]
    pair = [dialect.Pair("he be working", "he is working")]
    ratios = dialect.association_scores(*dialect.guise_logits(model, pair, [FRAME], words, log_softmax=True))
    drawn = {
        name: float(value) for name, value in re.findall(r"(\w+) ([-+]\d+\.\d\d)", shown.figure.alt.split(": ", 1)[1])
    }
    assert drawn == pytest.approx(dict(zip(words, ratios.tolist(), strict=True)), abs=0.0051)
    assert list(drawn.values()) == sorted(drawn.values(), reverse=True)
    assert all(f">{name}<" in shown.figure.body for name in words)
    sides = [[word for word in side if word in words] for side in dialect.traits()]
    gap = dialect.preference(ratios, words, *sides).item()
    assert f"trait gap {gap:+.2f}" in shown.message.value
    shown.controls[0].value = "he is working"
    assert "the two guises are the same" in shown.message.value
    shown.controls[0].value = "he working"
    assert "trait gap" in shown.message.value
    shown.controls[2].value = "The person is"
    assert "no slot" in shown.message.value


def test_an_unforeseen_error_is_one_line():
    def draw():
        if control.value == "boom":
            raise KeyError
        return "fine", Table("<b>x</b>", "x")

    control = ipywidgets.Text("a", description="name")
    shown = widgets.Explorer([control], draw)
    control.value = "boom"
    assert shown.message.value == '<p role="alert"><b>✗ KeyError</b></p>'


EXPLORERS = {
    "prompt": lambda: widgets.prompt_explorer(tiny(), PROMPT),
    "head": lambda: widgets.head_explorer(tiny(), PROMPT),
    "threshold": lambda: widgets.threshold_explorer(EFFECTS, ["S2", "END"], lambda *_: ("S2", "END")),
    "guise": lambda: widgets.guise_explorer(tiny()),
    "specification": lambda: widgets.specification_browser(
        pd.DataFrame({"prefix": ["a", "b"], "result": np.array([0.5, -0.5])}), "result", ["prefix"]
    ),
}


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_control_has_a_name_and_can_be_reached_with_the_keyboard(name):
    for control in EXPLORERS[name]().controls:
        assert control.description and not control.disabled
        assert getattr(control, "tabbable", None) in (None, True)  # ipywidgets 7 has no such setting


def test_saved_notebooks_and_pages_keep_the_figure(tmp_path):
    """Executed as the course executes notebooks: the widget's state is not stored, the figure is an ordinary output."""
    source = (
        "from utils import widgets\nfrom utils.tiny_models import tiny_model\n"
        f"shown = widgets.head_explorer(tiny_model(), {PROMPT!r})\nshown"
    )
    change = "shown.controls[1].value = 2"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (source, change)])
    NotebookClient(notebook, timeout=300, kernel_name="python3", store_widget_state=False).execute()
    kinds = [set(output.get("data", {})) for output in notebook.cells[0].outputs if output.output_type != "stream"]
    assert [("text/html" in kind, "application/vnd.jupyter.widget-view+json" in kind) for kind in kinds] == [
        (False, True),
        (True, False),
    ]
    assert "L2H0: where each position looks" in notebook.cells[0].outputs[-1].data["text/html"], "it was updated"
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert page.count("L2H0: where each position looks") == 1 and 'aria-label="Attention pattern of L2H0' in page
