"""What is left of a gap when heads are replaced by their means, or a direction is projected out of the residual stream.

Many edits are put to the same prompts, so what they share is run once: prompts of one frame and pronoun begin alike, and an
edit changes nothing before its first layer. `GuiseRuns` keeps the unedited streams and resumes there. It compares itself with
the model, hooks and all, when it is made. For other texts (IOI, plain sentences) an edit gives the same as hooks.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from utils.assumptions import UnsupportedModel, disagree, peculiarities, versions
from utils.dialect.grammar import DialectError, Pair, check_frames, check_pairs, fill
from utils.prompts import token_row
from utils.shared_prefix import LongRow


@dataclass(frozen=True, eq=False)
class Edit:
    """Heads whose z is replaced, and at most one direction that is taken out of the residual stream.

    heads: (layer, head). means: what is put in the place of their z, at every position but the first. direction: a vector
    whose component is taken out of the stream before layer `layer`, at every position but the first, or at the closing quote
    only. An edit without anything changes nothing.
    """

    heads: Sequence[tuple[int, int]] = ()
    means: Float[Tensor, "layer head d_head"] | None = None
    direction: Float[Tensor, " d_model"] | None = None
    layer: int = 0
    quote_only: bool = False
    by_layer: dict[int, list[int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.heads and self.means is None:
            raise ValueError("heads are replaced by their means; give the means, or no heads")
        for layer, head in self.heads:
            self.by_layer.setdefault(int(layer), []).append(int(head))

    @property
    def first_layer(self) -> int | None:
        """The first layer that the edit changes; None if it changes nothing."""
        layers = [*self.by_layer, *([] if self.direction is None else [self.layer])]
        return min(layers, default=None)

    def z(self, layer: int, z: Float[Tensor, "batch n head d_head"]) -> Float[Tensor, "batch n head d_head"]:
        """z with the edit's heads of this layer replaced, wherever it is given."""
        if layer not in self.by_layer:
            return z
        z, heads = z.clone(), self.by_layer[layer]
        z[:, :, heads] = self.means[layer][heads]
        return z

    def stream(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The stream without its component along the direction, wherever it is given."""
        unit = self.direction / self.direction.norm()
        return x - (x @ unit)[..., None] * unit

    def hooks(self) -> list[tuple[str, Callable]]:
        """The same edit for any text, at every position but the first.

        Raises ValueError for an edit at the closing quote: a text need not have one.
        """
        if self.direction is not None and self.quote_only:
            raise ValueError("this edit is for the closing quote of a guise; other texts have none")

        def put(layer: int) -> Callable:
            return lambda z, hook: torch.cat([z[:, :1], self.z(layer, z[:, 1:])], dim=1)

        def project(x: Tensor, hook) -> Tensor:
            return torch.cat([x[:, :1], self.stream(x[:, 1:])], dim=1)

        found = [(f"blocks.{layer}.attn.hook_z", put(layer)) for layer in self.by_layer]
        return found + ([] if self.direction is None else [(f"blocks.{self.layer}.hook_resid_pre", project)])


def matched_heads(heads: Sequence[tuple[int, int]], n_heads: int, rng: random.Random) -> list[tuple[int, int]]:
    """As many heads of the same layers, drawn by lot among all `n_heads` of each layer: what the list is compared with.

    If heads of one layer were exchangeable, the list itself would be one of these draws, so that its rank among them is a
    p-value. Heads of the list may be drawn.
    """
    counts = Counter(layer for layer, _ in heads)
    return [(layer, head) for layer, n in sorted(counts.items()) for head in rng.sample(range(n_heads), n)]


def slope_removed(before: Float[Tensor, " swap"], after: Float[Tensor, " swap"]) -> Float[Tensor, ""]:
    """The share of many gaps that is gone, each with its sign: 1 minus the slope of the line through zero, before to after.

    For swaps, whose sign has no meaning: turning a swap round changes nothing. 0: gaps are as they were on the whole, also if
    each moved a little; 1: what is left has nothing to do with what was there; above 1: they turned round.
    """
    return 1 - (before * after).sum() / before.pow(2).sum()


# --- prompts that share their beginning -----------------------------------------------------------------------------------


class GuiseRuns:
    """Both guises of some pairs in some frames, run once, ready for many edits.

    Whatever several prompts begin with stands once in one long row (`utils.shared_prefix.LongRow`), in which a closing quote
    is told from the same mark elsewhere.
    Raises DialectError for pairs and frames that cannot be used, UnsupportedModel where the numbers are not the model's.
    """

    @torch.no_grad()
    def __init__(self, model: TransformerBridge, pairs: Sequence[Pair], frames: Sequence[str]) -> None:
        self.model = model
        self.pairs, self.frames = check_pairs(pairs), check_frames(frames)
        cells = [
            (frame, getattr(pair, side)) for side in ("aae", "sae") for pair in self.pairs for frame in self.frames
        ]
        self.prompts = [fill(frame, said) for frame, said in cells]
        rows = [token_row(model, prompt) for prompt in self.prompts]
        found = [self._closing_quote(row, frame.split("{}")[1]) for row, (frame, _) in zip(rows, cells, strict=True)]
        apart = [row.clone() for row in rows]
        for row, at in zip(apart, found, strict=True):
            if at is not None:
                row[at] = -1 - row[at]  # a number that is no token
        self._row = LongRow(model, rows, apart)
        self.parts = self._row.parts
        self._quote = [-1 if at is None else int(self._row.where[i, at]) for i, at in enumerate(found)]
        self._later = self._row.place.nonzero()[:, 0]  # everything but first positions
        self._streams = [self._row.embedded]  # before every layer, and at the end: [1, place in the row, d_model]
        for layer in range(self.parts.n_layers):
            self._streams.append(self._row.block(layer, self._streams[-1]))
        self._require_the_models_logits()

    @torch.no_grad()
    def end_logits(
        self, tokens: Int[Tensor, " token"], edit: Edit | None = None, log_softmax: bool = False
    ) -> Float[Tensor, "2 pair frame token"]:
        """Logits (or log-probabilities) of `tokens` at the ends of the AAE and of the SAE guises, of the run that the edit
        changes.

        Raises DialectError for an edit at the closing quote where a frame has none right behind its slot.
        """
        logits = self._logits(edit or Edit())
        logits = (logits.log_softmax(-1) if log_softmax else logits)[:, tokens]
        return logits.unflatten(0, (2, len(self.pairs), len(self.frames)))

    def gaps(
        self, unfavorable: Int[Tensor, " u"], favorable: Int[Tensor, " f"], edit: Edit | None = None
    ) -> Float[Tensor, "pair frame"]:
        """`utils.dialect.trait_gaps` of the run that the edit changes. Errors: `end_logits`."""
        logits = self.end_logits(torch.cat([unfavorable, favorable]), edit)
        preference = logits[..., : len(unfavorable)].mean(-1) - logits[..., len(unfavorable) :].mean(-1)
        return preference[0] - preference[1]

    def at_quote(self, layer: int) -> Float[Tensor, "2 pair frame d_model"]:
        """The unedited stream before `layer` at the closing quote of each prompt: of the AAE guises, of the SAE guises.

        Raises DialectError where a frame has no closing quote right behind its slot.
        """
        return self._streams[layer][0, self._quotes()].unflatten(0, (2, len(self.pairs), len(self.frames)))

    # --- the long row -------------------------------------------------------------------------------------------------

    def _closing_quote(self, row: Int[Tensor, " _"], tail: str) -> int | None:
        """The position of the quotation mark with which what stands behind the guise begins; None if it begins otherwise."""
        if '"' not in tail[:2]:
            return None
        after = self.model.to_tokens(tail, prepend_bos=False)[0].tolist()
        if row[len(row) - len(after) :].tolist() != after:
            return None
        within = next(i for i in range(len(after)) if '"' in self.model.to_string(after[: i + 1]))
        return len(row) - len(after) + within

    def _quotes(self) -> list[int]:
        if -1 in self._quote:
            raise DialectError(
                f"{self.prompts[self._quote.index(-1)]!r} has no closing quote right after the guise; use frames with "
                '" {} "'
            )
        return self._quote

    # --- running ------------------------------------------------------------------------------------------------------

    def _logits(self, edit: Edit) -> Float[Tensor, "prompt d_vocab"]:
        """Logits at each prompt's end, resumed at the first layer that the edit changes."""
        n_layers = self.parts.n_layers
        if edit.first_layer is None:
            return self.parts.unembed(self._streams[-1][0, self._row.ends])
        x = self._streams[edit.first_layer]
        for layer in range(edit.first_layer, n_layers):
            if edit.direction is not None and layer == edit.layer:
                where, x = self._quotes() if edit.quote_only else self._later, x.clone()
                x[:, where] = edit.stream(x[:, where])
            at = self._row.ends if layer == n_layers - 1 else None
            x = self._row.block(layer, x, self._edited_z(layer, x, edit), at)
        return self.parts.unembed(x[0])

    def _edited_z(
        self, layer: int, x: Float[Tensor, "1 n d_model"], edit: Edit
    ) -> Float[Tensor, "1 n head d_head"] | None:
        """What the heads read, with the edit's heads replaced; None where the edit replaces none of this layer."""
        if layer not in edit.by_layer:
            return None
        z = self._row.z(layer, x).clone()
        z[:, self._later] = edit.z(layer, z[:, self._later])
        return z

    def _require_the_models_logits(self) -> None:
        """The first and the last prompt through the model itself; UnsupportedModel if it gives other logits."""
        found = self._logits(Edit())
        for i in (0, len(self.prompts) - 1):
            expected = self.model(token_row(self.model, self.prompts[i])[None])[0, -1]
            if off := disagree(found[i], expected):
                raise UnsupportedModel(
                    f"prompts that share their beginning and {self.model.cfg.model_name} differ by {off:.2g} in the logits"
                    f"{peculiarities(self.model)} ({versions()})"
                )
