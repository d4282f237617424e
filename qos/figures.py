"""The figures of the last minute: latency quantiles, throughput, errors; of all requests."""

from __future__ import annotations

from dataclasses import dataclass

from qos.window import Counts, Window, WindowParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """A distribution in four numbers."""

    p50: float
    """Median, in the unit of the samples."""
    p95: float
    """95th percentile."""
    p99: float
    """99th percentile."""
    count: float
    """Samples, weighted."""


class Figures:
    """What the requirement's metrics show; every figure covers the same span."""

    def __init__(self, params: WindowParams, *, now_s: float) -> None:
        self._ttft = Window(params, now_s=now_s)
        self._itl = Window(params, now_s=now_s)
        self._requests = Counts(params, now_s=now_s)
        self._tokens = Counts(params, now_s=now_s)

    def first_token(self, *, ttft_s: float, now_s: float) -> None:
        """Note the first token of a request."""
        self._ttft.add(ttft_s, now_s=now_s)

    def step(self, *, gap_s: float, streams: int, now_s: float) -> None:
        """Note one decode step: so many streams got a token, gap_s after the one before."""
        self._itl.add(gap_s, streams, now_s=now_s)

    def generated(self, *, tokens: int, now_s: float) -> None:
        """Note new tokens, first ones too; per frame, so that a long answer counts while it runs."""
        self._tokens.add(good=tokens, now_s=now_s)

    def finished(self, *, failed: bool, now_s: float) -> None:
        """Note the end of a request; a cancelled or refused one is not told."""
        self._requests.add(good=not failed, bad=failed, now_s=now_s)

    def ttft(self, *, now_s: float) -> Quantiles | None:
        """Return the times to first token, in seconds; None without data."""
        return _quantiles(self._ttft, now_s=now_s)

    def itl(self, *, now_s: float) -> Quantiles | None:
        """Return the gaps between two tokens of a stream, in seconds; None without data."""
        return _quantiles(self._itl, now_s=now_s)

    def throughput_rps(self, *, now_s: float) -> float:
        """Return the requests finished per second, failed ones left out."""
        return self._requests.read(now_s=now_s).good / self._requests.covered_s(now_s=now_s)

    def throughput_tps(self, *, now_s: float) -> float:
        """Return the tokens generated per second."""
        return self._tokens.read(now_s=now_s).good / self._tokens.covered_s(now_s=now_s)

    def error_ratio(self, *, now_s: float) -> float | None:
        """Return failed / (finished + failed); None without data."""
        tally = self._requests.read(now_s=now_s)
        return tally.bad / tally.total if tally.total else None


def _quantiles(window: Window, *, now_s: float) -> Quantiles | None:
    count = window.count(now_s=now_s)
    if not count:
        return None
    p50, p95, p99 = (window.quantile(q, now_s=now_s) for q in (0.50, 0.95, 0.99))
    return Quantiles(p50=p50, p95=p95, p99=p99, count=count)
