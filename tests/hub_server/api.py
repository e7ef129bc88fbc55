"""The Hub's HTTP API as its client calls it: which request does what to the state, and what it is answered."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs

import yaml

from .messages import HubError, Request, Response, file_response, json_response
from .state import KINDS, LFS_SUFFIXES, LFS_THRESHOLD_BYTES, Account, Commit, File, Repository, State
from .storage import lfs_batch, lfs_url, lfs_verify, xet_token

PAGE_SIZE = 100


class Api:
    """Answers requests to the Hub itself; the large files' contents go to `storage_url`."""

    def __init__(self, state: State, url: str, storage_url: str) -> None:
        self.state, self.url, self.storage_url = state, url, storage_url

    def response(self, request: Request) -> Response:
        account = self.state.account(request.headers.get("Authorization"))
        match request.segments:
            case ("api", "whoami-v2"):
                return json_response(_whoami(_known(account)))
            case ("api", "validate-yaml"):
                return _validate_yaml(request)
            case ("api", "repos", ("create" | "delete") as action):
                return self._manage(request, _known(account), action)
            case ("api", kind, namespace, name, *rest) if kind in KINDS:
                return self._repository(request, account, kind, f"{namespace}/{name}", *(rest or ["revision"]))
            case ("lfs-verify",):
                return lfs_verify(self.state, request)
        # What is left are addresses as git and browsers know them: models stand at the root, data sets do not.
        kind, segments = "models", list(request.segments)
        if segments and segments[0] in KINDS:
            kind = segments.pop(0)
        match segments:
            case (namespace, name, "info", "lfs", "objects", "batch"):
                self.state.open(kind, f"{namespace}/{name.removesuffix('.git')}", account, write=True)
                return lfs_batch(self.state, request, self.storage_url, f"{self.url}/lfs-verify")
            case (namespace, name, "resolve", revision, *path) if path:
                repository = self.state.open(kind, f"{namespace}/{name}", account)
                return self._download(request, repository.resolve(revision), "/".join(path))
        raise HubError(404, None, f"nothing at {request.path}")

    def _manage(self, request: Request, account: Account, action: str) -> Response:
        body = request.json()
        kind = (body.get("type") or "model") + "s"
        name = f"{body.get('organization') or account.name}/{body['name'].split('/')[-1]}"
        if action == "delete":
            self.state.open(kind, name, account, write=True)
            del self.state.repositories[kind, name]
            return json_response({})
        private = body.get("visibility") == "private" or bool(body.get("private"))
        self.state.create(kind, name, private, account, body.get("sdk"))
        return json_response({"url": self._page(kind, name), "name": name, "id": name})

    def _page(self, kind: str, name: str) -> str:
        return f"{self.url}/{'' if kind == 'models' else kind + '/'}{name}"

    def _repository(
        self, request: Request, account: Account | None, kind: str, name: str, action: str, *arguments: str
    ) -> Response:
        is_write = action in ("commit", "preupload", "branch", "tag", "xet-write-token")
        repository = self.state.open(kind, name, account, write=is_write)
        revision = arguments[0] if arguments else "main"
        folder = "/".join(arguments[1:]).strip("/")
        match action:
            case "revision":
                return json_response(_information(repository, repository.resolve(revision), request))
            case "tree":
                return self._tree(request, repository.resolve(revision), folder)
            case "paths-info":
                return _paths_info(request, repository.resolve(revision))
            case "refs":
                return json_response(_references(repository))
            case "commits":
                history = [_commit_record(commit) for commit in repository.resolve(revision).history()]
                return self._page_of(request, history)
            case "branch":
                return _branch(request, repository, revision)
            case "tag":
                return _tag(request, repository, revision)
            case "xet-write-token" | "xet-read-token":
                return xet_token(self.storage_url, name)
            case "preupload":
                return _preupload(request, repository.resolve(revision))
            case "commit":
                commit = _commit(self.state, request, repository, revision, _known(account))
                page = f"{self._page(kind, name)}/commit/{commit.oid}"
                return json_response({"commitOid": commit.oid, "commitUrl": page, "pullRequestUrl": None})
        raise HubError(404, None, f"nothing at {request.path}")

    def _tree(self, request: Request, commit: Commit, folder: str) -> Response:
        folders = commit.folders()
        if folder and folder not in folders:
            raise HubError(404, "EntryNotFound", f'{folder} does not exist on "{commit.oid}"')
        prefix, is_deep = f"{folder}/" if folder else "", request.query.get("recursive", "").lower() == "true"
        paths = [p for p in (*sorted(folders), *sorted(commit.files)) if p.startswith(prefix)]
        wanted = [p for p in paths if is_deep or "/" not in p.removeprefix(prefix)]
        return self._page_of(request, [_entry(path, commit, request) for path in wanted])

    def _page_of(self, request: Request, items: list[Any]) -> Response:
        """One page of a long list; the Link header leads to the next."""
        begin = int(request.query.get("cursor", 0))
        response = json_response(items[begin : begin + PAGE_SIZE])
        if begin + PAGE_SIZE < len(items):
            query = {**request.query, "cursor": begin + PAGE_SIZE}
            following = "&".join(f"{name}={value}" for name, value in query.items())
            response.headers["Link"] = f'<{self.url}{request.path}?{following}>; rel="next"'
        return response

    def _download(self, request: Request, commit: Commit, path: str) -> Response:
        if path not in commit.files:
            raise HubError(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit.oid})
        file = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid}
        if not file.is_lfs:
            return file_response(file.content, request, {**headers, "ETag": f'"{file.git_oid}"'})
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        return Response(302, b"", {**headers, "Location": lfs_url(self.storage_url, file.sha256)})


