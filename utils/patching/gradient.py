"""Attribution patching: a whole sweep estimated from one gradient."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities import get_act_name

from utils.assumptions import hooks_on
from utils.parts import real_tokens
from utils.patching.options import Metric, Metrics, SweepOptions
from utils.patching.panels import Panel, panels_of
from utils.patching.results import SweepResult, as_result
from utils.patching.sites import clean_activation
from utils.prompts import at_last, last_positions


def attribution_patching(
    model,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: ActivationCache,
    patching_metric: Metric | Mapping[str, Metric],
    sweep: str = "resid_pre",
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    logits: str = "last",
    reduce: str = "scalar",
    baseline: bool = False,
) -> SweepResult:
    """First-order estimate of a sweep: metric(corrupted) + (clean - corrupted activation) . gradient of the metric.

    One forward pass and one backward pass on the corrupted tokens, whatever the number of cells (with the clean run: two
    forward, one backward). sweep: a name from SWEEPS, such as "attn_head_out_by_pos". The other arguments, the shape and
    the units are those of `get_act_patch_<sweep>`, so the two can be compared cell by cell. Source: Nanda 2023,
    "Attribution patching"; it fails where the metric is far from linear in the patch, such as resid_pre in early layers.
    Raises ValueError, TypeError or KeyError with the value at fault and the fix.
    """
    panels = panels_of(sweep)
    options = SweepOptions(reduce=reduce, baseline=baseline, logits=logits, attention_mask=attention_mask)
    metrics = Metrics(patching_metric, options)
    require_ready(model, corrupted_tokens)
    real = real_tokens(corrupted_tokens, attention_mask)
    sites = [(panel, layer) for panel in panels for layer in range(model.cfg.n_layers)]
    with torch.enable_grad():
        output, activations = _differentiable_run(model, corrupted_tokens, attention_mask, sites)
        if options.last_only:
            output = at_last(output, last_positions(real)).unsqueeze(1)
        unpatched = metrics(output)  # [metric, batch?]
        effects = [
            _effects(value.sum(), panels, clean_cache, activations, real) for value in unpatched
        ]  # [metric][panel][layer, pos, head, batch]
    unpatched = unpatched.detach()
    values = []
    for panel in range(len(panels)):
        effect = torch.stack([by_panel[panel] for by_panel in effects], dim=3)  # [layer, pos, head, metric, batch]
        values.append(unpatched + (effect if options.per_prompt else effect.sum(-1)))
    return as_result(panels, values, unpatched, list(range(corrupted_tokens.shape[1])), metrics, options)


def require_ready(model, tokens: Int[Tensor, "batch pos"]) -> None:
    """Raise ValueError for a model that would not run alike twice, and for what is not a batch of tokens."""
    if any(module.training for module in [*model.modules(), *model.original_model.modules()]):
        raise ValueError("the model is in training mode, where dropout makes every run differ: call model.eval()")
    if left := hooks_on(model):
        raise ValueError(f"hooks are left on the model at {', '.join(left[:3])}: call model.reset_hooks()")
    if not isinstance(tokens, Tensor) or tokens.ndim != 2:
        raise ValueError(
            f"corrupted_tokens must be a [batch, pos] tensor, not {getattr(tokens, 'shape', type(tokens))}"
        )


def _differentiable_run(
    model, tokens: Tensor, attention_mask: Tensor | None, sites: list[tuple[Panel, int]]
) -> tuple[Float[Tensor, "batch pos d_vocab"], dict[str, Tensor]]:
    """Logits and the activations of the sites, all in one graph, with or without trainable weights."""
    activations = {}

    def start_graph(embedding, hook):
        return embedding if embedding.requires_grad else embedding.detach().requires_grad_()

    def keep(activation, hook, name):
        activations[name] = activation
        return activation

    names = [get_act_name(panel.site, layer) for panel, layer in sites]
    hooks = [("hook_embed", start_graph), *((name, partial(keep, name=name)) for name in names)]
    with model.hooks(fwd_hooks=hooks):
        output = model(tokens, attention_mask=attention_mask)
    return output, activations


def _effects(
    value: Float[Tensor, ""],
    panels: list[Panel],
    clean_cache: ActivationCache,
    activations: dict[str, Tensor],
    real: Bool[Tensor, "batch pos"],
) -> list[Float[Tensor, "layer columns head batch"]]:
    """Change times gradient of one metric's value in every cell of every panel."""
    gradients = torch.autograd.grad(value, list(activations.values()), retain_graph=True)
    gradients = dict(zip(activations, gradients, strict=True))

    def effect(panel: Panel, layer: int) -> Float[Tensor, "columns head batch"]:
        name = get_act_name(panel.site, layer)
        change = clean_activation(clean_cache, panel.site, layer, real) - activations[name].detach()
        return _effect(change * gradients[name], panel, real)

    layers = range(len(activations) // len(panels))
    return [torch.stack([effect(panel, layer) for layer in layers]) for panel in panels]


def _effect(product: Tensor, panel: Panel, real: Bool[Tensor, "batch pos"]) -> Float[Tensor, "columns head batch"]:
    """Change times gradient, summed over what one cell patches, padding excluded."""
    if not panel.by_head:
        product = product.unsqueeze(2)  # [batch, pos, 1, d_model]
    elif panel.site == "pattern":
        product = product.transpose(1, 2)  # [batch, query, head, key]
    effect = (product.sum(-1) * real[..., None]).permute(1, 2, 0)  # [pos, head, batch]
    return effect if panel.by_pos else effect.sum(0, keepdim=True)
