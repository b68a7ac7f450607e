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
