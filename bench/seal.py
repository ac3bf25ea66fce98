"""Seals: the checksum that every artefact carries in itself, so that a cut, a flipped bit or a foreign file is found.

A JSON object is sealed as one line whose last field is the hash of the line without it. A safetensors file is sealed in
the note of its header, by the hash of all its bytes with zeros in the seal's place.
"""

import hashlib
import json
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OPEN = "0" * 64
"""What stands in a note until the file is sealed."""
OWNER = "of"
"""Field that binds a file to its place: folder and name."""
_BEFORE, _AFTER, _DIGITS = b', "seal": "', b'"}', 16
_TAIL = len(_BEFORE) + _DIGITS + len(_AFTER)
_NOTE = re.compile(rb'\\"seal\\": \\"([0-9a-f]{64})\\"')
_HEADER = 100 << 20  # no header is longer; a damaged length would ask for any memory
_CHUNK = 1 << 22


class Damaged(Exception):
    """A file is not what was written: `path` and, in words, `reason`."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return Damaged, (self.path, self.reason)


def sealed(content: dict[str, Any]) -> bytes:
    """A JSON object, not empty, as a sealed line without its end; equal content gives equal bytes."""
    body = json.dumps(content, sort_keys=True).encode()
    return body[:-1] + _seal_of(body)


def has_seal(line: bytes) -> bool:
    """Whether a line claims to be sealed, be that claim itself damaged."""
    return len(line) >= _TAIL and sum(a != b for a, b in zip(line[-_TAIL:], _BEFORE, strict=False)) <= 2


def unsealed(line: bytes) -> dict[str, Any]:
    """The content of a sealed line; raises ValueError with what is wrong with it."""
    if not has_seal(line):
        raise ValueError("carries no seal: it was cut off, or is of an older version or another program")
    body = line[:-_TAIL] + b"}"
    if line != body[:-1] + _seal_of(body):
        raise ValueError("does not match its seal")
    content: dict[str, Any] = json.loads(body)
    return content


def all_unsealed(lines: Sequence[bytes]) -> list[dict[str, Any]] | None:
    """The contents of sealed lines, or None where one of them is not whole: parsed at once, which is faster."""
    bodies: list[bytes] = []
    for line in lines:
        body = line[:-_TAIL] + b"}"
        if line[-_TAIL:] != _seal_of(body):
            return None
        bodies.append(body)
    try:
        contents = json.loads(b"[" + b",".join(bodies) + b"]")
    except (ValueError, RecursionError):
        return None
    whole = len(contents) == len(lines) and all(isinstance(content, dict) for content in contents)
    return contents if whole else None


def _seal_of(body: bytes) -> bytes:
    return _BEFORE + hashlib.sha256(body).hexdigest()[:_DIGITS].encode() + _AFTER


def place_of(path: Path) -> str:
    """What binds a file to its place: a sealed file that was copied to another one is foreign there."""
    return f"{path.parent.name}/{path.name}"


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The object of a JSON file written by `seal_file`, or None where there is none; raises Damaged."""
    try:
        _check_file(path)
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        content = unsealed(data.removesuffix(b"\n"))
    except (ValueError, RecursionError) as error:
        raise Damaged(path, str(error)) from None
    if content.pop(OWNER, None) != place_of(path):
        raise Damaged(path, "belongs to another place")
    return content


def seal_file(path: Path, content: dict[str, Any]) -> bytes:
    """The bytes of a JSON file that belongs to `path`."""
    return sealed({**content, OWNER: place_of(path)}) + b"\n"


def sealed_tensors(data: bytes) -> bytearray:
    """A safetensors file whose note has the seal OPEN, sealed."""
    start, end = _seal_at(data[: 8 + int.from_bytes(data[:8], "little")])
    whole = bytearray(data)
    whole[start:end] = hashlib.sha256(data).hexdigest().encode()
    return whole


def check_tensors(path: Path) -> dict[str, Any]:
    """The note of a safetensors file; raises Damaged where it does not match its seal, and FileNotFoundError."""
    _check_file(path)
    with path.open("rb") as file:
        length = file.read(8)
        count = int.from_bytes(length, "little")
        header = length + file.read(count if count <= _HEADER else 0)
        try:
            start, end = _seal_at(header)
        except ValueError as error:
            raise Damaged(path, str(error)) from None
        h = hashlib.sha256(header[:start] + OPEN.encode() + header[end:])
        while chunk := file.read(_CHUNK):
            h.update(chunk)
    if h.hexdigest().encode() != header[start:end]:
        raise Damaged(path, "does not match its seal")
    try:
        note: dict[str, Any] = json.loads(json.loads(header[8:])["__metadata__"]["note"])
        del note["seal"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged(path, "has no note") from None
    if note.pop(OWNER, None) != place_of(path):
        raise Damaged(path, "belongs to another place")
    return note


def _check_file(path: Path) -> None:
    """Raises FileNotFoundError, and Damaged for what is no file: a link may lead anywhere, a pipe has no end."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise Damaged(path, "is no file")


def _seal_at(header: bytes) -> tuple[int, int]:
    found = _NOTE.search(header)
    if found is None:
        raise ValueError("carries no seal: it was cut off, or is of an older version or another program")
    return found.span(1)
