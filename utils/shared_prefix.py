"""Last-token logits of sequences that begin alike: whatever several of them begin with is run once, and all of them read it.

Keys and values pass from a beginning to what follows inside each layer (`utils.parts`), and no argument of a library carries
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

    The rows are run padded on the right, by the model itself, where no two of them begin alike, where hooks are on the model,
    where the course cannot take its blocks apart, and where `share` is False. Otherwise what several begin with is run once.
    The first batch that goes either way is compared with unpadded runs: WrongLogits if it disagrees.
    """
    if hooks_on(model):
        return padded(model, rows)
    if share and _share_something(rows) and _tried(model, shared, rows):
        return shared(model, rows)
    _tried(model, padded, rows)
    return padded(model, rows)


def padded(model: TransformerBridge, rows: Rows) -> Float[Tensor, "batch d_vocab"]:
    """One ordinary run: padding on the right is never read by what stands before it. Only the last tokens are unembedded."""
    tokens, last = _batch(rows)
    at_end = ("unembed.hook_in", lambda resid, hook: at_last(resid, last).unsqueeze(1))
    return model.run_with_hooks(tokens, fwd_hooks=[at_end])[:, 0]


def shared(model: TransformerBridge, rows: Rows) -> Float[Tensor, "batch d_vocab"]:
    """Each different beginning is run once, whichever rows have it (`LongRow`)."""
    together = LongRow(model, rows)
    x, n_layers = together.embedded, together.parts.n_layers
    for layer in range(n_layers):
        x = together.block(layer, x, at=together.ends if layer == n_layers - 1 else None)
    return together.parts.unembed(x[0])


class LongRow:
    """Rows of tokens that begin alike, ready to be run as one long row in which each different beginning stands once.

    Every weight is read once for all of them. For attention, each row's queries, keys and values are taken out of the long
    row as a padded batch, in which each position reads what stands before it in its own row.

    where: [batch, pos], the place in the long row of each position of each row. place: [n], the position at which each of the
    n beginnings ends. ends: [batch], the place of each row's last token. embedded: [1, n, d_model], before layer 0.
    apart: rows of the same lengths with other numbers, where beginnings of equal tokens are to be kept apart.
    """

    def __init__(self, model: TransformerBridge, rows: Rows, apart: Rows | None = None) -> None:
        self.parts, (tokens, last) = Parts(model), _batch(rows)
        found = beginnings(rows if apart is None else apart)
        self.where, self._owner, self.place = (part.to(tokens.device) for part in found)
        self.ends = self.where.gather(1, last[:, None])[:, 0]
        self.embedded = model(tokens, stop_at_layer=0)[self._owner, self.place][None]
        self._rotations = self.parts.rotations(self.embedded, self.place[None])
        n_pos = tokens.shape[1]
        self._allowed = torch.ones(1, n_pos, n_pos, dtype=torch.bool, device=tokens.device).tril()

    def z(self, layer: int, x: Float[Tensor, "1 n d_model"]) -> Float[Tensor, "1 n head d_head"]:
        """What the heads of a layer read, from the stream before it."""
        q, k, v = self.parts.qkv(layer, x)
        if self._rotations is not None:
            q, k = rotate(q, *self._rotations), rotate(k, *self._rotations)
        z = self.parts.attend(*(part[0, self.where] for part in (q, k, v)), self._allowed)
        return z[self._owner, self.place][None]

    def block(
        self,
        layer: int,
        x: Float[Tensor, "1 n d_model"],
        z: Float[Tensor, "1 n head d_head"] | None = None,
        at: Int[Tensor, " wanted"] | None = None,
    ) -> Float[Tensor, "1 n_or_wanted d_model"]:
        """The stream behind a layer. z: what its heads read, if it is not what they read by themselves. at: the places at
        which the stream is wanted (None: everywhere)."""
        z = self.z(layer, x) if z is None else z
        x, z = (x, z) if at is None else (x[:, at], z[:, at])
        return self.parts.after(layer, x, z)


def beginnings(rows: Rows) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " beginning"], Int[Tensor, " beginning"]]:
    """The different beginnings of the rows, each a token behind another beginning, numbered as they are met.

    Returned are the number of the beginning that ends at each position of each row (0 behind its end), and where each
    beginning is met first: in which row, and at which position.
    """
    known: dict[tuple[int, int], int] = {}
    where, owner, place = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long), [], []
    for i, row in enumerate(rows):
        before, found = -1, []
        for position, token in enumerate(row.tolist()):
            before = known.setdefault((before, token), len(known))
            found.append(before)
            if before == len(owner):
                owner.append(i)
                place.append(position)
        where[i, : len(found)] = torch.tensor(found)
    return where, torch.tensor(owner), torch.tensor(place)


def _share_something(rows: Rows) -> bool:
    """Whether any two rows begin with the same token."""
    return len({int(row[0]) for row in rows}) < len(rows)


def _batch(rows: Rows) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"]]:
    """Right-padded tokens, and each row's last real position."""
    tokens = pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
    return tokens, lengths - 1


# --- does it give what the model gives? -------------------------------------------------------------------------------


def _tried(model: TransformerBridge, way: Way, rows: Rows) -> bool:
    """Whether `way` fits this model, found out on the first two, the last, the shortest and the longest of its first rows."""
    known = _fits.setdefault(model, {})
    if way not in known:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        tried = {*range(len(rows))[:2], len(rows) - 1, order[0], order[-1]}
        known[way] = _agrees(model, way, [rows[i] for i in sorted(tried)])
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
