"""Takes each protection that docs/reliability.md promises out of a copy of the code and shows the tests that notice.

By hand: `python tests/soak/take_out.py`, some twenty minutes on two cores; `python tests/soak/take_out.py WORDS` for
those whose row contains these words. Status 1 where the tests of one pass without it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.soak.protections import PROTECTIONS, Protection

SECONDS = 240
"""After which tests count as hanging."""
ROOT = Path(__file__).parent.parent.parent
COPIED = ("bench", "methods", "configs", "tests", "docs", "run_bench.py", "pyproject.toml", "README.md", ".git")


def noticed(protection: Protection, copy: Path) -> list[str]:
    """The tests that fail without it."""
    path = copy / protection.file
    code = path.read_text()
    assert code.count(protection.text) == 1, f"{protection.row}: {protection.file} is no longer what it was"
    path.write_text(code.replace(protection.text, protection.without))
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "2",
        "--maxfail",
        "1",
        "-rfE",
        "--tb",
        "no",
        *protection.tests.split(),
    ]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(line, cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS)
        said = done.stdout
    except subprocess.TimeoutExpired:
        said = "FAILED (hangs)"
    finally:
        path.write_text(code)
    found = [
        row.partition(" ")[2].partition(" - ")[0] for row in said.splitlines() if row.startswith(("FAILED", "ERROR"))
    ]
    return found


def main() -> int:
    """Takes out those whose row is named, or all; prints a line for each."""
    wanted = [each for each in PROTECTIONS if all(word in each.row for word in sys.argv[1:])]
    unnoticed = 0
    with tempfile.TemporaryDirectory(prefix="protections-") as folder:
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder)
        for protection in wanted:
            began = time.monotonic()
            found = noticed(protection, Path(folder))
            unnoticed += not found
            print(
                f"{protection.row}: {', '.join(found) or 'NOBODY NOTICES'} ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
    print(f"{len(wanted) - unnoticed} of {len(wanted)} are noticed")
    return 1 if unnoticed or not wanted else 0


if __name__ == "__main__":
    raise SystemExit(main())
