"""
What was asked of the engine and has not ended: streams and jobs, carried from host to host.

Suspects (see trials.py) go first, each to be alone: the host computes them strictly one after the other, and
tells each token before it begins with the next, so that it is never in doubt whom it died of. Everything
else, new requests too, is held here until the last of them is cleared.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from wicketgate.engine.pending_job import PendingJob
from wicketgate.engine.stream import TokenStream
from wicketgate.engine.trials import Trials
from wicketgate.engine.wire import Cancel
from wicketgate.errors import ConvictedRequestError, EngineFailedError
from wicketgate.inference import FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from wicketgate.engine.stream import Service
    from wicketgate.engine.wire import Done, JobMessage, Step, ToHost
    from wicketgate.errors import WicketgateError
    from wicketgate.inference import Sampling


class InFlight:
    """
    Streams and jobs by id.

    Args:
        send: Sends a message to the host that runs.
        refusal: Tells why nothing is taken now, or None.
    """

    def __init__(
        self, send: Callable[[ToHost], None], *, refusal: Callable[[], WicketgateError | None]
    ) -> None:
        self._send = send
        self._refusal = refusal
        self._trials = Trials()
        self._streams: dict[int, TokenStream] = {}
        self._jobs: dict[int, PendingJob] = {}
        self._held: dict[int, None] = {}
        """Not sent to the host that runs, in the order in which they go."""
        self._computed: set[int] = set()
        """What the host that runs is known to compute, or to have computed."""
        self._has_host = False
        self.emptied = asyncio.Event()
        """Set while nothing is in flight."""
        self.emptied.set()

    @property
    def streams(self) -> int:
        """How many streams have not ended."""
        return len(self._streams)

    @property
    def in_session(self) -> bool:
        """Whether suspects are being tried: the host must have nothing else to do."""
        return self._trials.in_session

    @property
    def doing(self) -> str:
        """What the host does: prefill while a stream that it began has no token, else decode, or nothing."""
        begun = [self._streams[key] for key in self._computed if key in self._streams]
        if not begun:
            return ""
        return "decode" if all(stream.has_tokens for stream in begun) else "prefill"

    # Asked by the gateway

    def submit(self, key: int, ids: Sequence[int], sampling: Sampling, service: Service) -> TokenStream:
        """Take a stream; one that is refused has ended with the reason."""
        stream = TokenStream(key, ids, sampling, service=service, on_cancel=self._cancel)
        if (refusal := self._refusal()) is not None:
            stream.finish(FinishReason.ERROR, refusal)
            return stream
        self._streams[key] = stream
        self._admit(key, rank=1)
        return stream

    def ask(self, message: JobMessage) -> PendingJob:
        """Take a job; one that is refused has ended with the reason."""
        job = PendingJob(message, on_cancel=self._cancel)
        if (refusal := self._refusal()) is not None:
            job.fail(refusal)
            return job
        self._jobs[message.id] = job
        # Tried before any stream, because no stream may be in the host then.
        self._admit(message.id, rank=0)
        return job

    def _cancel(self, key: int) -> None:
        if key not in self._streams and key not in self._jobs:
            return
        if key not in self._held:
            self._send(Cancel(key))
        self._forget(key)
        self._proceed()

    def end_all(self) -> None:
        """End everything as refused."""
        ended = list(self._streams.items())
        for key, stream in ended:
            stream.finish(FinishReason.ERROR, self._refusal())
            self._forget(key)
        for key, job in list(self._jobs.items()):
            job.fail(self._refusal() or EngineFailedError("the engine is gone"))
            self._forget(key)
        _tell(stream for _, stream in ended)

    def _forget(self, key: int) -> None:
        self._streams.pop(key, None)
        self._jobs.pop(key, None)
        self._held.pop(key, None)
        self._computed.discard(key)
        self._trials.end(key)
        if not self._streams and not self._jobs:
            self.emptied.set()

    # From one host to the next

    def host_ready(self) -> None:
        """Send what may go to a new host."""
        self._has_host = True
        self._proceed()

    def host_gone(self, eos_token_ids: Collection[int], *, died: bool) -> None:
        """
        Hold everything until the next host, but streams that had their last token.

        Args:
            eos_token_ids: The model's end tokens.
            died: Whether the host ended unasked; whoever is convicted of that is ended.
        """
        self._has_host = False
        waited = [key for key in (*self._streams, *self._jobs) if key not in self._held]
        convicted = self._trials.died(self._computed, waited=waited) if died else ()
        ended = []
        for key, stream in list(self._streams.items()):
            reason = stream.end_reached(eos_token_ids)
            if reason is not None:
                stream.finish(reason)
                self._forget(key)
                ended.append(stream)
        for key in convicted:
            if (convict := self._streams.get(key)) is not None:
                ended.append(convict)
            self._convict(key)
        self._computed.clear()
        self._held = dict.fromkeys(sorted((*self._streams, *self._jobs)))
        _tell(ended)

    def _convict(self, key: int) -> None:
        text = "the engine died twice while it ran this request alone"
        error = ConvictedRequestError(f"{text}; it was ended so that the others can go on")
        if (stream := self._streams.get(key)) is not None:
            stream.finish(FinishReason.ERROR, error)
        if (job := self._jobs.get(key)) is not None:
            job.fail(error)
        self._forget(key)

    def _admit(self, key: int, *, rank: int) -> None:
        self._trials.add(key, rank=rank)
        self._held[key] = None
        self.emptied.clear()
        self._proceed()

    def _proceed(self) -> None:
        """Send what may run now: suspects, each alone, or everything that is held once none is left."""
        if not self._has_host:
            return
        called = self._trials.call()
        if called and called[0] in self._jobs:
            del called[1:]  # a job cannot ask for being alone: nothing else may be in the host
        for key in called:
            if key in self._held:
                self._submit(key, alone=True)
        if not self._trials.in_session:
            for key in list(self._held):
                self._submit(key, alone=False)

    def _submit(self, key: int, *, alone: bool) -> None:
        del self._held[key]
        if (stream := self._streams.get(key)) is not None:
            self._send(stream.submission(alone=alone))
        else:
            self._computed.add(key)  # no news says when a job is begun
            self._send(self._jobs[key].submission())

    # Said by the host

    def take(self, step: Step) -> None:
        """Hand on what a step brought."""
        streams = self._streams
        touched: dict[int, TokenStream] = {}
        for started in step.started:
            if (stream := streams.get(started.id)) is not None:
                self._computed.add(started.id)
                stream.start(started)
        is_trial = self._trials.in_session
        for token in step.tokens:
            if (stream := streams.get(token.id)) is not None:
                stream.feed(token)
                touched[token.id] = stream
                if is_trial:
                    self._trials.emitted(token.id, tokens=1)
        for part in step.answers:
            if (job := self._jobs.get(part.id)) is not None:
                job.take(part)
        for done in step.done:
            self._end(done, touched)
        if self._held or is_trial:
            self._proceed()
        _tell(touched.values())

    def _end(self, done: Done, touched: dict[int, TokenStream]) -> None:
        if (stream := self._streams.get(done.id)) is not None:
            stream.finish_as(done)
            touched[done.id] = stream
        if (job := self._jobs.get(done.id)) is not None:
            job.finish_as(done)
        self._forget(done.id)


def _tell(streams: Iterable[TokenStream]) -> None:
    """Tell consumers, once each, when all is as it should be: what they do may end other streams."""
    for stream in streams:
        stream.tell()
