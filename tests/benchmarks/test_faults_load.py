from __future__ import annotations

import asyncio

import pytest

from benchmarks.faults_load import Answer, Load, Outcome, Streams, counts, outcome_of, recovered_s, troubled_s

ROLE = b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (ROLE + b"data: [DONE]\n\n", Outcome.WHOLE),
        (ROLE + b'data: {"error": {"message": "lost"}}\n\n', Outcome.EVENT),
        (ROLE + b'event: error\ndata: {"error": {"message": "lost"}}\n\n', Outcome.EVENT),
        (ROLE, Outcome.SILENT),
        (ROLE + b'data: {"cho', Outcome.SILENT),
        (b"", Outcome.SILENT),
    ],
)
def test_end_of_a_stream_tells_what_became_of_it(body: bytes, outcome: Outcome) -> None:
    assert outcome_of(body) is outcome


def answer(sent: float, ended: float, outcome: Outcome = Outcome.WHOLE, model: str = "a") -> Answer:
    return Answer(model, sent, ended, outcome)


def test_recovery_is_the_first_whole_answer_of_a_request_that_was_sent_after_the_fault() -> None:
    seen = [
        answer(9, 11),  # sent before
        answer(10, 12, Outcome.UNBEGUN),
        answer(11, 12, model="b"),
        answer(12, 15),
        answer(13, 14),
    ]
    assert recovered_s(seen, "a", 10) == 4
    assert recovered_s(seen[:3], "a", 10) is None


def test_trouble_lasts_as_long_as_requests_are_sent_that_fail() -> None:
    seen = [answer(9, 20, Outcome.EVENT), answer(10, 11), answer(13, 30, Outcome.UNBEGUN), answer(14, 15)]
    assert troubled_s(seen, 10) == 3
    assert troubled_s(seen[:2], 10) == 0
    assert counts(seen)[Outcome.WHOLE] == 2


class Server:
    """Answers HTTP on the loopback with the given bytes, and closes the connection."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        writer.write(self._answers.pop(0))
        await writer.drain()
        writer.close()


OK = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(ROLE), ROLE)
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
REFUSED = b"HTTP/1.1 503 Away\r\ncontent-length: 4\r\n\r\naway"


async def test_each_way_to_lose_an_answer_is_told_from_the_others() -> None:
    server = await asyncio.start_server(
        Server(OK + CHUNK + END, OK + CHUNK, OK + CHUNK + b"0\r\n\r\n", REFUSED, b""), "127.0.0.1"
    )
    host, port = server.sockets[0].getsockname()
    load = Load(f"http://{host}:{port}", "a", (Streams("a", 1, 1),))
    await load.open()
    seen = [(await load.ask("a", 1, stream=True)).outcome for _ in range(5)]
    await load.close()
    server.close()
    assert seen == [Outcome.WHOLE, Outcome.BROKEN, Outcome.SILENT, Outcome.UNBEGUN, Outcome.UNBEGUN]
