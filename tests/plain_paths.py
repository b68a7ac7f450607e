"""Path patching written out as two runs with hooks: slow, and plain enough to be believed. For tests and the bench."""

import torch


def by_hooks(model, tokens, lending, metric, sender, receivers, component, at, free, mask=None, receiving=None):
    """The metric of one path. Run one: everything is frozen but the sender, and what the receivers read is kept. Run two:
    they, and they alone, read it. receiving: the receiving run's cache, if it is at hand."""
    if receiving is None:
        _, receiving = model.run_with_cache(tokens, attention_mask=mask)
    rows = torch.arange(len(tokens))
    where = slice(None) if at is None else (rows, at)

    def freeze(activation, hook):
        out = receiving[hook.name].clone()
        layer = int(hook.name.split(".")[1])
        for sending, part in sender:
            if layer == sending and part == "mlp" and hook.name.endswith("mlp_out"):
                out[where] = lending[hook.name][where]
            if layer == sending and part != "mlp" and hook.name.endswith("hook_z"):
                heads = out.transpose(0, 2).transpose(1, 2)  # [head, batch, pos, d_head]
                heads[part][where] = lending[hook.name][:, :, part][where]
        return out

    def frozen(name):
        is_sender = any(name == f"blocks.{layer}.hook_mlp_out" for layer, part in sender if part == "mlp")
        return name.endswith("attn.hook_z") or (name.endswith("hook_mlp_out") and (is_sender or not free))

    if receivers == "logits":
        return metric(model.run_with_hooks(tokens, fwd_hooks=[(frozen, freeze)], attention_mask=mask))
    names = {f"blocks.{layer}.attn.hook_{component}" for layer, _ in receivers}
    with model.hooks(fwd_hooks=[(frozen, freeze)]):
        _, told = model.run_with_cache(tokens, names_filter=names.__contains__, attention_mask=mask)

    def read(activation, hook):
        activation = activation.clone()
        for layer, head in receivers:
            if hook.name.split(".")[1] == str(layer):
                activation[:, :, head] = told[hook.name][:, :, head]
        return activation

    return metric(model.run_with_hooks(tokens, fwd_hooks=[(names.__contains__, read)], attention_mask=mask))


def written(model, cache, writer):
    """What a writer adds to the residual stream in a run: a head (layer, head), an MLP (layer, "mlp"), or the embedding."""
    layer, part = writer
    if part == "embed":
        return cache["resid_pre", 0]
    return cache["mlp_out", layer] if part == "mlp" else cache["z", layer][:, :, part] @ model.W_O[layer, part]


def edge_by_hooks(model, tokens, delta, metric, reader, mask=None):
    """The metric when one reader, (site, layer, head), reads delta beside its stream; a head's input takes a second run."""
    site, layer, head = reader
    names = {"mlp": f"blocks.{layer}.ln2.hook_in", "logits": "ln_final.hook_in"}
    hooks = [(names.get(site, f"blocks.{layer}.ln1.hook_in"), lambda stream, hook: stream + delta)]
    if site in names:
        return metric(model.run_with_hooks(tokens, fwd_hooks=hooks, attention_mask=mask))
    name = f"blocks.{layer}.attn.hook_{site}"
    with model.hooks(fwd_hooks=hooks):
        _, told = model.run_with_cache(tokens, names_filter=name, attention_mask=mask)

    def read(activation, hook):
        activation = activation.clone()
        activation[:, :, head] = told[name][:, :, head]
        return activation

    return metric(model.run_with_hooks(tokens, fwd_hooks=[(name, read)], attention_mask=mask))


def edges_by_hooks(model, tokens, lending, receiving, metric, graph, mask=None, edges=None):
    """[reader, writer]: the effect of every edge of a graph, or of some, one by one."""
    effects = torch.zeros(len(graph.readers), len(graph.writers))
    unpatched = metric(model(tokens, attention_mask=mask))
    for reader, writer in graph.exists.nonzero().tolist() if edges is None else edges:
        delta = written(model, lending, graph.writers[writer]) - written(model, receiving, graph.writers[writer])
        effects[reader, writer] = edge_by_hooks(model, tokens, delta, metric, graph.readers[reader], mask) - unpatched
    return effects
