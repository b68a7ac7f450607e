"""Checks of chapter 08."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.comparing import require_equal
from tests.checks.core import both_models, exercise, require
from tests.checks.sets import set_differences
from utils.inference import small_cache

PAIRS = (  # whole prompts; on the fixtures' tokenizer every word here is one token
    ("He says he done walked. He is", "He says he has walked. He is"),
    ("She says she done walked. She is", "She says she has walked. She is"),
    ("They say they was walking at the park. They are", "They say they were walking at the park. They are"),
)
NOT_ALIGNED = (
    ("He says he done", "He says he has usually"),  # longer
    ("He says he was smart", "She says he was kind"),  # two tokens differ
    ("He says he done sing", "He says he has sing in"),  # equal up to the shorter one's end, then longer
    ("He says he done walk", "He says he finna walk"),  # as many words, but one of them is five tokens
    ("They are kind", "They are kind"),  # no difference
)
OTHERS_ALIGNED = (
    ("He says he has", "He says he had"),  # at the last token
    ("She works", "He works"),  # at the first
    ("Tom says he has and he had", "Tom says he has and he has"),  # every token of the second is in the first
)
REPEATED = (
    "Tom says he has and he has",
    "Tom says she has and Mary has",
)  # two tokens differ, and both stand for " he"
SAME_LENGTH = (  # four pairs, three and two traits: no two axes of one size
    *PAIRS[:2],
    ("They say they done cook. They are", "They say they has cook. They are"),
    ("Tom says he done sing. He is", "Tom says he has sing. He is"),
)
UNFAVORABLE, FAVORABLE = (" lazy", " rude", " loud"), (" kind", " honest")


def _ids(model: TransformerBridge, words) -> Tensor:
    return torch.tensor([model.to_single_token(word) for word in words])


def _sets(model: TransformerBridge) -> tuple[Tensor, Tensor]:
    return _ids(model, UNFAVORABLE), _ids(model, FAVORABLE)


@functools.cache
def _runs(model: TransformerBridge):
    """Logits and caches of the AAE and of the SAE side of the pairs of one length; the caches hold what the chapter's do."""
    prompts = [[pair[side] for pair in SAME_LENGTH] for side in (0, 1)]
    return [model.run_with_cache(model.to_tokens(texts), names_filter=small_cache) for texts in prompts]


def _prefers(logits: Tensor, u: Tensor, f: Tensor, at: int = -1) -> Tensor:
    return logits[:, at][:, u].mean(-1) - logits[:, at][:, f].mean(-1)


def _direction(model: TransformerBridge) -> Tensor:
    u, f = _sets(model)
    return model.W_U[:, u].mean(1) - model.W_U[:, f].mean(1)


def _centered(model: TransformerBridge, stream: Tensor) -> Tensor:
    return stream - stream.mean(-1, keepdim=True) if model.cfg.normalization_type.startswith("LN") else stream


# --- exercises --------------------------------------------------------------------------------------------------------


@exercise(
    "08",
    look="section 1: compare token ids, BOS included; equal length first, then exactly one difference",
    takes="model pairs",
)
def check_aligned_pairs(learner: Callable) -> str:
    model = next(both_models())
    pairs = [PAIRS[0], NOT_ALIGNED[0], PAIRS[2], NOT_ALIGNED[1], PAIRS[1], *NOT_ALIGNED[2:], *OTHERS_ALIGNED, REPEATED]
    got = _found_pairs(call(learner, model, pairs))
    want = []
    for i, (one, other) in enumerate(pairs):
        a, b = (model.to_str_tokens(text) for text in (one, other))
        differ = [p for p in range(len(a)) if len(a) == len(b) and a[p] != b[p]]
        want += [(i, differ[0])] if len(differ) == 1 else []
    chosen = {i for i, _ in got}
    named = {
        "the two numbers are exchanged: (index of the pair, position)": bool(got) and got == [(p, i) for i, p in want],
        "a pair of unequal lengths was let through: zip stops at the shorter one, so compare lengths first": bool(
            chosen & {1, 5, 6}
        ),
        "a pair without any difference was let through: there must be exactly one": 7 in chosen,
        "sets of tokens are compared: a token may stand in a prompt twice, so compare place by place": 3 not in chosen
        and 11 in chosen,
        "a pair that differs in two tokens was let through: there must be exactly one difference": bool(
            chosen & {3, 11}
        ),
        "the positions are one too small: BOS is a token too, at position 0": got == [(i, p - 1) for i, p in want],
        "the pairs are right and the positions are not: return the place at which the two rows of tokens differ": chosen
        == {0, 2, 4, 8, 9, 10},
        "aligned pairs are missing: a pair with exactly one different token, wherever it is, belongs in the list": chosen
        < {0, 2, 4, 8, 9, 10},
    }
    require(
        got == want,
        f"your pairs and positions with those of the tokenizer: {got} against {want}",
        next((message for message, is_it in named.items() if is_it), ""),
    )
    return f"{len(want)} aligned pairs found among {len(pairs)}, each with its position"


