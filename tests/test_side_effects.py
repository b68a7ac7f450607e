"""Whatever a learner's function does to a model or to its arguments, a check finds it out and puts it back."""

import re

import pytest
import torch

from tests.checks import REGISTRY, CheckFailed
from tests.checks.calling import call
from tests.solutions import solution_functions
from utils.tiny_models import tiny_model


def leaves_hook(model):
    model.add_hook("blocks.0.hook_mlp_out", lambda activation, hook: activation * 0)


def leaves_permanent_hook(model):
    model.add_hook("blocks.1.attn.hook_z", lambda activation, hook: activation * 0, is_permanent=True)


def leaves_backward_hook(model):
    model.add_hook("blocks.1.attn.hook_z", lambda gradient, hook: None, dir="bwd")


def leaves_module_hook(model):
    model.blocks[1].register_forward_hook(lambda *_: None)


def removes_hooks(model):
    model.reset_hooks()


def trains(model):
    model.train()


def writes_weights_through_a_view(model):
    with torch.no_grad():
        model.W_U[:, 3] *= 0


def writes_weights_behind_autograd(model):
    next(iter(model.parameters())).data += 1


def leaves_gradients(model):
    with torch.enable_grad():
        model(torch.tensor([[0, 5]])).sum().backward()


def switches_gradients_off(model):
    model.W_U.requires_grad_(False)
    next(iter(model.parameters())).requires_grad_(False)


def changes_a_setting(model):
    model.set_use_attn_result(True)


def changes_the_precision(model):
    model.original_model.double()


def replaces_a_method(model):
    model.unembed.forward = lambda x: x.repeat(1, 1, 10)[..., : model.cfg.d_vocab]


SIDE_EFFECTS = {
    leaves_hook: "leaves a hook on blocks.0.hook_mlp_out",
    leaves_permanent_hook: "leaves a hook on blocks.1.attn.hook_z",
    leaves_backward_hook: "leaves a hook on blocks.1.attn.hook_z",
    leaves_module_hook: "leaves a hook on the module",
    removes_hooks: "somebody else's is gone",
    trains: "another mode",
    writes_weights_through_a_view: "a weight",
    writes_weights_behind_autograd: "a weight",
    changes_the_precision: "the model's weights",
    leaves_gradients: "hold a gradient",
    switches_gradients_off: "requires_grad of",
    changes_a_setting: "its setting use_attn_result",
}


@pytest.mark.parametrize("function", SIDE_EFFECTS, ids=lambda function: function.__name__)
def test_a_model_is_as_it_was_whatever_happens(function):
    model, tokens = tiny_model("gpt2"), torch.tensor([[0, 1, 2]])
    before = model(tokens)
    with pytest.raises(CheckFailed, match=re.escape(SIDE_EFFECTS[function])):
        call(function, model)

    def raises_as_well(model):
        function(model)
        raise RuntimeError("and then it stops")

    def is_interrupted(model):
        function(model)
        raise KeyboardInterrupt

    with pytest.raises(CheckFailed, match="and then it stops"):
        call(raises_as_well, model)
    with pytest.raises(KeyboardInterrupt):
        call(is_interrupted, model)
    assert torch.equal(model(tokens), before) and not model.training and not model.cfg.use_attn_result
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


def test_a_model_that_was_changed_in_another_way_is_found_out_and_not_used_again():
    model = tiny_model("gpt2")
    with pytest.raises(CheckFailed, match="logits on a prompt of our own"):
        call(replaces_a_method, model)
    assert tiny_model("gpt2") is not model


@pytest.mark.parametrize("name", ["logits_without_head", "get_act_patch_resid_pre", "direct_effects"])
def test_a_check_does_not_go_on_with_what_it_computed_on_a_spoilt_model(name):
    solution = solution_functions(REGISTRY[name].chapter)[name]
    REGISTRY[name].check(solution)
    with pytest.raises(CheckFailed, match="logits on a prompt of our own"):
        call(replaces_a_method, tiny_model("gpt2"))
    REGISTRY[name].check(solution)


def test_arguments_are_looked_at_afterwards():
    for change, message in (
        (lambda items: items.pop(), "2 items in place of 3"),
        (lambda items: items[0].mul_(2), "its values were changed"),
    ):
        items = [torch.tensor([2.0, 1.0]), torch.tensor([5.0]), torch.tensor([7.0])]
        with pytest.raises(CheckFailed, match=message):
            call(change, items)
    with pytest.raises(CheckFailed, match="order of a list"):
        call(lambda words: words.sort(), ["b", "a"])
    with pytest.raises(CheckFailed, match="3 entries in place of 2"):
        call(lambda table: table.update(c=3), {"a": 1, "b": 2})


def shrinks_the_cache(cache):
    del cache.cache_dict["blocks.0.attn.hook_z"]
    cache["blocks.1.attn.hook_z"].zero_()
    cache.cache_dict["mine"] = torch.zeros(1)


EDITS = {
    "a tensor": lambda given: given["tensor"].mul_(2),
    "the shape of a tensor": lambda given: given["tensor"].t_(),
    "a tensor asks for a gradient": lambda given: given["tensor"].requires_grad_(),
    "a tensor in a list": lambda given: given["list"][0].zero_(),
    "the order of a list": lambda given: given["list"].reverse(),
    "the length of a list": lambda given: given["list"].append(1),
    "an entry": lambda given: given.update(list=[]),
    "a cache": lambda given: shrinks_the_cache(given["cache"]),
}


@pytest.mark.parametrize("what", EDITS)
def test_arguments_are_put_back_whatever_happens(what):
    """What a check computed once is given to every function that it tries."""
    _, cache = tiny_model("gpt2").run_with_cache(torch.tensor([[0, 5, 9]]))
    given = {"tensor": torch.arange(6.0).reshape(2, 3), "list": [torch.ones(2), torch.zeros(3)], "cache": cache}
    before = {"tensor": given["tensor"].clone(), "list": [part.clone() for part in given["list"]]}
    z, entries = cache["blocks.1.attn.hook_z"].clone(), len(cache)

    def raises_as_well(given):
        EDITS[what](given)
        raise RuntimeError("and then it stops")

    for function, message in ((EDITS[what], "before and after your function"), (raises_as_well, "and then it stops")):
        with pytest.raises(CheckFailed, match=message):
            call(function, given)
        assert torch.equal(given["tensor"], before["tensor"]) and not given["tensor"].requires_grad
        assert all(torch.equal(part, was) for part, was in zip(given["list"], before["list"], strict=True))
        assert torch.equal(cache["blocks.1.attn.hook_z"], z) and len(cache) == entries and "mine" not in cache
