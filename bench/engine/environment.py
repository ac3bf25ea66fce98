"""What a result was made with: versions, machine, code and git state; nothing that differs between two equal runs."""

import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from bench.source import code_hash, git_state


@cache
def environment(device: str) -> dict[str, str]:
    """Python, library versions, processor and accelerator, operating system, code hash, git commit ('+' with
    changes)."""
    facts = {name: version(name) for name in ("torch", "torchvision", "timm", "numpy")}
    facts |= {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "code": code_hash(),
        "git": git_state(),
    }
    if device == "cuda":
        facts |= {"accelerator": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
