"""
From an API's order to its answer: opens the requests, writes what they give, whole or as events.

Every API that generates is served by `Generation.serve`; what differs is its `Form`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wicketgate.api.live import LiveRequests
from wicketgate.api.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from wicketgate.api.endpoint import ApiSettings
    from wicketgate.api.exchange import Exchange
    from wicketgate.api.order import Answers, Order


class Generation:
    """
    Serves what is generated, for every API.

    Args:
        answers: The pipeline.
        settings: What runtime.yaml says now.
    """

    def __init__(self, answers: Answers, *, settings: Callable[[], ApiSettings]) -> None:
        self._answers = answers
        self._settings = settings
        self.live = LiveRequests()
        """Those being served, for who wants to end one."""

    async def serve(self, exchange: Exchange, order: Order) -> None:
        """
        Answer one call, from the first request opened to the last byte, with an error where it fails.

        Raises:
            ClientGoneError: the client went away.
        """
        serving = Serving(exchange, order, answers=self._answers, settings=self._settings())
        with self.live.entered(exchange.request_id, serving, client=exchange.client):
            await serving.run()