def _found_pairs(got: object) -> list[tuple[int, int]]:
    """A list of (pair, position); CheckFailed for anything else."""
    said = f"what you return: {got!r}"[:150]
    require(isinstance(got, (list, tuple)), said, "return a list of (which pair, which position)")
    for entry in got:
        ok = isinstance(entry, (tuple, list, Tensor, np.ndarray)) and len(entry) == 2
        require(ok, said, "each entry is (which pair, which position)")
        ok = all(isinstance(x, (int, np.integer)) or (isinstance(x, Tensor) and x.ndim == 0) for x in entry)
        require(ok, said, "a pair and a position are whole numbers")
    return [(int(i), int(position)) for i, position in got]


@exercise(
    "08",
    look="section 2: means of columns of model.W_U, which is [d_model, d_vocab]",
    takes="model unfavorable favorable",
)
def check_gap_direction(learner: Callable) -> str:
    for model in reversed(list(both_models())):  # on the GPT-2, a mean over whole columns is 0
        u, f = _sets(model)
        W = model.W_U
        wrong = set_differences(lambda ids, W=W: W[:, ids], u, f)
        want = sum(W[:, i] for i in u) / len(u) - sum(W[:, i] for i in f) / len(f)
        held = require_equal(
            call(learner, model, u, f),
            want,
            f"the mean unembedding column of U minus that of F on {model.cfg.model_name}",
            axes="d_model",
            mistakes={
                **{message: (lambda value=value: value) for message, value in wrong.items()},
                "rows of the embedding: the logits are read with the unembedding, model.W_U": lambda: (
                    model.W_E[u].mean(0) - model.W_E[f].mean(0)
                ),
                "scaled to length 1: keep the length, or the projection is no longer in logits": lambda: (
                    want / want.norm()
                ),
                "the first trait of each set only: take the mean over the set": lambda: W[:, u[0]] - W[:, f[0]],
            },
        )
    return f"projecting on it gives the preference in logits ({held})"


@exercise(
    "08",
    look="section 3: the final stream, normalized as the model does, at the last position; then the bias",
    takes="model logits cache answers",
)
def check_reconcile(learner: Callable) -> str:
    for model in reversed(list(both_models())):  # on the GPT-2, a mean over whole columns is 0
        logits, cache = _runs(model)[0]
        changed = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))
        _reconciled(learner, model, changed, cache, "other logits than the cache's, so that nothing adds up")
        held = _reconciled(learner, model, logits, cache, "the run's own logits")
    return f"every row adds up once the bias is in; without it GPT-2's rows miss by {_missing():.2f} ({held})"


