"""Wrong implementations of chapter 06's exercises, by a fragment of the message that each must be given."""

from __future__ import annotations

import random

import numpy as np
import torch

from utils.circuits import criteria, evaluate
from utils.ioi import single_token_names

# --- ioi_dataset ------------------------------------------------------------------------------------------------------


def _data(model, templates, n, seed, collide=False, bos=0, orders=(0, 1), pooled=False, one_end=False, fixed=False, rng=None,
          strip=False, own_twin=False):  # fmt: skip
    generator, names = rng or random.Random(seed), single_token_names(model)
    data = {"clean": [], "abc": [], "answers": [], "template": []}
    roles = {"IO": [], "S1": [], "S1+1": [], "S2": [], "END": []}
    drawn = generator.sample(names, 5)
    for i in range(n):
        drawn = drawn if fixed else generator.sample(names, 5)
        io, subject, *others = [f" {name}" for name in drawn]
        if collide:
            others = [f" {generator.choice(names)}" for _ in range(3)]
        if own_twin:
            others = [io, *others[:2]]
        number, order = i // 2 % len(templates), orders[i % 2]
        first, second = (io, subject) if order == 0 else (subject, io)
        text = templates[number].format(A=first, B=second, S=subject)
        data["clean"].append(text)
        data["abc"].append(templates[number].format(A=others[0], B=others[1], S=others[2]))
        data["answers"].append((io.strip(), subject.strip()) if strip else (io, subject))
        data["template"].append(number if pooled else 2 * number + i % 2)
        tokens = model.to_tokens(text)[0]
        s1, s2 = (tokens == model.to_single_token(subject)).nonzero()[:, 0].tolist()
        roles["IO"].append((tokens == model.to_single_token(io)).nonzero().item())
        for role, position in (("S1", s1), ("S1+1", s1 + 1), ("S2", s2), ("END", len(tokens) - 1)):
            roles[role].append(position + bos)
    roles["IO"] = [position + bos for position in roles["IO"]]
    if one_end:
        roles["END"] = [max(roles["END"])] * n
    data["template"] = torch.tensor(data["template"])
    return data | {"roles": {role: torch.tensor(positions) for role, positions in roles.items()}}


def data_colliding(model, templates, n, seed):
    return _data(model, templates, n, seed, collide=True)


def data_without_bos(model, templates, n, seed):
    return _data(model, templates, n, seed, bos=-1)


def data_orders_exchanged(model, templates, n, seed):
    return _data(model, templates, n, seed, orders=(1, 0))


def data_pooled(model, templates, n, seed):
    return _data(model, templates, n, seed, pooled=True)


def data_one_end(model, templates, n, seed):
    return _data(model, templates, n, seed, one_end=True)


def data_same_names(model, templates, n, seed):
    return _data(model, templates, n, seed, fixed=True)


def data_unseeded(model, templates, n, seed):
    return _data(model, templates, n, seed, rng=random)


def data_any_seed(model, templates, n, seed):
    return _data(model, templates, n, 0)


def data_stripped(model, templates, n, seed):
    return _data(model, templates, n, seed, strip=True)


def data_own_twin(model, templates, n, seed):
    return _data(model, templates, n, seed, own_twin=True)


def data_even(model, templates, n, seed):
    return _data(model, templates, n - n % 2, seed)


class _TwiceTheSame:
    """A generator whose draws come in pairs, after the first."""

    def __init__(self, seed):
        self.generator, self.asked, self.drawn = random.Random(seed), 0, None

    def sample(self, names, n):
        if self.asked < 2 or self.asked % 2 == 1:
            self.drawn = self.generator.sample(names, n)
        self.asked += 1
        return self.drawn


def data_by_pairs(model, templates, n, seed):
    return _data(model, templates, n, seed, rng=_TwiceTheSame(seed))


# --- means, masks, runs -------------------------------------------------------------------------------------------------


def means_of_all(z, template):
    return z.mean(1, keepdim=True).expand_as(z)


