"""The engine of a simulated model server: continuous batching in steps, as vLLM's scheduler does it. No I/O, no clock.

A step is two calls. `start_step(now_s)` decides what is computed and says how long that takes; the caller lets the time
pass; `finish_step(now_s)` makes the results visible. The rules:

* Running sequences come first, in the order they were admitted: each gets one token to decode, or the next chunk of its
  prompt. Then waiting ones are admitted, first come first served, while the token budget of the step, the number of running
  sequences and the KV blocks allow it. A request for one adapter too many is passed over until a place is free.
* A sequence that is admitted takes over the cached blocks that its prompt begins with; those tokens cost nothing. The last
  prompt token is always computed, since the first output token comes from it.
* When a running sequence needs a block and none is free, the sequence admitted last is preempted: it loses its blocks, goes to
  the head of the queue and starts again.
* Gauges and counters move at step ends only, so they lag by up to one step, as real ones do.
"""

from __future__ import annotations

from collections import deque

from epp.sim.blocks import BlockPool
from epp.sim.config import SimConfig
from epp.sim.sequence import Sequence
from epp.sim.stats import Gauges, Stats


class Engine:
    def __init__(self, config: SimConfig) -> None:
        self._config = config
        self._block_size = config.block_size
        self._pool = BlockPool(config.blocks)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._in_step = False
        self._abort_pending = False
        self._deferred = 0
        self._last_step_end_s = 0.0
        self.stats = Stats(config.context_tokens)

    @property
    def pool(self) -> BlockPool:
        return self._pool

    @property
    def running(self) -> int:
        """Sequences in the batch now, not as published."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def submit(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def abort(self, sequence: Sequence, now_s: float) -> None:
        """Forget a sequence and free its blocks: at once between steps, else at the end of the step in progress."""
        if sequence.aborted or sequence.finish_reason is not None:
            return
        sequence.aborted = True
        self._abort_pending = True
        if not self._in_step:
            self._drop_aborted()
            self._publish(now_s)

    def fail_all(self) -> list[Sequence]:
        """The engine dies: everything it had in hand is failed and returned. Nothing is published any more."""
        lost = [*self._running, *self._waiting]
        self._running.clear()
        self._waiting.clear()
        for sequence in lost:
            sequence.failed = True
        return lost

    def start_step(self, now_s: float) -> float:
        """Choose the work of one step. Returns its duration in seconds."""
        self._in_step = True
        budget, preempted = self._schedule_running()
        if not preempted:
            self._admit_waiting(budget, now_s)
        prefill = decoding = 0.0
        for sequence in self._running:
            weight = 1.0 if sequence.adapter is None else self._config.cost.lora_factor
            if sequence.scheduled == 1 and sequence.generated:
                decoding += weight
            else:
                prefill += sequence.scheduled * weight
        return self._config.cost.step_s(prefill, decoding)

    def finish_step(self, now_s: float) -> list[Sequence]:
        """Make the step's results visible. Returns the sequences that got a token or finished."""
        stats = self.stats
        progressed: list[Sequence] = []
        tokens = steady = finished = 0
        for sequence in self._running:
            if not sequence.scheduled:
                continue
            tokens += sequence.scheduled
            sequence.computed += sequence.scheduled
            sequence.scheduled = 0
            self._remember_full_blocks(sequence)
            if sequence.computed < sequence.total_tokens or sequence.aborted:
                continue
            progressed.append(sequence)
            if sequence.first_token_s is None:
                self._prompt_done(sequence, now_s)
            elif sequence.last_token_s == self._last_step_end_s:
                steady += 1
            else:
                stats.inter_token.observe(now_s - sequence.last_token_s)
            if sequence.max_tokens:
                sequence.emit()
                stats.generation_tokens += 1
            sequence.last_token_s = now_s
            if sequence.generated >= sequence.max_tokens:
                self._finish(sequence, now_s)
                finished += 1
        if steady:
            stats.inter_token.observe(now_s - self._last_step_end_s, steady)
        if finished:
            self._running = [sequence for sequence in self._running if sequence.finish_reason is None]
        self._in_step = False
        if self._abort_pending:
            self._drop_aborted()
        stats.steps += 1
        stats.step_tokens.observe(tokens)
        self._last_step_end_s = now_s
        self._publish(now_s)
        return progressed

    def _schedule_running(self) -> tuple[int, bool]:
        """Give every running sequence its share. Returns the budget left, and whether one had to be preempted."""
        budget = self._config.max_num_batched_tokens
        preempted = False
        position = 0
        while position < len(self._running):
            sequence = self._running[position]
            share = min(sequence.total_tokens - sequence.computed, budget)
            missing = self._blocks_for(sequence.computed + share) - len(sequence.blocks) if share else 0
            if missing > self._pool.free:
                self._preempt(self._running.pop())
                preempted = True
                continue
            if missing > 0:
                sequence.blocks += self._pool.take(missing)
            sequence.scheduled = share
            budget -= share
            position += 1
        return budget, preempted

    def _admit_waiting(self, budget: int, now_s: float) -> None:
        adapters = {sequence.adapter for sequence in self._running if sequence.adapter is not None}
        passed_over: list[Sequence] = []
        while self._waiting and budget > 0 and len(self._running) < self._config.max_num_seqs:
            sequence = self._waiting[0]
            adapter = sequence.adapter
            if adapter is not None and adapter not in adapters and len(adapters) >= self._config.max_loras:
                passed_over.append(self._waiting.popleft())
                continue
            if not self._take_blocks(sequence, budget):
                break
            self._waiting.popleft()
            self._running.append(sequence)
            budget -= sequence.scheduled
            if adapter is not None:
                adapters.add(adapter)
            if sequence.scheduled_s is None:
                sequence.scheduled_s = now_s
                sequence.cached_tokens = sequence.computed
                self.stats.prefix_queries += sequence.prompt_tokens
                self.stats.prefix_hits += sequence.computed
        self._waiting.extendleft(reversed(passed_over))
        self._deferred = len(passed_over)

    def _take_blocks(self, sequence: Sequence, budget: int) -> bool:
        """Give a waiting sequence its cached prefix and blocks for its first chunk, or nothing when they do not fit."""
        pool = self._pool
        # The last token is computed even when its block is cached: its logits give the next token.
        hits = pool.match(sequence.hashes, (sequence.total_tokens - 1) // self._block_size)
        cached = len(hits) * self._block_size
        chunk = min(sequence.total_tokens - cached, budget)
        fresh = self._blocks_for(cached + chunk) - len(hits)
        if not pool.fits(fresh, hits):
            return False
        pool.share(hits)
        sequence.blocks = hits + pool.take(fresh)
        sequence.computed = cached
        sequence.remembered = len(hits)
        sequence.scheduled = chunk
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._free_blocks(sequence)
        sequence.computed = sequence.remembered = sequence.scheduled = 0
        sequence.preemptions += 1
        self.stats.preemptions += 1
        self._waiting.appendleft(sequence)

    def _prompt_done(self, sequence: Sequence, now_s: float) -> None:
        stats = self.stats
        sequence.first_token_s = now_s
        stats.prompt_tokens += sequence.prompt_tokens
        stats.prompt_tokens_cached += sequence.cached_tokens
        stats.ttft.observe(now_s - sequence.arrival_s)

    def _finish(self, sequence: Sequence, now_s: float) -> None:
        stats = self.stats
        sequence.finish_reason = sequence.end_reason
        self._free_blocks(sequence)
        first_s = now_s if sequence.first_token_s is None else sequence.first_token_s
        scheduled_s = now_s if sequence.scheduled_s is None else sequence.scheduled_s
        stats.finished[sequence.finish_reason] += 1
        stats.e2e.observe(now_s - sequence.arrival_s)
        stats.queue_time.observe(scheduled_s - sequence.arrival_s)
        stats.inference_time.observe(now_s - scheduled_s)
        stats.prefill_time.observe(first_s - scheduled_s)
        stats.decode_time.observe(now_s - first_s)
        stats.request_prompt.observe(sequence.prompt_tokens)
        stats.request_generation.observe(sequence.generated)
        stats.request_computed.observe(sequence.prompt_tokens - sequence.cached_tokens)
        stats.max_generation.observe(sequence.max_tokens)
        stats.params_max_tokens.observe(sequence.max_tokens)
        stats.params_n.observe(1)
        stats.request_preemptions.observe(sequence.preemptions)
        if sequence.generated > 1:
            stats.time_per_token.observe((now_s - first_s) / (sequence.generated - 1))

    def _remember_full_blocks(self, sequence: Sequence) -> None:
        full = sequence.computed // self._block_size
        while sequence.remembered < full:
            block_hash = sequence.block_hash(sequence.remembered)
            if block_hash is None:
                return
            self._pool.remember(sequence.blocks[sequence.remembered], block_hash)
            sequence.remembered += 1

    def _drop_aborted(self) -> None:
        for sequence in self._running:
            if sequence.aborted:
                self._free_blocks(sequence)
        self._running = [sequence for sequence in self._running if not sequence.aborted]
        self._waiting = deque(sequence for sequence in self._waiting if not sequence.aborted)
        self._abort_pending = False

    def _free_blocks(self, sequence: Sequence) -> None:
        self._pool.release(sequence.blocks)
        sequence.blocks = []

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._block_size)

    def _publish(self, now_s: float) -> None:
        if self._config.loras:
            # vLLM counts an adapter whether its request runs or waits, and writes the same set under both labels.
            everything = (*self._running, *self._waiting)
            adapters = dict.fromkeys(sequence.adapter for sequence in everything if sequence.adapter is not None)
            self.stats.lora_seen[tuple(adapters)] = now_s
        gauges = Gauges(
            running=len(self._running),
            waiting=len(self._waiting),
            deferred=min(self._deferred, len(self._waiting)),
            kv_usage=self._pool.usage,
        )
        self.stats.publish(gauges)