def _reconciled(learner: Callable, model: TransformerBridge, logits: Tensor, cache, what: str) -> str:
    u, f = _sets(model)
    bias = torch.zeros(()) if model.b_U is None else model.b_U[u].mean() - model.b_U[f].mean()
    own_logits, last = _runs(model)[0][0], model.cfg.n_layers - 1
    extra = _prefers(logits, u, f) - _prefers(own_logits, u, f)  # 0 for the run's own; independent of any decomposition
    want = torch.stack([bias + extra, extra])

    def error(at=-1, direction=None, preference=None, site="resid_post", layer=last, read=-1) -> Tensor:
        stream, scale = cache[site, layer][:, at], cache["ln_final.hook_scale"][:, at]
        projected = (_centered(model, stream) / scale) @ (_direction(model) if direction is None else direction)
        rows = (_prefers(logits, u, f, read) if preference is None else preference) - projected
        return torch.stack([rows, rows - bias])

    truth, raw = error(), _prefers(logits, u, f) - cache["resid_post", last][:, -1] @ _direction(model)
    b_u, b_f = (0.0, 0.0) if model.b_U is None else (model.b_U[u].mean(), model.b_U[f].mean())
    preferences = set_differences(lambda ids: logits[:, -1][:, ids], u, f)
    directions = set_differences(lambda ids: model.W_U[:, ids], u, f)
    return require_equal(
        call(learner, model, logits, cache, (u, f)),
        want,
        f"what is missing without the bias term (row 0) and with it (row 1) on {model.cfg.model_name}, with {what}",
        axes="bias row",
        mistakes={
            "the logits are not looked at: subtract the projection from the preference that *they* show":
                lambda: torch.stack([bias.expand(len(logits)), torch.zeros(len(logits))]),
            "the two rows are exchanged: first without the bias term, then with it": lambda: truth.flip(0),
            "the stream is not normalized: divide by ln_final.hook_scale (and center it where the norm is a LayerNorm)":
                lambda: torch.stack([raw, raw - bias]),
            "the bias of the unfavorable traits alone: subtract that of the favorable ones":
                lambda: torch.stack([truth[0], truth[0] - b_u]),
            "the bias of the favorable traits alone": lambda: torch.stack([truth[0], truth[0] - b_f]),
            "the two biases are added: unfavorable minus favorable": lambda: torch.stack([truth[0], truth[0] - b_u - b_f]),
            "the bias has the wrong sign": lambda: torch.stack([truth[0], truth[0] + bias]),
            "averaged over rows: every row must reconcile, or errors of opposite sign cancel": lambda: truth.mean(1),
            **{f"preference: {message}": (lambda value=value: error(preference=value))
               for message, value in preferences.items()},
            **{f"direction: {message}": (lambda value=value: error(direction=value.expand(model.cfg.d_model)))
               for message, value in directions.items()},
            **{f"the logits are read at position {at}: at the last one, index -1": (lambda at=at: error(read=at))
               for at in (0, 1, 2, -2)},
            **{f"the stream is read at position {at}: at the last one, with its own scale": (lambda at=at: error(at=at))
               for at in (0, 1, 2, -2)},
            **{f"this is the stream of layer {layer}, before the end: take resid_post of the last layer":
               (lambda layer=layer, site=site: error(site=site, layer=layer))
               for layer in range(model.cfg.n_layers) for site in ("resid_pre", "resid_mid", "resid_post") if layer < last
               or site != "resid_post"},
        },
        atol=1e-3,
    )  # fmt: skip


def _missing() -> float:
    model = next(both_models())
    u, f = _sets(model)
    return (model.b_U[u].mean() - model.b_U[f].mean()).item()


def _parts(model: TransformerBridge, cache, at: int = -1) -> Tensor:
    parts = [cache["resid_pre", 0]]
    for layer in range(model.cfg.n_layers):
        parts += [cache["attn_out", layer], cache["mlp_out", layer]]
    return torch.stack([part[:, at] for part in parts])  # component batch d_model


