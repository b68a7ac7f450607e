"""Wrong implementations of chapter 05's exercises, by a fragment of the message that each must be given."""

from __future__ import annotations

from functools import partial

import torch

# --- direct_effects ---------------------------------------------------------------------------------------------------


def _effects(model, receiving, lending, metric, pos=-1, read=None, sign=1, stream=None, lent=None):
    """A direct effect with one thing to get wrong in each argument."""
    last = model.cfg.n_layers - 1
    final = (stream or receiving)["resid_post", last][:, -1:]
    read = read or (lambda x: model.unembed(model.ln_final(x)))
    table = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            z = lending["z", layer] if lent == "whole" else lending["z", layer] - receiving["z", layer]
            table[layer, head] = metric(read(final + sign * z[:, pos, head].unsqueeze(1) @ model.W_O[layer, head]))
    return table


def effects_with_frozen_scale(model, receiving, lending, metric):
    def read(stream):
        if model.cfg.normalization_type.startswith("LN"):
            stream = stream - stream.mean(-1, keepdim=True)
        return model.unembed(stream / receiving["ln_final.hook_scale"][:, -1:])

    return _effects(model, receiving, lending, metric, read=read)


def effects_the_other_way(model, receiving, lending, metric):
    return _effects(model, lending, receiving, metric)


def effects_added_twice(model, receiving, lending, metric):
    return _effects(model, receiving, lending, metric, lent="whole")


def effects_of_first_position(model, receiving, lending, metric):
    return _effects(model, receiving, lending, metric, pos=0)


def effects_subtracted(model, receiving, lending, metric):
    return _effects(model, receiving, lending, metric, sign=-1)


def effects_as_losses(model, receiving, lending, metric):
    final = receiving["resid_post", model.cfg.n_layers - 1][:, -1:]
    return _effects(model, receiving, lending, metric) - metric(model.unembed(model.ln_final(final)))


def effects_of_lending_stream(model, receiving, lending, metric):
    return _effects(model, receiving, lending, metric, stream=lending)


def effects_behind_the_norm(model, receiving, lending, metric):
    final = receiving["resid_post", model.cfg.n_layers - 1][:, -1:]
    normed = model.ln_final(final)
    return _effects(model, receiving, lending, metric, read=lambda stream: model.unembed(normed + stream - final))


def effects_cumulative(model, receiving, lending, metric):
    stream, table = receiving["resid_post", model.cfg.n_layers - 1][:, -1:], []
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            change = lending["z", layer][:, -1:, head] - receiving["z", layer][:, -1:, head]
            stream = stream + change @ model.W_O[layer, head]
            table.append(metric(model.unembed(model.ln_final(stream))))
    return torch.stack(table).unflatten(0, (-1, model.cfg.n_heads))


# --- path_patch_to_logits -----------------------------------------------------------------------------------------------


def _frozen(model, tokens, new, orig, metric, at, layers, freeze_mlps=True, copy=True, double=False, held=None):
    layers = range(model.cfg.n_layers) if layers is None else layers
    rows, where = (slice(None), slice(None)) if at is None else (torch.arange(len(tokens)), at)
    held, kept = orig if held is None else held, {}

    def hold(activation, hook):
        return held[hook.name]

    def send(z, hook, head):
        z = held[hook.name].clone() if copy else kept.setdefault(hook.name, held[hook.name].clone())
        z[rows, where, head] = new[hook.name][rows, where, head]
        return z.clone()

    frozen = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    frozen += [f"blocks.{layer}.hook_mlp_out" for layer in range(model.cfg.n_layers)] * freeze_mlps
    table = torch.zeros(len(layers), model.cfg.n_heads)
    for row, layer in enumerate(layers):
        sender = f"blocks.{layer}.attn.hook_z"
        for head in range(model.cfg.n_heads):
            hooks = [(sender, partial(send, head=head))] + [(name, hold) for name in frozen if double or name != sender]
            table[row, head] = metric(model.run_with_hooks(tokens, fwd_hooks=hooks))
    return table


