"""The two steps of path patching, for many paths at once: what the receivers would read, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from utils.circuits.path_options import COMPONENTS, EMBED, Path, PathOptions, written_site
from utils.patching.resumable import CorruptedRun, Group
from utils.patching.sites import clean_activation, where_runs_differ
from utils.patching.sweep import bytes_per_row


class PathPatcher:
    """The two runs, where the senders are patched, and the two steps for some paths at once.

    Axes: path, rows (prompts of a group), n (positions from the group's start on), m (those at which senders are patched:
    the first alone, or all n). tokens: those whose logits are read (None: all), which decides how many paths fit at once.
    """

    def __init__(
        self,
        run: CorruptedRun,
        lending_cache: ActivationCache,
        paths: Sequence[Path],
        options: PathOptions,
        tokens: Int[Tensor, " token"] | None = None,
    ) -> None:
        self.run, self.free = run, options.mlps == "free"
        to_logits = all(path.first_read == run.n_layers for path in paths)
        self.at = run.last if options.at is None and to_logits else options.positions(run.real)
        senders = {sender for path in paths for sender in path.senders}
        self.gained: dict[tuple[str, int], Tensor] = {}  # site, layer → lending minus receiving: [batch, m or pos, ...]
        differs, first = torch.zeros_like(run.real), torch.full_like(run.last, run.real.shape[1])
        for site in ("resid_pre", "z", "mlp_out"):
            layers = {max(0, node[0]) for node in senders if written_site(node) == site}
            if layers:
                lent = [clean_activation(lending_cache, site, layer, run.real) for layer in range(run.n_layers)]
                changed, first_here = where_runs_differ(run, site, lent)
                differs, first = differs | changed.any(0), torch.minimum(first, first_here)
                self._keep_gained(site, layers, lent)
        self.groups = self._groups(differs, first)
        widest = max((run.real.shape[1] - group.start for group in self.groups), default=1)
        told = len({layer for path in paths for _, layer in path.reads}) * (widest if self.at is None else 1)
        each = bytes_per_row(run, options.as_sweep(), widest, tokens) + 4 * told * run.model.cfg.d_model
        self.rows = options.max_batch or max(1, int(options.max_memory // each))
        self.at_a_time = max(1, self.rows // max(1, sum(len(group.prompts) for group in self.groups)))

    def _keep_gained(self, site: str, layers: set[int], lent: list[Tensor]) -> None:
        for layer in layers:
            gained = lent[layer] - self.run.activation(site, layer)
            self.gained[site, layer] = gained if self.at is None else gained[self.run.rows, self.at].unsqueeze(1)

    def _groups(self, differs: Bool[Tensor, "batch pos"], first: Int[Tensor, " batch"]) -> list[Group]:
        """The prompts in which the senders differ where they are patched: those that start together, together.

        Before a prompt's first difference the two runs differ by float error alone, and nothing can change.
        """
        if self.at is None:
            starts, affected = first, first < self.run.real.shape[1]
        else:
            starts, affected = self.at, differs[self.run.rows, self.at] & (first <= self.at)
        chosen = [(start, affected & (starts == start)) for start in starts[affected].unique().tolist()]
        return [Group(where.nonzero()[:, 0], start) for start, where in chosen]

    def can_change(self, path: Path) -> bool:
        return bool(self.groups) and path.exists

    def final_of(self, paths: Sequence[Path]) -> Callable[[Group], Float[Tensor, "path rows 1 d_model"]]:
        """For a group, the final residual stream of each of these paths at each prompt's last position."""
        readers = {reader for path in paths for reader in path.reads}
        return partial(self._final, paths, {reader: self._reading(paths, reader) for reader in readers})

    def _reading(self, paths: Sequence[Path], reader: tuple[str, int]) -> Bool[Tensor, "path head"]:
        """Which heads of this component and layer read, in each path; one column for an MLP and for the logits."""
        cfg, site = self.run.model.cfg, reader[0]
        n_heads = {"q": cfg.n_heads, "mlp": 1, "logits": 1}.get(site, cfg.n_key_value_heads or cfg.n_heads)
        reading = torch.zeros(len(paths), n_heads, dtype=torch.bool, device=self.run.last.device)
        for i, path in enumerate(paths):
            reading[i, list(path.reads.get(reader, ()))] = True
        return reading

    # --- the first step: what would be read ---------------------------------------------------------------------------

    def _messages(
        self, paths: Sequence[Path], readers: Iterable[tuple[str, int]], group: Group
    ) -> dict[tuple[str, int], Float[Tensor, "path rows m d_model"]]:
        """What the senders add to the stream that attention ("attn"), the MLP ("mlp") or the logits of a layer read.

        No entry: nothing.
        """
        wanted = {("mlp" if site == "mlp" else "attn", layer) for site, layer in readers}
        run, messages = self.run, {}
        first = max(0, min(layer for path in paths for layer, _ in path.senders))
        m = 1 if self.at is not None else run.real.shape[1] - group.start
        added = run.resid_pre[0].new_zeros(len(paths), len(group.prompts), m, run.model.cfg.d_model)
        if embedded := [i for i, path in enumerate(paths) if EMBED in path.senders]:
            added[embedded] += self._gained("resid_pre", 0, group)
        for layer in range(first, max(layer for _, layer in wanted) + 1):
            if ("attn", layer) in wanted:
                messages["attn", layer] = added.clone()
            if layer == run.n_layers:
                break
            self._add_heads(added, paths, layer, group)
            if ("mlp", layer) in wanted:
                messages["mlp", layer] = added.clone()
            if self.free:
                added = added + self._through_mlp(added, layer, group)
            if sending := [i for i, path in enumerate(paths) if (layer, "mlp") in path.senders]:
                added[sending] += self._gained("mlp_out", layer, group)
        return messages

    def _gained(self, site: str, layer: int, group: Group) -> Float[Tensor, "rows m ..."]:
        gained = self.gained[site, layer][group.prompts]
        return gained if self.at is not None else gained[:, group.start :]

    def _add_heads(self, added: Tensor, paths: Sequence[Path], layer: int, group: Group) -> None:
        senders = [(i, *sender) for i, path in enumerate(paths) for sender in path.senders]
        sending = [(i, head) for i, at, head in senders if at == layer and not isinstance(head, str)]
        if sending:
            rows, heads = (torch.tensor(index, device=added.device) for index in zip(*sending, strict=True))
            z, W_O = self._gained("z", layer, group), self.run.blocks[layer].attn.W_O
            added.index_add_(0, rows, torch.einsum("bmhd,hdo->hbmo", z[:, :, heads], W_O[heads]))

    def _through_mlp(self, added: Tensor, layer: int, group: Group) -> Float[Tensor, "path rows m d_model"]:
        """What an MLP that is free makes of what is added to its input."""
        here = (group.prompts, slice(group.start, group.start + added.shape[2]))
        mid, post = self.run.resid_mid[layer][here], self.run.resid_pre[layer + 1][here]
        changed = self.run.mlp_out(layer, (mid + added).flatten(0, 1)).unflatten(0, added.shape[:2]) - (post - mid)
        return changed * added.flatten(1).any(1)[:, None, None, None]

    # --- the second step: the receivers read it, and the rest is computed again -----------------------------------------

    def _final(
        self, paths: Sequence[Path], reading: dict[tuple[str, int], Bool[Tensor, "path head"]], group: Group
    ) -> Float[Tensor, "path rows 1 d_model"]:
        run, messages = self.run, self._messages(paths, reading, group)
        first, base = min(layer for _, layer in reading), paths[0].added
        copies = run.resid_pre[first][group.prompts, group.start :].expand(len(paths), -1, -1, -1)
        for layer in range(first, run.n_layers):
            ending = layer == run.n_layers - 1
            qkv = self._read(copies, layer, reading, messages.get(("attn", layer)), group, base)
            before = run.ends(copies, group) if ending else copies
            copies = before + run.resumed_attn_out(layer, copies, group, ending, qkv)
            read = copies
            if ("mlp", layer) in reading and ("mlp", layer) in messages:
                read = copies + self._told(reading["mlp", layer], messages["mlp", layer], group, ending)
            copies = copies + run.mlp_out(layer, read.flatten(0, 1)).unflatten(0, copies.shape[:2])
        copies = run.ends(copies, group) if first == run.n_layers else copies
        if ("logits", run.n_layers) in reading and ("attn", run.n_layers) in messages:
            told = self._told(reading["logits", run.n_layers], messages["attn", run.n_layers], group, ending=True)
            copies = copies + told
        return copies

    def _told(
        self, reading: Bool[Tensor, "path 1"], message: Tensor, group: Group, ending: bool
    ) -> Float[Tensor, "path rows n d_model"]:
        """The message to an MLP or to the logits, zeros behind it: from the group's start on, or at each last position."""
        n = self.run.real.shape[1] - group.start
        whole = F.pad(message * reading[:, :, None, None], (0, 0, 0, n - message.shape[2]))
        return self.run.ends(whole, group) if ending else whole

    def _read(
        self, copies: Tensor, layer: int, reading: dict, message: Tensor | None, group: Group, added: bool
    ) -> list[Float[Tensor, "path rows n head d_head"]]:
        """Queries, keys and values of every copy; those of the receivers from what they are to read."""
        run, own = self.run, list(self.run.qkv(layer, copies))
        receiving = {i: reading[site, layer] for i, site in enumerate(COMPONENTS) if (site, layer) in reading}
        if not receiving:
            return own
        stream = copies if added else run.resid_pre[layer][group.prompts, group.start :]
        if message is not None:
            stream = stream + F.pad(message, (0, 0, 0, copies.shape[2] - message.shape[2]))
        told = run.qkv(layer, stream)
        for i, heads in receiving.items():
            own[i] = torch.where(heads[:, None, None, :, None], told[i], own[i])
        return own
