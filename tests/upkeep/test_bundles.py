"""`export` and `merge`: records travel whole, join what is there, and bring nothing else with them."""

import json
import random
import stat
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import pytest

from bench import cli
from bench.report.records import read_run
from bench.seal import sealed, unsealed
from bench.upkeep import bundle
from bench.upkeep.merging import merge
from tests.refusal import tried
from tests.report.recording import config, rows_of


def put(out, rows, folder="records", **others):
    """A run's rows, sealed, and beside them rows of other folders; the path of the record."""
    for name, content in {folder: rows, **others}.items():
        path = out / name / f"{rows[0]['run_id']}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(sealed(row) + b"\n" for row in content))
    return out / folder / f"{rows[0]['run_id']}.jsonl"


def head(strategy="sycon", seed=0, **more):
    settings = {"data": {"dataset": "folder:/there", "data_dir": None, "image_size": None}}
    return config(
        strategy, seed=seed, stages=["a" * 16, "b" * 16], **{"config": {"settings": settings, "seed": seed}, **more}
    )


TIMING = {"after_task": 0, "stage": "a", "seconds": {"train": 1.0}}


@pytest.fixture
def there(tmp_path):
    """The results of another machine: three runs."""
    out = tmp_path / "there"
    for strategy in ("sycon", "cassle", "finetune"):
        put(out, rows_of(head(strategy)), timings=[TIMING])
    return out


@pytest.fixture
def zipped(there, tmp_path):
    path = tmp_path / "there.zip"
    assert bundle.export(there, path, {"code": "0" * 8}, None, None) == (3, [])
    return path


def run(*words):
    return cli.main([str(word) for word in words])


def outcomes(path, out):
    with bundle.opened(path) as source:
        return [done.outcome for done in merge(source, out)]


