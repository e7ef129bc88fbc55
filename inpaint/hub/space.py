"""Owns pushing an exported page as a static Space: all its files as one commit."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, SpaceInfo
from huggingface_hub.errors import RepositoryNotFoundError

from inpaint.errors import InpaintError, UsageError
from inpaint.hub.push import retried
from inpaint.hub.repository import make_if_need_be, require_repo_id

# What makes a folder an exported page (`inpaint.exports.web_folder`).
_PAGE = ("README.md", "about.json", "index.html", "model.onnx")


def push_space(folder: Path, repo_id: str, private: bool = False) -> str:
    """Make the Space if need be, then one commit with all files of the folder; its address.

    What is on the Hub already is not sent again, so that a push that was cut off goes on where it was: the same files
    make the same commit, and pushing them again makes none. Other files of the Space are left alone.

    Args:
        folder: such as `inpaint export --format web` writes.
        private: if the Space is new, make it private; one that is public is then refused.

    Raises:
        UsageError: no such folder or name.
        InpaintError: the Hub refuses it or cannot be reached, or there is a Space of another kind.
    """
    if missing := [name for name in _PAGE if not (folder / name).is_file()]:
        raise UsageError(
            f"{folder} cannot be pushed as a Space: it has no {missing[0]}; give a folder that "
            "`inpaint export --format web` wrote"
        )
    require_repo_id(repo_id, "Space")
    api, failed = HfApi(), f"{repo_id} could not be pushed"
    info = retried(lambda: _opened(api, repo_id, private), failed)
    if info.sdk not in (None, "static"):
        raise InpaintError(f"{repo_id} is a Space of the kind {info.sdk}, not a static one; choose another name")
    if private and not info.private:
        raise InpaintError(f"{repo_id} is public and --private was asked for: nothing was pushed; choose another name")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())

    def commit() -> None:
        files = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in paths]
        api.create_commit(repo_id, files, commit_message="inpaint export --format web", repo_type="space")

    retried(commit, failed)
    return f"{api.endpoint}/spaces/{repo_id}"


def _opened(api: HfApi, repo_id: str, private: bool) -> SpaceInfo:
    make_if_need_be(api, repo_id, private, "space", space_sdk="static")
    try:
        return api.space_info(repo_id)
    except RepositoryNotFoundError as error:
        raise InpaintError(f"{repo_id} is no Space that this token may see; choose another name") from error
