"""The streams of one model on one device, computed with mlx-lm's models and caches and our own loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

from wicketgate.engine.batch import MemoryUse, RowError
from wicketgate.engine.grouping import StepCost, cut, merger, place
from wicketgate.engine.mlx import caches, prefill
from wicketgate.engine.mlx.assessing import MlxAssessing
from wicketgate.engine.mlx.embedding import MlxEmbedding
from wicketgate.engine.mlx.network import Network
from wicketgate.engine.mlx.prefill import MlxPrefill, Prompt
from wicketgate.engine.mlx.rows import Row
from wicketgate.engine.mlx.sampling import row_state
from wicketgate.engine.mlx.scoring import MlxScoring
from wicketgate.engine.wire import Assess, Embed, Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.engine.batch import Chunk, Emitted, JobWork
    from wicketgate.engine.kv.store import Hit, Prefix
    from wicketgate.engine.mlx.drafting import Speculation
    from wicketgate.engine.mlx.masks import Grammars, Mask
    from wicketgate.engine.mlx.rows import Group
    from wicketgate.engine.options import HostOptions
    from wicketgate.engine.wire import JobMessage, Submit


class MlxBatch:
    """The streams that have KV, by the ids of their requests. All calls come from one thread."""

    def __init__(
        self,
        model: Any,
        options: HostOptions,
        *,
        vocabulary_size: int,
        context_tokens: int,
        eos_token_ids: Sequence[int],
        grammars: Grammars | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        self.network = Network(model)
        # Sliding windows and recurrent states cannot take back what was drafted.
        self._speculation = speculation if self.network.has_plain_cache else None
        self.vocabulary_size = vocabulary_size
        self.context_tokens = context_tokens
        self.cost = StepCost()
        """What a decode step costs; set once it was measured."""
        self._grammars = grammars
        self._options = options
        self._eos_token_ids = frozenset(eos_token_ids)
        self._keeps = options.prefix_cache_bytes > 0
        self._prompts: dict[int, Prompt] = {}
        self._rows: dict[int, Row] = {}
        self._groups: list[Group] = []
        self._counts: list[int] = []
        """Rows of each group when it was last asked whether they should change."""
        self._joining: list[Group] = []
        """Rows with their first token, as they were prefilled; placed before the next pass."""

    @property
    def kv_bytes_per_token(self) -> int:
        """How much one token of one row takes."""
        return self.network.kv_bytes_per_token

    # Memory

    def memory(self) -> MemoryUse:
        """Tell what is allocated."""
        groups = sum(group.size_bytes for group in (*self._groups, *self._joining))
        prompts = sum(caches.size_bytes(prompt.cache) for prompt in self._prompts.values())
        return MemoryUse(
            active_bytes=mx.get_active_memory(),
            pool_bytes=mx.get_cache_memory(),
            rows_bytes=groups + prompts,
        )

    def drain_pool(self) -> None:
        """Give freed buffers back to the system."""
        mx.clear_cache()

    def groups(self) -> list[tuple[int, int]]:
        """Return (rows, tokens of the longest) of each group of rows that is decoded together."""
        return [group.size for group in (*self._groups, *self._joining)]

    # Prompts

    def open(self, message: Submit, hit: Hit[object] | None) -> int:
        """
        Take a stream; returns how many tokens of its prompt came from the hit.

        Raises:
            RowError: this stream cannot be run; nothing was taken.
        """
        ends = frozenset(message.stop_token_ids) | (
            frozenset() if message.ignore_eos else self._eos_token_ids
        )
        mask = self._mask(message)
        with self.network.computing():
            state = row_state(message, ends=ends, mask=mask)
            cache, reused = caches.reuse(hit)
        row = Row(message, state, ends, list(message.prompt))
        self._prompts[message.id] = Prompt(
            row, self.network.new_cache() if cache is None else cache, computed=reused, is_fresh=not reused
        )
        return reused

    def _mask(self, message: Submit) -> Mask | None:
        if message.grammar is None:
            return None
        if self._grammars is None:
            raise RowError(message.id, "grammar: this model was opened without its vocabulary")
        return self._grammars.open(
            message.id, message.grammar, message.prompt[len(message.prompt) - message.position :]
        )

    def compute(self, chunks: Sequence[Chunk]) -> list[Emitted]:
        """
        Compute so many tokens of each of these prompts, and draw the first tokens of those that are done.

        Raises:
            DeviceError: the device failed.
        """
        wanted = [(self._prompts[chunk.id], chunk.tokens) for chunk in chunks]
        with self.network.computing():
            groups, emitted = prefill.compute(
                self.network, wanted, most_together=self._options.prefill_batch_size
            )
            sent: list[Emitted] = []
            for each in emitted:
                row = self._rows[each.token.id] = self._prompts.pop(each.token.id).row
                sent += self._kept_back(row, each)
            for group in groups:
                sent += self._closed(group.shed(keep=self._keeps))
        self._joining += [group for group in groups if group.rows]
        return sent

    def progress(self, key: int) -> Prefix | None:
        """Return the KV of a prompt in progress as computed so far; None where nothing can be kept."""
        prompt = self._prompts.get(key)
        if prompt is None:
            return None
        with self.network.computing():
            return prompt.progress()

    def prefill(self, prompt: Sequence[int], hit: Hit[object] | None) -> MlxPrefill:
        """Begin to compute a prefix beside the streams."""
        return MlxPrefill(self.network, prompt, hit)

    def begin(self, message: JobMessage, hit: Hit[object] | None) -> JobWork:
        """
        Begin a job; a hit holds leading tokens of a Score's query.

        Raises:
            RowError: the model gives no hidden states.
        """
        network, vocabulary_size = self.network, self.vocabulary_size
        match message:
            case Score():
                return MlxScoring(network, message, hit, vocabulary_size=vocabulary_size)
            case Assess():
                return MlxAssessing(network, message, vocabulary_size=vocabulary_size)
            case Embed():
                if not network.has_states:
                    raise RowError(message.id, "embeddings: this model gives no hidden states")
                return MlxEmbedding(network, message)

    # Rows

    def decode(self) -> list[Emitted]:
        """
        Compute the next token of every row.

        Raises:
            DeviceError: the device failed.
        """
        speculation = self._speculation
        if speculation is not None:
            speculation.begin_step()
        with self.network.computing():
            emitted = self._settle()
            unread = [part for group in self._groups for part in group.launch(speculation)]
            for part in unread:
                for row, each in part.told():
                    emitted += self._kept_back(row, each)
            for group in self._groups:
                emitted += self._closed(group.complete(speculation, keep=self._keeps))
        if speculation is not None:
            speculation.end_step(unread)
        self._groups = [group for group in self._groups if group.is_wanted]
        return emitted

    def _kept_back(self, row: Row, emitted: Emitted) -> list[Emitted]:
        """Hold a last token back until its row is shed, where the row's KV goes out with it."""
        if emitted.finish_reason is None:
            return [emitted]
        if self._keeps:
            row.last = emitted
            return []
        row.is_gone = True
        del self._rows[row.message.id]
        return [emitted]

    def _closed(self, emitted: list[Emitted]) -> list[Emitted]:
        for each in emitted:
            del self._rows[each.token.id]
        return emitted

    def _settle(self) -> list[Emitted]:
        """Let rows go, come, and change their groups."""
        emitted: list[Emitted] = []
        for group in self._groups:
            emitted += self._closed(group.shed(keep=self._keeps))
        self._groups = [group for group in self._groups if group.rows]
        joining, self._joining = self._joining, []
        for group in joining:
            group.shed(keep=False)
            if group.rows:
                self._place(group)
        counts = [len(group.rows) for group in self._groups]
        if joining or counts != self._counts:
            self._regroup()
            self._counts = [len(group.rows) for group in self._groups]
        return emitted

    def _place(self, group: Group) -> None:
        rows, longest_tokens = group.size
        index = None
        if self.network.can_batch:
            index = place(self.groups(), rows=rows, longest_tokens=longest_tokens, cost=self.cost)
        if index is None:
            self._groups.append(group)
        else:
            self._groups[index].absorb(group)

    def _regroup(self) -> None:
        """Change groups once where that pays: once is enough, the next change comes with the next row."""
        if not self.network.can_batch:
            return
        found = merger(self.groups(), cost=self.cost)
        if found is not None:
            left, right = found
            self._groups[left].absorb(self._groups.pop(right))
            return
        for group in self._groups:
            length = cut([len(row.tokens) for row in group.rows], cost=self.cost)
            if length is not None:
                self._groups.append(group.cut(length))
                return

    def remove(self, ids: Sequence[int], *, keep: bool) -> dict[int, Prefix]:
        """Drop rows and prompts in progress, unknown ids ignored; `keep` returns the KV that they had."""
        found: dict[int, Prefix] = {}
        with self.network.computing():
            for key in ids:
                prompt, row = self._prompts.pop(key, None), self._rows.pop(key, None)
                prefix = None
                if keep and prompt is not None:
                    prefix = prompt.progress()
                elif keep and row is not None:
                    prefix = self._prefix_of(row)
                if row is not None:
                    row.is_gone, row.last = True, None
                if prefix is not None:
                    found[key] = prefix
        for groups in (self._groups, self._joining):
            groups[:] = [group for group in groups if group.is_wanted]
        return found

    def _prefix_of(self, row: Row) -> Prefix | None:
        for group in (*self._groups, *self._joining):
            if row in group.rows:
                index = group.rows.index(row)
                return group.prefixes([index]).get(index)
        return None

    def reset(self) -> None:
        """Forget all rows and prompts, and every trace of a failed step."""
        self._prompts.clear()
        self._rows.clear()
        self._groups.clear()
        self._joining.clear()
