"""Unusual right answers for chapter 03."""

from functools import partial

import numpy as np
import torch

from utils import patching
from utils.attribution import logit_diff


def metric_by_hand(logits, answer_tokens, clean, corrupted):
    """Prompt by prompt, stacked and averaged."""
    each = [row[-1, a] - row[-1, b] for row, (a, b) in zip(logits, answer_tokens.tolist(), strict=True)]
    return (torch.stack(each).mean() - corrupted) / (clean - corrupted)


def metric_in_double(logits, answer_tokens, clean, corrupted):
    """In double precision."""
    mean = logit_diff(logits.double(), answer_tokens)
    return 1 - (clean - mean) / (clean - corrupted)


def patch_by_cat(activation, hook, pos, clean_cache):
    """Three pieces joined."""
    clean = clean_cache[hook.name]
    return torch.cat([activation[:, :pos], clean[:, pos : pos + 1], activation[:, pos + 1 :]], dim=1)


def patch_by_where(activation, hook, *, pos, clean_cache):
    """where, with keywords."""
    here = torch.arange(activation.shape[1])[:, None] == pos
    return torch.where(here, clean_cache[hook.name], activation)


def patch_in_numpy(activation, hook, pos, clean_cache):
    """numpy's where."""
    here = np.arange(activation.shape[1]) == pos
    here = here.reshape(1, -1, *[1] * (activation.ndim - 2))
    return np.where(here, clean_cache[hook.name].numpy(), activation.numpy())


def resid_where_it_differs(model, corrupted_tokens, clean_cache, metric, layers=None):
    """Runs the model only where a patch can change something."""
    _, own = model.run_with_cache(corrupted_tokens)
    chosen = _chosen(model, layers)
    table = metric(model(corrupted_tokens)).repeat(len(chosen), corrupted_tokens.shape[1])
    for row, layer in enumerate(chosen):
        name = f"blocks.{layer}.hook_resid_pre"
        for pos in range(corrupted_tokens.shape[1]):
            if not torch.equal(own[name][:, pos], clean_cache[name][:, pos]):
                hook = partial(patch_by_cat, pos=pos, clean_cache=clean_cache)
                table[row, pos] = metric(model.run_with_hooks(corrupted_tokens, fwd_hooks=[(name, hook)]))
    return table


def _chosen(model, layers):
    return list(range(model.cfg.n_layers)) if layers is None else list(layers)


def resid_by_contexts(model, corrupted_tokens, clean_cache, metric, layers=None):
    """Contexts of hooks, as a list of lists."""
    table = []
    for layer in _chosen(model, layers):
        row = []
        for pos in range(corrupted_tokens.shape[1]):

            def put(resid, hook, pos=pos, layer=layer):
                resid = resid.clone()
                resid[:, pos] = clean_cache["resid_pre", layer][:, pos]
                return resid

            with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", put)]):
                row.append(metric(model(corrupted_tokens)).item())
        table.append(row)
    return table


def by_the_course(sweep):
    """The course's own sweep, of which the layers are taken."""

    def learner(model, corrupted_tokens, clean_cache, metric, layers=None):
        whole = getattr(patching, f"get_act_patch_{sweep}")(
            model, corrupted_tokens, clean_cache, metric, progress=False
        )
        return whole[..., _chosen(model, layers), :]

    return learner


def blocks_by_numpy(model, corrupted_tokens, clean_cache, metric, layers=None):
    """A numpy table, filled cell by cell."""
    chosen = _chosen(model, layers)
    table = np.zeros((3, len(chosen), corrupted_tokens.shape[1]))
    for panel, row, pos in np.ndindex(table.shape):
        name = ("resid_pre", "attn_out", "mlp_out")[panel]

        def put(activation, hook, name=name, layer=chosen[row], pos=pos):
            activation[:, pos] = clean_cache[name, layer][:, pos]

        hooks = [(f"blocks.{chosen[row]}.hook_{name}", put)]
        table[panel, row, pos] = metric(model.run_with_hooks(corrupted_tokens, fwd_hooks=hooks))
    return table


