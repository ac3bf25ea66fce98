"""Bundles: the records of a results folder in a zip file, each with its hash in a sealed manifest.

A bundle from elsewhere may hold anything: whatever is not a file of rows under its own name is refused.
"""

import hashlib
import io
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from bench.errors import UserError, nearest
from bench.files import write_atomic
from bench.report.records import Line, whole_lines
from bench.seal import sealed, unsealed
from bench.upkeep.needs import NAME, check_results

FOLDERS = ("records", "timings", "merged")
MANIFEST = "manifest.json"
FORMAT = 1
MOST_IN_FILE, MOST_IN_ALL, MOST_FILES = 256 << 20, 16 << 30, 300_000
"""Bytes, bytes and files: far more than 10,000 runs have; who claims more means to fill memory or disk."""
BROKEN = (BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError)
"""What reading a damaged archive may raise."""
_MEMBER = re.compile(rf"({'|'.join(FOLDERS)})/{NAME.pattern}\.jsonl")
_DAWN = (1980, 1, 1, 0, 0, 0)


class Exported(NamedTuple):
    """runs: number of records written; left_out: those that are not whole."""

    runs: int
    left_out: list[Path]


def export(
    out: Path, target: Path, exporter: dict[str, str], methods: list[str] | None, scenarios: list[str] | None
) -> Exported:
    """Writes the whole records under `out` into a zip file: equal records give equal bytes.

    exporter: what the manifest says of who exports. methods, scenarios: which runs, by strategy (sycon) or pair
    (sycon-byol), and by scenario; None for all. Raises UserError where there are none.
    """
    check_results(out)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise UserError(f"cannot write {target}: {'it is a folder' if target.is_dir() else 'its folder is not there'}")
    records, left_out = _records(out)
    records = _chosen(records, methods, scenarios)
    if not records:
        raise UserError(f"no whole record in {out / 'records'}: see `doctor`")
    files: dict[str, list[Line]] = {}
    for run_id, lines in records.items():
        files[f"records/{run_id}.jsonl"] = lines
        for folder in FOLDERS[1:]:
            path = out / folder / f"{run_id}.jsonl"
            rows = whole_lines(path.read_bytes())[0] if path.is_file() else []
            files |= {f"{folder}/{run_id}.jsonl": rows} if rows else {}
    write_atomic(target, _zipped(files, exporter))
    return Exported(len(records), left_out)


def _records(out: Path) -> tuple[dict[str, list[Line]], list[Path]]:
    """Lines of the whole records by run, sealed also where they are of an older version; and the other records."""
    records: dict[str, list[Line]] = {}
    left_out = []
    for path in sorted((out / "records").glob("*.jsonl")):
        lines, faults = whole_lines(path.read_bytes())
        configs = [line.row for line in lines if line.row.get("kind") == "config"]
        if faults or not NAME.fullmatch(path.stem) or not configs or configs[0].get("run_id") != path.stem:
            left_out.append(path)
        else:
            records[path.stem] = lines
    return records, left_out


def _chosen(
    records: dict[str, list[Line]], methods: list[str] | None, scenarios: list[str] | None
) -> dict[str, list[Line]]:
    names: dict[str, tuple[set[str], str]] = {}
    for run_id, lines in records.items():
        config = next(line.row for line in lines if line.row.get("kind") == "config")
        strategy, objective = config.get("strategy"), config.get("objective")
        names[run_id] = {f"{strategy}", f"{strategy}-{objective}"}, f"{config.get('scenario')}"
    for option, asked, known in (
        ("methods", methods, {name for pair, _ in names.values() for name in pair}),
        ("scenario", scenarios, {scenario for _, scenario in names.values()}),
    ):
        for name in asked or ():
            if name not in known:
                raise UserError(f"--{option}: no record of '{name}'{nearest(name, known)}")
    return {
        run_id: lines
        for run_id, lines in records.items()
        if (methods is None or names[run_id][0].intersection(methods))
        and (scenarios is None or names[run_id][1] in scenarios)
    }


