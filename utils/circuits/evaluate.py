"""What some heads can do alone: a circuit is run with every other head replaced by its mean over prompts without the task.

Source: Wang et al. 2022, "Interpretability in the Wild", sections 2.3 and 4, and appendix. Means are taken per template and
position, over prompts with three different names (ABC), so that they keep what a template has in common and lose who is
repeated. MLPs are kept: they compute from what the heads leave them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from utils.assumptions import disagree, hooks_on, require_heads, weights
from utils.attribution import logit_diff
from utils.circuits.kept_positions import KeptPositions
from utils.inference import ends_only, run_to_ends
from utils.ioi import IOIDataset
from utils.prompts import PromptPairs

Head = tuple[int, int]
Circuit = Mapping[str, Sequence[Head]]  # role → the heads that are kept at its position


def means_by_template(
    z: Float[Tensor, "layer batch pos head d_head"], template: Int[Tensor, " batch"]
) -> Float[Tensor, "layer batch pos head d_head"]:
    """For each prompt, the mean of z over all prompts of its template, position by position."""
    means = torch.empty_like(z)
    for number in template.unique():
        of_template = template == number
        means[:, of_template] = z[:, of_template].mean(1, keepdim=True)
    return means


def keep_mask(
    circuit: Circuit, roles: Mapping[str, Int[Tensor, " batch"]], shape: tuple[int, int, int, int]
) -> Bool[Tensor, "layer batch pos head"]:
    """True where a head of the circuit is kept: at the position of its role, in each prompt.

    circuit: role → heads (layer, head). roles: role → its position in each prompt. shape: that of the mask. Raises KeyError
    for a role that the prompts do not have.
    """
    mask = torch.zeros(shape, dtype=torch.bool)
    for role, heads in circuit.items():
        if role not in roles:
            raise KeyError(f"the circuit has heads at {role!r}, and the prompts have {', '.join(roles)}")
        positions = roles[role].cpu()
        for layer, head in heads:
            mask[layer, torch.arange(len(positions)), positions, head] = True
    return mask


@torch.no_grad()
def run_circuit(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "layer batch pos head"],
    means: Float[Tensor, "layer batch pos head d_head"],
    attention_mask: Int[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch 1 d_vocab"]:
    """Logits at each prompt's last position, of a run in which every head that the mask does not keep has its mean z.

    attention_mask: needed for padded prompts, on the right; their last position is that of the last real token.
    """
    require_heads(model)
    mask = mask.to(tokens.device)

    def replace(z: Float[Tensor, "batch pos head d_head"], hook) -> Tensor:
        layer = int(hook.name.split(".")[1])
        return torch.where(mask[layer, ..., None], z, means[layer])

    last = torch.full_like(tokens[:, 0], tokens.shape[1] - 1) if attention_mask is None else attention_mask.sum(-1) - 1
    hooks = [(f"blocks.{layer}.attn.hook_z", replace) for layer in range(model.cfg.n_layers) if not mask[layer].all()]
    return model.run_with_hooks(tokens, fwd_hooks=[*hooks, ends_only(last)], attention_mask=attention_mask)


# --- all of it at once --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CircuitTest:
    """Prompts on which circuits are run, with the means for everything else. `circuit_test` makes it.

    means: for each prompt, those of its template. `scores` are logit differences, one for each prompt.
    """

    model: TransformerBridge
    pairs: PromptPairs
    roles: Mapping[str, Int[Tensor, " batch"]]
    template: Int[Tensor, " batch"]
    means: Float[Tensor, "layer batch pos head d_head"]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a mask: layer, batch, pos, head."""
        return tuple(self.means.shape[:4])

    def scores(self, circuit: Circuit) -> Float[Tensor, " batch"]:
        """Each prompt's logit difference when the heads of the circuit, at their roles, are all that is kept."""
        return self.scores_of_mask(keep_mask(circuit, self.roles, self.shape))

    def scores_without(self, heads: Circuit) -> Float[Tensor, " batch"]:
        """Each prompt's logit difference when only these heads, at their roles, are replaced by their means."""
        return self.scores_of_mask(~keep_mask(heads, self.roles, self.shape))

    def scores_of_mask(
        self,
        mask: Bool[Tensor, "layer batch pos head"],
        instead: Float[Tensor, "layer batch pos head d_head"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Each prompt's logit difference when every head that the mask does not keep is replaced by its mean.

        instead: another z to replace it by, such as that of another run. Where it saves time and gives this model's numbers,
        only those positions are computed that are not as in the empty circuit, or as in the whole model.
        """
        if not hooks_on(self.model) and weights(self.model) == self._weights:
            runner = self._near_whole if instead is not None or mask.float().mean() > 0.5 else self._near_empty
            if runner is not None and runner.worth_it(mask):
                return logit_diff(runner.logits(mask, instead), self.pairs.answer_tokens, per_prompt=True)
        return self._by_hooks(mask, instead)

    def _by_hooks(self, mask: Tensor, instead: Tensor | None = None) -> Float[Tensor, " batch"]:
        """The same by one ordinary run."""
        padded = None if self.pairs.clean_mask.all() else self.pairs.clean_mask
        z = self.means if instead is None else instead
        logits = run_circuit(self.model, self.pairs.clean_tokens, mask, z, padded)
        return logit_diff(logits, self.pairs.answer_tokens, per_prompt=True)

    @cached_property
    def _weights(self) -> tuple[int, ...]:
        return weights(self.model)

    @cached_property
    def _near_empty(self) -> KeptPositions | None:
        return self._runner(whole=False)

    @cached_property
    def _near_whole(self) -> KeptPositions | None:
        return self._runner(whole=True)

    def _runner(self, whole: bool) -> KeptPositions | None:
        """None for a model whose blocks the course cannot take apart: tried on two prompts, at half of the positions."""
        some = self.first(2)
        real, n_pos = some.pairs.clean_mask.bool(), some.shape[2]
        mask = torch.full(some.shape, whole)
        mask[:, :, n_pos // 2 :: 1 if whole else 2, ::2] ^= True
        last = some.pairs.clean_last.cpu()  # it reads what the others have written
        mask[:, torch.arange(2), last, ::2] = not whole
        mask &= real[None, :, :, None].cpu()
        try:
            few = KeptPositions(self.model, some.pairs.clean_tokens, some.means, real, whole)
            found = logit_diff(few.logits(mask), some.pairs.answer_tokens, per_prompt=True)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, RuntimeError, TypeError):  # blocks built in another way
            return None
        if disagree(found, some._by_hooks(mask)):
            return None
        return KeptPositions(self.model, self.pairs.clean_tokens, self.means, self.pairs.clean_mask.bool(), whole)

    def first(self, n: int) -> CircuitTest:
        """The same test on its first n prompts."""
        roles = {role: positions[:n] for role, positions in self.roles.items()}
        return CircuitTest(self.model, self.pairs[:n], roles, self.template[:n], self.means[:, :n].clone())

    @cached_property
    def full(self) -> Float[Tensor, " batch"]:
        """Each prompt's logit difference in the whole model."""
        return self.scores_of_mask(torch.ones(self.shape, dtype=torch.bool))

    @cached_property
    def empty(self) -> Float[Tensor, " batch"]:
        """Each prompt's logit difference when every head, everywhere, is replaced by its mean."""
        return self.scores({})


def circuit_test(dataset: IOIDataset, n: int | None = None) -> CircuitTest:
    """Means over the ABC twins of the whole data set, by template, and its first n prompts to run circuits on (None: all).

    n: a multiple of the number of templates keeps every template equally often. Raises ValueError where a template has only
    one prompt, whose mean would be its own twin, or where n is not from 1 to the number of prompts.
    """
    model, pairs, template = dataset.model, dataset.pairs("ABC"), dataset.template
    counts = torch.bincount(template)
    if (counts == 1).any():
        raise ValueError(
            f"{int((counts == 1).sum())} templates have one prompt, so that their mean is a single prompt's activation; "
            "ask for a larger data set"
        )
    n = len(dataset) if n is None else n
    if not 1 <= n <= len(dataset):
        raise ValueError(f"n={n}: the data set has {len(dataset)} prompts")
    z = z_of_heads(model, pairs.corrupted_tokens, pairs.corrupted_mask)
    whole = CircuitTest(model, pairs, dataset.roles(), template, means_by_template(z, template))
    return whole.first(n)


def z_of_heads(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
) -> Float[Tensor, "layer batch pos head d_head"]:
    """Every head's z in a run of these prompts, padded on the right where the mask is 0."""
    _, cache = run_to_ends(model, tokens, mask, lambda name: name.endswith("attn.hook_z"))
    return torch.stack([cache["z", layer] for layer in range(model.cfg.n_layers)])


# --- how well ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Faithfulness:
    """How much of the model's score a circuit reproduces, over prompts and prompt by prompt.

    value: (mean circuit - mean empty) / (mean full - mean empty). low, high: its 95 % interval over prompts. mae: the mean
    distance between circuit and model on a prompt, in logits. correlation: between the two, over prompts; nan where one of
    them is the same on every prompt.
    """

    value: float
    low: float
    high: float
    mae: float
    correlation: float


def faithfulness(
    full: Float[Tensor, " batch"], circuit: Float[Tensor, " batch"], empty: Float[Tensor, " batch"], seed: int = 0
) -> Faithfulness:
    """See `Faithfulness`. The interval is a bootstrap over prompts of the ratio of means; prompts are drawn whole.

    Raises ValueError where full and empty have the same mean, so that there is nothing to explain.
    """
    if abs(float(full.mean() - empty.mean())) < 1e-6:
        raise ValueError(
            f"the whole model and the empty circuit both score {full.mean():.4g}: there is nothing to explain"
        )
    samples = [scores.detach().cpu().double().numpy() for scores in (full, circuit, empty)]

    def value(full, circuit, empty, axis=-1):
        return (circuit.mean(axis) - empty.mean(axis)) / (full.mean(axis) - empty.mean(axis))

    drawn = stats.bootstrap(
        samples, value, paired=True, vectorized=True, method="percentile", n_resamples=1999, rng=seed
    )
    constant = min(np.ptp(samples[0]), np.ptp(samples[1])) < 1e-9
    correlation = np.nan if constant else stats.pearsonr(samples[0], samples[1]).statistic
    low, high = drawn.confidence_interval
    mae = np.abs(samples[1] - samples[0]).mean()
    return Faithfulness(float(value(*samples)), float(low), float(high), float(mae), float(correlation))