def _known(account: Account | None) -> Account:
    if account is None:
        raise HubError(401, None, "Invalid username or password.")
    return account


def _whoami(account: Account) -> dict[str, object]:
    organizations = [{"type": "org", "name": name, "roleInOrg": "write"} for name in account.organizations]
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
    return {"type": "user", "id": account.name, "name": account.name, "orgs": organizations, "auth": token}


def _validate_yaml(request: Request) -> Response:
    """The check of a card's metadata: here only that it is YAML and that every model-index entry has a name."""
    block = request.json()["content"].removeprefix("---\n").split("\n---")[0]
    try:
        data = yaml.safe_load(block)
    except yaml.YAMLError as error:
        return json_response({"errors": [{"message": str(error)}], "warnings": []}, 400)
    entries = data.get("model-index", []) if isinstance(data, dict) else []
    errors = [{"message": '"model-index[0].name" is required'} for entry in entries if not entry.get("name")]
    return json_response({"errors": errors, "warnings": []}, 400 if errors else 200)


def _information(repository: Repository, commit: Commit, request: Request) -> dict[str, object]:
    card = commit.card_data()
    siblings = []
    for path, file in commit.files.items():
        lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.pointer)} if file.is_lfs else None
        details = {"size": file.size, "blobId": file.git_oid, "lfs": lfs} if request.query.get("blobs") else {}
        siblings.append({"rfilename": path, **details})
    return {
        "_id": commit.oid[:24],
        "id": repository.name,
        "author": repository.name.split("/")[0],
        "sha": commit.oid,
        "lastModified": commit.date,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": card.get("tags") or [],
        "cardData": card,
        "siblings": siblings,
        # A Space's is what its README says from the first one on.
        **({"sdk": card.get("sdk") or repository.sdk} if repository.kind == "spaces" else {}),
        **{name: card[name] for name in ("library_name", "pipeline_tag") if name in card},
    }


