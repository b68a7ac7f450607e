"""From text to token ids: BOS once, nothing cut off, one-token words found in every kind of tokenizer."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from utils import inference, ioi
from utils.inference import end_logits
from utils.models import load_model
from utils.prompts import PromptError, make_pairs, single_token, token_row, tokenize
from utils.tiny_models import MAX_LENGTH

LONG = "apple" + " apple" * (MAX_LENGTH + 20)


@pytest.mark.parametrize(
    "measure",
    [
        lambda model, prompt: end_logits(model, [prompt], progress=False),
        lambda model, prompt: tokenize(model, ["The", prompt]),
        lambda model, prompt: inference.next_token_loss(model, [prompt]),
        lambda model, prompt: inference.hooked_end_logits(model, [prompt], []),
        lambda model, prompt: make_pairs(model, [prompt + " kind"], [prompt + " rude"], [(" Mary", " John")]),
    ],
    ids=["end_logits", "tokenize", "next_token_loss", "hooked_end_logits", "make_pairs"],
)
def test_prompts_longer_than_the_context_are_refused(model, measure):
    with pytest.raises(PromptError, match=rf"is longer than {model.cfg.model_name} reads, which is {MAX_LENGTH}"):
        measure(model, LONG)


def test_a_prompt_of_just_the_context_is_read(model):
    whole = "apple" + " apple" * (MAX_LENGTH - 2)
    row = token_row(model, whole)
    assert len(row) == MAX_LENGTH
    assert torch.allclose(end_logits(model, [whole], progress=False), model(row[None])[:, -1], atol=1e-4)


def test_bos_stands_in_front_once_also_if_the_prompt_brings_it(model):
    plain, brought = token_row(model, "When John"), token_row(model, "<|endoftext|>When John")
    assert torch.equal(plain, brought) and (plain == model.tokenizer.bos_token_id).sum() == 1
    both = end_logits(model, ["When John", "<|endoftext|>When John"], progress=False)
    assert torch.equal(both[0], both[1])


def test_another_bos_replaces_the_models(model):
    other = single_token(model, " the")
    by_hand = torch.cat([torch.tensor([other]), token_row(model, "When John")[1:]])
    got = end_logits(model, ["When John"], bos=other, progress=False)
    assert torch.allclose(got, model(by_hand[None])[:, -1], atol=1e-4)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ("When John", "given as one string, 'When John'; give a list"),
        ([], "no prompts were given"),
        (["When", None], "prompt None is a NoneType"),
        (["When", 3.0], "prompt 3.0 is a float"),
    ],
)
def test_what_is_no_list_of_prompts(model, prompts, words):
    for measure in (lambda: end_logits(model, prompts, progress=False), lambda: tokenize(model, prompts)):
        with pytest.raises(PromptError, match=words):
            measure()


# --- one-token words -------------------------------------------------------------------------------------------------

WORDS = "When John Mary went to the The park gave a bag".split()


def prefixed_tokenizer():
    """Like Llama 2's: a space of its own in front of the text, and spaces written as ▁."""
    pieces = ["<unk>", "<s>", "</s>", "▁", "(", *(f"▁{word}" for word in WORDS), *WORDS]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, *sorted(set("".join(WORDS)))]))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="<unk>", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return tokenizer, vocab, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}


def word_tokenizer():
    """Like BERT's: spaces are no part of any token, and nothing is put in front."""
    vocab = {piece: i for i, piece in enumerate(["<unk>", "<s>", "(", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    return tokenizer, vocab, {"bos_token": "<s>", "pad_token": "<s>"}


def model_with(made, folder):
    tokenizer, vocab, special = made
    config = LlamaConfig(
        num_hidden_layers=1,
        num_attention_heads=2,
        hidden_size=16,
        intermediate_size=16,
        vocab_size=len(vocab),
        max_position_embeddings=32,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special).save_pretrained(folder)
    return load_model(folder, device="cpu")


def test_a_tokenizer_that_prepends_a_space(tmp_path):
    made = prefixed_tokenizer()
    model, vocab = model_with(made, tmp_path), made[1]
    assert single_token(model, " Mary") == vocab["▁Mary"]
    assert single_token(model, " Mary") in model.to_tokens("When Mary went")[0]
    assert ioi.single_token_names(model, ["Mary", "John", "Jo"]) == ["Mary", "John"]
    with pytest.raises(PromptError, match=r"' Johnny'"):
        single_token(model, " Johnny")


def test_a_tokenizer_without_spaces_in_its_tokens(tmp_path):
    made = word_tokenizer()
    model, vocab = model_with(made, tmp_path), made[1]
    assert single_token(model, " Mary") == single_token(model, "Mary") == vocab["Mary"]
    with pytest.raises(PromptError, match=r"' Siobhan' is unknown to the tokenizer"):
        single_token(model, " Siobhan")


def test_with_and_without_a_space_are_two_tokens(model, smollm2):
    for each in (model, smollm2):
        inside, start = single_token(each, " Mary"), single_token(each, "Mary")
        assert inside != start
        assert each.to_string([inside]) == " Mary" and each.to_string([start]) == "Mary"
