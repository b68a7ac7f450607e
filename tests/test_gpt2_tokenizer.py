"""What the course asks of gpt2's tokenizer, on the tokenizer itself. Its merges are in tests/gpt2_merges.txt.gz.

The published model could not be reached where the course was written. Its vocabulary can be rebuilt from the 50,000 merges
that OpenAI published under the MIT license, so everything that depends on tokens alone is tried here: what stands in front
of a prompt, which words are one token, and whether the prompts of a pair line up. The model behind it has random weights.
"""

import gzip
from pathlib import Path

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from utils import dialect, ioi
from utils.circuits.report import ReportSettings, read_report_task
from utils.dialect import tracing
from utils.dialect.prefixes import available_prefixes
from utils.ioi import ioi_dataset, ioi_pairs, positions_by_role, single_token_names
from utils.models import load_model
from utils.tasks import task_file

MERGES = Path(__file__).with_name("gpt2_merges.txt.gz")
END = "<|endoftext|>"
FRAME = dialect.frames("paper")[4]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A random model of two layers with gpt2's own tokenizer, whose BOS is its unknown token as well."""
    folder = tmp_path_factory.mktemp("gpt2")
    merges = [tuple(line.split()) for line in gzip.decompress(MERGES.read_bytes()).decode().splitlines()]
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges), END]
    bpe = ByteLevelBPETokenizer({word: i for i, word in enumerate(words)}, merges)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END, unk_token=END)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16)).save_pretrained(folder)
    return load_model(folder, device="cpu")


def test_its_vocabulary_is_gpt2s(gpt2):
    """The ids of this sentence in every description of gpt2; BOS stands in front, as TransformerLens puts it."""
    assert gpt2.cfg.d_vocab == 50257 and gpt2.cfg.default_prepend_bos
    assert gpt2.to_tokens("Hello world, I am").tolist() == [[50256, 15496, 995, 11, 314, 716]]
    assert gpt2.to_tokens(" Mary", prepend_bos=False).tolist() == [[5335]]


def test_the_eight_prompts_are_those_of_the_published_demo(gpt2):
    pairs = ioi_pairs(gpt2)
    first = gpt2.to_str_tokens(pairs.clean_tokens[0])
    assert first == [
        END,
        *gpt2.to_str_tokens("When John and Mary went to the shops, John gave the bag to", prepend_bos=False),
    ]
    assert pairs.clean_tokens.shape == (8, 15) and pairs.answer_tokens[0].tolist() == [5335, 1757]
    roles = positions_by_role(pairs.clean_tokens, pairs.answer_tokens)
    assert {name: places[0].item() for name, places in roles.items()}["END"] == 14


@pytest.mark.parametrize("corruption", ioi.CORRUPTIONS)
def test_every_corruption_keeps_the_length(gpt2, corruption):
    pairs = ioi_pairs(gpt2, corruption=corruption)
    assert pairs.clean_tokens.shape == pairs.corrupted_tokens.shape == (8, 15)
    assert (pairs.clean_tokens != pairs.corrupted_tokens).any(1).all()


def test_most_names_and_all_places_and_objects_are_one_token(gpt2):
    assert len(single_token_names(gpt2)) >= 30
    dataset = ioi_dataset(gpt2)
    assert {prompt.place for prompt in dataset.prompts} == set(ioi.PLACES)
    assert {prompt.object for prompt in dataset.prompts} == set(ioi.OBJECTS)


def test_all_traits_and_other_attributes_are_one_token(gpt2):
    traits = list(dialect.favorability())
    assert len(traits) == 37 and len(set(dialect.attribute_tokens(gpt2, traits).tolist())) == 37
    for name, words in dialect.grammar()["attributes"].items():
        assert dialect.attribute_tokens(gpt2, [word for group in words.values() for word in group]).shape, name


@pytest.mark.parametrize("name", ["agreement", "capitals"])
def test_tasks_fit(gpt2, name):
    task = read_report_task(task_file(name), gpt2, ReportSettings())
    assert len(task.aligned) == 48 and all(len(places) == 1 for _, _, places in task.shapes)


def test_the_years_do_not_fit_and_the_report_says_so(gpt2):
    """'1862' is one token here, '1802' is two: pairs of unequal length are left out of what needs aligned pairs."""
    task = read_report_task(task_file("greater_than"), gpt2, ReportSettings())
    assert len(task.aligned) < 48


def test_the_pairs_of_chapter_08_line_up(gpt2):
    done = tracing.guise_batch(gpt2, dialect.pairs_of("done", 8), FRAME)
    swap = tracing.guise_batch(gpt2, dialect.swap_pairs("once/twice", 8), FRAME)
    assert done.position == swap.position and done.clean_tokens.shape == swap.clean_tokens.shape


def test_prefixes_that_gpt2_has(gpt2):
    """No chat template, and one token that both begins and ends a text."""
    assert available_prefixes(gpt2) == ("nothing", "bos")