def _entry(path: str, commit: Commit, request: Request) -> dict[str, object]:
    if path not in commit.files:
        return {"type": "directory", "path": path, "oid": commit.oid, "size": 0}
    file = commit.files[path]
    entry: dict[str, object] = {"type": "file", "path": path, "oid": file.git_oid, "size": file.size}
    if file.is_lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    if request.query.get("expand", "").lower() == "true":
        entry["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
    return entry


def _paths_info(request: Request, commit: Commit) -> Response:
    paths = parse_qs(request.body.decode()).get("paths", [])
    present = [path for path in paths if path in commit.files or path in commit.folders()]
    return json_response([_entry(path, commit, request) for path in present])


def _references(repository: Repository) -> dict[str, object]:
    def records(references: dict[str, Commit], prefix: str) -> list[dict[str, str]]:
        return [{"name": n, "ref": prefix + n, "targetCommit": commit.oid} for n, commit in references.items()]

    branches, tags = records(repository.branches, "refs/heads/"), records(repository.tags, "refs/tags/")
    return {"branches": branches, "tags": tags, "converts": [], "pullRequests": []}


def _commit_record(commit: Commit) -> dict[str, object]:
    authors = [{"user": commit.author}]
    return {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.description,
        "date": commit.date,
        "authors": authors,
    }


def _branch(request: Request, repository: Repository, name: str) -> Response:
    start = repository.resolve(request.json().get("startingPoint") or "main") if request.method == "POST" else None
    return _change_reference(repository.branches, name, start)


def _tag(request: Request, repository: Repository, argument: str) -> Response:
    """POST tag/REVISION with the tag's name in the body; DELETE tag/NAME."""
    if request.method == "DELETE":
        return _change_reference(repository.tags, argument, None)
    return _change_reference(repository.tags, request.json()["tag"], repository.resolve(argument))


def _change_reference(references: dict[str, Commit], name: str, commit: Commit | None) -> Response:
    """Make the reference, or delete it where `commit` is None."""
    if commit is None:
        if references.pop(name, None) is None:
            raise HubError(404, "RevisionNotFound", f"Reference {name} does not exist")
    elif name in references:
        raise HubError(409, None, f"Reference already exists: {name}")
    else:
        references[name] = commit
    return json_response({})


def _preupload(request: Request, commit: Commit) -> Response:
    """For each file: does it go into the commit itself ("regular") or to the storage first ("lfs")?"""
    answers = []
    for file in request.json()["files"]:
        is_binary = b"\0" in base64.b64decode(file["sample"])
        is_lfs = is_binary or file["path"].endswith(LFS_SUFFIXES) or file["size"] > LFS_THRESHOLD_BYTES
        answer = {"path": file["path"], "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
        present = commit.files.get(file["path"])
        if present is not None:
            answer["oid"] = present.sha256 if present.is_lfs else present.git_oid
        answers.append(answer)
    return json_response({"files": answers, "commitOid": commit.oid})


def _commit(state: State, request: Request, repository: Repository, branch: str, account: Account) -> Commit:
    """A commit's body: one JSON object a line, a header and then the operations."""
    if branch not in repository.branches:
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {branch}")
    head = repository.branches[branch]
    header, files = {}, dict(head.files)
    for line in request.body.splitlines():
        operation = json.loads(line)
        key, value = operation["key"], operation["value"]
        match key:
            case "header":
                header = value
            case "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            case "lfsFile":
                files[value["path"]] = state.lfs_file(value["oid"])
            case "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise HubError(404, "EntryNotFound", f"A file with this name doesn't exist: {value['path']}")
            case "deletedFolder":
                files = {p: file for p, file in files.items() if not p.startswith(value["path"].rstrip("/") + "/")}
            case _:
                raise HubError(400, None, f"unknown operation {key!r}")
    if header.get("parentCommit") not in (None, head.oid):
        raise HubError(412, None, "A commit has happened since. Please refresh and try again.")
    return repository.commit(branch, files, header["summary"], account.name, header.get("description", ""))
