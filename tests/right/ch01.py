"""Unusual right answers for chapter 01."""

from collections import namedtuple
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

Prompts = namedtuple("Prompts", "prompts answers")


class SeveralTokens(Exception):
    """Raised by an answer below."""


def from_pairs(templates, names):
    """Tuples in place of lists, with str.split."""
    prompts, answers = [], []
    for template, pair in zip(templates, names, strict=True):
        before, after = template.split("{S}")
        for filled, other in (pair[::-1], pair):
            prompts.append(before + filled + after)
            answers.append([other, filled])
    return tuple(prompts), tuple(answers)


def by_index(templates, names):
    """Comprehensions over 2i and 2i + 1, and str.format."""
    order = [(i, side) for i in range(len(templates)) for side in (1, 0)]
    return [
        [templates[i].format(S=names[i][side]) for i, side in order],
        [(names[i][1 - side], names[i][side]) for i, side in order],
    ]


def as_a_named_tuple(templates, names):
    """A named tuple, with numpy's strings."""
    prompts, answers = by_index(templates, names)
    return Prompts(tuple(np.array(prompts)), [tuple(np.array(pair)) for pair in answers])


def with_an_error_of_ones_own(model, answers):
    """numpy's integers, and an exception type of one's own."""
    ids = [[model.to_tokens(name, prepend_bos=False).flatten().tolist() for name in pair] for pair in answers]
    if any(len(pieces) > 1 for pair in ids for pieces in pair):
        raise SeveralTokens
    return np.array(ids)[..., 0]


def by_to_tokens(model, answers):
    """to_tokens without BOS, and a check of the length."""
    ids = [[model.to_tokens(name, prepend_bos=False)[0] for name in pair] for pair in answers]
    assert all(len(token) == 1 for pair in ids for token in pair), "one token each"
    return [[token.item() for token in pair] for pair in ids]


def by_the_tokenizer(model, answers):
    """The tokenizer's own ids, stacked from tensors."""
    rows = []
    for pair in answers:
        found = [model.tokenizer(name, add_special_tokens=False)["input_ids"] for name in pair]
        if max(map(len, found)) > 1:
            raise ValueError(f"{pair} is not two tokens")
        rows.append(torch.tensor(found).flatten())
    return torch.stack(rows)


def by_indexing(logits, answer_tokens, per_prompt=False):
    """Two index tensors, in double precision."""
    rows = torch.arange(logits.shape[0])
    correct, incorrect = (logits[rows, logits.shape[1] - 1, answer_tokens[:, i]].double() for i in (0, 1))
    return correct - incorrect if per_prompt else correct.mean() - incorrect.mean()


def by_signs(logits, answer_tokens, per_prompt=False):
    """gather, times (1, -1), summed."""
    picked = torch.gather(logits[:, -1, :], 1, answer_tokens) * torch.tensor([1.0, -1.0])
    each = picked.sum(dim=1)
    return each if per_prompt else torch.mean(each)


RIGHT = {
    "build_prompts": {"tuples, and lists for pairs": from_pairs, "comprehensions": by_index, "named": as_a_named_tuple},
    "answer_token_ids": {
        "to_tokens, as lists": by_to_tokens,
        "the tokenizer": by_the_tokenizer,
        "own error": with_an_error_of_ones_own,
    },
    "logit_diff": {"double precision": by_indexing, "signs": by_signs, "a partial": partial(partial(by_signs))},
    "logprob_diff": {
        "the logit difference, which is the same": lambda logits, answer_tokens: by_signs(logits, answer_tokens, True),
        "two cross entropies": lambda logits, answer_tokens: (
            F.cross_entropy(logits[:, -1], answer_tokens[:, 1], reduction="none")
            - F.cross_entropy(logits[:, -1], answer_tokens[:, 0], reduction="none")
        ),
        "the logarithm of a ratio, as a list": lambda logits, answer_tokens: [
            (p[a] / p[b]).log() for p, (a, b) in zip(logits[:, -1].softmax(-1), answer_tokens.tolist(), strict=True)
        ],
    },
}
