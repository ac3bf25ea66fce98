"""What --slurm and the block `launcher:` take, and that nothing else gets into a batch script."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UserError
from bench.launch import settings
from bench.launch.launches import Launch, folder_of
from bench.launch.settings import launch_settings, minutes_of
from bench.launch.submit import script
from bench.layers import read_yaml
from tests.refusal import tried

BLOCK = """
launcher:
  name: slurm
  partition: gpu
  time: 8:00:00
  array: 64
"""


def asked(slurm, launcher="slurm"):
    return launch_settings(launcher, slurm, {})


def launch(folder, options, workers=3):
    return Launch(folder, settings.LaunchSettings("slurm", options), "cssl-bench-00000000", [], "/", workers)


def directives(text):
    """The options of a batch script, with their quotes taken off."""
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert all(len(line) == 2 for line in lines)
    return dict(option.removeprefix("--").partition("=")[::2] for _, option in lines)


def commands(text):
    """All other lines, which a shell reads."""
    return [line for line in text.splitlines() if not line.startswith("#SBATCH ")]


def test_keys_go_to_the_batch_script(tmp_path):
    text = "partition=gpu,long,gpus=1,cpus=4,mem=16G,time=1-2:30:00,qos=low,account=lab,constraint=a100&ib,array=64"
    found = asked(text)
    assert found.array == 64
    assert found.options["partition"] == "gpu,long"
    text = script(launch(tmp_path, found.options))
    told = directives(text)
    assert told | {"partition": "gpu,long", "gpus-per-node": "1", "mem": "16G", "time": "1590", "qos": "low"} == told
    assert told | {"account": "lab", "constraint": "a100&ib", "cpus-per-task": "4", "signal": "USR2@90"} == told
    assert "requeue" in told  # also where no job does by itself
    assert told["array"] == "0-2%3"
    assert "--cpus-per-task=4" in shlex.split(commands(text)[-1])
    assert "array" not in directives(script(launch(tmp_path, found.options, workers=1)))


def test_a_block_of_a_file_is_the_same_and_yields_to_flags(tmp_path):
    path = tmp_path / "launch.yaml"
    path.write_text(BLOCK)
    block = {key.removeprefix("launcher."): given for key, given in read_yaml(path).items()}
    assert launch_settings(None, None, block) == asked("partition=gpu,time=8:00:00,array=64")
    assert launch_settings(None, "array=3", block).array == 3
    assert launch_settings("none", None, block) is None
    assert launch_settings("local", None, {"array": block["array"]}).array == 64
    block["partiton"] = block.pop("partition")
    with pytest.raises(UserError, match=r"launch\.yaml:4: unknown key 'partiton' \(did you mean 'partition'\?\)"):
        launch_settings("none", None, block)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("8:00:00", 480), ("0:0:301", 6), ("5:01", 6), ("1-0", 1440), ("1-0:30", 1470), ("0-0:5:1", 6)],
)
def test_times_are_those_of_slurm(text, minutes):
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "4", "-5", "1-", "1-2-3", "1:2:3:4", "1-1:2:3:4", "5x", "٣٣", "366-0", "9" * 30])
def test_other_times_are_refused(text):
    assert minutes_of(text) is None


@pytest.mark.parametrize(
    ("slurm", "message"),
    [
        ("partiton=gpu", "--slurm: unknown key 'partiton' (did you mean 'partition'?)"),
        ("partition=gpu,array", "--slurm takes KEY=VALUE,KEY=VALUE..., not 'array'"),
        ("gpus=1,2", "--slurm takes KEY=VALUE,KEY=VALUE..., not '2'"),
        ("gpus=1,gpus=2", "--slurm: gpus is given twice"),
        ("array=0", "--slurm: array takes a whole number above 0, not '0'"),
        ("time=2", "--slurm: time takes 5 minutes to a year as 90 (minutes), 8:00:00 or 2-12:00:00, not '2'"),
        ("account=a\nrm -rf /", "--slurm: account takes a name, not 'a\\nrm -rf /'"),
    ],
)
def test_what_is_wrong_is_named(slurm, message):
    assert tried(asked, slurm) == (None, message)


def test_each_launcher_reads_its_keys_alone():
    assert tried(asked, "partition=gpu", "local") == (None, "--slurm: --launcher local reads no partition, only array")
    assert tried(asked, "array=2", None)[1].startswith("--slurm: says how to launch, but not with what")
    assert tried(asked, None, "slrum") == (None, "--launcher: unknown launcher 'slrum' (did you mean 'slurm'?)")


@given(
    st.sampled_from(sorted(settings._KINDS)),
    st.text(max_size=20) | st.sampled_from(["$(id)", "`id`", "a;id", "a b", "a\nid", "1\n", "'", '"', "\\"]),
)
def test_no_value_gets_a_word_of_its_own_into_the_script(key, value):
    found, _ = tried(launch_settings, "slurm", f"{key}={value}", {})
    if found is not None:
        plain, text = (script(launch(Path("/out"), options)) for options in ({}, found.options))
        assert commands(plain)[:-1] == commands(text)[:-1]
        assert shlex.split(commands(text)[-1])[-6:] == shlex.split(commands(plain)[-1])[-6:]
        assert len(directives(text)) <= len(directives(plain)) + 1


@pytest.mark.parametrize("name", ["a;id", "$(id)", "`id`", "it's", 'a "b" c', "a b", "ü"])
def test_a_results_folder_of_any_name_is_one_word_of_the_script(tmp_path, name):
    folder = folder_of(tmp_path / name) / "1"
    text = script(launch(folder, {}))
    assert directives(text)["output"] == f"{folder}/%A_%a_0_log.out"
    assert shlex.split(commands(text)[-1])[-1] == str(folder)


@pytest.mark.parametrize("name", ["a\nb", "100%", "a\\b", "a\x1bb"])
def test_names_that_slurm_would_read_otherwise_are_refused(tmp_path, name):
    assert "a batch script takes no %" in tried(folder_of, tmp_path / name)[1]


def test_a_link_in_place_of_the_launches_is_refused(tmp_path):
    (tmp_path / "launcher").symlink_to("/tmp")
    assert "is a symbolic link" in tried(folder_of, tmp_path)[1]
