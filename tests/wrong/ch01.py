"""Wrong implementations for chapter 01."""

import torch

from utils.ioi import build_prompts


def answers_swapped(templates, names):
    prompts, answers = build_prompts(templates, names)
    return prompts, [pair[::-1] for pair in answers]


def answers_stripped(templates, names):
    prompts, answers = build_prompts(templates, names)
    return prompts, [tuple(name.strip() for name in pair) for pair in answers]


def same_answer_twice(templates, names):
    prompts, _ = build_prompts(templates, names)
    return prompts, [pair for pair in names for _ in range(2)]


def names_stripped(templates, names):
    return build_prompts(templates, [tuple(name.strip() for name in pair) for pair in names])


def pair_turned(templates, names):
    return build_prompts(templates, [pair[::-1] for pair in names])


def all_first_then_all_second(templates, names):
    prompts, answers = build_prompts(templates, names)
    return prompts[::2] + prompts[1::2], answers[::2] + answers[1::2]


def slot_kept(templates, names):
    prompts, answers = [], []
    for template, (first, second) in zip(templates, names, strict=True):
        for correct, incorrect in ((first, second), (second, first)):
            template.replace("{S}", incorrect)
            prompts.append(template)
            answers.append((correct, incorrect))
    return prompts, answers


def in_the_order_of_the_text(templates, names):
    return build_prompts(
        templates, [tuple(sorted(pair, key=template.index)) for template, pair in zip(templates, names, strict=True)]
    )


def refuses_ragged_tables_only(model, answers):
    pieces = [[model.to_tokens(name, prepend_bos=False)[0].tolist() for name in pair] for pair in answers]
    return torch.tensor(pieces).squeeze(-1)


def ids(model, answers, pick):
    return torch.tensor([[pick(model, name) for name in pair] for pair in answers])


def first_token(model, name):
    return model.to_tokens(name, prepend_bos=False)[0, 0].item()


def at(logits, answer_tokens, position=-1):
    picked = logits[:, position].gather(-1, answer_tokens)
    return picked[:, 0] - picked[:, 1]


def squeezed(logits, answer_tokens):
    picked = logits[:, -1].gather(-1, answer_tokens).squeeze()
    return picked[..., 0] - picked[..., 1]


def crossed(logits, answer_tokens):
    end = logits[:, -1]
    return (end[:, answer_tokens[:, 0]] - end[:, answer_tokens[:, 1]]).mean(1)


def reduced(values, per_prompt):
    return values if per_prompt else values.mean()


WRONG = {
    "build_prompts": {
        "answers are swapped": answers_swapped,
        "leading space is missing": answers_stripped,
        "a space is lost": names_stripped,
        "reversed: names[i][1] is in": pair_turned,
        "same answer": same_answer_twice,
        "whichever stands first": in_the_order_of_the_text,
        "template by template": all_first_then_all_second,
        "slot {S} is still there": slot_kept,
        "every template is used twice": lambda templates, names: tuple(
            part[::2] for part in build_prompts(templates, names)
        ),
    },
    "answer_token_ids": {
        "first of [BOS, name]": lambda model, answers: ids(
            model, answers, lambda m, name: m.to_tokens(name)[0, 0].item()
        ),
        "[(' Marianne', ' Marianna')]": refuses_ragged_tables_only,
        "accepted silently": lambda model, answers: ids(model, answers, first_token),
        "answers are swapped": lambda model, answers: ids(model, answers, first_token).flip(-1),
        "leading space is lost": lambda model, answers: ids(
            model, answers, lambda m, name: first_token(m, name.strip())
        ),
        "BOS is counted": lambda model, answers: model.to_tokens([n for p in answers for n in p]).reshape(
            len(answers), 2, -1
        ),
    },
    "logit_diff": {
        "first position": lambda logits, answer_tokens, per_prompt=False: reduced(
            at(logits, answer_tokens, 0), per_prompt
        ),
        "no softmax": lambda logits, answer_tokens, per_prompt=False: reduced(
            at(logits.softmax(-1), answer_tokens), per_prompt
        ),
        "squeeze() takes away the batch": lambda logits, answer_tokens, per_prompt=False: reduced(
            squeezed(logits, answer_tokens), per_prompt
        ),
        "the answers of all prompts": lambda logits, answer_tokens, per_prompt=False: reduced(
            crossed(logits, answer_tokens), per_prompt
        ),
        "the median over prompts": lambda logits, answer_tokens, per_prompt=False: (
            at(logits, answer_tokens) if per_prompt else at(logits, answer_tokens).median()
        ),
        "although per_prompt=True": lambda logits, answer_tokens, per_prompt=False: at(logits, answer_tokens).mean(),
        "correct minus incorrect": lambda logits, answer_tokens, per_prompt=False: reduced(
            -at(logits, answer_tokens), per_prompt
        ),
        "no .item()": lambda logits, answer_tokens, per_prompt=False: (
            at(logits, answer_tokens) if per_prompt else at(logits, answer_tokens).mean().item()
        ),
        "return the mean over prompts": lambda logits, answer_tokens, per_prompt=False: at(logits, answer_tokens),
    },
    "logprob_diff": {
        "subtracted probabilities": lambda logits, answer_tokens: at(logits.softmax(-1), answer_tokens),
        "averaged over prompts": lambda logits, answer_tokens: at(logits.log_softmax(-1), answer_tokens).mean(),
        "first position": lambda logits, answer_tokens: at(logits.log_softmax(-1), answer_tokens, 0),
        "squeeze() takes away the batch": squeezed,
        "logarithms to the base 10": lambda logits, answer_tokens: at(logits.softmax(-1).log10(), answer_tokens),
        "these are log-odds": lambda logits, answer_tokens: at(logits.softmax(-1).logit(), answer_tokens),
        "wrong axis": lambda logits, answer_tokens: at(logits.log_softmax(0), answer_tokens),
    },
}
