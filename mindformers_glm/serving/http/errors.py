"""What goes wrong with a request, in the form that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

from mindformers_glm.errors import shorten


class ApiError(Exception):
    """A request that is refused or failed: HTTP status, message, and what it is about.

    `retry_after` seconds are told to the client; `may_retry` False keeps OpenAI's client from trying again by itself.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        may_retry: bool = True,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after, self.may_retry = retry_after, may_retry

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers if self.may_retry else {**headers, "x-should-retry": "false"}


_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def wrong(param: str, value: Any, fix: str) -> ApiError:
    """A field whose value makes no sense."""
    return ApiError(400, f"{param}: got {shorten(value)}. {fix}", param=param, code="invalid_value")


def refused(param: str, reason: str) -> ApiError:
    """A field of OpenAI's interface that this server does not have."""
    return ApiError(400, f"{param}: {reason}", param=param, code="unsupported_parameter")


def too_long(tokens: int, limit: int, param: str) -> ApiError:
    """A prompt that leaves no room for an answer."""
    return ApiError(
        400,
        f"This model's maximum context length is {limit} tokens, prompt and answer together, and the prompt has "
        f"{tokens} tokens. Shorten it.",
        param=param,
        code="context_length_exceeded",
    )


def failed() -> ApiError:
    """Something broke that is not the client's fault; what it was is in the log."""
    return ApiError(500, "The server failed at this request; its log says why.", code="internal_error")
