"""Pins the APIs over real sockets, as curl and the official OpenAI SDK see them, on a faked pipeline."""

from __future__ import annotations

import asyncio
import json

import h2.config
import h2.connection
import httpx
import openai
import pytest

from tests.api_edge import ApiEdge
from tests.api_fakes import FakeAnswers, finished, text
from wicketgate.api.endpoint import ApiSettings
from wicketgate.errors import EngineFailedError, OverloadedError
from wicketgate.inference import FinishReason, TokenLogprob
from wicketgate.pipeline.pieces import TextChunk

pytestmark = pytest.mark.anyio
MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = {"model": "demo", "messages": MESSAGES}


class Edge(ApiEdge):
    """A listener over a faked pipeline, and the SDK as its client."""

    def sdk(self, **options) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, **options)


async def test_the_sdk_streams_a_chat():
    async with Edge(FakeAnswers()) as edge, edge.sdk() as sdk:
        stream = await sdk.chat.completions.create(
            model="demo", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.total_tokens == 5


async def test_the_sdks_own_accumulation_of_a_stream_works():
    async with Edge(FakeAnswers()) as edge, edge.sdk() as sdk:
        async with sdk.chat.completions.stream(model="demo", messages=MESSAGES) as stream:
            final = await stream.get_final_completion()

    assert final.choices[0].message.content == "Hello"
    assert final.choices[0].message.role == "assistant"


async def test_the_sdk_asks_for_a_whole_chat():
    async with Edge(FakeAnswers()) as edge, edge.sdk() as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(model="demo", messages=MESSAGES)

    answer = raw.parse()
    assert answer.choices[0].message.content == "Hello"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 2)
    assert raw.request_id.startswith("req_")


async def test_the_sdk_reads_log_probabilities():
    piece = TextChunk(text="a", tokens=1, logprobs=(TokenLogprob(token=97, logprob=-1.0, top=((98, -0.5),)),))
    async with Edge(FakeAnswers([piece, finished()])) as edge, edge.sdk() as sdk:
        chat = await sdk.chat.completions.create(
            model="demo", messages=MESSAGES, logprobs=True, top_logprobs=1
        )
        old = await sdk.completions.create(model="demo", prompt="hi", logprobs=1)

    assert chat.choices[0].logprobs.content[0].top_logprobs[0].token == "b"
    assert old.choices[0].logprobs.top_logprobs == [{"b": -0.5, "a": -1.0}]


async def test_the_sdk_completes_whole_and_streamed():
    async with Edge(FakeAnswers()) as edge, edge.sdk() as sdk:
        whole = await sdk.completions.create(model="demo", prompt="hi")
        stream = await sdk.completions.create(model="demo", prompt="hi", stream=True)
        pieces = [chunk.choices[0].text async for chunk in stream]

    assert whole.choices[0].text == "".join(pieces) == "Hello"


async def test_the_sdk_lists_models():
    async with Edge(FakeAnswers()) as edge, edge.sdk() as sdk:
        names = [model.id async for model in sdk.models.list()]
        shown = await sdk.models.retrieve("demo")

    assert names == [shown.id] == ["demo"]


async def test_the_sdk_raises_what_was_refused_with_its_field():
    async with Edge(FakeAnswers()) as edge, edge.sdk() as sdk:
        with pytest.raises(openai.BadRequestError) as bad:
            await sdk.chat.completions.create(model="demo", messages=MESSAGES, temperature=3)
        with pytest.raises(openai.NotFoundError) as missing:
            await sdk.chat.completions.create(model="nope", messages=MESSAGES)

    assert (bad.value.param, bad.value.code) == ("temperature", "decimal_above_max_value")
    assert missing.value.code == "model_not_found"


async def test_the_sdk_tries_again_when_it_is_told_to():
    answers = FakeAnswers(error=OverloadedError("full", retry_after_s=0.01))
    async with Edge(answers) as edge, edge.sdk() as sdk:
        with pytest.raises(openai.RateLimitError):
            await sdk.with_options(max_retries=1).chat.completions.create(model="demo", messages=MESSAGES)

    assert len(answers.requests) == 2


async def test_the_sdk_raises_a_failure_in_the_middle_of_a_stream():
    failure = finished(FinishReason.ERROR, error=EngineFailedError("out of memory"))
    async with Edge(FakeAnswers([*text("Hel"), failure])) as edge, edge.sdk() as sdk:
        stream = await sdk.chat.completions.create(model="demo", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="out of memory") as raised:
            async for _ in stream:
                pass

    assert raised.value.code == "engine_failed"


@pytest.mark.parametrize("http2", [False, True])
async def test_a_stream_comes_piece_by_piece(http2):
    """Each piece is there before the next is made."""
    answers = FakeAnswers([*text("a"), None])
    async with Edge(answers) as edge, httpx.AsyncClient(http1=not http2, http2=http2) as client:
        async with client.stream(
            "POST", f"{edge.url}/v1/chat/completions", json=CHAT | {"stream": True}
        ) as reply:
            lines = []
            async for line in reply.aiter_lines():
                lines.append(line)
                if '"content":"a"' in line:
                    break

            assert reply.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            assert reply.headers["cache-control"] == "no-cache, no-transform"
    assert '"role":"assistant"' in lines[0]


