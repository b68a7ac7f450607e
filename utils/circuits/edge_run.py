"""A run in which every reader has a stream of its own: what each edge needs, to be cut or to be given a gradient.

In an ordinary run all readers of a layer read the same residual stream. Here each query, key and value input is read apart,
so that a reader may be told something by one writer and not by another. Like the resumable pass it is built on, it starts at
the first position at which the two runs differ: what stands before is the same in both.

Axes: set (sets of edges run at once), reader, writer, rows (prompts of a group), n (positions from the group's start on).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import ActivationCache

from utils.assumptions import require_heads
from utils.circuits.graph import edge_graph
from utils.patching.gradient import require_ready
from utils.patching.last_logits import LastLogits
from utils.patching.options import DEFAULT_MEMORY, Metric
from utils.patching.resumable import CorruptedRun, Group
from utils.patching.sites import clean_activation, where_runs_differ

COPIES = 6  # how many tensors of the size of all readers' streams a layer with gradients keeps, about


class EdgeRun:
    """The receiving run, which is changed, and what every writer writes in the lending run.

    Raises UnsupportedModel where the resumable pass is not the model (see `utils.assumptions`), and KeyError or ValueError
    where the lending cache does not fit the tokens.
    """

    def __init__(
        self,
        model,
        tokens: Tensor,
        lending_cache: ActivationCache,
        attention_mask: Tensor | None = None,
        max_memory: float = DEFAULT_MEMORY,
    ) -> None:
        require_ready(model, tokens)
        require_heads(model)
        with torch.no_grad():
            self.run, self.graph = CorruptedRun(model, tokens, attention_mask), edge_graph(model.cfg)
            layers = range(self.run.n_layers)
            lent = {
                site: [clean_activation(lending_cache, site, layer, self.run.real) for layer in layers]
                for site in ("resid_pre", "z", "mlp_out")
            }
            self.own_z = [self.run.activation("z", layer) for layer in layers]
            self.gained_z = [lent["z"][layer] - self.own_z[layer] for layer in layers]
            self.gained_mlp = [lent["mlp_out"][layer] - self.run.activation("mlp_out", layer) for layer in layers]
            self.gained_embedding = (lent["resid_pre"][0] - self.run.resid_pre[0]) * self.run.real[..., None]
            _, self.first = where_runs_differ(self.run, "resid_pre", lent["resid_pre"])
        self.max_memory = max_memory

    # --- which prompts, and which positions -----------------------------------------------------------------------------

    def groups(self, n_sets: int = 1, gradients: bool = False) -> Iterator[Group]:
        """Prompts that differ first at the same position, as many at a time as fit into `max_memory`."""
        n_pos, cfg = self.run.real.shape[1], self.run.model.cfg
        for start in self.first[self.first < n_pos].unique().tolist():
            prompts = (self.first == start).nonzero()[:, 0]
            streams = len(self.graph.readers) * COPIES if gradients else n_sets * len(self.graph.writers)
            at_a_time = max(1, int(self.max_memory // (4 * cfg.d_model * (n_pos - start) * streams)))
            yield from (Group(some, start) for some in prompts.split(at_a_time))

    def here(self, activation: Tensor, group: Group) -> Tensor:
        return activation[group.prompts, group.start :]

    @torch.no_grad()
    def gained(self, group: Group) -> Float[Tensor, "writer rows n d_model"]:
        """What every writer writes in the lending run, minus what it writes in the receiving run."""
        parts = [self.here(self.gained_embedding, group).unsqueeze(0)]
        for layer in range(self.run.n_layers):
            parts.append(self.written_by_heads(layer, self.here(self.gained_z[layer], group)[None])[0])
            parts.append(self.here(self.gained_mlp[layer], group).unsqueeze(0))
        return torch.cat(parts)

    # --- one layer, every reader apart ----------------------------------------------------------------------------------

    @cached_property
    def projections(self) -> list[tuple[Float[Tensor, "reader d_model d_head"], Float[Tensor, "reader 1 d_head"]]]:
        """For each layer, the weights and biases of its queries, keys and values, one after the other."""
        cfg, found = self.run.model.cfg, []
        for block in self.run.blocks:
            parts = [part.original_component for part in (block.attn.q, block.attn.k, block.attn.v)]
            nothing = torch.zeros(1, cfg.d_model, device=self.run.last.device)
            unit = torch.eye(cfg.d_model, device=self.run.last.device)
            with torch.no_grad():  # 1 reader d_head, then d_model reader d_head
                bias, whole = (
                    torch.cat([part(x) for part in parts], -1).unflatten(-1, (-1, cfg.d_head)) for x in (nothing, unit)
                )
            found.append(((whole - bias).transpose(0, 1).contiguous(), bias.transpose(0, 1)))
        return found

    def attention_z(
        self, layer: int, streams: Float[Tensor, "set reader rows n d_model"], group: Group
    ) -> Float[Tensor, "set rows n head d_head"]:
        """What the heads of a layer read, each query, key and value from a stream of its own."""
        n_heads, n_shared, n = self.graph.n_heads, self.graph.n_kv_heads, streams.shape[3]
        normed = self.run.blocks[layer].ln1.original_component(streams).flatten(2, 3)  # set reader rows*n d_model
        weight, bias = self.projections[layer]
        projected = (normed @ weight + bias).unflatten(2, (-1, n)).movedim(1, 3)  # set rows n reader d_head
        return self.run.resumed_z(layer, projected.split([n_heads, n_shared, n_shared], 3), group)

    def written_by_heads(
        self, layer: int, z: Float[Tensor, "set rows n head d_head"]
    ) -> Float[Tensor, "set head rows n d_model"]:
        W_O = self.run.blocks[layer].attn.W_O
        return (z.movedim(3, 1).flatten(2, 3) @ W_O).unflatten(2, z.shape[1:3])

    def mlp_out(self, layer: int, streams: Float[Tensor, "set rows n d_model"]) -> Float[Tensor, "set rows n d_model"]:
        return self.run.mlp_out(layer, streams.flatten(0, 1)).unflatten(0, streams.shape[:2])

    # --- a set of edges -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def logits(self, keep: Bool[Tensor, "set reader writer"]) -> Float[Tensor, "set batch 1 d_vocab"]:
        """Logits at each prompt's last position of runs in which only the kept edges tell what they would in the lending run.

        The embedding writes as in the lending run. A reader hears of every kept writer what that writer writes in this same
        run, and of every other writer what it writes in the receiving run. All edges: the lending run. None: the receiving.
        """
        self._require_edges(keep)
        final = self.run.ends(self.run.resid_pre[-1][None], Group(self.run.rows, 0)).repeat(len(keep), 1, 1, 1)
        sets = max(1, int(self.max_memory // (4 * self.gained_embedding[:1].numel() * len(self.graph.writers))))
        for some in torch.arange(len(keep)).split(sets):
            for group in self.groups(len(some)):
                final[some[:, None], group.prompts] = self._final(keep[some].to(self.run.last.device), group)
        return self.run.unembed(final)

    def _require_edges(self, keep: Bool[Tensor, "set reader writer"]) -> None:
        if impossible := int((keep & ~self.graph.exists.to(keep.device)).sum()):
            raise ValueError(
                f"{impossible} of the kept edges do not exist: a reader hears only what is written before it"
            )

    def _final(self, keep: Bool[Tensor, "set reader writer"], group: Group) -> Float[Tensor, "set rows 1 d_model"]:
        run, graph, embedded = self.run, self.graph, self.here(self.gained_embedding, group)
        changed = embedded.new_zeros(len(keep), len(graph.writers), *embedded.shape)  # what each writes, minus its own
        changed[:, 0] = embedded
        kept = keep.to(embedded.dtype)

        def heard(readers: slice, n: int) -> Float[Tensor, "set reader rows n d_model"]:
            return (kept[:, readers, :n] @ changed[:, :n].flatten(2)).unflatten(2, embedded.shape)

        for layer in range(run.n_layers):
            readers, heads = graph.attention_readers(layer), graph.heads_of(layer)
            changed[:, heads] = self._heads_change(layer, heard(readers, heads.start), group)
            of_mlp = heard(slice(readers.stop, readers.stop + 1), heads.stop)[:, 0]
            changed[:, heads.stop] = self._mlp_changes(layer, of_mlp, group)
        final = self.here(run.resid_pre[-1], group) + heard(slice(-1, None), len(graph.writers))[:, 0]
        return run.ends(final, group)

    def _heads_change(
        self, layer: int, heard: Float[Tensor, "set reader rows n d_model"], group: Group
    ) -> Float[Tensor, "set head rows n d_model"]:
        z = self.attention_z(layer, self.here(self.run.resid_pre[layer], group) + heard, group)
        return self.written_by_heads(layer, z - self.here(self.own_z[layer], group))

    def _mlp_changes(
        self, layer: int, heard: Float[Tensor, "set rows n d_model"], group: Group
    ) -> Float[Tensor, "set rows n d_model"]:
        mid, after = (self.here(x[i], group) for x, i in ((self.run.resid_mid, layer), (self.run.resid_pre, layer + 1)))
        return self.mlp_out(layer, mid + heard) - (after - mid)

    # --- the same steps for all prompts and positions, one set of edges: what chapter 11 is written with ----------------

    @property
    def everything(self) -> Group:
        return Group(self.run.rows, 0)

    @torch.no_grad()
    def heads_tell(
        self, layer: int, heard: Float[Tensor, "reader batch pos d_model"]
    ) -> Float[Tensor, "head batch pos d_model"]:
        """What each head of a layer writes, minus what it writes in the receiving run, if its readers hear this besides.

        heard: what is added to the receiving run's stream, for each reader of `graph.attention_readers(layer)`.
        """
        return self._heads_change(layer, heard[None], self.everything)[0]

    @torch.no_grad()
    def mlp_tells(self, layer: int, heard: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """What an MLP writes, minus what it writes in the receiving run, if it hears this besides."""
        return self._mlp_changes(layer, heard[None], self.everything)[0]

    @torch.no_grad()
    def logits_of(self, heard: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch 1 d_vocab"]:
        """Logits at each prompt's last position, if the final norm hears this beside the receiving run's final stream."""
        final = self.run.resid_pre[-1] + heard
        return self.run.unembed(self.run.ends(final[None], self.everything)[0])

    def gained_by_all(self) -> Float[Tensor, "writer batch pos d_model"]:
        """What every writer writes in the lending run, minus what it writes in the receiving run."""
        return self.gained(self.everything)

    def gradients_at(self, share: float, metric: Metric) -> Float[Tensor, "reader batch pos d_model"]:
        """The gradient of the metric by what each reader reads, in a run whose embedding lies this share of the way from
        the receiving run's to the lending run's. metric: logits [batch, 1, d_vocab] to one number, or one for each prompt."""
        return self.gradients(share, self.everything, metric_gradient(metric, self.along(share)))

    # --- gradients ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def along(self, share: float) -> Float[Tensor, "batch 1 d_vocab"]:
        """Logits of a run whose embedding is the receiving run's and this share of the way to the lending run's."""
        final = self.run.resid_pre[-1][self.run.rows, self.run.last].unsqueeze(1)
        if share:
            for group in self.groups(gradients=True):
                final[group.prompts] = self.run.ends(self._pass(share, group)[None], group)[0]
        return self.run.unembed(final)

    def gradients(
        self, share: float, group: Group, upstream: Float[Tensor, "rows 1 d_vocab"]
    ) -> Float[Tensor, "reader rows n d_model"]:
        """The gradient of sum(upstream · logits) by what each reader reads, in the run that `along` describes."""
        read: list[Tensor] = []
        with torch.enable_grad():
            final = self._pass(share, group, read)
            logits = self.run.unembed(self.run.ends(final[None], group)[0])
            found = torch.autograd.grad((logits * upstream).sum(), read)
        return torch.cat([gradient.reshape(-1, *final.shape) for gradient in found])

    def _pass(self, share: float, group: Group, read: list[Tensor] | None = None) -> Float[Tensor, "rows n d_model"]:
        """The final residual stream. read: the streams of all readers are put there, in order, if gradients are wanted."""
        x = self.here(self.run.resid_pre[0] + share * self.gained_embedding, group)
        if read is not None:
            x = x.detach().requires_grad_()
        n_readers = self.graph.n_heads + 2 * self.graph.n_kv_heads

        def reads(stream: Tensor) -> Tensor:
            if read is not None:
                read.append(stream)
            return stream

        for layer in range(self.run.n_layers):
            if read is None:  # all readers read the same
                x = x + self.run.resumed_attn_out(layer, x[None], group)[0]
            else:
                streams = reads(x.expand(1, n_readers, *x.shape))
                x = x + self.run.attn_out(layer, self.attention_z(layer, streams, group)[0])
            x = x + self.run.mlp_out(layer, reads(x.view_as(x)))
        return reads(x.view_as(x))


def metric_gradient(metric: Metric, logits: Float[Tensor, "batch 1 d_vocab"]) -> Float[Tensor, "batch 1 d_vocab"]:
    """The gradient of the metric by the logits: of each prompt's own value, if the metric has one for each."""
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        return torch.autograd.grad(metric(logits.as_subclass(LastLogits)).sum(), logits)[0].as_subclass(Tensor)
