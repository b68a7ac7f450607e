"""The guise explorer: how the traits move when the same thing is said in two ways."""

from __future__ import annotations

import ipywidgets
from transformer_lens.model_bridge import TransformerBridge

from utils import dialect
from utils.plots.drawings import Drawing
from utils.plots.head_views import changes_drawing
from utils.prompts import PromptError
from utils.widgets.explorer import Explorer, named

TRAITS_SHOWN = 8  # traits at either end


def guise_explorer(
    model: TransformerBridge,
    aae: str = "he be working",
    sae: str = "he is working",
    frame: str = "The person who says '{}' is",
) -> Explorer:
    """Write two guises and a frame: which traits does the model give more to one of them?

    The bars are log-probability ratios, AAE minus SAE, of the traits that move most; the line below the controls states
    the trait gap. Traits that are not one token in this model are left out.
    """
    texts = [
        ipywidgets.Text(value=text, continuous_update=False, **named(name))
        for name, text in (("guise 1 (AAE)", aae), ("guise 2 (SAE)", sae), ("frame, with {} for the guise", frame))
    ]
    known = [trait for trait in dialect.favourability() if _is_one_token(model, trait)]
    unfavourable, favourable = ([trait for trait in side if trait in known] for side in dialect.traits())

    def draw() -> tuple[str, Drawing]:
        first, second, around = (text.value for text in texts)
        if first.strip() == second.strip():
            raise PromptError("the two guises are the same, so every bar would be zero; change a word in one of them")
        pairs = [dialect.Pair(first.strip(), second.strip())]
        both = dialect.guise_logits(model, pairs, [around], known, log_softmax=True, progress=False)
        ratios = dialect.association_scores(*both)
        values = dict(sorted(zip(known, ratios.tolist(), strict=True), key=lambda item: item[1]))
        names = list(values)
        ends = names if len(names) <= 2 * TRAITS_SHOWN else names[:TRAITS_SHOWN] + names[-TRAITS_SHOWN:]
        gap = dialect.preference(ratios, known, unfavourable, favourable).item()
        title = f"log p after “{first.strip()}” minus log p after “{second.strip()}”"
        figure = changes_drawing(title, [(name, values[name]) for name in reversed(ends)])
        side = "unfavourable" if gap > 0 else "favourable"
        return f"trait gap {gap:+.2f}: guise 1 goes more with the {side} traits, in this one frame", figure

    return Explorer(texts, draw)


def _is_one_token(model: TransformerBridge, trait: str) -> bool:
    try:
        dialect.attribute_tokens(model, [trait])
    except PromptError:
        return False
    return True