@pytest.mark.parametrize("stream", [True, False])
async def test_closing_an_http1_connection_cancels_the_generation(stream):
    answers = FakeAnswers([*text("a"), None])
    async with Edge(answers) as edge:
        _, writer = await asyncio.open_connection("127.0.0.1", edge.server.port)
        body = json.dumps(CHAT | {"stream": stream}).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        while not answers.opened:
            await asyncio.sleep(0.005)
        writer.close()

        await asyncio.wait_for(answers.opened[0].cancelled.wait(), 2)


class H2Streams:
    """Streams of one connection, so that one of them can be reset."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()

    def ask(self, body: dict) -> int:
        data = json.dumps(body).encode()
        stream = self.h2.get_next_available_stream_id()
        path = "/v1/chat/completions"
        headers = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "x")]
        self.h2.send_headers(stream, headers)
        self.h2.send_data(stream, data, end_stream=True)
        self.writer.write(self.h2.data_to_send())
        return stream

    def reset(self, stream: int) -> None:
        self.h2.reset_stream(stream)
        self.writer.write(self.h2.data_to_send())


@pytest.mark.parametrize("stream", [True, False])
async def test_resetting_an_http2_stream_cancels_its_generation_and_no_other(stream):
    answers = FakeAnswers([*text("a"), None])
    async with Edge(answers) as edge:
        client = H2Streams(*await asyncio.open_connection("127.0.0.1", edge.server.port))
        first = client.ask(CHAT | {"stream": stream})
        client.ask(CHAT | {"stream": stream})
        while len(answers.opened) < 2:
            await asyncio.sleep(0.005)
        client.reset(first)

        await asyncio.wait_for(answers.opened[0].cancelled.wait(), 2)
        assert not answers.opened[1].cancelled.is_set()
        client.writer.close()
        await asyncio.wait_for(answers.opened[1].cancelled.wait(), 2)


async def test_resetting_an_http2_stream_that_waits_gives_up_its_place():
    answers = FakeAnswers(is_full=True)
    async with Edge(answers) as edge:
        client = H2Streams(*await asyncio.open_connection("127.0.0.1", edge.server.port))
        stream = client.ask(CHAT)
        await asyncio.wait_for(answers.waited.wait(), 2)
        client.reset(stream)

        await asyncio.wait_for(answers.left.wait(), 2)
        client.writer.close()


async def test_a_client_that_takes_nothing_in_does_not_hold_its_generation_for_ever():
    """With its window shut, the server cannot send; the end of the connection must still end the request."""
    pieces = text(*["x" * 10_000] * 30)
    answers = FakeAnswers([*pieces, finished()])
    async with Edge(answers) as edge:
        client = H2Streams(*await asyncio.open_connection("127.0.0.1", edge.server.port))
        client.ask(CHAT | {"stream": True})
        while not answers.opened or answers.opened[0].given < len(answers.items):
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert not answers.opened[0].cancelled.is_set()
        client.writer.close()

        await asyncio.wait_for(answers.opened[0].cancelled.wait(), 2)
        while edge.server.connections().h2:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("http2", "path"),
    [
        (False, "/v1/chat/completions"),
        (True, "/v1/chat/completions"),
        (True, "/v1/nope"),
        (True, "/v1/models"),
    ],
)
async def test_a_body_of_ten_megabytes_is_refused_and_the_connection_goes_on(http2, path):
    async with Edge(FakeAnswers()) as edge, httpx.AsyncClient(http1=not http2, http2=http2) as client:
        refused = await client.post(edge.url + path, content=b"x" * 10 * 2**20)
        listed = await client.get(f"{edge.url}/v1/models")

        assert refused.status_code in {404, 405, 413}
        assert refused.json()["error"]["code"] in {"request_too_large", "unknown_url", "method_not_allowed"}
        assert listed.status_code == 200
        assert edge.server.connections().opened == 1


async def test_a_body_that_never_ends_is_a_timeout():
    async with Edge(FakeAnswers(), settings=ApiSettings(body_timeout_s=0.05)) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.server.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")

        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()


async def curl(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "curl", "--silent", "--show-error", "--max-time", "5", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@pytest.mark.needs("curl")
@pytest.mark.parametrize("protocol", ["--http2-prior-knowledge", "--http1.1"])
async def test_curl_streams_without_content_type_and_model(protocol):
    body = json.dumps({"messages": MESSAGES, "stream": True})
    async with Edge(FakeAnswers()) as edge:
        output = await curl(protocol, "-N", f"{edge.url}/v1/chat/completions", "-d", body)

    assert '"content":"Hel"' in output
    assert output.endswith("data: [DONE]\n\n")


@pytest.mark.needs("curl")
async def test_curls_offer_to_upgrade_to_http2_is_passed_over():
    async with Edge(FakeAnswers()) as edge:
        output = await curl("--http2", "--include", f"{edge.url}/v1/models")

    assert output.startswith("HTTP/1.1 200")
