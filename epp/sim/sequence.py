"""One prompt on its way through the engine: what was asked, what has been computed, when. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from epp.sim.tokens import TOKEN_BYTES, block_hashes, chain_hash, prompt_seed, root_hash, token_count, word


class Sequence:
    """Prompt and output share one byte stream, so that the output can be found in the cache by the next turn's prompt.

    Times are seconds of the engine's clock. `max_tokens` 0 computes the prompt only (embeddings).
    `on_progress` is called when it finishes or fails, and, if `report_every` is not 0, at the end of the step that gave it
    its first token and then each `report_every`-th.
    """

    __slots__ = (
        "_block_bytes",
        "_prompt_bytes",
        "_seed",
        "aborted",
        "adapter",
        "arrival_s",
        "blocks",
        "cached_tokens",
        "computed",
        "end_reason",
        "failed",
        "finish_reason",
        "first_token_s",
        "generated",
        "hashes",
        "last_token_s",
        "max_tokens",
        "on_progress",
        "preemptions",
        "prompt_id",
        "prompt_tokens",
        "remembered",
        "report_every",
        "root",
        "scheduled",
        "scheduled_s",
        "stream",
    )

    def __init__(
        self,
        prompt: bytes,
        *,
        block_size: int,
        max_tokens: int,
        arrival_s: float,
        end_reason: str = "length",
        adapter: str | None = None,
        cache_salt: str | None = None,
        prompt_id: int = 0,
        report_every: int = 0,
        on_progress: Callable[[], None] | None = None,
    ) -> None:
        self.stream = bytearray(prompt)
        self.prompt_tokens = token_count(prompt)
        self.root = root_hash(adapter, cache_salt)
        self.hashes = block_hashes(prompt, block_size, self.root)
        self.max_tokens = max_tokens
        self.adapter = adapter
        self.arrival_s = arrival_s
        self.end_reason = end_reason
        self.prompt_id = prompt_id
        """Number of the prompt within its request; the choices of one prompt (n > 1) share it."""
        self.report_every = report_every
        self.on_progress = on_progress
        self.blocks: list[int] = []
        self.computed = 0
        """Tokens whose KV entries exist, cached ones included."""
        self.generated = 0
        self.scheduled = 0
        """Tokens that the step in progress computes; 0 when it is not part of the step."""
        self.remembered = 0
        """Leading blocks that are known to the prefix cache."""
        self.cached_tokens = 0
        self.preemptions = 0
        self.scheduled_s: float | None = None
        self.first_token_s: float | None = None
        self.last_token_s = 0.0
        self.finish_reason: str | None = None
        self.failed = False
        """The engine died under it; it will never finish."""
        self.aborted = False
        self._seed = prompt_seed(prompt)
        self._prompt_bytes = len(prompt)
        self._block_bytes = block_size * TOKEN_BYTES

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.generated

    @property
    def is_done(self) -> bool:
        return self.finish_reason is not None or self.failed

    @property
    def is_news(self) -> bool:
        """Whether whoever waits for this sequence wants to hear of it now."""
        if self.is_done:
            return True
        return bool(self.report_every) and (self.generated == 1 or self.generated % self.report_every == 0)

    def emit(self) -> None:
        """Append the next token of the answer."""
        self.stream += word(self._seed, self.generated)
        self.generated += 1

    def text(self, first: int, end: int) -> str:
        """Output tokens `first` up to, not including, `end`."""
        start = self._prompt_bytes
        return self.stream[start + first * TOKEN_BYTES : start + end * TOKEN_BYTES].decode()

    def block_hash(self, index: int) -> int | None:
        """Hash of block `index`, whose predecessors must have been asked for before; None while it is not full."""
        if index < len(self.hashes):
            return self.hashes[index]
        start = index * self._block_bytes
        block = self.stream[start : start + self._block_bytes]
        if len(block) < self._block_bytes:
            return None
        block_hash = chain_hash(self.hashes[-1] if self.hashes else self.root, block)
        self.hashes.append(block_hash)
        return block_hash
