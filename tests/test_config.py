"""Configuration: every key exists, every value has its type and range, and nothing else comes through."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.config import Settings, canonical, describe_preset, digest, preset_names, read_preset
from bench.errors import UserError
from bench.grid import Request, build_runs
from bench.layers import MOST_BYTES, Given, check_range, coerce, fill, given_of, leaves, parse_set, read_yaml
from tests.refusal import tried

LEAVES = sorted(dict(leaves(Settings)).items())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates() | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    count: int = 3
    mode: Literal["one", "two"] = "one"
    limit: float | None = None
    inner: Inner = field(default_factory=lambda: Inner(rate=0.25))


def user_file(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("value", "kind", "result"),
    [
        (3, float, 3.0),
        ("1e-4", float, 1e-4),
        (None, int | None, None),
        (5, int | None, 5),
        ("two", Literal["one", "two"], "two"),
        ("lone", tuple[str, ...], ("lone",)),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
        (True, bool, True),
    ],
)
def test_a_fitting_value_takes_the_type_of_its_field(value, kind, result):
    found = coerce(value, kind, "x")
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (True, int, "a whole number"),
        (1.0, int, "a whole number"),
        (False, float, "a number"),
        (float("nan"), float, "a number"),
        ("fast", float, "a number"),
        (1, bool, "true or false"),
        (5, str, "text"),
        (None, str, "text"),
        ("three", Literal["one", "two"], "choose from one, two"),
        ("twoo", Literal["one", "two"], "did you mean 'two'"),
        ([1.0], tuple[float, float], "2 values"),
        (7, tuple[str, ...], "a list"),
        ([1.0, float("nan")], tuple[float, float], "a number"),
    ],
)
def test_another_value_is_refused_by_what_the_field_takes(value, kind, message):
    with pytest.raises(UserError, match=f"^a.key .*{message}"):
        coerce(value, kind, "a.key")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.lr", -0.1),
        ("optim.lr", 0.0),
        ("optim.lr", float("inf")),
        ("optim.lr", 1e12),
        ("optim.momentum", 1.5),
        ("train.epochs", 0),
        ("train.batch", 10**18),
        ("encoder.width", 10**6),
        ("numerics.threads", 10**5),
        ("data.image_size", 10**5),
        ("probe.knn.k", 0),
        ("augment.view1.flip_prob", 1.1),
        ("augment.view1.crop_scale", (0.5, 0.1)),
        ("augment.view1.blur_sigma", (0.1, float("inf"))),
        ("moco.hidden", 0),
        ("byol.predictor_hidden", 0),
        ("swav.prototypes", 0),
        ("swav.epsilon", 0.0),
        ("swav.queue_start", 1.1),
        ("swav.freeze", 1.1),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(UserError, match=f"--set: {key} "):
        check_range(value, f"--set: {key}")


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_fills_every_section_within_range(preset):
    layer = read_preset(preset)
    names = {key.partition(".")[0] for key, _ in LEAVES}
    filled = fill(Settings, {key: value for key, value in layer.items() if key.partition(".")[0] in names})
    for key, found in given_of(filled).items():
        check_range(found.value, key)
        value = list(found.value) if isinstance(found.value, tuple) else found.value
        assert key not in layer or value == layer[key].value
    assert describe_preset(preset)


def test_defaults_survive_where_nothing_is_given():
    assert fill(Settings, {}) == Settings()
    assert fill(Outer, {"count": Given(4, "f:1")}) == Outer(count=4)


def test_a_partly_given_section_keeps_the_defaults_of_the_section_that_holds_it():
    filled = fill(Outer, {"inner.names": Given(["a"], "f:1")})
    assert filled.inner == Inner(rate=0.25, names=("a",))


def test_an_instance_goes_through_a_layer_and_back():
    changed = fill(Settings, {"optim.lr": Given(0.2, "f"), "augment.view2.hue": Given(0.3, "f")})
    assert fill(Settings, given_of(changed)) == changed != Settings()


def test_a_hash_depends_on_content_and_not_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})
    assert canonical(Inner()) == '{"names":[],"rate":0.5}'
    with pytest.raises(TypeError):
        canonical(object())


# --- files and flags --------------------------------------------------------------------------------------------------


def test_a_file_becomes_dotted_keys_with_their_lines(tmp_path):
    path = user_file(tmp_path, "# mine\noptim:\n  lr: 0.3\n  name: sgd\ndata: {domains: [a, b]}\n")
    layer = read_yaml(path)
    assert {key: given.value for key, given in layer.items()} == {
        "optim.lr": 0.3,
        "optim.name": "sgd",
        "data.domains": ["a", "b"],
    }
    assert layer["optim.name"].where == f"{path}:4"


def test_an_empty_file_gives_nothing(tmp_path):
    assert read_yaml(user_file(tmp_path, "# nothing\n")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", ":1: expected `key: value` lines"),
        ("just words\n", ":1: expected `key: value` lines"),
        ("a: 1\nb: [1\n", "not valid YAML"),
        ("a: 1\n\tb: 2\n", ":2: not valid YAML"),
        ("a: 1\na: 2\n", ":2: a is given twice"),
        ("a: {b: 1}\na.b: 2\n", ":2: a.b is given twice"),
        ("x: 1\na: !!python/object/apply:os.system [echo]\n", ":2: not valid YAML: could not determine a constructor"),
        ("a: !!timestamp soon\n", "not valid YAML"),
        ("a: 2020-13-45\n", "not valid YAML"),
        ("a: 99999999999999999999\n", ":1: not valid YAML: a number is beyond 64 bits"),
        ("a: &x [1]\nb: *x\n", r":2: not valid YAML: aliases \(\*name\) are not taken"),
        ("a: &x {b: *x}\n", "aliases"),
        ("? [1, 2]\n: 3\n", ":1: a key must be plain text"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: " + "[" * 600, "nested too deeply"),
        ("a: \x00\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_plain_mapping_is_refused_with_its_line(tmp_path, text, message):
    path = user_file(tmp_path, text)
    with pytest.raises(UserError, match=message) as error:
        read_yaml(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_file_of_other_bytes_or_none_is_refused(tmp_path):
    path = tmp_path / "bytes.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    for wrong in (path, tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(UserError, match=str(wrong)):
            read_yaml(wrong)


def test_a_file_that_is_too_large_or_none_is_refused_without_reading_it_all(tmp_path):
    large = user_file(tmp_path, "# nothing\n" * (MOST_BYTES // 10 + 1))
    with pytest.raises(UserError, match="of more than 256 KiB holds no settings"):
        read_yaml(large)
    os.mkfifo(tmp_path / "pipe")
    for endless in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match=f"{endless}: is no regular file"):
            read_yaml(endless)


def test_nine_lines_of_aliases_cannot_fill_the_memory(tmp_path):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    with pytest.raises(UserError, match=r":2: .*aliases"):
        read_yaml(user_file(tmp_path, bomb))


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [("optim.lr=0.3", "optim.lr", 0.3), (" a.b =x=y", "a.b", "x=y"), ("a=", "a", None), ("a=[1, 2]", "a", [1, 2])],
)
def test_an_assignment_is_a_key_and_a_yaml_value(text, key, value):
    assert parse_set(text) == (key, Given(value, "--set"))


@pytest.mark.parametrize("text", ["", "optim.lr", "=3", " =3", "a=[1", "a=!!python/name:os.system", "a=[&x 1, *x]"])
def test_another_assignment_is_refused(text):
    with pytest.raises(UserError, match=r"^--set"):
        parse_set(text)


# --- whatever comes in, a value or one line comes out -----------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(LEAVES), VALUES)
def test_any_value_for_any_key_is_taken_in_range_or_refused_in_one_line(leaf, value):
    key, kind = leaf
    filled, refusal = tried(fill, Settings, {key: Given(value, "f:1")})
    if refusal is not None:
        assert key.rpartition(".")[2] in refusal
        return
    found = given_of(filled)[key].value
    assert coerce(found, kind, key) == found
    check_range(found, key)
    assert digest(found)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.text("[]{}&*!:,-=0123456789.exa\"'#|>?% \n", max_size=40).map("a=".__add__))
def test_any_assignment_is_taken_or_refused(text):
    taken, refusal = tried(parse_set, text)
    if refusal is None:
        assert taken[0] == text.partition("=")[0].strip() != ""
        value = text.partition("=")[2]
        plain = "nan" not in text.lower() and not re.search("[0-9]:[0-9]", value)  # 1:30 is a text here, and no 90
        assert taken[1].value == yaml.safe_load(value) or not plain


@settings(max_examples=60, deadline=None)
@given(text=st.text("abdt: \n\t[]{}&*!-.09'\"#|?", max_size=60))
def test_any_file_is_taken_or_refused_by_name(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text)
    layer, refusal = tried(read_yaml, path)
    assert refusal is None or str(path) in refusal
    assert all(value.where.startswith(f"{path}:") for value in (layer or {}).values())


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["sycon.repel", "moco.queue", "byol.tau_start", "lump.memory", "sycon.pseudo_negatives"]), VALUES
)
def test_any_hyperparameter_is_taken_or_refused(key, value):
    request = Request(["sycon-moco", "sycon-byol", "lump-moco"], layer={key: Given(value, "f:1")})
    runs, refusal = tried(build_runs, request)
    assert refusal is None or key in refusal
    assert runs is None or len({canonical(run) for run in runs}) == 3
