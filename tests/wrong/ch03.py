"""Wrong solutions of chapter 03, each under a fragment of the message that must name its mistake."""

import torch
from transformer_lens.utilities import get_act_name

from utils.attribution import logit_diff


def _metric_inverted(logits, answer_tokens, clean, corrupted):
    return (clean - logit_diff(logits, answer_tokens)) / (clean - corrupted)


def _metric_wrong_sign(logits, answer_tokens, clean, corrupted):
    return (logit_diff(logits, answer_tokens) - corrupted) / (corrupted - clean)


def _metric_float(logits, answer_tokens, clean, corrupted):
    return ((logit_diff(logits, answer_tokens) - corrupted) / (clean - corrupted)).item()


def _metric_per_prompt(logits, answer_tokens, clean, corrupted):
    return (logit_diff(logits, answer_tokens, per_prompt=True) - corrupted) / (clean - corrupted)


def _metric_not_divided(logits, answer_tokens, clean, corrupted):
    return logit_diff(logits, answer_tokens) - corrupted


def _denoising_metric(logits, answer_tokens, clean, corrupted):
    return (logit_diff(logits, answer_tokens) - corrupted) / (clean - corrupted)


def _noising_wrong_sign(logits, answer_tokens, clean, corrupted):
    return (logit_diff(logits, answer_tokens) - clean) / (corrupted - clean)


def _noising_not_divided(logits, answer_tokens, clean, corrupted):
    return logit_diff(logits, answer_tokens) - clean


def _noising_float(logits, answer_tokens, clean, corrupted):
    return float((logit_diff(logits, answer_tokens) - clean) / (clean - corrupted))


def _clamped(metric, low, high):
    return lambda logits, answer_tokens, clean, corrupted: metric(logits, answer_tokens, clean, corrupted).clamp(
        low, high
    )


def _noising_metric(logits, answer_tokens, clean, corrupted):
    return (logit_diff(logits, answer_tokens) - clean) / (clean - corrupted)


def _patch_everywhere(activation, hook, pos, clean_cache):
    activation = activation.clone()
    activation[:] = clean_cache[hook.name]
    return activation


def _patch_prompt(activation, hook, pos, clean_cache):
    activation = activation.clone()
    activation[pos] = clean_cache[hook.name][pos]
    return activation


def _patch_returns_nothing(activation, hook, pos, clean_cache):
    activation = activation.clone()
    activation[:, pos] = clean_cache[hook.name][:, pos]


def _patch_into_clean_cache(activation, hook, pos, clean_cache):
    clean_cache[hook.name][:, pos] = activation[:, pos]
    return activation


def _patch_in_place(activation, hook, pos, clean_cache):
    activation[:, pos] = clean_cache[hook.name][:, pos]
    return activation


def _patch_from(activation, hook, pos, clean_cache):
    activation = activation.clone()
    activation[:, pos:] = clean_cache[hook.name][:, pos:]
    return activation


def _patch_of_layer_1(activation, hook, pos, clean_cache):
    activation = activation.clone()
    activation[:, pos] = clean_cache[hook.name.split("hook_")[-1].replace("in", "resid_pre"), 1][:, pos]
    return activation


def _patch_added(activation, hook, pos, clean_cache):
    activation = activation.clone()
    activation[:, pos] += clean_cache[hook.name][:, pos]
    return activation


def _patch_first_prompt(activation, hook, pos, clean_cache):
    activation = activation.clone()
    activation[:, pos] = clean_cache[hook.name][0, pos]
    return activation


def _copy(cache, *index):
    """A hook function that copies `index` out of the cache."""

    def hook_function(activation, hook):
        activation = activation.clone()
        activation[index] = cache[hook.name][index]
        return activation

    return hook_function


EVERYTHING = slice(None)


def _run(model, tokens, cache, metric, *sites):
    """The metric of a run with (name, layer, *index) copied out of the cache."""
    hooks = [(get_act_name(name, layer), _copy(cache, *index)) for name, layer, *index in sites]
    return metric(model.run_with_hooks(tokens, fwd_hooks=hooks))


