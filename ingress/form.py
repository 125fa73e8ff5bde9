"""The model's name in a multipart form, which goes on as it came."""

from __future__ import annotations

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from deployments.errors import InvalidRequest

MAX_PARTS = 1000


def is_form(content_type: str) -> bool:
    return parse_options_header(content_type)[0] == b"multipart/form-data"


def model_named(body: bytes, content_type: str) -> str | None:
    """The form's field `model`; None without one.

    Raises: InvalidRequest if the body is no such form, or the field comes twice: engines differ in which they take.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidRequest("The form's content-type names no boundary.", code="invalid_form")
    fields = _Fields()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": fields.begin,
                "on_header_field": fields.header_name,
                "on_header_value": fields.header_value,
                "on_header_end": fields.header_end,
                "on_part_data": fields.data,
                "on_end": fields.end,
            },
        )
        parser.write(body)
    except FormParserError as error:
        raise InvalidRequest(f"The body is not a valid form: {error}.", code="invalid_form") from None
    if not fields.ended:
        raise InvalidRequest("The body is not a valid form: it is cut off.", code="invalid_form")
    if len(fields.models) > 1:
        raise InvalidRequest("The form has several fields 'model'.", param="model")
    try:
        return fields.models[0].decode() if fields.models else None
    except UnicodeDecodeError:
        raise InvalidRequest("'model' must be UTF-8.", param="model", code="invalid_type") from None


class _Fields:
    """What the parser has found. models: the values of the fields `model`."""

    def __init__(self) -> None:
        self.models: list[bytes] = []
        self.ended = False
        self._parts = 0
        self._name = self._value = b""
        self._wanted = False

    def begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest(f"The form has more than {MAX_PARTS} fields.", code="invalid_form")
        self._wanted = False

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition" and _field_name(self._value) == b"model":
            self._wanted = True
            self.models.append(b"")
        self._name = self._value = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted:
            self.models[-1] += data[start:end]

    def end(self) -> None:
        self.ended = True


def _field_name(disposition: bytes) -> bytes | None:
    return parse_options_header(disposition)[1].get(b"name")
