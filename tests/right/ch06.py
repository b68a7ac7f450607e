"""Unusual right answers for chapter 06."""

import random
from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy import stats

from utils.circuits import criteria, evaluate
from utils.ioi import positions_by_role, single_token_names


def data_by_the_course(model, templates, n, seed):
    """Shuffled names in place of a sample, roles by the course, tuples and lists, one key more."""
    generator, names = np.random.default_rng(seed), single_token_names(model)
    clean, abc, answers, roles = [], [], [], []
    for i in range(n):
        drawn = [f" {name}" for name in generator.permutation(names)[:5]]
        first, second = drawn[:2] if i % 2 == 0 else drawn[1::-1]
        template = templates[(i // 2) % len(templates)]
        clean.append(template.format(A=first, B=second, S=drawn[1]))
        abc.append(template.format(A=drawn[2], B=drawn[3], S=drawn[4]))
        answers.append(drawn[:2])
        pair = torch.tensor([[model.to_single_token(name) for name in drawn[:2]]])
        roles.append(positions_by_role(model.to_tokens(clean[-1]), pair))
    template = [2 * (i // 2 % len(templates)) + i % 2 for i in range(n)]
    places = {role: [int(row[role]) for row in roles] for role in ("IO", "S1", "S1+1", "S2", "END", "BOS")}
    return {"clean": tuple(clean), "abc": abc, "answers": answers, "template": template, "roles": places, "n": n}


def data_by_words(model, templates, n, seed):
    """Positions from the tokens' texts, template by template."""
    rng, names = random.Random(f"prompts {seed}"), sorted(single_token_names(model))
    data = {"clean": [], "abc": [], "answers": [], "template": torch.zeros(n, dtype=torch.long)}
    roles = {role: torch.zeros(n, dtype=torch.long) for role in ("IO", "S1", "S1+1", "S2", "END")}
    for i in range(n):
        rng.shuffle(names)
        io, subject, x, y, z = (f" {name}" for name in names[:5])
        text = templates[i // 2 % len(templates)]
        data["clean"].append(text.format(A=(io, subject)[i % 2], B=(subject, io)[i % 2], S=subject))
        data["abc"].append(text.format(A=x, B=y, S=z))
        data["answers"].append((io, subject))
        data["template"][i] = 2 * (i // 2 % len(templates)) + i % 2
        words = model.to_str_tokens(data["clean"][-1])
        places = [j for j, word in enumerate(words) if word == subject]
        for role, place in zip(
            roles, (words.index(io), places[0], places[0] + 1, places[1], len(words) - 1), strict=True
        ):
            roles[role][i] = place
    return {**data, "roles": roles}


def means_by_matrix(z, template):
    """One matrix that averages within templates; double precision."""
    same = (template[:, None] == template[None]).double()
    return torch.einsum("ij,ljphd->liphd", same / same.sum(1, keepdim=True), z.double())


def means_in_numpy(z, template):
    """Prompt by prompt, numpy."""
    z, template = z.numpy(), template.numpy()
    return np.stack([z[:, template == number].mean(1) for number in template], 1)


def means_in_pandas(z, template):
    """A group-wise mean."""
    flat = pd.DataFrame(z.transpose(0, 1).flatten(1).numpy())
    means = flat.groupby(template.numpy()).transform("mean").to_numpy().reshape(z.transpose(0, 1).shape)
    return means.swapaxes(0, 1)


def mask_by_comparison(circuit, roles, shape):
    """Positions compared with a range."""
    mask, positions = torch.zeros(shape, dtype=torch.bool), torch.arange(shape[2])
    for role, members in circuit.items():
        here = roles[role][:, None] == positions  # batch pos
        for layer, head in members:
            mask[layer, :, :, head] |= here
    return mask


def mask_as_lists(circuit, roles, shape):
    """Nested lists of Python's booleans."""
    kept = {
        (layer, i, int(roles[role][i]), head)
        for role, members in circuit.items()
        for layer, head in members
        for i in range(shape[1])
    }
    a, b, c, d = (range(size) for size in shape)
    return [[[[(i, j, k, m) in kept for m in d] for k in c] for j in b] for i in a]


def run_in_place(model, tokens, mask, means):
    """Writes into the run's own z, with one hook function for all layers."""

    def hook_function(z, hook):
        layer = hook.layer() if hasattr(hook, "layer") else int(hook.name.split(".")[1])
        gone = ~mask[layer]
        z[gone] = means[layer][gone]
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(lambda name: name.endswith("attn.hook_z"), hook_function)])


def run_by_context(model, tokens, mask, means):
    """Arithmetic with the mask as numbers, in a context."""
    weights = mask.float().unsqueeze(-1)

    def mix(z, hook, layer):
        return weights[layer] * z + (1 - weights[layer]) * means[layer]

    hooks = [(f"blocks.{layer}.attn.hook_z", partial(mix, layer=layer)) for layer in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=hooks):
        return model(tokens)


def faithfulness_by_hand(full, circuit, empty):
    """A thousand draws by hand, tensors for numbers."""
    rows = torch.randint(len(full), (1000, len(full)), generator=torch.Generator().manual_seed(1))
    values = (circuit[rows] - empty[rows]).mean(1) / (full[rows] - empty[rows]).mean(1)
    low, high = values.quantile(torch.tensor([0.025, 0.975]))
    return {
        "value": (circuit - empty).mean() / (full - empty).mean(),
        "low": low,
        "high": high,
        "mae": torch.nn.functional.l1_loss(circuit, full),
        "correlation": torch.corrcoef(torch.stack([full, circuit]))[0, 1],
    }


def faithfulness_by_the_course(full, circuit, empty):
    """The course's own, as a dictionary, with one key more."""
    return {**vars(evaluate.faithfulness(full, circuit, empty, seed=5)), "n": len(full)}


def faithfulness_by_scipy(full, circuit, empty):
    """Python floats from scipy, with another number of draws."""
    rows = [np.asarray(x, dtype=float) for x in (full, circuit, empty)]

    def value(f, c, e, axis=-1):
        return (c.mean(axis) - e.mean(axis)) / (f.mean(axis) - e.mean(axis))

    ends = stats.bootstrap(rows, value, paired=True, method="percentile", n_resamples=6000, rng=7).confidence_interval
    error = sum(abs(a - b) for a, b in zip(rows[0], rows[1], strict=True)) / len(full)
    correlation = float(stats.pearsonr(rows[1], rows[0])[0])
    return {"value": float(value(*rows)), "low": ends[0], "high": ends[1], "mae": error, "correlation": correlation}


def random_by_the_course(circuit, n, n_layers, n_heads, within=2, keep=(), never=(), seed=0):
    """The course's own generator, as a list."""
    return list(criteria.random_circuits(circuit, n, n_layers, n_heads, within, keep, never, seed))


def random_by_rejection(circuit, n, n_layers, n_heads, within=2, keep=(), never=(), seed=0):
    """Shifts and heads drawn until they are allowed; tuples, kept heads last."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        drawn = {}
        for role, members in circuit.items():
            chosen = []
            for layer, _ in (head for head in members if head not in keep):
                while True:
                    other = int(layer + rng.integers(-within, within + 1)), int(rng.integers(n_heads))
                    if 0 <= other[0] < n_layers and other not in members and other not in chosen and other not in never:
                        break
                chosen.append(other)
            drawn[role] = (*chosen, *(head for head in members if head in keep))
        found.append(drawn)
    return tuple(found)


def greedy_by_the_course(members, in_circuit, in_model, k, n, seed=0):
    """The course's own."""
    return criteria.greedy_incompleteness(members, in_circuit, in_model, k, n, seed)


def greedy_with_memory(members, in_circuit, in_model, k, n, seed=0):
    """Sets, a memory, and numpy's generator."""
    rng, memory = np.random.default_rng(seed), {}

    def distance(removed):
        if removed not in memory:
            memory[removed] = abs(in_model(sorted(removed)) - in_circuit(sorted(removed)))
        return memory[removed]

    here = frozenset()
    way = [here]
    for _ in range(n):
        left = sorted(set(members) - here)
        if not left:
            break
        tried = [left[i] for i in rng.permutation(len(left))[:k]]
        here = max((here | {head} for head in tried), key=distance)
        way.append(here)
    best = max(way, key=distance)
    return set(best), np.float64(distance(best))


def minimality_by_the_course(in_circuit, members, together=None):
    """The course's own."""
    return criteria.minimality(in_circuit, members, together)


def minimality_with_sets(in_circuit, members, together=None):
    """Sets, and tensors as values."""
    together, found = together or {}, {}
    for head in reversed(members):
        others = set(together.get(head, ())) - {head}
        found[head] = torch.tensor(in_circuit(list(others | {head}))) - torch.tensor(in_circuit(list(others)))
    return found


def minimality_with_v_twice(in_circuit, members, together=None):
    """v may stand in K as well, since a head that is named twice is removed once; a key of one's own."""
    found = {"none": in_circuit([])}
    for head in members:
        listed = list((together or {}).get(head, []))
        found[head] = in_circuit([*listed, head]) - in_circuit([other for other in listed if other != head])
    return found


def copying_by_the_course(model, names, k=5):
    """The course's own."""
    return criteria.copy_scores(model, names, k)


def copying_by_rank(model, names, k=5):
    """Ranks in place of topk, values from a hook in a run that puts the stream in front of every layer."""
    tokens = torch.stack([torch.full_like(names, model.tokenizer.bos_token_id), names], 1)
    stream, table = model.run_with_cache(tokens)[1]["resid_post", 0], []
    for layer in range(model.cfg.n_layers):
        with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", lambda x, hook: stream.clone())]):
            values = model.run_with_cache(tokens)[1]["v", layer][:, 1]
        for head in range(model.cfg.n_heads):
            own = values[:, head * values.shape[1] // model.cfg.n_heads] @ model.W_O[layer, head]
            logits = torch.stack([model.unembed(model.ln_final(sign * own[:, None]))[:, 0] for sign in (1, -1)])
            above = (logits > logits[:, torch.arange(len(names)), names][..., None]).sum(-1)
            table.append((above < k).double().mean(1))
    return torch.stack(table, 1).unflatten(1, (model.cfg.n_layers, model.cfg.n_heads)).numpy()


def flip_by_one_hook_each(model, tokens, variants, circuit, roles, score):
    """A hook for every head, and lists of floats."""
    table = []
    for token in ("kept", "random", "inverted"):
        row = []
        for position in ("kept", "inverted"):
            _, cache = model.run_with_cache(variants[token, position])

            def put(z, hook, role, head, cache=cache):
                where = torch.nn.functional.one_hot(roles[role], z.shape[1]).bool()
                z[:, :, head] = torch.where(where[..., None], cache[hook.name][:, :, head], z[:, :, head])
                return z

            hooks = [
                (f"blocks.{layer}.attn.hook_z", partial(put, role=role, head=head))
                for role, members in circuit.items()
                for layer, head in members
            ]
            row.append(float(score(model.run_with_hooks(tokens, fwd_hooks=hooks))))
        table.append(row)
    return table


def flip_by_dictionary(model, tokens, variants, circuit, roles, score):
    """Every variant in the order of the dictionary, sorted afterwards; numpy."""
    found = {}
    for signal, other in variants.items():
        cache = model.run_with_cache(other)[1]
        changes = []
        for layer in range(model.cfg.n_layers):

            def put(z, hook, layer=layer, cache=cache):
                z = z.clone()
                for role in circuit:
                    for i, place in enumerate(roles[role].tolist()):
                        for head in [h for at, h in circuit[role] if at == layer]:
                            z[i, place, head] = cache["z", layer][i, place, head]
                return z

            changes.append((f"blocks.{layer}.attn.hook_z", put))
        found[signal] = score(model.run_with_hooks(tokens, fwd_hooks=changes)).item()
    return np.array(
        [[found[token, place] for place in ("kept", "inverted")] for token in ("kept", "random", "inverted")]
    )


RIGHT = {
    "ioi_dataset": {"numpy's generator, lists": data_by_the_course, "shuffled, by texts": data_by_words},
    "means_by_template": {"one matrix": means_by_matrix, "numpy": means_in_numpy, "pandas": means_in_pandas},
    "keep_mask": {
        "comparison": mask_by_comparison,
        "lists": mask_as_lists,
        "numpy": lambda circuit, roles, shape: mask_by_comparison(circuit, roles, shape).numpy(),
    },
    "run_circuit": {"in place": run_in_place, "mask as numbers": run_by_context},
    "faithfulness": {
        "by hand": faithfulness_by_hand,
        "the course's": faithfulness_by_the_course,
        "floats": faithfulness_by_scipy,
    },
    "random_circuits": {
        "the course's": random_by_the_course,
        "rejection": random_by_rejection,
        "numpy's integers": lambda *given, **named: [
            {role: [tuple(np.array(head)) for head in members] for role, members in drawn.items()}
            for drawn in random_by_the_course(*given, **named)
        ],
    },
    "greedy_incompleteness": {"the course's": greedy_by_the_course, "sets and a memory": greedy_with_memory},
    "minimality": {
        "the course's": minimality_by_the_course,
        "sets and tensors": minimality_with_sets,
        "one key more, and v named twice": minimality_with_v_twice,
    },
    "copy_scores": {"the course's": copying_by_the_course, "ranks": copying_by_rank},
    "flip_signals": {"a hook for every head": flip_by_one_hook_each, "prompt by prompt": flip_by_dictionary},
}
