"""Where the contents of large files go: Git LFS (whole or in parts) and Xet (chunks, then a list of them).

It answers under a name and port of its own, as the real storage has hosts of its own: no token is ever sent there, so
every address is signed, and the client does not follow a HEAD redirect to it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterator

import lz4.frame  # type: ignore[import-untyped]

from .messages import HubError, Request, Response, file_response, json_response
from .state import State

MULTIPART_THRESHOLD_BYTES = 2 * 2**20
PART_BYTES = 2**20
_SECRET = secrets.token_bytes(16)


def signature(text: str) -> str:
    return hmac.new(_SECRET, text.encode(), hashlib.sha256).hexdigest()


def lfs_url(storage_url: str, oid: str, suffix: str = "") -> str:
    return f"{storage_url}/lfs/{oid}{suffix}?signature={signature(oid)}"


def lfs_batch(state: State, request: Request, storage_url: str, verify_url: str) -> Response:
    """Git LFS batch API: for each object, where its bytes are to be sent; no action for one that is there."""
    body = request.json()
    objects = []
    for wanted in body["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        answer: dict[str, object] = {"oid": oid, "size": size}
        if oid not in state.lfs_objects:
            upload: dict[str, object] = {"href": lfs_url(storage_url, oid)}
            if size > MULTIPART_THRESHOLD_BYTES and "multipart" in body.get("transfers", []):
                num_parts = -(-size // PART_BYTES)
                parts = {str(n): lfs_url(storage_url, oid, f"/{n}") for n in range(1, num_parts + 1)}
                upload = {
                    "href": lfs_url(storage_url, oid, "/complete"),
                    "header": {"chunk_size": str(PART_BYTES), **parts},
                }
            answer["actions"] = {"upload": upload, "verify": {"href": verify_url}}
        objects.append(answer)
    response = json_response({"transfer": "basic", "objects": objects})
    response.headers["Content-Type"] = "application/vnd.git-lfs+json"
    return response


def lfs_verify(state: State, request: Request) -> Response:
    body = request.json()
    if len(state.lfs_objects.get(body["oid"], b"")) != body["size"]:
        raise HubError(422, None, f"object {body['oid']} is missing or has another size")
    return json_response({})


def xet_token(storage_url: str, repository: str) -> Response:
    """Where the client finds the chunk store, and the short-lived token for it."""
    expires = int(time.time()) + 3600
    url, token = f"{storage_url}/xet", f"xet_{signature(repository)}"
    response = json_response({"casUrl": url, "accessToken": token, "exp": expires})
    response.headers |= {
        "X-Xet-Cas-Url": url,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
    }
    return response


def storage_response(state: State, request: Request) -> Response:
    match request.segments:
        case ("lfs", oid, *rest):
            return _lfs(state, request, oid, rest[0] if rest else "")
        case ("xet", "v1", *_) if not request.headers.get("Authorization", "").startswith("Bearer xet_"):
            raise HubError(401, None, "bad storage token")
        case ("xet", "v1", "xorbs", _, xorb_hash) if request.method == "POST":
            is_new = xorb_hash not in state.xorbs
            state.xorbs[xorb_hash] = list(_xorb_chunks(request.body))
            return json_response({"was_inserted": is_new})
        case ("xet", "v1", "shards") if request.method == "POST":
            for sha256, content in _shard_files(state, request.body):
                _keep(state, sha256, content)
            return json_response({"result": 1})
    # Global deduplication, grants and version 2 of the API are optional: on 404 the client goes without.
    raise HubError(404, None, f"no such thing in the storage: {request.path}")


def _keep(state: State, oid: str, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != oid:
        raise HubError(400, None, f"the content does not have the SHA-256 {oid}")
    state.lfs_objects[oid] = content


def _lfs(state: State, request: Request, oid: str, part: str) -> Response:
    if not hmac.compare_digest(request.query.get("signature", ""), signature(oid)):
        raise HubError(403, None, "SignatureDoesNotMatch")
    if request.method in ("GET", "HEAD"):
        if oid not in state.lfs_objects:
            raise HubError(404, None, f"no object {oid}")
        return file_response(state.lfs_objects[oid], request, {"ETag": f'"{oid}"'})
    if request.method == "POST" and part == "complete":
        numbers = [item["partNumber"] for item in request.json()["parts"]]
        _keep(state, oid, b"".join(state.lfs_parts.pop((oid, number)) for number in numbers))
    elif request.method == "PUT" and part:
        state.lfs_parts[oid, int(part)] = request.body
    else:
        _keep(state, oid, request.body)
    return Response(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


def _xorb_chunks(xorb: bytes) -> Iterator[bytes]:
    """The chunks of a xorb, uncompressed. Each has 8 bytes before it: version, size, scheme, size uncompressed."""
    position = 0
    while position + 8 <= len(xorb) and xorb[position : position + 7] != b"XETBLOB":  # that begins the footer
        size = int.from_bytes(xorb[position + 1 : position + 4], "little")
        scheme = xorb[position + 4]
        full_size = int.from_bytes(xorb[position + 5 : position + 8], "little")
        yield _uncompressed(scheme, xorb[position + 8 : position + 8 + size], full_size)
        position += 8 + size


def _uncompressed(scheme: int, data: bytes, size: int) -> bytes:
    """Scheme 0: as it is; 1: LZ4; 2: LZ4 of the bytes sorted by their place modulo 4 (good for float32)."""
    if scheme == 0:
        return data
    plain = lz4.frame.decompress(data)
    if scheme == 1:
        return plain
    chunk, position = bytearray(size), 0
    for place in range(4):
        count = len(range(place, size, 4))
        chunk[place::4] = plain[position : position + count]
        position += count
    return bytes(chunk)


def _shard_files(state: State, shard: bytes) -> Iterator[tuple[str, bytes]]:
    """(SHA-256, content) of each file that a shard describes as runs of chunks of known xorbs.

    All records are 48 bytes: a header, then for each file its own header (flags at 32, number of runs at 36), the
    runs (xorb, first chunk, end chunk), as many verification records (flag bit 31) and its SHA-256 (bit 30).
    """

    def number(offset: int) -> int:
        return int.from_bytes(shard[offset : offset + 4], "little")

    position = 48
    while shard[position : position + 32] != b"\xff" * 32:
        flags, num_runs = number(position + 32), number(position + 36)
        runs = [position + 48 * (index + 1) for index in range(num_runs)]
        position += 48 * (1 + num_runs * (2 if flags >> 31 & 1 else 1))
        if flags >> 30 & 1:
            pieces = [state.xorbs[_hash(shard, run)][number(run + 40) : number(run + 44)] for run in runs]
            yield _hash(shard, position), b"".join(chunk for piece in pieces for chunk in piece)
            position += 48


def _hash(shard: bytes, offset: int) -> str:
    """Xet writes a 32-byte hash as four little-endian 64-bit numbers."""
    return "".join(shard[i : i + 8][::-1].hex() for i in range(offset, offset + 32, 8))