def means_of_structures(z, template):
    return evaluate.means_by_template(z, template // 2)


def means_of_positions(z, template):
    return evaluate.means_by_template(z, template).mean(2, keepdim=True).expand_as(z)


def means_summed(z, template):
    means = torch.empty_like(z)
    for number in template.unique():
        means[:, template == number] = z[:, template == number].sum(1, keepdim=True)
    return means


def means_of_neighbors(z, template):
    runs = torch.cat([torch.zeros(1), (template.diff() != 0).cumsum(0)]).long()
    return evaluate.means_by_template(z, runs)


def means_of_numbers_from_0(z, template):
    means = z.clone()
    for number in range(len(template.unique())):
        if (template == number).any():
            means[:, template == number] = z[:, template == number].mean(1, keepdim=True)
    return means


def means_over_all_prompts(z, template):
    return means_summed(z, template) / len(template)


def mask_roles_in_order(circuit, roles, shape):
    return evaluate.keep_mask(dict(zip(roles, circuit.values(), strict=False)), roles, shape)


def mask_one_role_each(circuit, roles, shape):
    own = {head: role for role, members in circuit.items() for head in members}
    return evaluate.keep_mask({role: [h for h in own if own[h] == role] for role in circuit}, roles, shape)


def mask_one_head_a_layer(circuit, roles, shape):
    return evaluate.keep_mask({role: list(dict(members).items()) for role, members in circuit.items()}, roles, shape)


def mask_up_to(circuit, roles, shape):
    return evaluate.keep_mask(circuit, roles, shape).flip(2).cumsum(2).flip(2) > 0


def mask_everybodys_positions(circuit, roles, shape):
    mask = torch.zeros(shape, dtype=torch.bool)
    for role, members in circuit.items():
        for layer, head in members:
            mask[layer, :, roles[role], head] = True
    return mask


def mask_everywhere(circuit, roles, shape):
    mask = torch.zeros(shape, dtype=torch.bool)
    for members in circuit.values():
        for layer, head in members:
            mask[layer, :, :, head] = True
    return mask


def mask_inverted(circuit, roles, shape):
    return ~evaluate.keep_mask(circuit, roles, shape)


def mask_of_last_role(circuit, roles, shape):
    mask = torch.zeros(shape, dtype=torch.bool)
    for role in circuit:
        mask = evaluate.keep_mask({role: circuit[role]}, roles, shape)
    return mask


def _run(model, tokens, choose, layers=None):
    layers = range(model.cfg.n_layers) if layers is None else layers
    hooks = [(f"blocks.{i}.attn.hook_z", lambda z, hook: choose(int(hook.name.split(".")[1]), z)) for i in layers]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


def run_inverted(model, tokens, mask, means):
    return _run(model, tokens, lambda i, z: torch.where(mask[i][..., None], means[i], z))


def run_with_clean_z(model, tokens, mask, means):
    _, cache = model.run_with_cache(tokens)
    return _run(model, tokens, lambda i, z: torch.where(mask[i][..., None], cache["z", i], means[i]))


def run_with_zeros(model, tokens, mask, means):
    return _run(model, tokens, lambda i, z: z * mask[i][..., None])


def run_last_layer(model, tokens, mask, means):
    last = model.cfg.n_layers - 1
    return _run(model, tokens, lambda i, z: torch.where(mask[i][..., None], z, means[i]), [last])


def run_with_late_binding(model, tokens, mask, means):
    hooks = []
    for layer in range(model.cfg.n_layers):

        def replace(z, hook):
            return torch.where(mask[layer][..., None], z, means[layer])  # noqa: B023

        hooks.append((f"blocks.{layer}.attn.hook_z", replace))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


def run_with_the_first_mask(model, tokens, mask, means):
    return _run(model, tokens, lambda i, z: torch.where(mask[i, :1, ..., None], z, means[i]))


def run_with_means_over_positions(model, tokens, mask, means):
    return _run(model, tokens, lambda i, z: torch.where(mask[i][..., None], z, means[i].mean(1, keepdim=True)))


def run_without_mlps(model, tokens, mask, means):
    hooks = [(f"blocks.{i}.hook_mlp_out", lambda out, hook: torch.zeros_like(out)) for i in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=hooks):
        return _run(model, tokens, lambda i, z: torch.where(mask[i][..., None], z, means[i]))


# --- faithfulness -------------------------------------------------------------------------------------------------------


def _faithful(full, circuit, empty, **changes):
    return {**vars(evaluate.faithfulness(full, circuit, empty)), **changes}


def faithful_mean_of_ratios(full, circuit, empty):
    return _faithful(full, circuit, empty, value=((circuit - empty) / (full - empty)).mean())


def faithful_without_baseline(full, circuit, empty):
    return _faithful(full, circuit, empty, value=circuit.mean() / full.mean())


def faithful_distance_of_means(full, circuit, empty):
    return _faithful(full, circuit, empty, mae=(circuit.mean() - full.mean()).abs())


def faithful_squared_errors(full, circuit, empty):
    return _faithful(full, circuit, empty, mae=((circuit - full) ** 2).mean().sqrt())


def faithful_unpaired(full, circuit, empty):
    generator = np.random.default_rng(0)
    f, c, e = (x.numpy()[generator.integers(len(x), size=(9000, len(x)))].mean(1) for x in (full, circuit, empty))
    low, high = np.quantile((c - e) / (f - e), [0.025, 0.975])
    return _faithful(full, circuit, empty, low=low, high=high)


def faithful_ninety(full, circuit, empty):
    rows = np.random.default_rng(0).integers(len(full), size=(9000, len(full)))
    f, c, e = (x.numpy()[rows].mean(1) for x in (full, circuit, empty))
    low, high = np.quantile((c - e) / (f - e), [0.05, 0.95])
    return _faithful(full, circuit, empty, low=low, high=high)


def faithful_only_the_mean(full, circuit, empty):
    return {"value": evaluate.faithfulness(full, circuit, empty).value}


def faithful_of_gains(full, circuit, empty):
    return _faithful(full, circuit, empty, correlation=np.corrcoef(circuit - empty, full - empty)[0, 1])


def faithful_without_sign(full, circuit, empty):
    return _faithful(full, circuit, empty, correlation=abs(np.corrcoef(circuit, full)[0, 1]))


def faithful_clipped(full, circuit, empty):
    return _faithful(full, circuit, empty, value=np.clip(evaluate.faithfulness(full, circuit, empty).value, 0, 1))


# --- random_circuits, greedy_incompleteness, minimality -----------------------------------------------------------------


def _draws(circuit, n, n_layers, n_heads, within=2, keep=(), never=(), seed=0, own=False, distinct=True, once=False):
    generator, found, drawn = random.Random(seed), [], {}
    for _ in range(n):
        if not (once and drawn):
            drawn = {}
            for role, members in circuit.items():
                chosen = [head for head in members if head in keep]
                for layer, _ in [head for head in members if head not in keep]:
                    near = range(max(0, layer - within), min(n_layers, layer + within + 1))
                    taken = [*([] if own else members), *(chosen if distinct else ()), *never]
                    chosen.append(
                        generator.choice([(i, h) for i in near for h in range(n_heads) if (i, h) not in taken])
                    )
                drawn[role] = chosen
        found.append(drawn)
    return found


def random_unmatched(circuit, n, n_layers, n_heads, within=2, keep=(), never=(), seed=0):
    return _draws(circuit, n, n_layers, n_heads, n_layers, keep, never, seed)


def random_with_own(circuit, n, n_layers, n_heads, within=2, keep=(), never=(), seed=0):
    return _draws(circuit, n, n_layers, n_heads, within, keep, never, seed, own=True)


def random_with_the_dominant(circuit, n, n_layers, n_heads, within=2, keep=(), never=(), seed=0):
    return _draws(circuit, n, n_layers, n_heads, within, keep, (), seed)


def random_twice(circuit, n, n_layers, n_heads, within=2, keep=(), never=(), seed=0):
    return _draws(circuit, n, n_layers, n_heads, within, keep, never, seed, distinct=False)


def random_once(circuit, n, n_layers, n_heads, within=2, keep=(), never=(), seed=0):
    return _draws(circuit, n, n_layers, n_heads, within, keep, never, seed, once=True)


def random_not_kept(circuit, n, n_layers, n_heads, within=2, keep=(), never=(), seed=0):
    return _draws(circuit, n, n_layers, n_heads, within, (), never, seed)


def random_same_layer(circuit, n, n_layers, n_heads, within=2, keep=(), never=(), seed=0):
    return (
        _draws(circuit, n, n_layers, n_heads, within - 1, keep, never, seed)
        if within > 1
        else random_once(circuit, n, n_layers, n_heads, within, keep, never, seed)
    )


def _search(members, value, k, n, seed, last=False):
    generator, here = random.Random(seed), []
    best = [], value([])
    for _ in range(min(n, len(members))):
        left = [head for head in members if head not in here]
        tried = {head: value([*here, head]) for head in generator.sample(left, min(k, len(left)))}
        here = [*here, max(tried, key=tried.get)]
        if last or value(here) > best[1]:
            best = here, value(here)
    return best


def greedy_of_circuit_alone(members, in_circuit, in_model, k, n, seed=0):
    found = _search(members, lambda removed: -in_circuit(removed), k, n, seed)[0]
    return found, abs(in_circuit(found) - in_model(found))


def greedy_signed(members, in_circuit, in_model, k, n, seed=0):
    return _search(members, lambda removed: in_model(removed) - in_circuit(removed), k, n, seed)


def greedy_last(members, in_circuit, in_model, k, n, seed=0):
    return _search(members, lambda removed: abs(in_circuit(removed) - in_model(removed)), k, n, seed, last=True)


def greedy_unseeded(members, in_circuit, in_model, k, n, seed=0):
    return _search(members, lambda removed: abs(in_circuit(removed) - in_model(removed)), k, n, random.randrange(10**6))


def greedy_among_a_first_draw(members, in_circuit, in_model, k, n, seed=0):
    drawn = random.Random(seed).sample(members, min(k, len(members)))
    return _search(drawn, lambda removed: abs(in_circuit(removed) - in_model(removed)), k, n, seed)


def greedy_until_worse(members, in_circuit, in_model, k, n, seed=0):
    generator, best = random.Random(seed), ([], abs(in_circuit([]) - in_model([])))
    for _ in range(min(n, len(members))):
        left = [head for head in members if head not in best[0]]
        tried = [[*best[0], head] for head in generator.sample(left, min(k, len(left)))]
        found = max(((abs(in_circuit(removed) - in_model(removed)), removed) for removed in tried), key=lambda x: x[0])
        if found[0] <= best[1]:
            break
        best = found[1], found[0]
    return best


def greedy_exchanged(members, in_circuit, in_model, k, n, seed=0):
    return _search(members, lambda removed: abs(in_circuit(removed) - in_model(removed)), n, k, seed)


def greedy_of_everything(members, in_circuit, in_model, k, n, seed=0):
    return _search(members, lambda removed: abs(in_circuit(removed) - in_model(removed)), len(members), n, seed)


def minimality_absolute(in_circuit, members, together=None):
    return {head: abs(change) for head, change in criteria.minimality(in_circuit, members, together).items()}


def minimality_alone(in_circuit, members, together=None):
    return criteria.minimality(in_circuit, members)


def minimality_with_itself(in_circuit, members, together=None):
    together = together or {}
    return {v: in_circuit(list({*together.get(v, []), v})) - in_circuit(list(together.get(v, []))) for v in members}


def minimality_one_sided(in_circuit, members, together=None):
    together = together or {}
    return {v: in_circuit(list({*together.get(v, []), v})) - in_circuit([]) for v in members}


def minimality_reversed(in_circuit, members, together=None):
    return {head: -change for head, change in criteria.minimality(in_circuit, members, together).items()}


# --- copy_scores, flip_signals ------------------------------------------------------------------------------------------


def _copy(model, names, k, site="hook_resid_post", spread=False, signs=(1, -1)):
    tokens = torch.stack([torch.full_like(names, model.tokenizer.bos_token_id), names], dim=1)
    stream = model.run_with_cache(tokens)[1][f"blocks.0.{site}"][:, 1:]
    scores = torch.zeros(2, model.cfg.n_layers, model.cfg.n_heads)
    for layer, block in enumerate(model.blocks):
        values = block.attn.v(block.ln1(stream)).unflatten(-1, (-1, model.cfg.d_head))
        group = model.cfg.n_heads // values.shape[2]
        values = values.repeat(1, 1, group, 1) if spread else values.repeat_interleave(group, dim=2)
        for head in range(model.cfg.n_heads):
            for i, sign in enumerate(signs):
                logits = model.unembed(model.ln_final(sign * values[:, :, head] @ model.W_O[layer, head]))[:, 0]
                scores[i, layer, head] = (logits.topk(k).indices == names[:, None]).any(1).float().mean()
    return scores


def copying_of_embedding(model, names, k=5):
    return _copy(model, names, k, site="hook_resid_pre")


def copying_values_repeated(model, names, k=5):
    return _copy(model, names, k, spread=True)


def copying_positive_twice(model, names, k=5):
    return _copy(model, names, k, signs=(1, 1))


def _flip(model, tokens, variants, circuit, roles, score, everywhere=False, union=False, transposed=False):
    rows, scores = torch.arange(len(tokens)), torch.zeros(3, 2)
    for i, token in enumerate(("kept", "random", "inverted")):
        for j, position in enumerate(("kept", "inverted")):
            _, cache = model.run_with_cache(variants[token, position])

            def put(z, hook, cache=cache):
                z = z.clone()
                for role, members in circuit.items():
                    for layer, head in members:
                        if hook.name == f"blocks.{layer}.attn.hook_z":
                            at = (slice(None), slice(None)) if everywhere else (rows, roles[role])
                            at = (slice(None), roles[role]) if union else at
                            z[(*at, head)] = cache[hook.name][(*at, head)]
                return z

            scores[i, j] = score(
                model.run_with_hooks(tokens, fwd_hooks=[(lambda name: name.endswith("attn.hook_z"), put)])
            )
    return scores.T.reshape(3, 2) if transposed else scores


def flip_everywhere(model, tokens, variants, circuit, roles, score):
    return _flip(model, tokens, variants, circuit, roles, score, everywhere=True)


def flip_at_all_roles_of_all(model, tokens, variants, circuit, roles, score):
    return _flip(model, tokens, variants, circuit, roles, score, union=True)


def flip_transposed(model, tokens, variants, circuit, roles, score):
    return _flip(model, tokens, variants, circuit, roles, score, transposed=True)


def flip_of_first_role(model, tokens, variants, circuit, roles, score):
    return _flip(model, tokens, variants, dict(list(circuit.items())[:1]), roles, score)


def flip_one_role_each(model, tokens, variants, circuit, roles, score):
    own = {head: role for role, members in circuit.items() for head in members}
    chosen = {role: [head for head in own if own[head] == role] for role in circuit}
    return _flip(model, tokens, variants, chosen, roles, score)


def flip_variants_in_order(model, tokens, variants, circuit, roles, score):
    signals = [(token, position) for token in ("kept", "random", "inverted") for position in ("kept", "inverted")]
    return _flip(model, tokens, dict(zip(signals, variants.values(), strict=True)), circuit, roles, score)


def flip_together(model, tokens, variants, circuit, roles, score):
    both = {(t, p): variants[t, "kept" if t == "kept" else "inverted"] for t, p in variants}
    return _flip(model, tokens, both, circuit, roles, score)


WRONG = {
    "ioi_dataset": {
        "three draws one after the other": data_colliding,
        "BOS is not counted": data_without_bos,
        "orders are exchanged": data_orders_exchanged,
        "the order is not counted": data_pooled,
        "each prompt's own last token": data_one_end,
        "draw new names for every prompt": data_same_names,
        "use random.Random(seed)": data_unseeded,
        "use the seed": data_any_seed,
        "each with a space in front": data_stripped,
        "three *other* names": data_own_twin,
        "an odd n": data_even,
        "the same in every pair": data_by_pairs,
    },
    "means_by_template": {
        "all templates are averaged together": means_of_all,
        "ABBA and BABA are averaged": means_of_structures,
        "positions are averaged too": means_of_positions,
        "these are sums": means_summed,
        "neighbors are taken for a template": means_of_neighbors,
        "numbers are taken for places": means_of_numbers_from_0,
        "divided by the number of all prompts": means_over_all_prompts,
    },
    "keep_mask": {
        "keeps the positions of all prompts": mask_everybodys_positions,
        "at every position": mask_everywhere,
        "*not* kept": mask_inverted,
        "only the last role": mask_of_last_role,
        "by their order": mask_roles_in_order,
        "stands at two roles": mask_one_role_each,
        "only one head of a layer": mask_one_head_a_layer,
        "every position up to": mask_up_to,
    },
    "run_circuit": {
        "the wrong way round": run_inverted,
        "what they wrote in the whole model": run_with_clean_z,
        "become zero": run_with_zeros,
        "every layer gets the last one's": run_with_late_binding,
        "only the last layer": run_last_layer,
        "MLPs are taken away": run_without_mlps,
        "mask of the first prompt": run_with_the_first_mask,
        "averaged over positions": run_with_means_over_positions,
    },
    "faithfulness": {
        "a mean of ratios": faithful_mean_of_ratios,
        "empty circuit is not subtracted": faithful_without_baseline,
        "distance of the means": faithful_distance_of_means,
        "root of squared errors": faithful_squared_errors,
        "prompts are not drawn whole": faithful_unpaired,
        "another level": faithful_ninety,
        "return a dictionary with the keys": faithful_only_the_mean,
        "correlate the scores themselves": faithful_of_gains,
        "the sign is lost": faithful_without_sign,
        "kept between 0 and 1": faithful_clipped,
    },
    "random_circuits": {
        "layers are not matched": random_unmatched,
        "a head of the circuit itself": random_with_own,
        "one of `never`": random_with_the_dominant,
        "a head is there twice": random_twice,
        "draw anew for every circuit": random_once,
        "must stay": random_not_kept,
        "both ends included": random_same_layer,
    },
    "greedy_incompleteness": {
        "F(C without K) alone": greedy_of_circuit_alone,
        "the sign is kept": greedy_signed,
        "last set of the way": greedy_last,
        "always the same K": greedy_of_everything,
        "two calls with the same seed": greedy_unseeded,
        "draw anew in every step": greedy_among_a_first_draw,
        "you stop at the first step": greedy_until_worse,
        "k and n are exchanged": greedy_exchanged,
    },
    "minimality": {
        "absolute values": minimality_absolute,
        "K is not removed": minimality_alone,
        "v itself is in K": minimality_with_itself,
        "on one side only": minimality_one_sided,
        "sign is turned": minimality_reversed,
    },
    "copy_scores": {
        "the head reads the embedding": copying_of_embedding,
        "wrong shared value": copying_values_repeated,
        "both rows are the positive": copying_positive_twice,
    },
    "flip_signals": {
        "at every position": flip_everywhere,
        "roles of all prompts": flip_at_all_roles_of_all,
        "rows and columns": flip_transposed,
        "only the first role": flip_of_first_role,
        "inverted together": flip_together,
        "stands at two roles": flip_one_role_each,
        "in the order of the dictionary": flip_variants_in_order,
    },
}
