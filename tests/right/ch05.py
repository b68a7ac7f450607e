"""Unusual right answers for chapter 05."""

from functools import partial

import numpy as np
import torch

from tests.plain_paths import by_hooks
from utils.circuits import paths


def effects_at_once(model, receiving, lending, metric):
    """All heads of a layer as one batch, and a list of lists of floats."""
    last, rows = model.cfg.n_layers - 1, []
    for layer in range(model.cfg.n_layers):
        change = (lending["z", layer] - receiving["z", layer])[:, -1]
        written = torch.einsum("bhd,hdm->hbm", change, model.W_O[layer])
        streams = receiving["resid_post", last][:, -1] + written  # [head, batch, d_model]
        logits = model.unembed(model.ln_final(streams.flatten(0, 1)[:, None])).unflatten(0, streams.shape[:2])
        rows.append([metric(of_head).item() for of_head in logits])
    return rows


def effects_at_every_position(model, receiving, lending, metric):
    """The whole stream, of which the metric reads the last position, in double precision."""
    final = receiving["resid_post", model.cfg.n_layers - 1]
    table = torch.zeros(model.cfg.n_layers, model.cfg.n_heads, dtype=torch.float64)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            stream = final.clone()
            for cache, sign in ((lending, 1), (receiving, -1)):
                stream = stream + sign * cache["z", layer][:, :, head] @ model.W_O[layer, head]
            table[layer, head] = metric(
                model.unembed(model.ln_final(stream))
            )  # every position, of which the last is read
    return table


def _shared(model, component):
    return 1 if component == "q" else model.cfg.n_heads // (model.cfg.n_key_value_heads or model.cfg.n_heads)


