"""Explorers that ask a model: what it says next, where a head looks and what it writes, what it makes of two guises."""

from __future__ import annotations

import functools
import html

import ipywidgets
import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from utils import dialect
from utils.assumptions import require_heads
from utils.attribution import apply_final_norm, head_name
from utils.inference import end_logits, small_cache
from utils.ioi import single_token_names
from utils.plots.drawings import Drawing
from utils.plots.head_views import changes_drawing, head_view, visible
from utils.prompts import PromptError, single_token, token_row
from utils.widgets.explorer import Explorer, Table, named

LONGEST = 40  # tokens that a pattern can be drawn for
TRAITS_SHOWN = 8  # traits at either end
IOI_PROMPT = "When John and Mary went to the shops, John gave the bag to"


def prompt_explorer(
    model: TransformerBridge, prompt: str = IOI_PROMPT, answers: tuple[str, str] = ("Mary", "John"), k: int = 8
) -> Explorer:
    """Write a prompt and two possible next words: the tokens that the model reads, its likeliest next tokens, and the logit
    difference of the two words.

    The words are read with a space in front, as they stand in a sentence. k: how many next tokens are listed.
    """
    text = ipywidgets.Text(value=prompt, **named("prompt"))
    words = [
        ipywidgets.Text(value=word, **named(name))
        for name, word in zip(("right word", "wrong word"), answers, strict=True)
    ]

    def draw() -> tuple[str, Table]:
        _require_prompt(text.value)
        right, wrong = (word.value.strip() for word in words)
        if not right or not wrong:
            raise PromptError("one of the two words is empty; write the word that you want to compare, such as Mary")
        ids = [single_token(model, f" {word}") for word in (right, wrong)]
        logits = end_logits(model, [text.value], progress=False)[0]
        difference = (logits[ids[0]] - logits[ids[1]]).item()
        read = _strings(model, token_row(model, text.value))
        said = f"logit difference, {right} minus {wrong}: {difference:+.2f}; {len(read)} tokens"
        best = logits.softmax(-1).topk(k)
        return said, _prompt_table(read, _strings(model, best.indices), best.values.tolist(), said)

    return Explorer([text, *words], draw)


def _strings(model: TransformerBridge, tokens: Int[Tensor, " token"]) -> list[str]:
    return [model.to_string([token]) for token in tokens.tolist()]


def _require_prompt(text: str) -> None:
    if not text.strip():
        raise PromptError("the prompt is empty; write the beginning of a sentence")
    if text != text.rstrip():
        raise PromptError(
            "the prompt ends with a space, but a token such as ' Mary' brings its own; take the space away"
        )


def _prompt_table(read: list[str], tokens: list[str], shares: list[float], said: str) -> Table:
    numbers = "".join(f"<td>{i}</td>" for i in range(len(read)))
    cells = "".join(f"<td><code>{html.escape(visible(token))}</code></td>" for token in read)
    rows = "".join(
        f'<tr><td><code>{html.escape(visible(token))}</code></td><td>{share:.3f}</td><td style="text-align:left">'
        f'<div style="background:#1f5fa8;height:0.8em;width:{200 * share:.0f}px"></div></td></tr>'
        for token, share in zip(tokens, shares, strict=True)
    )
    body = (
        f'<div style="overflow-x:auto" tabindex="0" role="region" aria-label="tokens of the prompt"><table><caption>What '
        f'the model reads</caption><tr><th scope="row">position</th>{numbers}</tr><tr><th scope="row">token</th>{cells}</tr>'
        '</table></div><table><caption>What it would say next</caption><tr><th scope="col">token</th><th scope="col">'
        f'probability</th><th scope="col">as a bar</th></tr>{rows}</table>'
    )
    return Table(
        body, f"{said}; likeliest: " + ", ".join(f"{t!r} {s:.3f}" for t, s in zip(tokens, shares, strict=True))
    )


def head_explorer(
    model: TransformerBridge, prompt: str = IOI_PROMPT, layer: int = 0, head: int = 0, k: int = 6
) -> Explorer:
    """Choose a head: its attention pattern on a prompt, and the tokens whose logits it raises and lowers most at the end.

    What it writes is read through the final norm and the unembedding, with the norm's scale of this prompt (chapter 02).
    Raises UnsupportedModel for a model whose heads do not write through W_O.
    """
    require_heads(model)
    text = ipywidgets.Text(value=prompt, **named("prompt"))
    sliders = [
        ipywidgets.IntSlider(value=value, min=0, max=count - 1, **named(name))
        for name, value, count in (("layer", layer, model.cfg.n_layers), ("head", head, model.cfg.n_heads))
    ]

    @functools.lru_cache(maxsize=4)
    def run(words: str):
        _require_prompt(words)
        tokens = token_row(model, words)
        if len(tokens) > LONGEST:
            raise PromptError(f"the prompt has {len(tokens)} tokens, and at most {LONGEST} can be drawn; shorten it")
        with torch.no_grad():
            return tokens, model.run_with_cache(tokens[None], names_filter=small_cache)[1]

    def draw() -> tuple[str, Drawing]:
        tokens, cache = run(text.value)
        at, chosen = (slider.value for slider in sliders)
        pattern = cache["pattern", at][0, chosen]
        with torch.no_grad():
            wrote = cache["z", at][:, -1, chosen] @ model.W_O[at, chosen]  # 1 d_model
            effects = (apply_final_norm(wrote, cache) @ model.W_U)[0]
        ends = effects.topk(k), effects.topk(k, largest=False)
        raised, lowered = (list(zip(_strings(model, e.indices), e.values.tolist(), strict=True)) for e in ends)
        read = _strings(model, tokens)
        name, source = head_name(at, chosen), int(pattern[-1].argmax())
        said = (
            f"{name}: from the last position it looks most at position {source}, {read[source]!r} "
            f"({pattern[-1, source].item():.2f})"
        )
        return said, head_view(pattern, read, name, raised, lowered)

    return Explorer([text, *sliders], draw)


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
        ipywidgets.Text(value=text, **named(name))
        for name, text in (("guise 1 (AAE)", aae), ("guise 2 (SAE)", sae), ("frame, with {} for the guise", frame))
    ]
    known = single_token_names(model, list(dialect.favorability()))
    unfavorable, favorable = ([trait for trait in side if trait in known] for side in dialect.traits())

    def draw() -> tuple[str, Drawing]:
        first, second, around = (text.value for text in texts)
        if first.strip() == second.strip():
            raise PromptError("the two guises are the same, so every bar would be zero; change a word in one of them")
        pairs = [dialect.Pair(first.strip(), second.strip())]
        both = dialect.guise_logits(model, pairs, [around], known, log_softmax=True, progress=False)
        ratios = dialect.association_scores(*both)
        ranked = sorted(zip(known, ratios.tolist(), strict=True), key=lambda item: item[1])
        ends = ranked if len(ranked) <= 2 * TRAITS_SHOWN else ranked[:TRAITS_SHOWN] + ranked[-TRAITS_SHOWN:]
        gap = dialect.preference(ratios, known, unfavorable, favorable).item()
        title = f"log p after “{first.strip()}” minus log p after “{second.strip()}”"
        figure = changes_drawing(title, ends[::-1])
        side = "unfavorable" if gap > 0 else "favorable"
        return f"trait gap {gap:+.2f}: guise 1 goes more with the {side} traits, in this one frame", figure

    return Explorer(texts, draw)
