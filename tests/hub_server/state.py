"""What the loopback Hub holds, all in memory: accounts, repositories, commits, references and file contents."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

import yaml

from .messages import HubError

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".npz", ".gz", ".zip", ".png", ".jpg")
LFS_THRESHOLD_BYTES = 10 * 2**20
KINDS = ("models", "datasets", "spaces")
SDKS = ("gradio", "docker", "static")


@dataclass(frozen=True)
class Account:
    name: str
    organizations: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.organizations


@dataclass(frozen=True)
class File:
    """One file of a commit. `is_lfs` says which of the two identifiers the Hub shows the client."""

    content: bytes
    is_lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git itself stores in place of an LFS file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def git_oid(self) -> str:
        stored = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def size(self) -> int:
        return len(self.content)


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: Commit | None
    title: str
    description: str
    author: str
    date: str
    files: dict[str, File]

    def history(self) -> list[Commit]:
        """This commit and its ancestors, newest first."""
        return [self, *(self.parent.history() if self.parent else [])]

    def folders(self) -> set[str]:
        return {"/".join(p.split("/")[:depth]) for p in self.files for depth in range(1, p.count("/") + 1)}

    def card_data(self) -> dict[str, object]:
        """The YAML block at the top of README.md, or nothing."""
        readme = self.files.get("README.md")
        block = readme and re.match(r"---\r?\n(.*?)\r?\n---", readme.content.decode(), re.DOTALL)
        return (yaml.safe_load(block[1]) or {}) if block else {}


@dataclass
class Repository:
    kind: str
    name: str
    private: bool
    sdk: str | None = None
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)

    @property
    def head(self) -> Commit:
        return self.branches["main"]

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a (shortened) commit id names."""
        for references in (self.branches, self.tags):
            if revision in references:
                return references[revision]
        if re.fullmatch("[0-9a-f]{7,40}", revision):
            for branch in [*self.branches.values(), *self.tags.values()]:
                for commit in branch.history():
                    if commit.oid.startswith(revision):
                        return commit
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def commit(self, branch: str, files: dict[str, File], title: str, author: str, description: str = "") -> Commit:
        parent = self.branches.get(branch)
        identity = repr(
            (self.kind, self.name, parent and parent.oid, title, sorted((p, files[p].git_oid) for p in files))
        )
        oid = hashlib.sha1(identity.encode()).hexdigest()
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.branches[branch] = Commit(oid, parent, title, description, author, date, files)
        return self.branches[branch]


@dataclass
class State:
    """Everything on the Hub. Hold `lock` while reading or changing it: every request has its own thread."""

    accounts: dict[str, Account]
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    lfs_objects: dict[str, bytes] = field(default_factory=dict)
    lfs_parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    xorbs: dict[str, list[bytes]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def account(self, authorization: str | None) -> Account | None:
        """Who asks; None for an anonymous request.

        Raises:
            HubError: 401, the token is not known.
        """
        if authorization is None:
            return None
        account = self.accounts.get(authorization.removeprefix("Bearer ").strip())
        if account is None:
            raise HubError(401, None, "Invalid credentials in Authorization header")
        return account

    def create(self, kind: str, name: str, private: bool, account: Account, sdk: str | None = None) -> Repository:
        namespace = name.split("/")[0]
        if not account.owns(namespace):
            text = f'You don\'t have the rights to create a {kind[:-1]} under the namespace "{namespace}"'
            raise HubError(403, None, text)
        if (kind, name) in self.repositories:
            raise HubError(409, None, f"You already created this {kind[:-1]} repo")
        if kind == "spaces" and sdk not in SDKS:
            raise HubError(400, None, f"Invalid input: sdk of a Space is one of {SDKS}")
        repository = Repository(kind, name, private, sdk)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repository.commit("main", {".gitattributes": File(attributes.encode(), False)}, "initial commit", account.name)
        self.repositories[kind, name] = repository
        return repository

    def open(self, kind: str, name: str, account: Account | None, *, write: bool = False) -> Repository:
        """The repository, if this account may see it (and change it).

        Raises:
            HubError: 404 missing or hidden (401 where nobody is logged in), 403 no right to write.
        """
        repository = self.repositories.get((kind, name))
        owns = account is not None and account.owns(name.split("/")[0])
        if repository is None or (repository.private and not owns):
            raise HubError(404 if account else 401, "RepoNotFound", "Repository not found")
        if write and not owns:
            raise HubError(403 if account else 401, None, "Forbidden: you have no right to write here")
        return repository

    def lfs_file(self, oid: str) -> File:
        if oid not in self.lfs_objects:
            raise HubError(400, None, f"LFS pointer pointed to a file that does not exist: {oid}")
        return File(self.lfs_objects[oid], True)