def to_logits_overwritten(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    return _frozen(model, tokens, new, orig, metric, at, layers, freeze_mlps, double=True)


def to_logits_held_at_new(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    return _frozen(model, tokens, new, orig, metric, at, layers, freeze_mlps, held=new)


def to_logits_exchanged(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    return _frozen(model, tokens, orig, new, metric, at, layers, freeze_mlps)


def to_logits_mlps_free(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    return _frozen(model, tokens, new, orig, metric, at, layers, freeze_mlps=False)


def to_logits_mlps_held(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    return _frozen(model, tokens, new, orig, metric, at, layers, freeze_mlps=True)


def to_logits_everywhere(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    return _frozen(model, tokens, new, orig, metric, None, layers, freeze_mlps)


def to_logits_at_the_first_prompts(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    return _frozen(model, tokens, new, orig, metric, None if at is None else at[:1].expand_as(at), layers, freeze_mlps)


def to_logits_counted_from_the_end(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    return _frozen(
        model, tokens, new, orig, metric, None if at is None else at - tokens.shape[1] + 1, layers, freeze_mlps
    )


def to_logits_at_all_positions_of_at(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    return _frozen(model, tokens, new, orig, metric, None if at is None else at[:, None], layers, freeze_mlps)


def to_logits_cumulative(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    return _frozen(model, tokens, new, orig, metric, at, layers, freeze_mlps, copy=False)


def to_logits_cache_edited(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    orig["blocks.0.attn.hook_z"][:, :, 0] = new["blocks.0.attn.hook_z"][:, :, 0]
    return _frozen(model, tokens, new, orig, metric, at, layers, freeze_mlps)


def to_logits_by_activation_patching(model, tokens, new, orig, metric, at=None, freeze_mlps=True, layers=None):
    layers, table = range(model.cfg.n_layers) if layers is None else layers, []
    for layer in layers:
        for head in range(model.cfg.n_heads):
            table.append(metric(model.run_with_hooks(tokens, fwd_hooks=[_patch(new, layer, head, at, tokens)])))
    return torch.stack(table).unflatten(0, (len(layers), -1))


def _patch(new, layer, head, at, tokens):
    rows, where = (slice(None), slice(None)) if at is None else (torch.arange(len(tokens)), at)

    def change(z, hook):
        z = z.clone()
        z[rows, where, head] = new[hook.name][rows, where, head]
        return z

    return f"blocks.{layer}.attn.hook_z", change


# --- edge_patch ---------------------------------------------------------------------------------------------------------


def _edges(model, tokens, delta, component, metric, layers, site="ln1.hook_in", every=False, wide=None, told_as=None):
    layers, table = range(model.cfg.n_layers) if layers is None else layers, []
    for layer in layers:
        name = f"blocks.{layer}.attn.hook_{told_as or component}"
        with model.hooks(fwd_hooks=[(f"blocks.{layer}.{site}", lambda stream, hook: stream + delta)]):
            told = model.run_with_cache(tokens, names_filter=name)[1][name]

        def read(activation, hook, head, told=told):
            activation = activation.clone()
            where = slice(None) if every else head
            activation[:, :, where] = told[:, :, where]
            return activation

        run = partial(model.run_with_hooks, tokens)
        table.append(
            torch.stack([metric(run(fwd_hooks=[(name, partial(read, head=head))])) for head in range(told.shape[2])])
        )
    table = torch.stack(table)
    if wide == "zeros":
        table = torch.cat([table, torch.zeros(len(table), model.cfg.n_heads - table.shape[1])], 1)
    return table.repeat_interleave(model.cfg.n_heads // table.shape[1], 1) if wide == "repeated" else table


def edges_behind_the_norm(model, tokens, delta, component, metric, layers=None):
    return _edges(model, tokens, delta, component, metric, layers, site="ln1.hook_out")


def edges_of_all_heads(model, tokens, delta, component, metric, layers=None):
    return _edges(model, tokens, delta, component, metric, layers, every=True)


def edges_padded(model, tokens, delta, component, metric, layers=None):
    return _edges(model, tokens, delta, component, metric, layers, wide="zeros")


def edges_repeated(model, tokens, delta, component, metric, layers=None):
    return _edges(model, tokens, delta, component, metric, layers, wide="repeated")


def edges_of_queries(model, tokens, delta, component, metric, layers=None):
    return _edges(
        model, tokens, delta, component, metric, layers, told_as="q" if model.cfg.n_key_value_heads is None else None
    )


def edges_in_the_stream(model, tokens, delta, component, metric, layers=None):
    layers, table = range(model.cfg.n_layers) if layers is None else layers, []
    n_heads = model.cfg.n_heads if component == "q" else model.cfg.n_key_value_heads or model.cfg.n_heads
    for layer in layers:
        hook = (f"blocks.{layer}.hook_resid_pre", lambda stream, hook: stream + delta)
        table.append(metric(model.run_with_hooks(tokens, fwd_hooks=[hook])).expand(n_heads))
    return torch.stack(table)


def edges_not_at_bos(model, tokens, delta, component, metric, layers=None):
    return _edges(model, tokens, torch.cat([0 * delta[:, :1], delta[:, 1:]], 1), component, metric, layers)


def edges_of_the_first_delta(model, tokens, delta, component, metric, layers=None):
    return _edges(model, tokens, delta[:1].expand_as(delta), component, metric, layers)


# --- path_patch_to_heads ------------------------------------------------------------------------------------------------


def _to_heads(model, tokens, new, orig, metric, receivers, component, at, layers, free=False, open_step_1=False, also=False,
              wrong_group=False, freeze_component=False, told_as=None, add=False):  # fmt: skip
    layers, component = range(model.cfg.n_layers) if layers is None else layers, told_as or component
    names = {f"blocks.{layer}.attn.hook_{component}" for layer, _ in receivers}
    table = torch.zeros(len(layers), model.cfg.n_heads)
    for row, layer in enumerate(layers):
        for head in range(model.cfg.n_heads):
            sender, change = _patch(new, layer, head, at, tokens)

            def hold(activation, hook, sender=sender, change=change):
                return change(orig[hook.name], hook) if hook.name == sender else orig[hook.name]

            sites = [f"blocks.{i}.attn.hook_z" for i in range(model.cfg.n_layers)]
            sites += [] if free else [f"blocks.{i}.hook_mlp_out" for i in range(model.cfg.n_layers)]
            sites += list(names) if freeze_component else []
            with model.hooks(fwd_hooks=[(sender, change)] if open_step_1 else [(site, hold) for site in sites]):
                _, told = model.run_with_cache(tokens, names_filter=lambda name: name in names)

            def read(activation, hook, told=told):
                before, activation = activation, activation.clone()
                shared = model.cfg.n_heads // activation.shape[2]
                for i, receiver in receivers:
                    if hook.name == f"blocks.{i}.attn.hook_{component}":
                        index = receiver % activation.shape[2] if wrong_group else receiver // shared
                        rest = activation[:, :, index] - before[:, :, index] if add else 0
                        activation[:, :, index] = told[hook.name][:, :, index] + rest
                return activation

            hooks = [(name, read) for name in names] + [(sender, change)] * also
            table[row, head] = metric(model.run_with_hooks(tokens, fwd_hooks=hooks))
    return table


def to_heads_open(model, tokens, new, orig, metric, receivers, component, at=None, layers=None):
    return _to_heads(model, tokens, new, orig, metric, receivers, component, at, layers, open_step_1=True)


def to_heads_mlps_free(model, tokens, new, orig, metric, receivers, component, at=None, layers=None):
    return _to_heads(model, tokens, new, orig, metric, receivers, component, at, layers, free=True)


def to_heads_sender_too(model, tokens, new, orig, metric, receivers, component, at=None, layers=None):
    return _to_heads(model, tokens, new, orig, metric, receivers, component, at, layers, also=True)


def to_heads_first_receiver(model, tokens, new, orig, metric, receivers, component, at=None, layers=None):
    return _to_heads(model, tokens, new, orig, metric, receivers[:1], component, at, layers)


def to_heads_wrong_group(model, tokens, new, orig, metric, receivers, component, at=None, layers=None):
    return _to_heads(model, tokens, new, orig, metric, receivers, component, at, layers, wrong_group=True)


def to_heads_receivers_frozen(model, tokens, new, orig, metric, receivers, component, at=None, layers=None):
    return _to_heads(model, tokens, new, orig, metric, receivers, component, at, layers, freeze_component=True)


def to_heads_everywhere(model, tokens, new, orig, metric, receivers, component, at=None, layers=None):
    return _to_heads(model, tokens, new, orig, metric, receivers, component, None, layers)


def to_heads_queries(model, tokens, new, orig, metric, receivers, component, at=None, layers=None):
    return _to_heads(model, tokens, new, orig, metric, receivers, component, at, layers, told_as="q")


def to_heads_one_of_each_layer(model, tokens, new, orig, metric, receivers, component, at=None, layers=None):
    return _to_heads(model, tokens, new, orig, metric, dict(receivers).items(), component, at, layers)


def to_heads_added_up(model, tokens, new, orig, metric, receivers, component, at=None, layers=None):
    one = [_to_heads(model, tokens, new, orig, metric, [receiver], component, at, layers) for receiver in receivers]
    return sum(one) - (len(receivers) - 1) * metric(model(tokens))


def to_heads_changed_twice(model, tokens, new, orig, metric, receivers, component, at=None, layers=None):
    return _to_heads(model, tokens, new, orig, metric, receivers, component, at, layers, add=True)


# --- joint_senders ------------------------------------------------------------------------------------------------------


def _joint(
    model, tokens, new, orig, metric, senders, receivers, component, at, site="ln1.hook_in", later=False, one_run=False
):
    rows, where = (slice(None), slice(None)) if at is None else (torch.arange(len(tokens)), at)
    layers = sorted({layer for layer, _ in receivers})

    def hook(receiving):
        sent = torch.zeros_like(orig["resid_pre", 0])
        for layer, head in senders:
            if later or layer < receiving:
                written = (new["z", layer][:, :, head] - orig["z", layer][:, :, head]) @ model.W_O[layer, head]
                sent[rows, where] += written[rows, where]
        return f"blocks.{receiving}.{site}", lambda stream, hook: stream + sent

    told = {}
    for group in [layers] if one_run else [[layer] for layer in layers]:
        with model.hooks(fwd_hooks=[hook(layer) for layer in group]):
            cache = model.run_with_cache(tokens)[1]
        told |= {f"blocks.{layer}.attn.hook_{component}": cache[component, layer] for layer in group}

    def read(activation, hook):
        activation = activation.clone()
        for layer, head in receivers:
            if hook.name == f"blocks.{layer}.attn.hook_{component}":
                index = head // (model.cfg.n_heads // activation.shape[2])
                activation[:, :, index] = told[hook.name][:, :, index]
        return activation

    return metric(model.run_with_hooks(tokens, fwd_hooks=[(name, read) for name in told]))


def joint_added_up(model, tokens, new, orig, metric, senders, receivers, component, at=None):
    one = [_joint(model, tokens, new, orig, metric, [sender], receivers, component, at) for sender in senders]
    return sum(one) - (len(senders) - 1) * metric(model(tokens))


def joint_averaged(model, tokens, new, orig, metric, senders, receivers, component, at=None):
    return sum(_joint(model, tokens, new, orig, metric, [one], receivers, component, at) for one in senders) / len(
        senders
    )


def joint_one_sender_of_a_layer(model, tokens, new, orig, metric, senders, receivers, component, at=None):
    return _joint(model, tokens, new, orig, metric, dict(senders).items(), receivers, component, at)


def joint_one_receiver_of_a_layer(model, tokens, new, orig, metric, senders, receivers, component, at=None):
    return _joint(model, tokens, new, orig, metric, senders, dict(receivers).items(), component, at)


def joint_with_later_senders(model, tokens, new, orig, metric, senders, receivers, component, at=None):
    return _joint(model, tokens, new, orig, metric, senders, receivers, component, at, later=True)


def joint_in_one_run(model, tokens, new, orig, metric, senders, receivers, component, at=None):
    return _joint(model, tokens, new, orig, metric, senders, receivers, component, at, one_run=True)


def joint_behind_the_norm(model, tokens, new, orig, metric, senders, receivers, component, at=None):
    return _joint(model, tokens, new, orig, metric, senders, receivers, component, at, site="ln1.hook_out")


def joint_everywhere(model, tokens, new, orig, metric, senders, receivers, component, at=None):
    return _joint(model, tokens, new, orig, metric, senders, receivers, component, None)


# --- all_out_edges ------------------------------------------------------------------------------------------------------


def _out(model, tokens, new, orig, metric, layer, head, attention=1, mlp=0, logits=True):
    sent = (new["z", layer][:, :, head] - orig["z", layer][:, :, head]) @ model.W_O[layer, head]
    names = [f"blocks.{later}.ln1.hook_in" for later in range(layer + attention, model.cfg.n_layers)]
    names += [f"blocks.{later}.ln2.hook_in" for later in range(layer + mlp, model.cfg.n_layers)]
    hooks = [(name, lambda stream, hook: stream + sent) for name in [*names, *["ln_final.hook_in"] * logits]]
    return metric(model.run_with_hooks(tokens, fwd_hooks=hooks))


def out_without_own_mlp(model, tokens, new, orig, metric, layer, head):
    return _out(model, tokens, new, orig, metric, layer, head, mlp=1)


def out_without_logits(model, tokens, new, orig, metric, layer, head):
    return _out(model, tokens, new, orig, metric, layer, head, logits=False)


def out_with_own_attention(model, tokens, new, orig, metric, layer, head):
    return _out(model, tokens, new, orig, metric, layer, head, attention=0)


def out_exchanged(model, tokens, new, orig, metric, layer, head):
    return _out(model, tokens, orig, new, metric, layer, head)


WRONG = {
    "direct_effects": {
        "scale is frozen": effects_with_frozen_scale,
        "the other way round": effects_the_other_way,
        "old part is still there": effects_added_twice,
        "first position": effects_of_first_position,
        "change is subtracted": effects_subtracted,
        "unpatched metric is subtracted": effects_as_losses,
        "the final stream is the lending run's": effects_of_lending_stream,
        "after the final norm": effects_behind_the_norm,
        "changes of earlier heads": effects_cumulative,
    },
    "path_patch_to_logits": {
        "no path is open": to_logits_overwritten,
        "held at the lending run": to_logits_held_at_new,
        "two runs are exchanged": to_logits_exchanged,
        "the MLPs react": to_logits_mlps_free,
        "MLPs are held although": to_logits_mlps_held,
        "elsewhere than at `at`": to_logits_everywhere,
        "z[rows, at, head]": to_logits_at_the_first_prompts,
        "nothing arrives": to_logits_counted_from_the_end,
        "index rows and positions together": to_logits_at_all_positions_of_at,
        "start each one from": to_logits_cumulative,
        "you wrote into an input": to_logits_cache_edited,
        "this is activation patching": to_logits_by_activation_patching,
    },
    "edge_patch": {
        "after the norm": edges_behind_the_norm,
        "all heads of the layer": edges_of_all_heads,
        "columns of zeros": edges_padded,
        "stands once for each query head": edges_repeated,
        "the query is exchanged, whatever": edges_of_queries,
        "goes into the stream itself": edges_in_the_stream,
        "position 0 is left out": edges_not_at_bos,
        "the first prompt's delta": edges_of_the_first_delta,
    },
    "path_patch_to_heads": {
        "step 1 freezes nothing": to_heads_open,
        "the MLPs are free": to_heads_mlps_free,
        "sender is exchanged in step 2": to_heads_sender_too,
        "only the first receiver": to_heads_first_receiver,
        "wrong shared key or value": to_heads_wrong_group,
        "no path is open": to_heads_receivers_frozen,
        "at every position": to_heads_everywhere,
        "queries are exchanged, whatever": to_heads_queries,
        "only one receiver of a layer": to_heads_one_of_each_layer,
        "one by one, and their effects added up": to_heads_added_up,
        "changed once for each of its query heads": to_heads_changed_twice,
    },
    "joint_senders": {
        "added up": joint_added_up,
        "senders after a receiver": joint_with_later_senders,
        "receivers hear one another": joint_in_one_run,
        "after the norm": joint_behind_the_norm,
        "sent at every position": joint_everywhere,
        "single senders are averaged": joint_averaged,
        "only one sender of a layer": joint_one_sender_of_a_layer,
        "only one receiver of a layer": joint_one_receiver_of_a_layer,
    },
    "all_out_edges": {
        "own layer is left out": out_without_own_mlp,
        "logits are left out": out_without_logits,
        "it cannot hear itself": out_with_own_attention,
        "orig minus new": out_exchanged,
    },
}