@exercise(
    "08",
    look="section 4: each side through its own final norm, then subtract; components must add up to the gap",
    takes="aae sae direction",
)
def check_gap_by_component(learner: Callable) -> str:
    for model in both_models():
        u, f = _sets(model)
        (aae_logits, aae), (sae_logits, sae) = _runs(model)
        direction = _direction(model)

        def projected(cache, scale_of=None, at=-1, model=model, direction=direction):
            scale = (scale_of or cache)["ln_final.hook_scale"][:, at]
            return (_centered(model, _parts(model, cache, at)) / scale) @ direction  # component batch

        want = (projected(aae) - projected(sae)).mean(-1)
        got = call(learner, aae, sae, direction)
        held = require_equal(
            got,
            want,
            f"the embedding's, attentions' and MLPs' parts of the mean gap on {model.cfg.model_name}",
            axes="component",
            mistakes={
                "the SAE side is divided by the AAE run's scale: each side has its own final norm": lambda: (
                    projected(aae) - projected(sae, scale_of=aae)
                ).mean(-1),
                "the AAE side is divided by the SAE run's scale: each side has its own final norm": lambda: (
                    projected(aae, scale_of=sae) - projected(sae)
                ).mean(-1),
                "no final norm: divide each side by its ln_final.hook_scale": lambda: (
                    (_parts(model, aae) - _parts(model, sae)) @ direction
                ).mean(-1),
                "the sign: AAE minus SAE": lambda: -want,
                "the AAE side alone: subtract the SAE side's parts": lambda: projected(aae).mean(-1),
                "the SAE side alone: subtract it from the AAE side's parts": lambda: projected(sae).mean(-1),
                "the two sides are added: AAE minus SAE": lambda: (projected(aae) + projected(sae)).mean(-1),
                "averaged over components: one value for each, averaged over pairs": lambda: (
                    projected(aae) - projected(sae)
                ).mean(0),
                "another position: the prediction is made at the last token": lambda: (
                    projected(aae, at=-2) - projected(sae, at=-2)
                ).mean(-1),
                "not averaged over pairs": lambda: projected(aae) - projected(sae),
                "summed over pairs: take the mean": lambda: (projected(aae) - projected(sae)).sum(-1),
            },
        )
        total, gap = torch.as_tensor(got).sum(), (_prefers(aae_logits, u, f) - _prefers(sae_logits, u, f)).mean()
        require(abs(total - gap) < 1e-3, f"the sum of your components with the gap: {total:.4f} against {gap:.4f}", "")
    return f"the components add up to the gap ({held})"


@exercise(
    "08",
    look="section 5: run the SAE tokens, patch from the AAE cache, and rescale: 0 is the SAE run, 1 the AAE run",
    takes="model aae_tokens sae_tokens answers",
)
def check_patch_guise(learner: Callable) -> str:
    for model in both_models():
        u, f = _sets(model)
        (aae_logits, aae), (sae_logits, sae) = _runs(model)
        aae_tokens, sae_tokens = (model.to_tokens([pair[side] for pair in SAME_LENGTH]) for side in (0, 1))
        top, bottom = _prefers(aae_logits, u, f).mean(), _prefers(sae_logits, u, f).mean()

        def sweep(zero, unit, tokens=sae_tokens, cache=aae, model=model):
            return (_raw_sweep(model, tokens, cache) - zero) / unit

        def swapped(zero, unit, sweep=sweep, tokens=aae_tokens, cache=sae):
            return sweep(zero, unit, tokens, cache)

        want = sweep(bottom, top - bottom)
        held = require_equal(
            call(learner, model, aae_tokens, sae_tokens, (u, f)),
            want,
            f"the rescaled preference of independent hook runs on {model.cfg.model_name}",
            axes="layer position",
            mistakes={
                "not rescaled: subtract the SAE run's preference and divide by the gap":
                    lambda: sweep(0.0, 1.0),
                "not divided by the gap: 1 should mean the whole of it": lambda: sweep(bottom, 1.0),
                "divided, but the SAE run's preference is not subtracted: an unpatched run must give 0":
                    lambda: sweep(0.0, top - bottom),
                "the direction is swapped: AAE activations go into the SAE run, not the other way round":
                    lambda: swapped(bottom, top - bottom),
                "the direction is swapped, and rescaled so that it looks right: AAE activations go into the SAE run":
                    lambda: swapped(top, bottom - top),
                "upside down: 0 is the SAE run and 1 the AAE run": lambda: sweep(top, bottom - top),
                "nothing was patched: the cache and the tokens are of the same guise":
                    lambda: torch.zeros_like(want),
            },
        )  # fmt: skip
        at = int((aae_tokens[0] != sae_tokens[0]).nonzero()[0, 0])
        require(abs(want[0, at] - 1) < 1e-4, "the patch at the differing token of layer 0", "")
    return f"exactly 1 at the differing token of layer 0, and 0 before it ({held})"