def _zipped(files: dict[str, list[Line]], exporter: dict[str, str]) -> bytes:
    texts = {name: b"".join(line.text + b"\n" for line in lines) for name, lines in files.items()}
    manifest = {
        "format": FORMAT,
        "exporter": exporter,
        "files": {
            name: {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text), "rows": len(files[name])}
            for name, text in texts.items()
        },
    }
    buffer = io.BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as archive:
        for name, text in {MANIFEST: sealed(manifest) + b"\n", **texts}.items():
            info = ZipInfo(name, _DAWN)
            info.compress_type, info.external_attr = ZIP_DEFLATED, (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, text)
    return buffer.getvalue()


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Files of rows from elsewhere, by names such as `records/RUN.jsonl`.

    read: the bytes of a member; raises UserError where they are not what was written. sha256: of a bundle; None for a
    folder. exporter: who made it.
    """

    name: str
    members: frozenset[str]
    read: Callable[[str], bytes]
    sha256: str | None
    exporter: dict[str, Any]

    @property
    def runs(self) -> list[str]:
        """Ids of its runs, in order."""
        return sorted(name[len("records/") : -len(".jsonl")] for name in self.members if name.startswith("records/"))


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """A bundle, or a results folder; raises UserError where it is neither, or holds what no bundle does."""
    if path.is_dir():
        yield _folder(path)
        return
    with ExitStack() as stack:
        try:
            source = _bundle(path, stack.enter_context(ZipFile(path)))
        except FileNotFoundError:
            raise UserError(f"no such file or folder: {path}") from None
        except BROKEN as error:
            raise UserError(f"{path} is no whole zip file: {error}") from None
        yield source


def _folder(path: Path) -> Source:
    names = [f"{folder}/{file.name}" for folder in FOLDERS for file in sorted((path / folder).glob("*.jsonl"))]
    for name in names:
        if not _MEMBER.fullmatch(name) or (path / name).is_symlink() or not (path / name).is_file():
            raise UserError(f"{path / name} is no file of rows: see `doctor`")
    return Source(path.resolve().name, frozenset(names), lambda name: _content(path / name), None, {})


def _content(file: Path) -> bytes:
    if file.stat().st_size > MOST_IN_FILE:
        raise UserError(f"{file} is larger than a record can be")
    return file.read_bytes()


def _bundle(path: Path, archive: ZipFile) -> Source:
    members = {info.filename: info for info in archive.infolist()}
    _check_members(path, archive.infolist())
    if MANIFEST not in members:
        raise UserError(f"{path} has no {MANIFEST}: it is no bundle")
    manifest = _manifest(path, _unpacked(path, archive, members.pop(MANIFEST)))
    files = manifest["files"]
    if files.keys() != members.keys():
        raise UserError(f"{path}: its manifest names other files than it holds")

    def read(name: str) -> bytes:
        data = _unpacked(path, archive, members[name])
        if files[name] != {**files[name], "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}:
            raise UserError(f"{name} does not match its hash in the manifest")
        return data

    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Source(path.name, frozenset(members), read, sha256, manifest["exporter"])


def _check_members(path: Path, infos: list[ZipInfo]) -> None:
    """Raises UserError for an archive with anything that no bundle holds, before anything of it is unpacked."""
    if len(infos) > MOST_FILES or sum(info.file_size for info in infos) > MOST_IN_ALL:
        raise UserError(f"{path} claims to hold more than any bundle does")
    seen: set[str] = set()
    for info in infos:
        name = info.orig_filename
        if name != info.filename or not (name == MANIFEST or _MEMBER.fullmatch(name)):
            raise UserError(f"{path} holds {name[:80]!r}, and a bundle holds {MANIFEST} and files of rows alone")
        if name in seen:
            raise UserError(f"{path} holds {name} twice")
        seen.add(name)
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise UserError(f"{path}: {name} is a link or no plain file")
        if info.flag_bits & 1 or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise UserError(f"{path}: {name} is encrypted, or packed in another way than a bundle's files")
        if info.file_size > MOST_IN_FILE:
            raise UserError(f"{path}: {name} claims to be larger than a record can be")


def _unpacked(path: Path, archive: ZipFile, info: ZipInfo) -> bytes:
    """The content of a member, never more than it claims to be."""
    try:
        with archive.open(info) as file:
            return file.read(info.file_size)
    except BROKEN as error:
        raise UserError(f"{path}: {info.filename} cannot be unpacked: {error}") from None


def _manifest(path: Path, data: bytes) -> dict[str, Any]:
    try:
        manifest = unsealed(data.removesuffix(b"\n"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {MANIFEST} {error}") from None
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path}: its format {manifest.get('format')!r} is not {FORMAT}, which this version reads")
    files, exporter = manifest.get("files"), manifest.get("exporter")
    if not (
        isinstance(exporter, dict) and isinstance(files, dict) and all(isinstance(f, dict) for f in files.values())
    ):
        raise UserError(f"{path}: {MANIFEST} is not what `export` writes")
    return manifest
