"""Path patching: what one part of the model tells another, with everything else held as it was.

Two runs are given. The *receiving* run is the one that is changed; the *lending* run gives what a sender writes. One path is
patched in two steps (Wang et al. 2022, "Interpretability in the Wild", appendix B; Goldowsky-Dill et al. 2023):

1. Only the sender's output is the lending run's, and every other head is frozen to the receiving run, and so, unless
   mlps="free", is every MLP. This says what the receivers would read.
2. The receivers, and they alone, read that. Everything behind them is computed again.

Frozen parts have nothing to compute, so the first step is a sum of vectors; the second resumes at the first receiver
(`utils.patching.resumable`), from the sender's position on, for many senders at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import ActivationCache

from utils.assumptions import require_heads
from utils.circuits.path_options import Node, Path, PathOptions, every_reader, head_readers, path_options, sender_sets
from utils.circuits.path_patcher import PathPatcher
from utils.patching.gradient import require_ready
from utils.patching.options import Metric, Metrics
from utils.patching.resumable import receiving_run
from utils.patching.sweep import logits_for, logits_of_cells


def path_patch(
    model,
    tokens: Int[Tensor, "batch pos"],
    lending_cache: ActivationCache,
    patching_metric: Metric,
    receivers: str | Sequence[Node] = "logits",
    component: str | None = None,
    **options: Any,
) -> Float[Tensor, "..."]:
    """The metric with the paths from each sender to all receivers patched, for every sender.

    tokens: the receiving run's. lending_cache: the other run's, of prompts with the same positions
        (`small_cache` holds what is needed).
    patching_metric: logits at each prompt's last position, [batch, 1, d_vocab], to a 0-d tensor ([batch] if reduce="none").
    receivers: "logits", or heads as (layer, head), which all receive together: each reads what it would read if nothing
        but the sender had changed, whatever the other receivers do. component: "q", "k" or "v" of those heads. Where heads
        share keys and values, the shared key or value receives.
    options: see `PathOptions`: senders, at, mlps, reduce, attention_mask, max_batch, max_memory, progress.

    Returns [layer, head] for senders="heads", [layer] for "mlps", [sender] for a list; with reduce="none", [..., batch].
    A sender that no receiver comes after has the unpatched metric. Raises ValueError, TypeError or IndexError with the value
    at fault and the fix; UnsupportedModel where the resumable pass is not the model (see `utils.assumptions`).
    """
    chosen = path_options(options)
    senders, shape = sender_sets(model, chosen.senders)
    reads = head_readers(model, receivers, component)
    paths = [Path(each, reads) for each in senders]
    return path_values(model, tokens, lending_cache, patching_metric, paths, chosen)[0].unflatten(0, shape)


def edge_patch(
    model,
    tokens: Int[Tensor, "batch pos"],
    lending_cache: ActivationCache,
    patching_metric: Metric,
    sender: Node | Sequence[Node],
    component: str,
    **options: Any,
) -> Float[Tensor, "layer head"]:
    """The metric with the path from one sender (or from several together) to one head patched, for every head.

    The same as `path_patch` with a single receiver. `transformer_lens.patching.get_act_patch_direct_path` computes it with
    one run for each head, for queries of any model and for keys and values that are not shared; where no path exists it has
    0, and here stands the unpatched metric. Returns [layer, head], with one column for each key/value head for "k" and "v"
    where heads share them; with reduce="none", [layer, head, batch].
    """
    chosen = path_options({**options, "senders": [sender]})
    (together,), _ = sender_sets(model, chosen.senders)
    shared = model.cfg.n_key_value_heads or model.cfg.n_heads
    n_heads = model.cfg.n_heads if component == "q" else shared
    heads = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(n_heads)]
    group = model.cfg.n_heads // n_heads
    paths = [Path(together, head_readers(model, [(layer, head * group)], component)) for layer, head in heads]
    found, _ = path_values(model, tokens, lending_cache, patching_metric, paths, chosen)
    return found.unflatten(0, (model.cfg.n_layers, n_heads))


def all_out_edges(
    model,
    tokens: Int[Tensor, "batch pos"],
    lending_cache: ActivationCache,
    patching_metric: Metric,
    sender: Node,
    **options: Any,
) -> Float[Tensor, ""]:
    """The metric with every edge out of a sender patched at once: to all later heads, MLPs, and the logits.

    Here each reader reads its stream as the patched run has it, plus what the sender would add. That is activation patching
    of the sender, taken to pieces and put together again: an identity to test the pieces with.
    """
    chosen = path_options({**options, "senders": [[sender]]})
    (alone,), _ = sender_sets(model, chosen.senders)
    path = Path(alone, every_reader(model), added=True)
    return path_values(model, tokens, lending_cache, patching_metric, [path], chosen)[0][0]


@torch.no_grad()
def path_values(
    model, tokens: Tensor, lending_cache, metric, paths: Sequence[Path], options: PathOptions
) -> tuple[Float[Tensor, "path ..."], Float[Tensor, "..."]]:
    """The metric of every path, and the unpatched one, which stands where nothing can change."""
    require_ready(model, tokens)
    require_heads(model)
    run = receiving_run(model, tokens, options.attention_mask)
    metrics = Metrics(metric, options.as_sweep())
    if metrics.several:
        raise TypeError(f"one metric is needed, and {metrics.names} were given; call once for each")
    unpatched_logits = logits_for(run, run.resid_pre[-1][run.rows, run.last].unsqueeze(1), metrics.tokens)
    unpatched = metrics(unpatched_logits)[0]
    values = unpatched.expand(len(paths), *unpatched.shape).clone()
    patcher = PathPatcher(run, lending_cache, paths, options, metrics.tokens)
    order = sorted((i for i, path in enumerate(paths) if patcher.can_change(path)), key=lambda i: paths[i].first_read)
    with tqdm(total=len(paths), desc="paths", leave=False, disable=not options.progress) as bar:
        bar.update(len(paths) - len(order))
        for some in _batches(order, paths, patcher.at_a_time):
            final, rows = patcher.final_of([paths[i] for i in some]), max(1, patcher.rows // len(some))
            logits = logits_of_cells(run, final, patcher.groups, len(some), rows, unpatched_logits, metrics.tokens)
            for i, of_path in zip(some, logits, strict=True):
                values[i] = metrics(of_path)[0]
            bar.update(len(some))
    return values, unpatched


def _batches(order: Sequence[int], paths: Sequence[Path], at_a_time: int) -> Iterator[list[int]]:
    """Paths that are run together: those that are first read at the same layer, since a batch resumes at one layer."""
    for _, same in groupby(order, key=lambda i: paths[i].first_read):
        numbers = list(same)
        yield from (numbers[i : i + at_a_time] for i in range(0, len(numbers), at_a_time))
