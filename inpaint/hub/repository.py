"""Owns a repository of the Hub, of whatever kind: what it may be called, and that it is there."""

from __future__ import annotations

from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from inpaint.errors import UsageError


def require_repo_id(repo_id: str, kind: str = "repository") -> None:
    """UsageError unless it is ORG/NAME or USER/NAME, as the Hub allows it."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"{repo_id!r} cannot be a {kind} on the Hub: {error}") from error
    if "/" not in repo_id:
        raise UsageError(f"the Hub {kind} is {repo_id!r}; it must be ORG/NAME or USER/NAME")


def make_if_need_be(api: HfApi, repo_id: str, private: bool, repo_type: str = "model", **kind: Any) -> bool:
    """Whether it had to be made: for the first time, or again because somebody deleted it."""
    try:
        api.create_repo(repo_id, private=private, repo_type=repo_type, **kind)
    except HfHubHTTPError as error:
        status = error.response.status_code
        # Tokens for one repository may push to it and yet not make it, so a refusal counts only if it is not there.
        if status == 409 or (status == 403 and api.repo_exists(repo_id, repo_type=repo_type)):
            return False
        raise
    return True
