"""Checks of chapter 02."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.comparing import Mistakes, once, require_equal
from tests.checks.core import both_models, exercise, require
from utils.ioi import ioi_pairs
from utils.prompts import PromptPairs

KEEP = [0, 1, 2, 4, 6]  # most of them without their mirrors, so that a sign, a bias or a mean cannot cancel


@cache
def _pairs(model: TransformerBridge) -> PromptPairs:
    return ioi_pairs(model)


@cache
def _run(model: TransformerBridge) -> tuple[Tensor, Tensor, ActivationCache, Tensor]:
    """answer tokens, logits, cache and directions (from the built-in) on five of the eight prompts."""
    pairs = _pairs(model)
    answers = pairs.answer_tokens[KEEP]
    logits, cache = model.run_with_cache(pairs.clean_tokens[KEEP])
    correct, incorrect = model.tokens_to_residual_directions(answers).unbind(1)
    return answers, logits, cache, correct - incorrect


def _model_logit_diff(logits: Tensor, answers: Tensor) -> Tensor:
    at_end = logits[:, -1]
    return torch.stack(
        [row[correct] - row[incorrect] for row, (correct, incorrect) in zip(at_end, answers.tolist(), strict=True)]
    )


@exercise(
    "02",
    look="section 2: a column of W_U for each answer, [d_model, batch, 2] after indexing",
    takes="model answer_tokens",
)
def check_logit_diff_directions(learner: Callable) -> str:
    for model in both_models():
        answers = _pairs(model).answer_tokens
        correct, incorrect = model.tokens_to_residual_directions(answers).unbind(1)
        want = correct - incorrect
        held = require_equal(
            call(learner, model, answers),
            want,
            f"tokens_to_residual_directions, correct − incorrect, on {model.cfg.model_name}",
            axes="batch d_model",
            mistakes={
                "the sign is the other way round: correct (index 0) minus incorrect (index 1)": lambda: (
                    incorrect - correct
                ),
                "these are rows of the embedding W_E: the logits are read with columns of the unembedding W_U": lambda: (
                    model.W_E[answers[:, 0]] - model.W_E[answers[:, 1]]
                ),
                "this is the correct answer's column alone: subtract the incorrect one's": lambda: correct,
                "this is the incorrect answer's column alone: subtract it from the correct one's": lambda: incorrect,
                "the two columns are added: correct minus incorrect": lambda: correct + incorrect,
                "the directions are scaled to length 1: leave them as they are, or you no longer get logits": lambda: (
                    want / want.norm(dim=-1, keepdim=True)
                ),
                "every prompt has the same direction: use each prompt's own answers": lambda: want[:1].expand_as(want),
                "the directions are averaged over prompts: keep one per prompt": lambda: want.mean(0),
                "the axes are in another order: [batch, d_model], so transpose": lambda: want.T,
            },
        )
        require_equal(
            call(learner, model, answers[:1]),
            want[:1],
            f"the directions of one prompt on {model.cfg.model_name}",
            axes="batch d_model",
            mistakes={
                "squeeze() takes away the batch as well, if there is one prompt: index the axis of the two answers":
                    lambda want=want: want[0],
            },
        )  # fmt: skip
    return f"the same directions as the built-in on a GPT-2 and a Llama ({held})"


@exercise(
    "02",
    look='section 3: cache["ln_final.hook_scale"][:, -1] is [batch, 1]; one scale for all parts',
    points=2,
    takes="stack cache directions per_prompt",
)
def check_residual_stack_to_logit_diff(learner: Callable) -> str:
    for model in both_models():
        name = model.cfg.model_name
        answers, logits, cache, directions = _run(model)
        stack, want = _parts(model)
        require_equal(
            call(learner, stack, cache, directions),
            want.mean(-1),
            f"the contribution of each component on {name}",
            axes="component",
            mistakes=_norm_mistakes(stack, cache, directions),
        )
        final = cache["resid_post", model.cfg.n_layers - 1][:, -1]
        held = require_equal(
            call(learner, final, cache, directions),
            (_model_logit_diff(logits, answers) - _bias(model, answers)).mean(),
            f"the model's mean logit difference without the bias of the unembedding, from the final residual, on {name}",
            mistakes=_norm_mistakes(final, cache, directions),
        )
        heads = _head_results(model)[..., -1, :]
        require_equal(
            call(learner, heads, cache, directions),
            (heads / cache["ln_final.hook_scale"][:, -1] * directions).sum(-1).mean(-1),
            f"the contribution of each head, from a stack [layer, head, batch, d_model], on {name}",
            axes="layer head",
            mistakes=_norm_mistakes(heads, cache, directions),
        )
        require_equal(
            call(learner, stack, cache, directions, per_prompt=True),
            want,
            f"the contribution of each component to each prompt on {name}",
            axes="component batch",
            mistakes={"per_prompt is ignored: return [..., batch] when it is set": lambda: want.mean(-1)},
        )
    return (
        f"the final residual gives the logit difference of five prompts, and the parts agree with the built-in ({held})"
    )


@cache
def _parts(model: TransformerBridge) -> tuple[Tensor, Tensor]:
    """What every component writes at END, and what each contributes to every prompt, by the built-in."""
    _, _, cache, directions = _run(model)
    stack = cache.decompose_resid(layer=-1, pos_slice=-1)
    return stack, (cache.apply_ln_to_stack(stack, layer=-1, pos_slice=-1) * directions).sum(-1)


def _norm_mistakes(stack: Tensor, cache: ActivationCache, directions: Tensor) -> dict[str, Callable[[], Tensor]]:
    def read(scale: Tensor | float) -> Tensor:
        return (stack / scale * directions).sum(-1)

    at_end = cache["ln_final.hook_scale"][:, -1]
    last = cache.model.cfg.n_layers - 1
    own = stack - stack.mean(-1, keepdim=True) if cache.model.cfg.normalization_type.startswith("LN") else stack
    return {
        "the final norm is not applied: divide by its scale": lambda: read(1.0).mean(-1),
        "wrong layer's scale: that is the norm before the last attention; take ln_final":
            lambda: read(cache[f"blocks.{last}.ln1.hook_scale"][:, -1]).mean(-1),
        "wrong layer's scale: that is the norm before the last MLP; take ln_final":
            lambda: read(cache[f"blocks.{last}.ln2.hook_scale"][:, -1]).mean(-1),
        "wrong layer's scale: that is the first norm of the model; take ln_final":
            lambda: read(cache["blocks.0.ln1.hook_scale"][:, -1]).mean(-1),
        "the scale is that of position 0: take END's": lambda: read(cache["ln_final.hook_scale"][:, 0]).mean(-1),
        "every prompt is divided by the first prompt's scale: each has its own": lambda: read(at_end[:1]).mean(-1),
        "vectors and directions are averaged over prompts before they are multiplied: prompt by prompt, then average":
            lambda: ((stack / at_end).mean(-2) * directions.mean(0)).sum(-1),
        "averaged over axis 1: the batch is the last axis, whatever stands before it":
            lambda: read(at_end).mean(1) if stack.ndim > 3 else read(at_end).mean(-1),
        "the scale is averaged over positions: take END's":
            lambda: read(cache["ln_final.hook_scale"].mean(1)).mean(-1),
        "you multiplied by the scale: divide": lambda: read(1 / at_end).mean(-1),
        "each vector is divided by its own size: use the run's scale for all, or the parts do not add up":
            lambda: (own / own.pow(2).mean(-1, keepdim=True).sqrt() * directions).sum(-1).mean(-1),
        "summed over prompts: take the mean": lambda: read(at_end).sum(-1),
        "summed over every axis: only d_model is summed over": lambda: read(at_end).sum(),
        "not averaged over prompts: take the mean unless per_prompt is set": lambda: read(at_end),
    }  # fmt: skip


@exercise(
    "02",
    look="section 6: embedding, attention and MLP outputs, and b_U[correct] − b_U[incorrect]",
    points=2,
    takes="model cache answer_tokens",
)
def check_attribution_total(learner: Callable) -> str:
    for model in both_models():
        answers, logits, cache, _ = _run(model)
        held = require_equal(
            call(learner, model, cache, answers),
            _model_logit_diff(logits, answers),
            f"each prompt's logit difference on {model.cfg.model_name}",
            axes="prompt",
            atol=1e-3,
            mistakes=_total_mistakes(model),
        )
    worth = _bias_worth()
    return f"every prompt's logit difference to 1e-3; on the GPT-2 the bias was worth {worth:.1f} of it ({held})"


@cache
def _total_mistakes(model: TransformerBridge) -> Mistakes:
    answers, logits, cache, directions = _run(model)
    want, bias = _model_logit_diff(logits, answers), _bias(model, answers)
    scale = cache["ln_final.hook_scale"][:, -1]

    def part(*names: str, layers=range(model.cfg.n_layers)) -> Tensor:
        total = sum(cache[name, layer][:, -1] for name in names for layer in layers)
        return (total / scale * directions).sum(-1)

    start = part("resid_pre", layers=[0])
    everything = part("attn_out", "mlp_out") + start

    def at(position: int) -> Tensor:
        stack = cache.decompose_resid(layer=-1, pos_slice=position)
        return (stack.sum(0) / scale * directions).sum(-1) + bias

    positional = (start - (cache["embed"][:, -1] / scale * directions).sum(-1)) if "hook_embed" in cache else 0
    return once({
        "the bias is forgotten: add b_U[correct] − b_U[incorrect] (it cancels only when each prompt has its mirror)":
            lambda: want - bias,
        "the bias is subtracted: add it": lambda: want - 2 * bias,
        "only the correct answer's bias is added: subtract the incorrect one's":
            lambda: want + model.b_U[answers[:, 1]],
        "the MLPs are left out": lambda: want - part("mlp_out"),
        "the attention layers are left out": lambda: want - part("attn_out"),
        "the embedding is left out": lambda: want - start,
        "the positional embedding is left out: start from cache['resid_pre', 0]": lambda: want - positional,
        "this is the bias alone: add the components' contributions": lambda: bias,
        "this is the incorrect answer's bias alone": lambda: model.b_U[answers[:, 1]],
        "this is the correct answer's bias alone": lambda: model.b_U[answers[:, 0]],
        "both answers' biases are added: subtract the incorrect one's":
            lambda: everything + model.b_U[answers].sum(-1),
        "the correct answer's bias is subtracted and the incorrect one's is not added: correct minus incorrect":
            lambda: everything - model.b_U[answers[:, 0]],
        "both answers' biases are subtracted: add the correct one's": lambda: everything - model.b_U[answers].sum(-1),
        "only the incorrect answer's bias is subtracted: add the correct one's":
            lambda: everything - model.b_U[answers[:, 1]],
        "the components are averaged: sum them": lambda: everything / (1 + 2 * model.cfg.n_layers) + bias,
        "the contributions are averaged over prompts before the bias is added: use per_prompt=True":
            lambda: everything.mean() + bias,
        "the contributions of all prompts are summed: sum over components only": lambda: everything.sum() + bias,
        "the contributions of position 0: take END, pos_slice=-1": lambda: at(0),
        "the contributions of position 1: take END, pos_slice=-1": lambda: at(1),
        "averaged over prompts: return one value per prompt": lambda: want.mean(),
        "the bias is averaged over prompts: each has its own answers": lambda: want - bias + bias.mean(),
    })  # fmt: skip


def _bias(model: TransformerBridge, answers: Tensor) -> Tensor:
    return (model.b_U[answers[:, 0]] - model.b_U[answers[:, 1]]).detach()


def _bias_worth() -> float:
    model = next(both_models())
    return _bias(model, _pairs(model).answer_tokens).abs().mean().item()


@exercise(
    "02",
    look="section 7: z at END times W_O, [layer, head, batch, d_model], then exercise 2.2",
    points=2,
    takes="model cache directions",
)
def check_head_attributions(learner: Callable) -> str:
    for model in both_models():
        _, _, cache, directions = _run(model)
        n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
        scale = cache["ln_final.hook_scale"][:, -1]

        def read(written: Tensor) -> Tensor:
            return (written / scale * directions).sum(-1).mean(-1)

        everywhere = _head_results(model)
        results = everywhere[..., -1, :]
        want = read(results)
        held = require_equal(
            call(learner, model, cache, directions),
            want,
            f"stack_head_results at END, projected, on {model.cfg.model_name}",
            axes="layer head",
            mistakes={
                "heads and layers are transposed: return [layer, head]": lambda: want.T,
                "heads and layers are mixed up: split the flat axis as (layer head), layers first":
                    lambda: want.flatten().reshape(n_heads, n_layers).T,
                "all positions are summed: take what is written at END only": lambda: read(everywhere.sum(-2)),
                "averaged over all positions: take what is written at END only": lambda: read(everywhere.mean(-2)),
                "that is position 0: take END (index -1)": lambda: read(everywhere[..., 0, :]),
                "that is position 1: take END (index -1)": lambda: read(everywhere[..., 1, :]),
                "that is the position before END: take index -1": lambda: read(everywhere[..., -2, :]),
                "these are absolute values: a head may push the other way": lambda: want.abs(),
                "absolute values before the mean: a head may push one prompt up and another down":
                    lambda: (results / scale * directions).sum(-1).abs().mean(-1),
                "the median prompt's: take the mean": lambda: (results / scale * directions).sum(-1).median(-1).values,
                "what a head writes is its z times W_O, and not its query":
                    lambda: read(torch.einsum("lbhd,lhdm->lhbm", torch.stack(
                        [cache["q", layer][:, -1] for layer in range(n_layers)]), model.W_O)),
                "the final norm is not applied: use exercise 2.2": lambda: (results * directions).sum(-1).mean(-1),
                **({"b_O is given to every head: it belongs to none":
                    lambda: want + read(model.b_O[:, None, None].expand_as(results))} if _has_b_o(model) else {}),
                "summed over prompts: take the mean": lambda: want * len(directions),
                "only the first prompt is used: average over all of them":
                    lambda: (results / scale * directions).sum(-1)[..., 0],
            },
        )  # fmt: skip
    return f"every head of a GPT-2 and of a Llama agrees with stack_head_results ({held})"


def _has_b_o(model: TransformerBridge) -> bool:
    return model.cfg.normalization_type.startswith("LN")  # the Llama fixture has no biases there


@cache
def _head_results(model: TransformerBridge) -> Tensor:
    """[layer, head, batch, pos, d_model], by the built-in."""
    results = _run(model)[2].stack_head_results(layer=-1)  # layer × head, batch, position, d_model
    return results.unflatten(0, (model.cfg.n_layers, model.cfg.n_heads))


@exercise(
    "02",
    look="section 7: topk gives flat indices; divmod(index, n_heads) gives (layer, head)",
    takes="attributions k sign",
)
def check_top_heads(learner: Callable) -> str:
    for values, sign, k in _tables():
        n_layers, n_heads = values.shape
        got = call(learner, values, k, sign)
        _require_pairs(got, k)
        pairs = [(int(layer), int(head)) for layer, head in got]
        order = np.argsort(-sign * values.numpy().ravel(), kind="stable")[:k]
        want = [divmod(int(index), n_heads) for index in order]
        inside = all(0 <= layer < n_layers and 0 <= head < n_heads for layer, head in pairs)
        same = inside and [values[pair] for pair in pairs] == [values[pair] for pair in want]  # equal ones in any order
        what = f"top_heads of a [{n_layers}, {n_heads}] table with sign={sign}: {got}, expected {want}"
        require(same and len(set(pairs)) == k, what, _top_heads_mistake(pairs, values, k, sign))
        require(
            sign != 1 or [tuple(pair) for pair in call(learner, values, k)] == [tuple(pair) for pair in got],
            "top_heads without a sign, and with sign=1",
            "the default of sign is 1: the most positive",
        )
    return "the same heads as numpy's sort, on tables of two shapes, with both signs"


def _tables() -> Iterator[tuple[Tensor, int, int]]:
    """Tables, signs and k: random ones, values of one sign alone, and equal values."""
    for seed, shape in ((0, (5, 3)), (1, (3, 7))):
        values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
        yield from ((values, 1, 4), (values, -1, 3))
        yield from (
            (values - 5, 1, 4),
            (values + 5, -1, 3),
            (values.mul(1.5).round(), 1, 6),
            (values.mul(1.5).round(), -1, 6),
        )


def _require_pairs(got: object, k: int) -> None:
    compared = f"the kind of result: {got!r}"[:200]
    require(got is not None, "your result: it is None", "the function does not return anything")
    require(not isinstance(got, Tensor), compared, "a list of (layer, head) pairs, not a tensor: use .tolist()")
    require(isinstance(got, (list, tuple)), compared, "return a list of (layer, head) pairs")
    require(
        len(got) == k,
        compared,
        f"{len(got)} entries where k={k} were asked for: exactly k, also where values are equal, or of the other sign",
    )
    require(
        not any(isinstance(pair, int) for pair in got),
        compared,
        "the flat index is not unravelled: divmod(index, n_heads) gives (layer, head)",
    )
    require(
        all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in got), compared, "each entry is (layer, head)"
    )
    require(
        all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for pair in got for i in pair),
        compared,
        "plain integers, please: a tensor of one number is not one; .tolist() or int()",
    )


def _top_heads_mistake(got: list[tuple[int, int]], values: Tensor, k: int, sign: int) -> str:
    n_layers, n_heads = values.shape

    def top(scores: Tensor) -> list[tuple[int, int]]:
        return [divmod(i, n_heads) for i in scores.flatten().argsort(descending=True)[:k].tolist()]

    right = top(sign * values)
    by_value = {value: divmod(i, n_heads) for i, value in enumerate(values.flatten().tolist())}
    mistakes = {
        "ranked by absolute value: the sign decides which end is wanted": [top(values.abs())],
        "sign is ignored: sign=-1 asks for the most negative": [top(values)],
        "the other end: sign=1 asks for the most positive, sign=-1 for the most negative": [top(-sign * values)],
        "(head, layer): the layer comes first": [[pair[::-1] for pair in right]],
        "divided by the number of layers: a flat index is layer · n_heads + head": [
            [divmod(layer * n_heads + head, n_layers) for layer, head in right]
        ],
        "the right heads in another order: the most extreme comes first": [right[::-1], sorted(right)],
        "heads of equal value count once: each is a head of its own": [
            [by_value[value] for value in sorted(by_value, key=lambda value: -sign * value)[:k]]
        ],
    }
    if len(set(got)) < len(got):
        return "a head is there twice: heads of equal value are different heads, so keep their indices"
    clamped = (sign * values).clamp(min=0)
    inside = all(0 <= layer < n_layers and 0 <= head < n_heads for layer, head in got)
    if inside and [clamped[pair] for pair in got] == clamped.flatten().sort(descending=True).values[:k].tolist():
        return "values of the other sign count as zero: where there are no positive ones, the least negative follow"
    return next((message for message, wrong in mistakes.items() if got in wrong), "")