_SWEEPS: dict[tuple, Tensor] = {}


def _raw_sweep(model: TransformerBridge, tokens: Tensor, cache) -> Tensor:
    """The mean preference with one layer and position of the residual stream from `cache`, by plain hooks. [L, T]"""
    key = (model.cfg.model_name, tuple(tokens.flatten().tolist()))
    if key not in _SWEEPS:
        u, f = _sets(model)

        def patched(layer: int, at: int) -> Tensor:
            def put(stream, hook):
                stream = stream.clone()
                stream[:, at] = cache["resid_pre", layer][:, at]
                return stream

            hooks = [(f"blocks.{layer}.hook_resid_pre", put)]
            return _prefers(model.run_with_hooks(tokens, fwd_hooks=hooks), u, f).mean()

        rows = [[patched(layer, at) for at in range(tokens.shape[1])] for layer in range(model.cfg.n_layers)]
        _SWEEPS[key] = torch.tensor(rows)
    return _SWEEPS[key]


@exercise(
    "08",
    look="section 6: cell by cell, count the swaps whose value is at least as large in absolute terms",
    takes="observed null",
)
def check_compare_with_null(learner: Callable) -> str:
    generator = torch.Generator().manual_seed(2)
    observed = torch.randn(3, 4, generator=generator)
    null = torch.randn(9, 3, 4, generator=generator)
    null[4] = -observed  # ties, with the other sign
    null[7, 1] = observed[1]
    want = torch.tensor(
        [
            [(1 + sum(abs(n) >= abs(o) for n in null[:, i, j])) / 10 for j, o in enumerate(row)]
            for i, row in enumerate(observed)
        ]
    )
    size, sizes = observed.abs(), null.abs()
    held = require_equal(
        call(learner, observed, null),
        want,
        "(1 + swaps at least as large in this cell) / (1 + swaps)",
        axes="layer head",
        mistakes={
            "one-sided: compare absolute values, a head may push either way": lambda: (
                (1 + (null >= observed).sum(0)) / 10
            ),
            "the observed map is left out: it is one of the maps it is ranked among": lambda: (
                (sizes >= size).sum(0) / 9
            ),
            "compared with the null's mean only: count swap by swap": lambda: (sizes.mean(0) >= size).float(),
            'a tie is not counted: "at least as large" includes equal ones': lambda: (1 + (sizes > size).sum(0)) / 10,
            "pooled over all heads: a head that is large for every swap must be compared with itself": lambda: (
                (1 + (sizes.flatten()[:, None, None] >= size).sum(0)) / (1 + sizes.numel())
            ),
            "the share of swaps that are smaller: count those at least as large": lambda: (
                (1 + (sizes < size).sum(0)) / 10
            ),
            "compared with the largest cell of each swap: stricter than asked; here each head has its own null": lambda: (
                (1 + (sizes.flatten(1).amax(1)[:, None, None] >= size).sum(0)) / 10
            ),
        },
        atol=1e-6,
    )
    return f"a rank per head ({held})"


@exercise("08", look="section 7: unit vectors, all cosines, and none of a vector with itself", takes="vectors")
def check_mean_cosine(learner: Callable) -> str:
    # how many vectors, of how many numbers each, and what all of them have in common
    for n, d, common in ((5, 7, 0.8), (2, 6, 0.0), (6, 3, -0.4), (9, 40, 0.2)):
        held = _cosine_of(learner, n, d, common)
    return f"two to nine vectors of different lengths, against cosines worked out pair by pair ({held})"