def heads_by_mask(model, corrupted_tokens, clean_cache, metric, layers=None):
    """A mask over heads."""
    rows = []
    for layer in _chosen(model, layers):
        row = []
        for head in range(model.cfg.n_heads):
            mask = (torch.arange(model.cfg.n_heads) == head)[:, None]

            def mix(z, hook, mask=mask, layer=layer):
                return torch.where(mask, clean_cache["z", layer], z)

            row.append(metric(model.run_with_hooks(corrupted_tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", mix)])))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def every_by_name(model, corrupted_tokens, clean_cache, metric, layers=None):
    """Axes named for each activation; k and v filled up at the end."""
    panels = []
    for name in ("z", "q", "k", "v", "pattern"):
        rows = []
        for layer in _chosen(model, layers):
            clean, row = clean_cache[name, layer], []
            for head in range(clean.shape[1] if name == "pattern" else clean.shape[2]):

                def put(activation, hook, head=head, clean=clean, name=name):
                    out = activation.clone()
                    if name == "pattern":
                        out[:, head] = clean[:, head]
                    else:
                        out[:, :, head] = clean[:, :, head]
                    return out

                hooks = [(f"blocks.{layer}.attn.hook_{name}", put)]
                row.append(float(metric(model.run_with_hooks(corrupted_tokens, fwd_hooks=hooks))))
            rows.append(row + [0.0] * (model.cfg.n_heads - len(row)))
        panels.append(rows)
    return panels


def noising_by_hand(model, clean_tokens, corrupted_tokens, answer_tokens, layers=None):
    """Logit differences first, rescaled at the end."""
    logits, cache = model.run_with_cache(corrupted_tokens)
    clean, corrupted = logit_diff(model(clean_tokens), answer_tokens), logit_diff(logits, answer_tokens)
    raw = heads_by_mask(model, clean_tokens, cache, lambda out: logit_diff(out, answer_tokens), layers)
    return (raw - clean) / (clean - corrupted)


def noising_by_the_course(model, clean_tokens, corrupted_tokens, answer_tokens, layers=None):
    """The course's own sweep, as a numpy array."""
    logits, cache = model.run_with_cache(corrupted_tokens)
    clean, corrupted = logit_diff(model(clean_tokens), answer_tokens), logit_diff(logits, answer_tokens)

    def metric(out):
        return (logit_diff(out, answer_tokens) - clean) / (clean - corrupted)

    whole = patching.get_act_patch_attn_head_out_all_pos(model, clean_tokens, cache, metric, progress=False)
    return whole[_chosen(model, layers)].numpy()


RIGHT = {
    "ioi_metric": {"prompt by prompt": metric_by_hand, "double precision": metric_in_double},
    "noising_metric": {
        "denoising minus one": lambda logits, answer_tokens, clean, corrupted: (
            metric_by_hand(logits, answer_tokens, clean, corrupted) - 1
        ),
        "double precision": lambda logits, answer_tokens, clean, corrupted: (
            metric_in_double(logits, answer_tokens, clean, corrupted) - 1
        ),
    },
    "patch_position": {"pieces joined": patch_by_cat, "where, with keywords": patch_by_where, "numpy": patch_in_numpy},
    "get_act_patch_resid_pre": {
        "lists of floats": resid_by_contexts,
        "the course's own": by_the_course("resid_pre"),
        "inference mode, where it differs": torch.inference_mode()(resid_where_it_differs),
    },
    "get_act_patch_block_every": {"numpy, in place": blocks_by_numpy, "the course's own": by_the_course("block_every")},
    "get_act_patch_attn_head_out_all_pos": {
        "a mask over heads": heads_by_mask,
        "the course's own": by_the_course("attn_head_out_all_pos"),
    },
    "get_act_patch_attn_head_all_pos_every": {
        "axes by name, as lists": every_by_name,
        "the course's own": by_the_course("attn_head_all_pos_every"),
    },
    "noising_sweep": {"rescaled at the end": noising_by_hand, "the course's own": noising_by_the_course},
}
