"""The table in the docstring of `deployments.errors` is the truth about its classes."""

from __future__ import annotations

import pytest

from deployments import errors
from deployments.errors import ApiError, Capacity, EngineFailed, InvalidRequest, ModelNotFound


def documented() -> dict[str, tuple[int, str, str]]:
    """Class → status, type, code, as the docstring draws them."""
    lines = [line.lstrip("├└─ ").split() for line in (errors.__doc__ or "").splitlines() if line.startswith(("├", "└"))]
    return {name: (int(status), type_, code) for name, status, type_, code in lines}


def family(cls: type[ApiError] = ApiError) -> dict[str, type[ApiError]]:
    members = {cls.__name__: cls} if cls is not ApiError else {}
    for child in cls.__subclasses__():
        members |= family(child)
    return members


def test_table_and_family_have_the_same_members() -> None:
    assert documented().keys() == family().keys()


@pytest.mark.parametrize("name", sorted(documented()))
def test_class_has_its_documented_status_type_and_code(name: str) -> None:
    error = family()[name]("text")
    status, type_, code = documented()[name]
    assert (error.status, error.type) == (status, type_)
    if code != "(given)":
        assert error.code == code


def test_body_is_openais_shape() -> None:
    error = InvalidRequest("'top_p' is bad.", param="top_p", code="out_of_range")
    assert error.body() == {
        "error": {
            "message": "'top_p' is bad.",
            "type": "invalid_request_error",
            "param": "top_p",
            "code": "out_of_range",
        }
    }
    assert str(error) == "'top_p' is bad."


def test_code_is_the_classs_own_unless_given() -> None:
    assert ModelNotFound("x").body()["error"]["code"] == "model_not_found"
    assert InvalidRequest("x").body()["error"]["code"] == "invalid_value"


def test_retry_after_is_a_header_only_when_it_is_known() -> None:
    assert Capacity("x", retry_after_s=10).headers() == {"retry-after": "10"}
    assert Capacity("x").headers() == {}


def test_details_stand_beside_openais_fields_in_the_error() -> None:
    error = Capacity("No room.", param="model", details={"loading": {"phase": "loading"}})
    assert error.body() == {
        "error": {
            "message": "No room.",
            "type": "server_error",
            "param": "model",
            "code": "capacity",
            "loading": {"phase": "loading"},
        }
    }
    assert Capacity("x").body()["error"].keys() == {"message", "type", "param", "code"}


def test_engine_failed_tells_the_ingress_to_try_another_replica() -> None:
    assert EngineFailed("x").headers() == {errors.RETRY_HEADER: "1"}
    assert EngineFailed("x", retry_after_s=1).headers() == {errors.RETRY_HEADER: "1", "retry-after": "1"}