def _cosine_of(learner: Callable, n: int, d: int, common: float) -> str:
    generator = torch.Generator().manual_seed(n)
    vectors = torch.randn(n, d, generator=generator) + common
    vectors = vectors * torch.linspace(0.1, 0.8, n)[:, None]  # the last is the longest by far
    want = _pairwise(vectors)
    pairs, cosines = n * (n - 1), _cosines(vectors)
    off = cosines.sum() - n
    units = torch.nn.functional.normalize(vectors, dim=1)
    centered = vectors - vectors.mean(1, keepdim=True)
    mean = torch.nn.functional.normalize(units.mean(0), dim=0)
    raw = vectors @ vectors.T
    return require_equal(
        call(learner, vectors),
        want,
        f"the mean cosine of every two of {n} vectors in {d} dimensions",
        mistakes={
            "a vector is compared with itself: leave the diagonal out, whose ones pull the mean up":
                lambda: cosines.mean(),
            "the diagonal is out of the sum and still in the count: there are n (n - 1) entries without it":
                lambda: off / n**2,
            "summed over pairs: take the mean": lambda: off,
            "summed over pairs, each once: take the mean": lambda: off / 2,
            "each pair is in the sum twice and in the count once: n (n - 1) entries stand off the diagonal":
                lambda: 2 * off / pairs,
            "each pair is in the sum once and in the count twice: there are n (n - 1) / 2 pairs": lambda: off / 2 / pairs,
            "the ones of the diagonal are in the sum: take them off before you divide": lambda: cosines.sum() / pairs,
            "the ones of the diagonal are added, not subtracted": lambda: (cosines.sum() + n) / pairs,
            "the vectors are not scaled to length 1, so that the longest decides":
                lambda: (raw.sum() - raw.diagonal().sum()) / pairs,
            "the vectors are not scaled to length 1, and the diagonal, which is then no 1, is subtracted as if it were":
                lambda: (raw.sum() - n) / pairs,
            "divided by the squared lengths, or scaled by the wrong norm": lambda: _scaled(vectors, vectors.norm(dim=1) ** 2),
            "scaled by the length of all vectors together: each has its own": lambda: _scaled(vectors, vectors.norm()),
            "multiplied by the lengths: divide by them": lambda: _scaled(vectors, 1 / vectors.norm(dim=1)),
            "the count is too large: n (n - 1) entries stand off the diagonal": lambda: off / (n * (n + 1)),
            "the mean of all entries, from which the ones are taken as if it were the sum":
                lambda: (cosines.mean() - n) / pairs,
            "scaled by the sum of the entries, not by the length": lambda: _scaled(vectors, vectors.sum(1)),
            "scaled by the sum of sizes, not by the length": lambda: _scaled(vectors, vectors.abs().sum(1)),
            "the columns are compared: a vector is a row": lambda: _pairwise(vectors.T),
            "the columns are scaled to length 1: a vector is a row":
                lambda: _scaled(vectors.T, vectors.norm(dim=0), across=True),
            "each vector is compared with the mean, not with the others": lambda: (units @ mean).mean(),
            "each vector's own mean is subtracted: that is a correlation": lambda: _pairwise(centered),
            "absolute values are taken: a negative cosine must lower the mean": lambda: (cosines.abs().sum() - n) / pairs,
            "squares are taken: a negative cosine must lower the mean": lambda: (cosines.pow(2).sum() - n) / pairs,
            "neighbors only: every two vectors make a pair": lambda: cosines.diagonal(1).mean(),
            "the first vector with the others only: every two vectors make a pair": lambda: cosines[0, 1:].mean(),
            "one cosine per pair: take the mean": lambda: cosines,
            "one mean per vector: take the mean over all pairs": lambda: (cosines.sum(1) - 1) / (n - 1),
            "the sign": lambda: -want,
        },
        atol=1e-5,
    )  # fmt: skip


def _cosines(vectors: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)


def _pairwise(vectors: Tensor) -> Tensor:
    """Pair by pair, without a matrix."""
    found = [(one @ other) / (one.norm() * other.norm()) for i, one in enumerate(vectors) for other in vectors[i + 1 :]]
    return sum(found) / len(found)


def _scaled(vectors: Tensor, lengths: Tensor, across: bool = False) -> Tensor:
    """What the formula gives where the vectors are scaled in a wrong way."""
    scaled = vectors / (lengths[:, None] if lengths.ndim else lengths)
    scaled = scaled.T if across else scaled
    n = len(scaled)
    return ((scaled @ scaled.T).sum() - n) / (n * (n - 1))
