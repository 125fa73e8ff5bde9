"""From a request's body to a checked model, or to one clear sentence about the first thing wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from deployments.errors import InvalidRequest

Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], body: bytes) -> Model:
    """Raises: InvalidRequest, its `param` the path of the field."""
    raw = _object(body)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise _invalid(error.errors(include_url=False)[0], raw) from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None


def _object(body: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(body.decode(), parse_constant=_no_constant)
        if b"\\u" in body:
            json.dumps(raw, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not valid UTF-8.", code="invalid_json") from None
    except UnicodeEncodeError:
        raise InvalidRequest("The body holds half a surrogate pair.", code="invalid_json") from None
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    return raw


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _invalid(error: ErrorDetails, raw: Any) -> InvalidRequest:
    kind = error["type"]
    context = error.get("ctx", {})
    path = field_path(error["loc"], raw, missing=kind == "missing")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        path = _join(path, str(context["discriminator"]).strip("'"))
    if kind == "missing" or kind == "union_tag_not_found":
        return InvalidRequest(f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")
    if kind == "extra_forbidden":
        return InvalidRequest(f"Unrecognized request argument supplied: {path}", param=path, code="unknown_parameter")
    if kind == "union_tag_invalid":
        expected = context["expected_tags"]
        return InvalidRequest(f"Invalid '{path}': it should be one of {expected}.", param=path)
    if kind == "unsupported":
        return InvalidRequest(f"'{path}' {error['msg']}", param=path, code="unsupported_parameter")
    if kind == "rule":
        path = _join(path, context["param"])
        return InvalidRequest(f"Invalid '{path}': {error['msg']}.", param=path)
    message = error["msg"][:1].lower() + error["msg"][1:]
    code = "invalid_type" if kind.endswith("_type") else None
    return InvalidRequest(f"Invalid '{path}': {message}.", param=path or None, code=code)


def field_path(loc: Sequence[int | str], raw: Any, *, missing: bool = False) -> str:
    """`messages[2].role`. Follows the body, so that the names pydantic gives to a union's arms do not show.

    missing: the last step is not in the body.
    """
    path = ""
    for i, step in enumerate(loc):
        if isinstance(step, int):
            if isinstance(raw, list):
                path += f"[{step}]"
                raw = raw[step] if step < len(raw) else None
        elif isinstance(raw, dict) and (step in raw or (missing and i == len(loc) - 1)):
            path = _join(path, step)
            raw = raw.get(step)
    return path


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
