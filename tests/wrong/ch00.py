"""Wrong implementations for chapter 00."""

import torch


def patterns(cache):
    return torch.stack([cache["pattern", layer] for layer in range(cache.model.cfg.n_layers)])


def zero_in_place(z, hook, head_index):
    z[:, :, head_index] = 0
    return z


def zero_at_position(z, hook, head_index):
    z = z.clone()
    z[:, head_index] = 0
    return z


def zero_coordinate(z, hook, head_index):
    z = z.clone()
    z[..., head_index] = 0
    return z


def forgets_return(z, hook, head_index):
    z = z.clone()
    z[:, :, head_index] = 0


def zeroing(name, index):
    def logits_without_head(model, tokens, layer, head_index):
        def hook(activation, hook):
            activation = activation.clone()
            activation[index(head_index)] = 0
            return activation

        return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.{name}", hook)])

    return logits_without_head


def leaves_hook(model, tokens, layer, head_index):
    def hook(z, hook):
        z = z.clone()
        z[:, :, head_index] = 0
        return z

    model.add_hook(f"blocks.{layer}.attn.hook_z", hook)
    return model(tokens)


def zero_if_not_first(z, hook, head_index):
    z = z.clone()
    z[:, 1:, head_index] = 0
    return z


def switches_gradients_off(model, tokens, layer, head_index):
    for weight in model.parameters():
        weight.requires_grad_(False)
    return zeroing("hook_z", lambda head: (slice(None), slice(None), head))(model, tokens, layer, head_index)


def changes_a_setting(model, tokens, layer, head_index):
    model.set_use_attn_result(True)
    return zeroing("hook_z", lambda head: (slice(None), slice(None), head))(model, tokens, layer, head_index)


def zeroes_the_layers_output(model, tokens, layer, head_index):
    hook = (f"blocks.{layer}.hook_attn_out", lambda attn_out, hook: torch.zeros_like(attn_out))
    return model.run_with_hooks(tokens, fwd_hooks=[hook])


def unsolved(*arguments, **named):
    raise NotImplementedError("this exercise is not written yet")


WRONG = {
    "attention_to_first_token": {
        "query 0 too": lambda cache: patterns(cache)[..., 0].mean((1, 3)),
        "query and key are swapped": lambda cache: patterns(cache)[..., 0, 1:].mean((1, 3)),
        "averaged over keys": lambda cache: patterns(cache)[..., 0, :].mean((1, 3)),
        "left out the last query": lambda cache: patterns(cache)[..., 1:-1, 0].mean((1, 3)),
        "query 0 is left out, so it does not count": lambda cache: (
            patterns(cache)[..., 1:, 0].sum((1, 3)) / patterns(cache)[0, :, 0, 0].numel()
        ),
        "a median over prompts": lambda cache: patterns(cache)[..., 1:, 0].mean(-1).median(1).values,
        "the first prompt only": lambda cache: patterns(cache)[:, 0, :, 1:, 0].mean(-1),
        "axes are in another order": lambda cache: patterns(cache)[..., 1:, 0].mean((1, 3)).T,
        "not written yet": unsolved,
        "a name that the cache does not hold": lambda cache: cache["attention", 99],
    },
    "zero_head": {
        "wrote into an input": zero_in_place,
        "zeroed a position": zero_at_position,
        "zeroed one coordinate": zero_coordinate,
        "does not return anything": forgets_return,
        "zeroed every head": lambda z, hook, head_index: torch.zeros_like(z),
        "position 0 is left as it was": zero_if_not_first,
        "heads after it are zeroed": lambda z, hook, head_index: z * (torch.arange(z.shape[2]) < head_index)[:, None],
        "nothing is zeroed": lambda z, hook, head_index: z,
    },
    "logits_without_head": {
        "leaves a hook": leaves_hook,
        "requires_grad of": switches_gradients_off,
        "its setting use_attn_result": changes_a_setting,
        "what the whole layer writes": zeroes_the_layers_output,
        "zeroed attention scores": zeroing("hook_attn_scores", lambda head: (slice(None), head)),
        "zeroed the query": zeroing("hook_q", lambda head: (slice(None), slice(None), head)),
        "a whole attention layer": zeroing("hook_z", lambda head: ...),
        "zeroed a position": zeroing("hook_z", lambda head: (slice(None), head)),
        "logits of the whole model": lambda model, tokens, layer, head_index: model(tokens),
    },
}
