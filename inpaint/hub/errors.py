"""Owns what the Hub's failures mean: a plain line without secrets, and whether trying again can help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from inpaint.errors import InpaintError

# The HTTP library's own error, which huggingface_hub takes from httpx or httpx2 according to its version.
HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
# Whatever the client raises for what is not a bug.
CLIENT_ERRORS: tuple[type[Exception], ...] = (OSError, RuntimeError, ValueError, HTTP_ERROR)

_SECRETS = re.compile(
    r"\b(?:hf|api_org|hf_oauth)_[A-Za-z0-9_]{8,}"  # tokens
    r"|(?<=Bearer )\S+"
    r"|(?<=://)[^/\s@]+(?=@)"  # user:password in an address
    r"|(?i:(?<=signature=)|(?<=token=)|(?<=credential=))[^&\s'\"]+"  # signed addresses of the storage
)

_MEANINGS = {
    401: "the Hub does not accept the token (401); log in with `hf auth login` or set HF_TOKEN",
    403: "the token has no right to write there (403); use one that has, or another repository",
    404: "the repository or the revision is not there, or the token may not see it (404)",
    409: "the name is taken by something else (409); choose another repository",
    412: "somebody else pushed at the same time (412)",
    429: "the Hub asks to slow down (429)",
}
# What only the user can mend. All else passes by itself: even a 404 does, where a repository is made again.
_LASTING_STATUSES = (400, 401, 403, 413, 422)


@dataclass(frozen=True)
class Failure:
    """Why something on the Hub failed, in one line that may be shown, and when it is worth another try."""

    reason: str
    is_lasting: bool
    """Trying again changes nothing until the user has mended something."""
    retry_after_s: float = 0.0
    """The Hub's own wish: not before so many seconds."""


def redact(text: str, token: str | None = None) -> str:
    """The text without anything that looks like a secret, and without `token`, whatever it looks like."""
    if token:
        text = text.replace(token, "[secret]")
    return _SECRETS.sub("[secret]", text)


def describe(error: BaseException, token: str | None = None) -> Failure:
    """What an exception of the client, or of the network below it, means for the user."""
    text = redact(" ".join(str(error).split()) or type(error).__name__, token)[:300]
    if isinstance(error, InpaintError):
        return Failure(text, is_lasting=True)
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in _chain(error)):
        return Failure("HF_HUB_OFFLINE is set; unset it to push", is_lasting=True)
    response = next((e.response for e in _chain(error) if isinstance(e, HfHubHTTPError)), None)
    if response is not None:
        status = response.status_code
        said = " ".join(response.headers.get("X-Error-Message", "").split())
        meaning = _MEANINGS.get(status) or f"the Hub answered {status}" + (f": {said}" if said else "")
        if status == 401 and token is None:
            meaning = "there is no token; log in with `hf auth login` or set HF_TOKEN (401)"
        retry_after = response.headers.get("Retry-After", "")
        return Failure(
            redact(meaning, token), status in _LASTING_STATUSES, float(retry_after) if retry_after.isdigit() else 0.0
        )
    # A ValueError is the client's refusal to send something; whatever else has no answer in it is the network's doing.
    return Failure(f"{type(error).__name__}: {text}", is_lasting=isinstance(error, ValueError))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and those that led to it: the client wraps an upload's error in a RuntimeError without a status."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
