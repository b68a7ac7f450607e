"""Wrong implementations for chapter 10."""

import torch

from utils.patching.blocks import run_block


def from_layer(model, resid, first, last=None, norm=True, unembed=True):
    for layer in range(first, model.cfg.n_layers if last is None else last):
        resid = run_block(model, layer, resid)
    resid = model.ln_final(resid) if norm else resid
    return model.unembed(resid) if unembed else resid


def bare_blocks(model, resid, layer):
    for block in list(model.blocks)[layer:]:
        resid = block(resid)[0]
    return model.unembed(model.ln_final(resid))


def attention(
    q, k, v, k_prefix, v_prefix, diagonal=None, masked=True, prefix=True, swap=False, scaled=True, deal=False
):
    start = k_prefix.shape[1]
    if prefix:
        k, v = (torch.cat(pair[::-1] if swap else pair, dim=1) for pair in ((k_prefix, k), (v_prefix, v)))
    group = q.shape[2] // k.shape[2]
    if deal:
        k, v = torch.cat([k] * group, dim=2), torch.cat([v] * group, dim=2)
    else:
        k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
    scores = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)) / (q.shape[-1] ** 0.5 if scaled else 1)
    offset = (start if prefix else 0) if diagonal is None else diagonal(start)
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(offset + 1)
    if masked:
        scores = scores.masked_fill(hidden, -torch.inf)
    return (scores.softmax(-1).nan_to_num() @ v.transpose(1, 2)).transpose(1, 2)


def grown(model, clean, corrupted, pos, reverse=False, patch=True, every_position=False):
    x = corrupted[0][:0]
    for layer in range(len(corrupted)):
        new = corrupted[layer].clone()
        if patch:
            new[:, pos] = clean[layer][:, pos]
        x = run_block(model, layer, torch.cat([new, x] if reverse else [x, new]))
    return model.unembed(model.ln_final(x if every_position else x[:, -1]))


def stacked(logits, corrupted):
    return logits.unflatten(0, (-1, corrupted.shape[1]))


def joins_late(model, clean, corrupted, pos):
    x = None
    for layer in range(len(corrupted)):
        if x is not None:
            x = run_block(model, layer, x)
        new = corrupted[layer].clone()
        new[:, pos] = clean[layer][:, pos]
        x = new if x is None else torch.cat([x, new])
    return stacked(model.unembed(model.ln_final(x[:, -1])), corrupted)


def one_pass_each(model, clean, corrupted, pos):
    out = []
    for layer in range(len(corrupted)):
        x = corrupted[layer].clone()
        x[:, pos] = clean[layer][:, pos]
        out.append(from_layer(model, x, layer)[:, -1])
    return torch.stack(out)


def patched_in_later_layers_too(model, clean, corrupted, pos):
    out = []
    for first in range(len(corrupted)):
        x = corrupted[first]
        for layer in range(first, len(corrupted)):
            x = x.clone()
            x[:, pos] = clean[layer][:, pos]
            x = run_block(model, layer, x)
        out.append(model.unembed(model.ln_final(x))[:, -1])
    return torch.stack(out)


def writes_into_the_cache(model, clean, corrupted, pos):
    x = corrupted[0][:0]
    for layer in range(len(corrupted)):
        new = corrupted[layer]
        new[:, pos] = clean[layer][:, pos]
        x = run_block(model, layer, torch.cat([x, new]))
    return stacked(model.unembed(model.ln_final(x[:, -1])), corrupted)


