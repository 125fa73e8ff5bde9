from __future__ import annotations

import pytest

from ingress.cli import events
from ingress.cli.failures import Refused

STREAM = b': ping\n\nevent: x\nid: 1\ndata: {"a": "\xc3\xa4"}\r\n\r\ndata:1\ndata: 2\n\ndata: cut off\n'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_whole_wherever_the_stream_is_cut(size: int) -> None:
    pieces = [STREAM[i : i + size] for i in range(0, len(STREAM), size)]
    assert list(events.data_of(pieces)) == ['{"a": "ä"}', "1\n2"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"error": {"message": "No.", "code": "capacity"}}', r"No\. \[capacity\]"),
        ('{"error": {"message": "No.", "code": null}}', "^No.$"),
        ('{"type": "error", "message": "The log is gone."}', "The log is gone."),
        ("[1]", "no event"),
        ("{", "no event"),
        ('{"error": 1}', "no event"),
    ],
)
def test_event_that_tells_of_an_error_is_raised(data: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        events.parse(data)
