"""What stands in front of a prompt. Nobody writes it and no interval includes it, and a gap can depend on it.

    nothing        the prompt's own first token comes first
    bos            the model's BOS: the policy of the course, and what everything else in `utils.dialect` does
    end-of-text    the token that separates documents in the model's training text
    user           the beginning of a user's turn, as the model's chat template writes it, with its standard system message

All of it is public as `utils.dialect.prefixes.*`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from transformer_lens.model_bridge import TransformerBridge

from utils.dialect.grammar import DialectError, check_frames

PREFIXES = ("nothing", "bos", "end-of-text", "user")
SEPARATORS = ("<|endoftext|>", "<|end_of_text|>")  # where a tokenizer has none of them, its EOS
CONTENT = "GUISE"


def prefix_text(model: TransformerBridge, prefix: str) -> str:
    """What a prefix of `PREFIXES` is for this model, as text. Raises DialectError, which says what the model lacks."""
    tokenizer, name = model.tokenizer, model.cfg.model_name
    if prefix == "nothing":
        return ""
    if prefix == "bos":
        if not model.cfg.default_prepend_bos:
            raise DialectError(f"{name} has no BOS to put in front; leave the prefix 'bos' out")
        return tokenizer.bos_token
    if prefix == "end-of-text":
        return _end_of_text(model)
    if prefix == "user":
        return _start_of_user_turn(model)
    raise DialectError(f"no prefix {prefix!r}; there are: {', '.join(PREFIXES)}")


def available_prefixes(model: TransformerBridge) -> tuple[str, ...]:
    """Those of `PREFIXES` that this model has, without one that is the same text as another (gpt2's BOS ends a text, too)."""
    found: dict[str, str] = {}
    for prefix in PREFIXES:
        with contextlib.suppress(DialectError):
            found.setdefault(prefix_text(model, prefix), prefix)
    return tuple(found.values())


def _end_of_text(model: TransformerBridge, probe: str = "The person") -> str:
    """The separator, once it is known that the tokenizer reads it as one token where it is written in front of a text."""
    name, tokenizer = model.cfg.model_name, model.tokenizer
    known = tokenizer.get_vocab()
    text = next((token for token in SEPARATORS if token in known), tokenizer.eos_token)
    if text is None:
        raise DialectError(f"{name} has no end-of-text token; leave the prefix 'end-of-text' out")
    alone, behind_it = (model.to_tokens(t, prepend_bos=False)[0].tolist() for t in (probe, text + probe))
    if behind_it != [tokenizer.convert_tokens_to_ids(text), *alone]:
        pieces = tokenizer.convert_ids_to_tokens(behind_it)
        raise DialectError(
            f"{name} reads {text + probe!r} as {pieces}: before a prompt, {text!r} is not one token or changes the next; "
            "leave the prefix 'end-of-text' out"
        )
    return text


def _start_of_user_turn(model: TransformerBridge) -> str:
    name, tokenizer = model.cfg.model_name, model.tokenizer
    if not tokenizer.chat_template:
        raise DialectError(f"{name} has no chat template; leave the prefix 'user' out")
    turn = [{"role": "user", "content": CONTENT}]
    try:
        parts = tokenizer.apply_chat_template(turn, tokenize=False).split(CONTENT)
    except Exception as error:  # a template is a program: it can raise anything
        raise DialectError(f"the chat template of {name} cannot be filled in: {error}") from error
    if len(parts) != 2:
        raise DialectError(f"the chat template of {name} writes a user's message {len(parts) - 1} times, not once")
    return parts[0]


@contextlib.contextmanager
def behind(model: TransformerBridge, prefix: str) -> Iterator[Callable[[Iterable[str]], list[str]]]:
    """Read prompts behind a prefix: `with behind(model, "user") as front: trait_gaps(model, pairs, front(frames))`.

    `front` puts the prefix into frames. Within the block the model's own BOS is left out, unless the prefix is "bos"; it is
    back afterwards. Raises DialectError for a prefix that is not there or that the model lacks (`prefix_text`).
    """
    text, before = prefix_text(model, prefix), model.cfg.default_prepend_bos
    own = prefix == "bos"  # the model puts it there itself
    added = "" if own else text.replace("{", "{{").replace("}", "}}")
    model.cfg.default_prepend_bos = own
    try:
        yield lambda frames: [added + frame for frame in check_frames(frames)]
    finally:
        model.cfg.default_prepend_bos = before