def _positions(model, tokens, cache, metric, layers, sites_of):
    layers = range(model.cfg.n_layers) if layers is None else layers
    return torch.stack(
        [
            torch.stack([_run(model, tokens, cache, metric, *sites_of(layer, pos)) for pos in range(tokens.shape[1])])
            for layer in layers
        ]
    )


def _resid_of_clean_tokens(model, corrupted_tokens, clean_cache, metric, layers=None):
    # S2 exchanged back: the tokens of the clean run, as someone who mixes the two up would pass them
    clean_tokens = _clean_tokens_of(model, clean_cache)
    return _positions(model, clean_tokens, clean_cache, metric, layers, lambda i, p: [("resid_pre", i, EVERYTHING, p)])


def _clean_tokens_of(model, clean_cache):
    """Tokens back from the embedding, by nearest row."""
    embedded = clean_cache["embed"]
    return torch.cdist(embedded, model.W_E.expand(len(embedded), -1, -1)).argmin(-1)


def _resid_transposed(model, corrupted_tokens, clean_cache, metric, layers=None):
    return _resid(model, corrupted_tokens, clean_cache, metric, layers).T


def _resid(model, tokens, cache, metric, layers=None):
    return _positions(model, tokens, cache, metric, layers, lambda i, p: [("resid_pre", i, EVERYTHING, p)])


def _resid_all_positions(model, corrupted_tokens, clean_cache, metric, layers=None):
    return _positions(model, corrupted_tokens, clean_cache, metric, layers, lambda i, p: [("resid_pre", i, EVERYTHING)])


def _resid_accumulating(model, corrupted_tokens, clean_cache, metric, layers=None):
    return _positions(
        model, corrupted_tokens, clean_cache, metric, layers, lambda i, p: [("resid_pre", i, EVERYTHING, slice(p + 1))]
    )


def _resid_post(model, corrupted_tokens, clean_cache, metric, layers=None):
    return _positions(
        model, corrupted_tokens, clean_cache, metric, layers, lambda i, p: [("resid_post", i, EVERYTHING, p)]
    )


def _resid_layers_ignored(model, corrupted_tokens, clean_cache, metric, layers=None):
    return _resid(model, corrupted_tokens, clean_cache, metric)


def _resid_leaving_hooks(model, corrupted_tokens, clean_cache, metric, layers=None):
    model.add_hook(get_act_name("resid_pre", 0), _copy(clean_cache, EVERYTHING, 3))
    return metric(model(corrupted_tokens)).expand(model.cfg.n_layers, corrupted_tokens.shape[1]).clone()


def _taken_off(sweep):
    """The sweep minus the metric of the unpatched run."""

    def learner(model, corrupted_tokens, clean_cache, metric, layers=None):
        return sweep(model, corrupted_tokens, clean_cache, metric, layers) - metric(model(corrupted_tokens))

    return learner


def _block(names):
    def sweep(model, corrupted_tokens, clean_cache, metric, layers=None):
        return torch.stack(
            [
                _positions(
                    model,
                    corrupted_tokens,
                    clean_cache,
                    metric,
                    layers,
                    lambda i, p, name=name: [(name, i, EVERYTHING, p)],
                )
                for name in names
            ]
        )

    return sweep


def _block_cumulative(model, corrupted_tokens, clean_cache, metric, layers=None):
    names = ("resid_pre", "attn_out", "mlp_out")
    return torch.stack(
        [
            _positions(
                model,
                corrupted_tokens,
                clean_cache,
                metric,
                layers,
                lambda i, p, n=n: [(name, i, EVERYTHING, p) for name in names[: n + 1]],
            )
            for n in range(3)
        ]
    )


def _block_last(model, corrupted_tokens, clean_cache, metric, layers=None):
    return _block(("resid_pre", "attn_out", "mlp_out"))(model, corrupted_tokens, clean_cache, metric, layers).permute(
        1, 2, 0
    )


def _heads(model, tokens, cache, metric, layers, index_of, name="z", n_heads=None):
    layers = range(model.cfg.n_layers) if layers is None else layers
    return torch.stack(
        [
            torch.stack(
                [
                    _run(model, tokens, cache, metric, (name, layer, *index_of(head)))
                    for head in range(n_heads or model.cfg.n_heads)
                ]
            )
            for layer in layers
        ]
    )


