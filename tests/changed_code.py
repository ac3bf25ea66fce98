"""Copies of the code that differ in a file: what stages are said to be made by, not what is imported."""

import shutil
from pathlib import Path

from bench import source


def files(root: Path = source.ROOT) -> set[str]:
    """Every module of harness and methods, as a path below the root; packages are their modules."""
    found = (path.relative_to(root).as_posix() for top in ("bench", "methods") for path in (root / top).rglob("*.py"))
    return {name for name in found if not name.endswith("__init__.py")}


def copied(target: Path) -> Path:
    """The code as it is, in another place."""
    for name in files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.ROOT / name, target / name)
    return target


def changed(target: Path, name: str, text: str = "# later\n") -> Path:
    """The same with text added to a file, or with another file."""
    copied(target)
    with (target / name).open("a") as file:
        file.write(text)
    return target