def rows(out):
    """Content of all files of rows."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.glob("*/*.jsonl")}


def kept(out):
    return {name: data for name, data in rows(out).items() if not name.startswith("merged/")}


def record(out, strategy="sycon", seed=0):
    return out / "records" / f"{head(strategy, seed)['run_id']}.jsonl"


def test_a_bundle_carries_the_bytes_and_says_where_they_came_from(there, zipped, tmp_path, capsys):
    out = tmp_path / "here"
    assert run("merge", zipped, "--out", out) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 new, 0 same, 0 extended, 0 refused"
    assert kept(out) == rows(there)
    (noted,) = (unsealed(line) for line in (out / "merged" / record(out).name).read_bytes().splitlines())
    assert noted["bundle"] == "there.zip"
    assert noted["environment"] == {"torch": "2"}
    assert noted["exporter"] == {"code": "0" * 8}
    assert noted["rows"] == len(rows_of(head()))


def test_the_same_bundle_again_changes_no_byte(zipped, tmp_path):
    out = tmp_path / "here"
    assert outcomes(zipped, out) == ["new"] * 3
    before = rows(out)
    assert outcomes(zipped, out) == ["same"] * 3
    assert rows(out) == before


def test_equal_records_make_equal_bundles_and_a_folder_does_as_well(there, zipped, tmp_path, monkeypatch):
    again = tmp_path / "again.zip"
    monkeypatch.setattr("time.time", lambda: 2e9)
    bundle.export(there, again, {"code": "0" * 8}, None, None)
    assert again.read_bytes() == zipped.read_bytes()
    one, other = tmp_path / "one", tmp_path / "other"
    outcomes(zipped, one)
    assert outcomes(there, other) == ["new"] * 3
    assert kept(one) == kept(other)


def test_an_unfinished_record_goes_on_with_the_foreign_rows_in_their_order(there, zipped, tmp_path):
    out = tmp_path / "here"
    own = rows_of(head(environment={"torch": "3"}))
    put(out, [own[0], *own[3:6], own[1]])
    assert sorted(outcomes(zipped, out)) == ["extended", "new", "new"]
    lines = record(out).read_bytes().splitlines()
    assert unsealed(lines[0])["environment"] == {"torch": "3"}
    assert lines[1:] == record(there).read_bytes().splitlines()[1:]


def test_rows_that_each_side_lacks_are_joined(there, zipped, tmp_path):
    out = tmp_path / "here"
    mine = {"kind": "accuracy", "after_task": 0, "on_task": 0, "probe": "knn(k=3)", "value": 0.5, "n": 9}
    put(out, [*rows_of(head())[:4], mine])
    assert sorted(outcomes(zipped, out)) == ["extended", "new", "new"]
    joined = [unsealed(line) for line in record(out).read_bytes().splitlines()]
    assert joined == [*rows_of(head())[:4], mine, *rows_of(head())[4:]]


def test_a_row_that_joins_a_record_with_a_row_twice_is_counted(there, zipped, tmp_path):
    out, rows = tmp_path / "here", rows_of(head())
    put(out, [*rows[:-1], rows[3]])
    assert sorted(outcomes(zipped, out)) == ["extended", "new", "new"]
    assert (out / "merged" / f"{rows[0]['run_id']}.jsonl").exists()


def test_a_contradiction_is_refused_with_both_rows_and_nothing_of_it_is_written(there, zipped, tmp_path, capsys):
    out = tmp_path / "here"
    mine = rows_of(head())
    path = put(out, [mine[0], {**mine[1], "value": 0.125}, *mine[2:5]])
    before = path.read_bytes()
    assert run("merge", zipped, "--out", out) == 1
    text = capsys.readouterr()
    assert f"{path.stem} refused: it contradicts the record that is here: " in text.err
    assert '"value": 0.125' in text.err
    assert json.dumps(mine[1]["value"]) in text.err
    assert text.out.splitlines()[-1] == "2 new, 0 same, 0 extended, 1 refused"
    assert path.read_bytes() == before
    assert [p for name in ("merged", "timings") for p in (out / name).glob(path.name)] == []


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"environment": {"torch": "9"}}, "same"),
        (
            {
                "config": {
                    "settings": {"data": {"dataset": "folder:/here", "data_dir": "/d", "image_size": None}},
                    "seed": 0,
                }
            },
            "same",
        ),
        (
            {
                "config": {
                    "settings": {"data": {"dataset": "folder:/there", "data_dir": None, "image_size": 8}},
                    "seed": 0,
                }
            },
            "refused",
        ),
        ({"note": "another"}, "refused"),
    ],
    ids=["environment", "place of the data", "another setting", "another note"],
)
def test_only_where_a_run_was_made_may_differ_in_its_configuration(zipped, tmp_path, change, outcome, capsys):
    out = tmp_path / "here"
    path = put(out, rows_of(head(**change)))
    before = path.read_bytes()
    assert sorted(outcomes(zipped, out)) == sorted(["new", "new", outcome])
    assert path.read_bytes() == before


def test_a_record_that_lost_its_configuration_gets_it_back(there, zipped, tmp_path):
    out = tmp_path / "here"
    path = put(out, rows_of(head()))
    path.write_bytes(b"{" + path.read_bytes()[9:])
    assert sorted(outcomes(zipped, out)) == ["extended", "new", "new"]
    assert path.read_bytes() == record(there).read_bytes()
    assert len([*(out / "set-aside").glob("records-*")]) == 1


def test_where_rows_came_from_is_kept_on_the_way(zipped, tmp_path):
    second, third = tmp_path / "second", tmp_path / "third"
    outcomes(zipped, second)
    bundle.export(second, tmp_path / "second.zip", {}, None, None)
    outcomes(tmp_path / "second.zip", third)
    noted = [unsealed(line)["bundle"] for line in (third / "merged" / record(third).name).read_bytes().splitlines()]
    assert sorted(noted) == ["second.zip", "there.zip"]


def test_the_report_says_how_many_runs_were_merged_and_from_where(zipped, tmp_path):
    out = tmp_path / "here"
    put(out, rows_of(head("lump")))
    outcomes(zipped, out)
    assert run("report", "--out", out, "--format", "md", "--quiet") == 0
    text = (out / "report" / "table.md").read_text()
    assert "- 3 of 4 runs, or some of their rows, were merged from there.zip (sha256 " in text


def test_a_kill_while_merging_loses_no_origin(zipped, tmp_path, monkeypatch):
    out = tmp_path / "here"
    real = bundle.whole_lines

    def killed(lease, path, data):
        if path.parent.name == "records":
            raise KeyboardInterrupt
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr("bench.lease.Lease.write", killed)
        with pytest.raises(KeyboardInterrupt):
            outcomes(zipped, out)
    assert outcomes(zipped, out) == ["new"] * 3
    assert len(real((out / "merged" / record(out, "cassle").name).read_bytes())[0]) == 1
    assert len([*(out / "merged").iterdir()]) == 3


# --- export -----------------------------------------------------------------------------------------------------------


def test_runs_can_be_chosen_by_method_and_scenario(there, tmp_path, capsys):
    def chosen(*words):
        assert run("export", tmp_path / "some.zip", "--out", there, *words) == 0
        with bundle.opened(tmp_path / "some.zip") as source:
            return source.runs

    assert chosen("--methods", "sycon,cassle-moco") == sorted(head(name)["run_id"] for name in ("sycon", "cassle"))
    assert len(chosen("--scenario", "class_il")) == 3
    assert run("export", tmp_path / "some.zip", "--out", there, "--methods", "sycom") == 2
    assert "did you mean 'sycon'?" in capsys.readouterr().err


def test_a_record_that_is_not_whole_is_left_out_and_said(there, tmp_path, capsys):
    path = record(there)
    path.write_bytes(path.read_bytes()[:-9])
    assert run("export", tmp_path / "some.zip", "--out", there) == 1
    text = capsys.readouterr()
    assert text.err == f"left out: {path} is not whole (see `doctor`)\n"
    assert text.out == f"2 runs in {tmp_path / 'some.zip'}\n"


def test_a_record_of_an_older_version_is_sealed_on_the_way(there, zipped, tmp_path):
    for path in there.glob("*/*.jsonl"):
        path.write_text("".join(json.dumps(unsealed(line)) + "\n" for line in path.read_bytes().splitlines()))
    bundle.export(there, tmp_path / "older.zip", {"code": "0" * 8}, None, None)
    assert (tmp_path / "older.zip").read_bytes() == zipped.read_bytes()


# --- bundles that are not what they claim -----------------------------------------------------------------------------

NAME = f"records/{'a' * 16}.jsonl"


def pack(path, members, names=None):
    """An archive of (name or ZipInfo, bytes), with a manifest that fits, or that names `names`."""
    plain = [(each.filename if isinstance(each, ZipInfo) else each, data) for each, data in members]
    files = {
        name: {"sha256": bundle.hashlib.sha256(data).hexdigest(), "bytes": len(data), "rows": 1}
        for name, data in plain
        if names is None or name in names
    }
    manifest = sealed({"format": bundle.FORMAT, "exporter": {}, "files": files}) + b"\n"
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, data in [("manifest.json", manifest), *members]:
            archive.writestr(name, data)


def special(mode, name=NAME):
    info = ZipInfo(name)
    info.external_attr = mode << 16
    return info


def bomb(path):
    pack(path, [(NAME, bytes(5000))])


HOSTILE = {
    "a way out": lambda path: pack(path, [("../x.jsonl", b"")]),
    "a way out inside": lambda path: pack(path, [(f"records/../../{'a' * 16}.jsonl", b"")]),
    "a way out by backslash": lambda path: pack(path, [(f"records\\..\\{'a' * 16}.jsonl", b"")]),
    "an absolute name": lambda path: pack(path, [("/tmp/x.jsonl", b"")]),
    "another name": lambda path: pack(path, [("records/x.jsonl", b"")]),
    "an end of line in a name": lambda path: pack(path, [(f"{NAME}\n", b"")]),
    "another folder": lambda path: pack(path, [(f"stages/{'a' * 16}.jsonl", b"")]),
    "a link": lambda path: pack(path, [(special(stat.S_IFLNK | 0o777), b"/etc/passwd")]),
    "a device": lambda path: pack(path, [(special(stat.S_IFCHR | 0o666), b"")]),
    "a folder": lambda path: pack(path, [("records/", b"")]),
    "a name twice": lambda path: pack(path, [(NAME, b"1"), (special(0o100644), b"2")]),
    "a file that is not in the manifest": lambda path: pack(path, [(NAME, b"")], names=()),
    "too much in a file": bomb,
    "no archive": lambda path: path.write_bytes(b"PK"),
    "no manifest": lambda path: ZipFile(path, "w").close(),
    "no file": lambda path: None,
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bundle_is_refused_in_one_line_before_anything_is_written(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundle, "MOST_IN_FILE", 4000)
    path = tmp_path / "hostile.zip"
    HOSTILE[name](path)
    before = sorted(tmp_path.rglob("*"))
    assert run("merge", path, "--out", tmp_path / "here") == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert str(path) in text
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("what", ["MOST_IN_ALL", "MOST_FILES"])
def test_a_bundle_that_claims_too_much_is_refused(zipped, tmp_path, monkeypatch, what):
    monkeypatch.setattr(bundle, what, 3)
    assert run("merge", zipped, "--out", tmp_path / "here") == 2
    assert not (tmp_path / "here").exists()


def read_all(path):
    with bundle.opened(path) as source:
        return {name: source.read(name) for name in source.members}


def test_a_changed_bundle_is_refused_or_says_the_same(zipped, tmp_path):
    rng, whole, good, path = random.Random(0), zipped.read_bytes(), read_all(zipped), tmp_path / "changed.zip"
    for _ in range(300):
        data = bytearray(whole)
        start, length = rng.randrange(len(data)), rng.choice([1, 1, 1, 2, 4, 40])
        data[start : start + length] = rng.choice([b"", rng.randbytes(length), b"\xff" * length])
        path.write_bytes(data)
        content, _ = tried(read_all, path)
        assert content in (None, good)


def test_a_cut_bundle_is_refused(zipped, tmp_path):
    zipped.write_bytes(zipped.read_bytes()[:-50])
    assert run("merge", zipped, "--out", tmp_path / "here") == 2
    assert not (tmp_path / "here").exists()


def test_a_folder_with_a_link_in_it_is_refused(there, tmp_path, capsys):
    path = record(there)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert run("merge", there, "--out", tmp_path / "here") == 2
    assert f"error: {path} is no file of rows" in capsys.readouterr().err


BAD = {
    "another hash": lambda good, rows: (good, b"\n" + good),
    "no seal": lambda good, rows: (json.dumps(rows[0]).encode() + b"\n" + good,) * 2,
    "a flipped seal": lambda good, rows: (good.replace(b'"value": 0.', b'"value": 1.'),) * 2,
    "no configuration": lambda good, rows: (good.split(b"\n", 1)[1],) * 2,
    "another run": lambda good, rows: (sealed({**rows[0], "run_id": "b" * 16}) + b"\n",) * 2,
    "a contradiction": lambda good, rows: (good + sealed({**rows[1], "value": 0.125}) + b"\n",) * 2,
    "a value out of range": lambda good, rows: (good + sealed({**rows[1], "on_task": 99}) + b"\n",) * 2,
    "a collapse after no task": lambda good, rows: (
        (good + sealed({"kind": "watch", "after_task": 9, "collapsed": True, "reason": ""}) + b"\n",) * 2
    ),
    "no seals at all": lambda good, rows: (b"".join(json.dumps(row).encode() + b"\n" for row in rows),) * 2,
    "no text": lambda good, rows: (b"\xff\x00" * 40,) * 2,
}


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_is_not_what_it_claims_is_refused_and_others_are_taken(name, tmp_path, capsys):
    good, rows = {}, rows_of(head())
    for strategy in ("sycon", "cassle"):
        content = rows_of(head(strategy))
        good[f"records/{content[0]['run_id']}.jsonl"] = b"".join(sealed(row) + b"\n" for row in content)
    claimed, held = BAD[name](good[bad := f"records/{rows[0]['run_id']}.jsonl"], rows)
    path = tmp_path / "bad.zip"
    pack(path, [*{**good, bad: claimed}.items()])
    with ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    with ZipFile(path, "w") as archive:
        for each, data in {**members, bad: held}.items():
            archive.writestr(each, data)
    assert run("merge", path, "--out", tmp_path / "here") == 1
    text = capsys.readouterr()
    assert f"{rows[0]['run_id']} refused: " in text.err
    assert text.out.splitlines()[-1] == "1 new, 0 same, 0 extended, 1 refused"
    assert [each.stem for each in (tmp_path / "here" / "records").iterdir()] == [head("cassle")["run_id"]]
    assert read_run(record(tmp_path / "here", "cassle"), []).status == "complete"