WRONG = {
    "cells_that_can_change": {
        "inverted": lambda clean, corrupted: (clean == corrupted).all(-1).all(1),
        "every prompt differs": lambda clean, corrupted: (clean != corrupted).any(-1).all(1),
        "first prompt only": lambda clean, corrupted: (clean[:, 0] != corrupted[:, 0]).any(-1),
        "averaged over prompts first": lambda clean, corrupted: (clean.mean(1) - corrupted.mean(1)).abs().sum(-1) > 0,
        "within a tolerance": lambda clean, corrupted: ~torch.isclose(clean, corrupted).all(-1).all(1),
        "you compared lengths": lambda clean, corrupted: (clean.norm(dim=-1) != corrupted.norm(dim=-1)).any(1),
        "the larger one: either may be": lambda clean, corrupted: (clean > corrupted).any(-1).any(1),
        "after the first difference": lambda clean, corrupted: (clean != corrupted).any(-1).any(1).cumsum(1) > 0,
        "prompts are still there": lambda clean, corrupted: (clean != corrupted).any(-1),
        "whether tokens differ": lambda clean, corrupted: (
            (clean[0] != corrupted[0]).any(-1).any(0).repeat(len(clean), 1)
        ),
        "axes are in another order": lambda clean, corrupted: (clean != corrupted).any(-1).any(1).T,
    },
    "run_from_layer": {
        "one block late": lambda model, resid, layer: from_layer(model, resid, layer + 1),
        "start at block 0": lambda model, resid, layer: from_layer(model, resid, 0),
        "one block only": lambda model, resid, layer: from_layer(model, resid, layer, layer + 1),
        "final norm is missing": lambda model, resid, layer: from_layer(model, resid, layer, norm=False),
        "return the residual stream": lambda model, resid, layer: from_layer(
            model, resid, layer, norm=False, unembed=False
        ),
        "no rotation": bare_blocks,
        "saves no work": lambda model, resid, layer: model(resid, start_at_layer=layer),
    },
    "attention_from_position": {
        "lost its offset": lambda q, k, v, k_prefix, v_prefix: attention(
            q, k, v, k_prefix, v_prefix, diagonal=lambda start: 0
        ),
        "no causal mask": lambda q, k, v, k_prefix, v_prefix: attention(q, k, v, k_prefix, v_prefix, masked=False),
        "cannot read itself": lambda q, k, v, k_prefix, v_prefix: attention(
            q, k, v, k_prefix, v_prefix, diagonal=lambda start: start - 1
        ),
        "prefix is missing": lambda q, k, v, k_prefix, v_prefix: attention(q, k, v, k_prefix, v_prefix, prefix=False),
        "prefix comes after": lambda q, k, v, k_prefix, v_prefix: attention(q, k, v, k_prefix, v_prefix, swap=True),
        "not scaled": lambda q, k, v, k_prefix, v_prefix: attention(q, k, v, k_prefix, v_prefix, scaled=False),
        "in the wrong order: query heads": lambda q, k, v, k_prefix, v_prefix: attention(
            q, k, v, k_prefix, v_prefix, deal=True
        ),
    },
    "patch_every_layer": {
        "are exchanged": lambda model, clean, corrupted, pos: stacked(grown(model, corrupted, clean, pos), corrupted),
        "patch every position": lambda model, clean, corrupted, pos: stacked(
            grown(model, clean, corrupted, slice(None)), corrupted
        ),
        "nothing is patched": lambda model, clean, corrupted, pos: stacked(
            grown(model, clean, corrupted, pos, patch=False), corrupted
        ),
        "in reverse": lambda model, clean, corrupted, pos: stacked(
            grown(model, clean, corrupted, pos, reverse=True), corrupted
        ),
        "join after their block": joins_late,
        "every position is still there": lambda model, clean, corrupted, pos: stacked(
            grown(model, clean, corrupted, pos, every_position=True), corrupted
        ),
        "still in the batch axis": lambda model, clean, corrupted, pos: grown(model, clean, corrupted, pos),
        "read as [batch, layer]": lambda model, clean, corrupted, pos: (
            grown(model, clean, corrupted, pos).unflatten(0, (corrupted.shape[1], -1)).transpose(0, 1)
        ),
        "more than one pass": one_pass_each,
        "later layers are patched as well": patched_in_later_layers_too,
        "you wrote into an input": writes_into_the_cache,
    },
}
