from __future__ import annotations

import pytest

from deployments.errors import InvalidRequest
from ingress.form import MAX_PARTS, is_form, model_named

TYPE = "multipart/form-data; boundary=xx"
END = b"--xx--\r\n"


def part(name: str, value: bytes, more: str = "") -> bytes:
    return f'--xx\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


@pytest.mark.parametrize(
    ("content_type", "is_one"),
    [
        (TYPE, True),
        ('Multipart/Form-Data; charset=utf-8; boundary="a b"', True),
        ("multipart/form-data", True),
        ("application/json", False),
        ("multipart/mixed; boundary=xx", False),
        ("", False),
    ],
)
def test_forms_are_known_by_their_content_type(content_type: str, is_one: bool) -> None:
    assert is_form(content_type) is is_one


@pytest.mark.parametrize(
    ("body", "model"),
    [
        pytest.param(part("model", b"whisper") + END, "whisper", id="alone"),
        pytest.param(part("file", b"\x00\xff--xx \r\n--x", '; filename="model"') + part("model", b"a/b") + END, "a/b"),
        pytest.param(part("model", "ß".encode()) + part("file", b"x") + END, "ß", id="not ASCII"),
        pytest.param(part("model", b"") + END, "", id="empty"),
        pytest.param(part("file", b'name="model"') + END, None, id="none"),
        pytest.param(END, None, id="no parts"),
        pytest.param(b"--xx\r\ncontent-disposition: form-data; NAME=model\r\n\r\na\r\n--xx--\r\n", "a", id="spelled"),
    ],
)
def test_model_is_the_forms_field(body: bytes, model: str | None) -> None:
    assert model_named(body, TYPE) == model


@pytest.mark.parametrize(
    ("body", "content_type", "param", "code"),
    [
        pytest.param(part("model", b"a") + END, "multipart/form-data", None, "invalid_form", id="no boundary"),
        pytest.param(
            part("model", b"a"), f"multipart/form-data; boundary={'x' * 999}", None, "invalid_form", id="long"
        ),
        pytest.param(b"", TYPE, None, "invalid_form", id="empty"),
        pytest.param(b'{"model": "a"}', TYPE, None, "invalid_form", id="JSON"),
        pytest.param(part("model", b"a"), TYPE, None, "invalid_form", id="cut off"),
        pytest.param(part("model", b"a") + part("model", b"b") + END, TYPE, "model", "invalid_value", id="twice"),
        pytest.param(part("model", b"\xff") + END, TYPE, "model", "invalid_type", id="not UTF-8"),
        pytest.param(part("a", b"") * (MAX_PARTS + 1) + END, TYPE, None, "invalid_form", id="too many parts"),
    ],
)
def test_form_that_cannot_be_read_is_an_invalid_request(
    body: bytes, content_type: str, param: str | None, code: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        model_named(body, content_type)
    assert (caught.value.param, caught.value.code) == (param, code)