def _heads_after_w_o(model, corrupted_tokens, clean_cache, metric, layers=None):
    return _heads(
        model, corrupted_tokens, clean_cache, metric, layers, lambda h: (EVERYTHING, EVERYTHING, h), name="result"
    )


def _heads_at_end(model, corrupted_tokens, clean_cache, metric, layers=None):
    return _heads(model, corrupted_tokens, clean_cache, metric, layers, lambda h: (EVERYTHING, -1, h))


def _heads_as_positions(model, corrupted_tokens, clean_cache, metric, layers=None):
    return _heads(model, corrupted_tokens, clean_cache, metric, layers, lambda h: (EVERYTHING, h))


def _heads_all_at_once(model, corrupted_tokens, clean_cache, metric, layers=None):
    return _heads(model, corrupted_tokens, clean_cache, metric, layers, lambda h: (EVERYTHING,))


def _heads_transposed(model, corrupted_tokens, clean_cache, metric, layers=None):
    return _heads(model, corrupted_tokens, clean_cache, metric, layers, lambda h: (EVERYTHING, EVERYTHING, h)).T


def _every(pattern_index, order=("z", "q", "k", "v", "pattern"), share="pad"):
    """The five panels: with the head of the pattern where `pattern_index` puts it; k and v padded, spread or neither."""

    def sweep(model, corrupted_tokens, clean_cache, metric, layers=None):
        panels = []
        for name in order:
            index = pattern_index if name == "pattern" else (lambda h: (EVERYTHING, EVERYTHING, h))
            n_heads = model.cfg.n_heads
            if name in ("k", "v") and share != "ignored":
                n_heads = clean_cache[name, 0].shape[2]
            panel = _heads(model, corrupted_tokens, clean_cache, metric, layers, index, name, n_heads)
            if share == "spread":
                panel = panel.repeat_interleave(model.cfg.n_heads // n_heads, dim=1)
            panels.append(torch.nn.functional.pad(panel, (0, model.cfg.n_heads - panel.shape[1])))
        return torch.stack(panels)

    return sweep


def _every_from_the_other_end(model, corrupted_tokens, clean_cache, metric, layers=None):
    panels = _every(_right_pattern)(model, corrupted_tokens, clean_cache, metric, layers)
    shift = model.cfg.n_heads - clean_cache["k", 0].shape[2]
    return torch.stack([panel.roll(shift, -1) if i in (2, 3) else panel for i, panel in enumerate(panels)])


def _right_pattern(head):
    return EVERYTHING, head


def _pattern_like_z(head):
    return EVERYTHING, EVERYTHING, head


def _noising(receives, lends, subtract, model, clean_tokens, corrupted_tokens, answer_tokens, layers):
    """A sweep over heads with each choice open: which run receives, which lends, which baseline is 0."""
    tokens = {"clean": clean_tokens, "corrupted": corrupted_tokens}
    runs = {name: model.run_with_cache(ids) for name, ids in tokens.items()}
    value = {name: logit_diff(logits, answer_tokens) for name, (logits, _) in runs.items()}

    def metric(logits):
        return (logit_diff(logits, answer_tokens) - value[subtract]) / (value["clean"] - value["corrupted"])

    return _heads(model, tokens[receives], runs[lends][1], metric, layers, lambda h: (EVERYTHING, EVERYTHING, h))


def _noising_with_denoising_metric(model, clean_tokens, corrupted_tokens, answer_tokens, layers=None):
    return _noising("clean", "corrupted", "corrupted", model, clean_tokens, corrupted_tokens, answer_tokens, layers)


def _noising_right(model, clean_tokens, corrupted_tokens, answer_tokens, layers=None):
    return _noising("clean", "corrupted", "clean", model, clean_tokens, corrupted_tokens, answer_tokens, layers)


def _noising_that_denoises(model, clean_tokens, corrupted_tokens, answer_tokens, layers=None):
    return _noising("corrupted", "clean", "corrupted", model, clean_tokens, corrupted_tokens, answer_tokens, layers)


def _noising_of_corrupted_tokens(model, clean_tokens, corrupted_tokens, answer_tokens, layers=None):
    return _noising("corrupted", "clean", "clean", model, clean_tokens, corrupted_tokens, answer_tokens, layers)


def _noising_with_own_cache(model, clean_tokens, corrupted_tokens, answer_tokens, layers=None):
    return _noising("clean", "clean", "clean", model, clean_tokens, corrupted_tokens, answer_tokens, layers)


def _noising_layers_ignored(model, clean_tokens, corrupted_tokens, answer_tokens, layers=None):
    return _noising("clean", "corrupted", "clean", model, clean_tokens, corrupted_tokens, answer_tokens, None)


WRONG = {
    "ioi_metric": {
        "inverted": _metric_inverted,
        "divides by the wrong sign": _metric_wrong_sign,
        "keep it a tensor": _metric_float,
        "one value per prompt": _metric_per_prompt,
        "not divided by the distance": _metric_not_divided,
        "clamped between the two ends": _clamped(_denoising_metric, 0, 1),
        "the metric of noising": lambda logits, answer_tokens, clean, corrupted: (
            (logit_diff(logits, answer_tokens) - clean) / (clean - corrupted)
        ),
    },
    "noising_metric": {
        "the metric of denoising": _denoising_metric,
        "clamped between the two ends": _clamped(_noising_metric, -1, 0),
        "divides by the wrong sign": _noising_wrong_sign,
        "not divided by the distance": _noising_not_divided,
        "keep it a tensor": _noising_float,
    },
    "patch_position": {
        "you patched every position: index": _patch_everywhere,
        "you patched a prompt": _patch_prompt,
        "does not return anything": _patch_returns_nothing,
        "of the cache before and after your function": _patch_into_clean_cache,
        "an argument before and after your function": _patch_in_place,
        "you patched from `pos` on": _patch_from,
        "of layer 2 of": _patch_of_layer_1,
        "the clean values are added": _patch_added,
        "the first prompt's clean values": _patch_first_prompt,
    },
    "get_act_patch_resid_pre": {
        "you ran the clean tokens": _resid_of_clean_tokens,
        "layer and position are transposed": _resid_transposed,
        "you patched every position": _resid_all_positions,
        "keeps the patches of earlier positions": _resid_accumulating,
        "the residual stream after the layer": _resid_post,
        "value is subtracted": _taken_off(_resid),
        "`layers` is ignored": _resid_layers_ignored,
        "leaves a hook on": _resid_leaving_hooks,
    },
    "get_act_patch_block_every": {
        "not attn_out, mlp_out, resid_pre": _block(("attn_out", "mlp_out", "resid_pre")),
        "later panels keep the patches of earlier ones": _block_cumulative,
        "resid_mid in place of attn_out": _block(("resid_pre", "resid_mid", "mlp_out")),
        "all three panels are the residual stream": _block(("resid_pre",) * 3),
        "the panels stand last": _block_last,
        "value is subtracted": _taken_off(_block(("resid_pre", "attn_out", "mlp_out"))),
    },
    "get_act_patch_attn_head_out_all_pos": {
        "you patched `result`, after W_O": _heads_after_w_o,
        "one position only, the last": _heads_at_end,
        "the position (axis 1) and not the head": _heads_as_positions,
        "you patched all heads of the layer": _heads_all_at_once,
        "heads and layers are transposed": _heads_transposed,
    },
    "get_act_patch_attn_head_all_pos_every": {
        "pattern is indexed like z": _every(_pattern_like_z),
        "the rest of the rows of k and v zero": _every(_right_pattern, share="ignored"),
        "k and v are given to each query head": _every(_right_pattern, share="spread"),
        "filled from the other end": _every_from_the_other_end,
        "not q, k, v, z, pattern": _every(_right_pattern, order=("q", "k", "v", "z", "pattern")),
    },
    "noising_sweep": {
        "the same metric as denoising": _noising_with_denoising_metric,
        "this is denoising": _noising_that_denoises,
        "the sign: the corrupted run is -1": lambda *given, **named: -_noising_right(*given, **named),
        "you ran the corrupted tokens": _noising_of_corrupted_tokens,
        "the clean run got its own activations": _noising_with_own_cache,
        "`layers` is ignored": _noising_layers_ignored,
    },
}
