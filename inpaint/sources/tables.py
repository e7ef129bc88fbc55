"""Owns the sources whose images are rows of tables: parquet shards, here or on the Hub, and its other datasets.

Shards are read row group by row group wherever they lie, and nothing of them is written down.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from inpaint.errors import InpaintError
from inpaint.sources.keys import SPLIT_NAMES, SPLITS, Split
from inpaint.sources.places365 import official_class, official_names
from inpaint.sources.rows import (
    MOST_ROWS,
    Columns,
    Group,
    RowGroup,
    entries_of,
    footer_of,
    groups_of,
    in_one_line,
    opened,
)
from inpaint.sources.source import Entry, Survey

if TYPE_CHECKING:
    from datasets import Dataset

SHARD_NAME = re.compile(rf"({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?:-|\.|_?\d)")
SHARD_TAIL_BYTES = 1 << 20
# So many rows are looked at to see whether paths tell images apart: in some tables all are called `image.jpg`.
NUM_PROBED = 1000


@dataclass(frozen=True)
class TableSource:
    """A dataset's rows.

    Attributes:
        parts: parquet shards (paths, or `hf://` addresses of one commit) or loaded datasets, by split; None: no split.
        identity: its fingerprint.
        features: of the columns, as `datasets` has them; by default what the first shard says.
        readme: where its card lies, here or on the Hub.
    """

    name: str
    parts: Mapping[Split | None, Sequence[str | Dataset]]
    identity: str
    features: Mapping[str, Any] | None = None
    unknown_splits: Sequence[str] = ()
    readme: str | None = None

    @property
    def is_parquet(self) -> bool:
        """Whether it consists of shards, which can be read in parts."""
        return all(isinstance(part, str) for part in chain.from_iterable(self.parts.values()))

    def shards(self, split: Split) -> list[str]:
        return [part for part in self.parts[split] if isinstance(part, str)]

    def fingerprint(self) -> str:
        return self.identity

    def only(self, splits: Sequence[Split]) -> TableSource:
        parts: dict[Split | None, Sequence[str | Dataset]] = {split: self.parts[split] for split in splits}
        return TableSource(self.name, parts, f"{self.identity}-{'-'.join(splits)}", self.features)

    def survey(self) -> Survey:
        with ThreadPoolExecutor(16) as pool:
            num_rows = sum(pool.map(_num_rows, chain.from_iterable(self.parts.values())))
        found = Survey(num_pictures=num_rows, own_splits=frozenset(split for split in self.parts if split))
        for split in self.unknown_splits:
            found.pass_over("split that is none of train, validation and test", split)
        official = {official_class(label) for label in self.columns.classes or ()} - {None}
        found.is_places365 = len(official) == len(official_names()) or _has_places365_terms(self.readme)
        return found

    def entries(self, with_data: bool = True) -> Iterator[Entry]:
        for split, group in self._groups():
            if not with_data and self.columns.are_named:
                listed = self._listed(split, group)
                if not any(entry.source.endswith("/") or not entry.source for entry in listed):
                    yield from listed
                    continue  # else some have no name but their content
            for table in group.read(self.columns.wanted(group.schema)):
                yield from entries_of(self.name, table, self.columns, split)

    def located(self) -> Iterator[Entry]:
        tables = [(split, table) for split, parts in self.parts.items() for table in parts]
        for place, (split, table) in enumerate(tables):
            with groups_of(table) as groups:
                for number, group in enumerate(groups):
                    if group.num_rows > MOST_ROWS:
                        for some in group.read(self.columns.wanted(group.schema)):
                            yield from entries_of(self.name, some, self.columns, split)
                        continue
                    rows = RowGroup(self.name, table, number, split, self.columns, f"{place} {number} {group.sizes}")
                    for offset, entry in enumerate(self._listed(split, group)):
                        yield replace(entry, rows=rows, offset=offset)

    def _listed(self, split: Split | None, group: Group) -> list[Entry]:
        """The rows without their images; those that are known by their content alone have no name."""
        if not (names := self.columns.wanted(group.schema, with_data=False)):
            return [Entry("", split=split)] * group.num_rows
        return [entry for table in group.read(names) for entry in entries_of(self.name, table, self.columns, split)]

    @cached_property
    def columns(self) -> Columns:
        """See `Columns`; the first rows decide whether paths tell images apart."""
        from datasets import Features

        _, first = next(self._groups(), (None, None))
        if first is None:
            raise InpaintError(f"{self.name} has no rows")
        columns = Columns.of(self.name, self.features or Features.from_arrow_schema(first.schema))
        listed = (
            entry.key
            for split, group in self._groups()
            if (names := columns.wanted(group.schema, with_data=False))
            for table in group.read(names)
            for entry in entries_of(self.name, table, columns, split)
        )
        named = [key for key in islice(listed, NUM_PROBED) if not key.endswith("/") and key]
        return replace(columns, are_named=len(set(named)) == len(named) > 0)

    def _groups(self) -> Iterator[tuple[Split | None, Group]]:
        for split, table in ((split, table) for split, parts in self.parts.items() for table in parts):
            with groups_of(table) as groups:
                yield from ((split, group) for group in groups)


def open_shards(root: Path, shards: Sequence[str]) -> TableSource:
    """The shards in a folder; their names or folders say the split (`train-00000-of-00008.parquet`), of all or none."""
    splits: dict[Split, list[str]] = {}
    unnamed: list[str] = []
    digest = hashlib.blake2b(digest_size=12)
    for shard in sorted(shards):
        *above, name = shard.split("/")
        match = SHARD_NAME.match(name)
        word = match[1] if match else above[-1].lower() if above else ""
        (splits.setdefault(SPLIT_NAMES[word], []) if word in SPLIT_NAMES else unnamed).append(str(root / shard))
        with in_one_line(f"{root / shard} cannot be read"), (root / shard).open("rb") as file:
            # A shard ends in its footer, with each column's sizes and statistics, after the last rows.
            size = file.seek(0, 2)
            file.seek(max(0, size - SHARD_TAIL_BYTES))
            digest.update(f"{shard}\0{size}\0".encode() + hashlib.blake2b(file.read()).digest())
    if splits and unnamed:
        raise InpaintError(f"{unnamed[0]} belongs to no split: name it like train-00000-of-00001.parquet")
    parts = _parts(str(root), splits or {"train": unnamed})
    return TableSource(str(root), parts, f"parquet-{digest.hexdigest()}", readme=str(root / "README.md"))


def open_hub(name: str, repo: str, config: str | None, revision: str | None) -> TableSource:
    """A dataset of the Hub: its shards, read where they are, or if it has none, what `datasets` makes of it here."""
    import datasets

    trouble = f"{name} is no file or folder here, and the Hub does not give it"
    _ask_once(trouble, repo, revision)
    with in_one_line(trouble):
        try:
            builder = datasets.load_dataset_builder(repo, config, revision=revision)
        except ValueError as error:
            known = datasets.get_dataset_config_names(repo, revision=revision)
            if len(known) < 2 or config in known:
                raise
            raise InpaintError(
                f"{name}: {repo} has the configurations {', '.join(known)}; say which, as {repo}:{known[0]}"
            ) from error
        found: Mapping[Any, Any] = builder.config.data_files or {}
        if builder.name == "parquet":
            found = {split: [*map(str, its)] for split, its in found.items()}
        else:
            found = {split: [its] for split, its in datasets.load_dataset(repo, config, revision=revision).items()}
    readme = f"hf://datasets/{repo}@{revision or 'main'}/README.md"
    return _of_splits(name, found, "hub", [repo, str(config)], builder.info.features, readme)


def is_saved(root: Path) -> bool:
    """Whether `datasets` wrote this folder with `save_to_disk`."""
    is_one_split = (root / "state.json").is_file() and (root / "dataset_info.json").is_file()
    return is_one_split or (root / "dataset_dict.json").is_file()


def open_saved(root: Path) -> TableSource:
    """What `datasets` wrote with `save_to_disk`, one split or several."""
    import datasets

    with in_one_line(f"{root} was written by save_to_disk and cannot be read"):
        saved = datasets.load_from_disk(str(root))
        found = {split: [its] for split, its in saved.items()} if isinstance(saved, dict) else {"train": [saved]}
        features = next(iter(found.values()))[0].features
    return _of_splits(str(root), found, "saved", [], features)


def _of_splits(
    name: str,
    found: Mapping[Any, Sequence[Any]],
    kind: str,
    identity: Sequence[str],
    features: Mapping[str, Any],
    readme: str | None = None,
) -> TableSource:
    """A dataset's shards or loaded tables by its own names of splits; with its parts `identity` is its fingerprint."""
    known_names = {split: SPLIT_NAMES.get(str(split).lower()) for split in found}
    if len(found) == 1:
        known_names = dict.fromkeys(found, "train")  # all of it, whatever it is called
    splits: dict[Split, list[Any]] = {}
    for split, its in found.items():
        if own := known_names[split]:
            splits.setdefault(own, []).extend(its)
    lines = [getattr(part, "_fingerprint", part) for its in splits.values() for part in its]
    digest = hashlib.blake2b("\n".join([*identity, *lines]).encode(), digest_size=12).hexdigest()
    unknown = [str(split) for split, own in known_names.items() if own is None]
    return TableSource(name, _parts(name, splits), f"{kind}-{digest}", features, unknown, readme)


