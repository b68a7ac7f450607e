"""The prompt explorer (what the model reads and says next) and the head explorer (where a head looks and what it writes)."""

from __future__ import annotations

import functools
import html

import ipywidgets
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from utils.assumptions import require_heads
from utils.attribution import apply_final_norm, head_name
from utils.inference import end_logits, small_cache
from utils.plots.drawings import Drawing
from utils.plots.head_views import head_view
from utils.prompts import PromptError, single_token, token_row
from utils.widgets.explorer import Explorer, Table, named

LONGEST = 40  # tokens that a pattern can be drawn for
IOI_PROMPT = "When John and Mary went to the shops, John gave the bag to"


def prompt_explorer(
    model: TransformerBridge, prompt: str = IOI_PROMPT, answers: tuple[str, str] = ("Mary", "John"), k: int = 8
) -> Explorer:
    """Write a prompt and two possible next words: the tokens that the model reads, its likeliest next tokens, and the logit
    difference of the two words.

    The words are read with a space in front, as they stand in a sentence. k: how many next tokens are listed.
    """
    text = ipywidgets.Text(value=prompt, continuous_update=False, **named("prompt"))
    words = [
        ipywidgets.Text(value=word, continuous_update=False, **named(name))
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
        read = [model.to_string([token]) for token in token_row(model, text.value).tolist()]
        said = f"logit difference, {right} minus {wrong}: {difference:+.2f}; {len(read)} tokens"
        return said, _prompt_table(read, *_likeliest(model, logits, k), said)

    return Explorer([text, *words], draw)


def _require_prompt(text: str) -> None:
    if not text.strip():
        raise PromptError("the prompt is empty; write the beginning of a sentence")
    if text != text.rstrip():
        raise PromptError(
            "the prompt ends with a space, but a token such as ' Mary' brings its own; take the space away"
        )


def _likeliest(model: TransformerBridge, logits: Float[Tensor, " d_vocab"], k: int) -> tuple[list[str], list[float]]:
    best = logits.softmax(-1).topk(k)
    return [model.to_string([token]) for token in best.indices.tolist()], best.values.tolist()


def _prompt_table(read: list[str], tokens: list[str], shares: list[float], said: str) -> Table:
    numbers = "".join(f"<td>{i}</td>" for i in range(len(read)))
    cells = "".join(f"<td><code>{_visible(token)}</code></td>" for token in read)
    rows = "".join(
        f'<tr><td><code>{_visible(token)}</code></td><td>{share:.3f}</td><td style="text-align:left">'
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


def _visible(token: str) -> str:
    """A token with its spaces and line breaks to be seen, as HTML."""
    return html.escape(token.replace("\n", "⏎").replace(" ", "␣"))


def head_explorer(
    model: TransformerBridge, prompt: str = IOI_PROMPT, layer: int = 0, head: int = 0, k: int = 6
) -> Explorer:
    """Choose a head: its attention pattern on a prompt, and the tokens whose logits it raises and lowers most at the end.

    What it writes is read through the final norm and the unembedding, with the norm's scale of this prompt (chapter 02).
    Raises UnsupportedModel for a model whose heads do not write through W_O.
    """
    require_heads(model)
    text = ipywidgets.Text(value=prompt, continuous_update=False, **named("prompt"))
    sliders = [
        ipywidgets.IntSlider(value=value, min=0, max=count - 1, continuous_update=False, **named(name))
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
        read = [model.to_string([token]) for token in tokens.tolist()]
        name, source = head_name(at, chosen), int(pattern[-1].argmax())
        said = (
            f"{name}: from the last position it looks most at position {source}, {read[source]!r} "
            f"({pattern[-1, source].item():.2f})"
        )
        return said, head_view(pattern, read, name, *_extremes(model, effects, k))

    return Explorer([text, *sliders], draw)


def _extremes(
    model: TransformerBridge, effects: Float[Tensor, " d_vocab"], k: int
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """The k tokens that are raised most, and the k that are lowered most, with by how much."""

    def named_values(ids: Int[Tensor, " k"]) -> list[tuple[str, float]]:
        return [(model.to_string([token]), effects[token].item()) for token in ids.tolist()]

    return named_values(effects.topk(k).indices), named_values((-effects).topk(k).indices)
