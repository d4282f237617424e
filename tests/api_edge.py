"""A listener over a faked pipeline, in the test's own process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.api_fakes import make_app
from transport.server import EdgeServer, ServerParams

if TYPE_CHECKING:
    from tests.api_fakes import FakeAnswers


class ApiEdge:
    """
    Serves the clients' application on a free port.

    Args:
        answers: The pipeline.
        more: As for `make_app`.
    """

    def __init__(self, answers: FakeAnswers, **more: Any) -> None:
        self.answers = answers
        self.server = EdgeServer(
            make_app(answers, **more), params=ServerParams(), accepts_h2=lambda peer: True
        )

    async def __aenter__(self):
        await self.server.start()
        self.url = f"http://127.0.0.1:{self.server.port}"
        return self

    async def __aexit__(self, *_):
        await self.server.close()