def to_logits_by_the_course(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    """The course's own path patching; a numpy array."""
    mlps = "frozen" if freeze_mlps else "free"
    found = paths.path_patch(model, tokens, new, metric, at=at, mlps=mlps, progress=False)
    return (found if layers is None else found[list(layers)]).numpy()


def to_logits_by_two_runs(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    """One plain run for each sender."""
    layers = range(model.cfg.n_layers) if layers is None else layers
    run = partial(by_hooks, model, tokens, new, metric, receivers="logits", component=None, at=at, free=not freeze_mlps)
    return [[run([(layer, head)], receiving=orig).item() for head in range(model.cfg.n_heads)] for layer in layers]


def to_logits_holding_later_parts(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    """Only what comes after the sender is held: before it, the run is orig's anyway."""
    rows, where = (slice(None), slice(None)) if at is None else (torch.arange(len(tokens)), at)
    layers, table = range(model.cfg.n_layers) if layers is None else layers, []

    def send(z, hook, head):
        z[rows, where, head] = new[hook.name][rows, where, head]

    for layer in layers:
        later = [f"blocks.{i}.attn.hook_z" for i in range(layer + 1, model.cfg.n_layers)]
        later += [f"blocks.{i}.hook_mlp_out" for i in range(layer, model.cfg.n_layers)] * freeze_mlps
        held = [(name, lambda activation, hook: orig[hook.name]) for name in later]
        for head in range(model.cfg.n_heads):
            hooks = [*held, (f"blocks.{layer}.attn.hook_z", partial(send, head=head))]
            table.append(metric(model.run_with_hooks(tokens, fwd_hooks=hooks)).item())
    return np.array(table).reshape(len(layers), -1)


def edges_at_resid_pre(model, tokens, delta, component, metric, layers=None):
    """delta in the stream before the layer, in a run of which only the component is kept; the exchange by masking."""
    layers, rows = range(model.cfg.n_layers) if layers is None else layers, []
    for layer in layers:
        name = f"blocks.{layer}.attn.hook_{component}"
        with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", lambda x, hook: x + delta)]):
            told = model.run_with_cache(tokens, names_filter=[name])[1][name]
        row = []
        for head in range(told.shape[2]):
            mask = torch.zeros(told.shape[2], 1)
            mask[head] = 1

            def swap(activation, hook, mask=mask, told=told):
                return activation * (1 - mask) + told * mask

            row.append(metric(model.run_with_hooks(tokens, fwd_hooks=[(name, swap)])))
        rows.append(row)
    return rows


def edges_by_projection(model, tokens, delta, component, metric, layers=None):
    """The component computed by the block's own modules from the cached stream."""
    _, cache = model.run_with_cache(tokens)
    layers = range(model.cfg.n_layers) if layers is None else layers
    table = []
    for layer in layers:
        block, name = model.blocks[layer], f"blocks.{layer}.attn.hook_{component}"
        told = getattr(block.attn, component)(block.ln1(cache["resid_pre", layer] + delta))
        told = told.reshape(cache[name].shape)
        row = []
        for head in range(told.shape[2]):

            def swap(activation, hook, head=head, told=told):
                return torch.cat(
                    [activation[:, :, :head], told[:, :, head : head + 1], activation[:, :, head + 1 :]], 2
                )

            row.append(float(metric(model.run_with_hooks(tokens, fwd_hooks=[(name, swap)]))))
        table.append(tuple(row))
    return tuple(table)


def to_heads_by_the_course(model, tokens, new, orig, metric, receivers, component, at=None, layers=None):
    """The course's own path patching."""
    found = paths.path_patch(model, tokens, new, metric, receivers, component, at=at, progress=False)
    return found if layers is None else found[list(layers)]


def to_heads_by_two_runs(model, tokens, new, orig, metric, receivers, component, at=None, layers=None):
    """Two plain runs for each sender, as lists."""
    layers = range(model.cfg.n_layers) if layers is None else layers
    shared = [(layer, head // _shared(model, component)) for layer, head in receivers]
    run = partial(by_hooks, model, tokens, new, metric, receivers=shared, component=component, at=at, free=False)
    return [[float(run([(layer, head)], receiving=orig)) for head in range(model.cfg.n_heads)] for layer in layers]


def joint_by_the_course(model, tokens, new, orig, metric, senders, receivers, component, at=None):
    """The course's own path patching of one set of senders; a tensor of one entry, taken out."""
    found = paths.path_patch(model, tokens, new, metric, receivers, component, at=at, senders=[senders], progress=False)
    return found[0].item()


def joint_by_freezing(model, tokens, new, orig, metric, senders, receivers, component, at=None):
    """Step 1 with everything frozen but the senders."""
    shared = [(layer, head // _shared(model, component)) for layer, head in receivers]
    return by_hooks(model, tokens, new, metric, senders, shared, component, at, False, receiving=orig)


def out_edges_by_the_course(model, tokens, new, orig, metric, layer, head):
    """The course's own function."""
    return paths.all_out_edges(model, tokens, new, metric, (layer, head), progress=False)


def out_edges_as_activation_patching(model, tokens, new, orig, metric, layer, head):
    """The identity, used: activation patching."""

    def patch(z, hook):
        z = z.clone()
        z[:, :, head] = new[hook.name][:, :, head]
        return z

    return metric(model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", patch)])).double()


RIGHT = {
    "direct_effects": {"a layer as one batch": effects_at_once, "every position": effects_at_every_position},
    "path_patch_to_logits": {
        "the course's": to_logits_by_the_course,
        "one plain run each": to_logits_by_two_runs,
        "later parts alone are held": to_logits_holding_later_parts,
    },
    "edge_patch": {"masks": edges_at_resid_pre, "the block's own modules": edges_by_projection},
    "path_patch_to_heads": {"the course's": to_heads_by_the_course, "two plain runs each": to_heads_by_two_runs},
    "joint_senders": {"the course's": joint_by_the_course, "frozen step 1": joint_by_freezing},
    "all_out_edges": {"the course's": out_edges_by_the_course, "activation patching": out_edges_as_activation_patching},
}
