"""Last-token logits of sequences that begin alike: the common beginning is run once, and its keys and values are shared.

Keys and values pass from the beginning to the rest inside each layer (`utils.parts`), and no argument of a library carries
them: an argument such as `past_key_values` can be dropped by a minor release, and then numbers are wrong without a word. The
first batch of a model is compared with the model's own unpadded runs all the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformer_lens.model_bridge import TransformerBridge

from utils.assumptions import disagree, hooks_on, peculiarities, versions
from utils.parts import Parts, rotate
from utils.prompts import at_last

Rows = Sequence[Int[Tensor, " _"]]  # token ids, each row of a length of its own
Way = Callable[[TransformerBridge, Rows], Float[Tensor, "batch d_vocab"]]
_fits: weakref.WeakKeyDictionary[TransformerBridge, dict[Way, bool]] = weakref.WeakKeyDictionary()


class WrongLogits(RuntimeError):
    """A way of running many prompts at once does not give what the model gives for each; the message names the versions."""


@torch.no_grad()
def last_logits(model: TransformerBridge, rows: Rows, share: bool = True) -> Float[Tensor, "batch d_vocab"]:
    """The logits at the last token of each row of token ids, of whatever lengths.

    The rows are run padded on the right, by the model itself, where they share no beginning, where hooks are on the model,
    where the course cannot take its blocks apart, and where `share` is False. Otherwise their beginning is run once. The
    first batch that goes either way is compared with unpadded runs: WrongLogits if it disagrees.
    """
    if hooks_on(model):
        return padded(model, rows)
    if share and n_shared(rows) and _tried(model, shared, rows):
        return shared(model, rows)
    _tried(model, padded, rows)
    return padded(model, rows)


def padded(model: TransformerBridge, rows: Rows) -> Float[Tensor, "batch d_vocab"]:
    """One ordinary run: padding on the right is never read by what stands before it. Only the last tokens are unembedded."""
    tokens, last = _batch(rows)
    at_end = ("unembed.hook_in", lambda resid, hook: at_last(resid, last).unsqueeze(1))
    return model.run_with_hooks(tokens, fwd_hooks=[at_end])[:, 0]


def shared(model: TransformerBridge, rows: Rows) -> Float[Tensor, "batch d_vocab"]:
    """The common beginning and the rest go through the model side by side, layer by layer; the rest reads both."""
    parts, n = Parts(model), n_shared(rows)
    tokens, last = _batch(rows)
    embedded = model(tokens, stop_at_layer=0)  # batch pos d_model
    n_pos = tokens.shape[1]
    places = torch.arange(n_pos, device=tokens.device).unsqueeze(0)
    rotations = parts.rotations(embedded[:1], places)
    allowed = torch.ones(n_pos, n_pos, dtype=torch.bool, device=tokens.device).tril().unsqueeze(0)
    start, rest = embedded[:1, :n], embedded[:, n:]
    for layer in range(parts.n_layers):
        q, k, v = _turned(parts, layer, start, rotations, slice(0, n))
        q_rest, k_rest, v_rest = _turned(parts, layer, rest, rotations, slice(n, n_pos))
        start = _through(parts, layer, start, parts.attend(q, k, v, allowed[:, :n, :n]))
        k_rest, v_rest = (
            torch.cat([shared_part.expand(len(rows), -1, -1, -1), own], dim=1)
            for shared_part, own in ((k, k_rest), (v, v_rest))
        )
        rest = _through(parts, layer, rest, parts.attend(q_rest, k_rest, v_rest, allowed[:, n:]))
    return parts.unembed(at_last(rest, last - n))


def _turned(parts: Parts, layer: int, x: Tensor, rotations: tuple[Tensor, Tensor] | None, where: slice):
    """Queries, keys and values of `x`, rotated for the positions at which it stands."""
    q, k, v = parts.qkv(layer, x)
    if rotations is None:
        return q, k, v
    cos_sin = [part[:, where] for part in rotations]
    return rotate(q, *cos_sin), rotate(k, *cos_sin), v


def _through(parts: Parts, layer: int, x: Tensor, z: Tensor) -> Tensor:
    mid = x + parts.attn_out(layer, z)
    return mid + parts.mlp_out(layer, mid)


def n_shared(rows: Rows) -> int:
    """With how many equal tokens all rows begin; one token of each is left over, so that each has something to run."""
    shortest = min(map(len, rows))
    same = torch.stack([row[:shortest] == rows[0][:shortest] for row in rows]).all(0)  # pos
    return min(int(same.long().cumprod(0).sum()), shortest - 1)


def _batch(rows: Rows) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"]]:
    """Right-padded tokens, and each row's last real position."""
    tokens = pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
    return tokens, lengths - 1


# --- does it give what the model gives? -------------------------------------------------------------------------------


def _tried(model: TransformerBridge, way: Way, rows: Rows) -> bool:
    """Whether `way` fits this model, found out on the first and last, the shortest and longest of its first rows."""
    known = _fits.setdefault(model, {})
    if way not in known:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        known[way] = _agrees(model, way, [rows[i] for i in sorted({0, len(rows) - 1, order[0], order[-1]})])
    return known[way]


def _agrees(model: TransformerBridge, way: Way, rows: Rows) -> bool:
    """True, or False for blocks that are built in a way that `utils.parts` leaves out; WrongLogits if nothing explains it."""
    expected = torch.stack([model(row[None])[0, -1] for row in rows])
    try:
        off = disagree(way(model, rows), expected)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError, TypeError):
        if way is padded:
            raise
        return False
    if off and (way is padded or not peculiarities(model)):
        raise WrongLogits(
            f"{model.cfg.model_name}: prompts run together ({way.__name__}) and one by one differ by {off:.2g} in their last "
            f"logits, with {versions()}. Nothing was measured. Install the versions of constraints.txt, "
            + ("or run prompts one by one" if way is padded else "or pass share_prefix=False, which is slower")
        )
    return off is None