def _ask_once(trouble: str, repo: str, revision: str | None) -> None:
    """Tell at once of a dataset that is nowhere: `datasets` tries six times, for half a minute and a screenful."""
    import datasets
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    from inpaint.hub.errors import HTTP_ERROR

    copies = Path(datasets.config.HF_DATASETS_CACHE).glob(f"{repo.partition('/')[0]}___*")
    if constants.HF_HUB_OFFLINE or any(copies):
        return
    try:
        HfApi().dataset_info(repo, revision=revision, timeout=20)
    except HfHubHTTPError as error:
        if error.response.status_code >= 500:
            return  # it may yet come back
        why = f"there is none of this name, or your token may not see it ({error.response.status_code})"
        raise InpaintError(f"{trouble}: {why}") from error
    except (OSError, HTTP_ERROR) as error:
        raise InpaintError(f"{trouble}: it cannot be reached ({' '.join(str(error).split())[:200]})") from error


def _parts(name: str, splits: Mapping[Any, Sequence[Any]]) -> dict[Split | None, Sequence[Any]]:
    """By split; a single one is all of the dataset."""
    if len(splits) == 1:
        return {None: next(iter(splits.values()))}
    if "train" not in splits:
        raise InpaintError(f"{name} has no split `train`, only {', '.join(splits) or 'others with names of their own'}")
    return {split: splits[split] for split in SPLITS if split in splits}


def _num_rows(part: str | Dataset) -> int:
    return footer_of(part).num_rows if isinstance(part, str) else len(part)


def _has_places365_terms(readme: str | None) -> bool:
    """Whether a dataset's card says that the terms of Places365 hold, as those that `prepare` wrote do."""
    from huggingface_hub import DatasetCard

    if readme is None:
        return False
    try:
        with opened(readme) as file:
            return DatasetCard(file.read().decode()).data.get("license_name") == "places365"
    except (OSError, ValueError, yaml.YAMLError):  # no card, or none that says anything
        return False
