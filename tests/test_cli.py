"""The command line: what is wrong ends in status 2 and one line that names it and the nearest valid choice."""

import re

import pytest

from bench import cli, options
from bench.commands import author
from bench.commands.grid import FLAGS
from bench.config import Settings
from bench.layers import leaves
from tests.data.image_folders import damage, fill

BASE = ("--methods", "finetune", "--device", "cpu", "--precision", "fp32")
SMALL = (*BASE, "--dataset", "folder:PICTURES", "--tasks", "3", "--batch", "4")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("data") / "pictures", classes=("ant", "bee", "cat"), count=12)


@pytest.fixture
def refused(capsys, out, pictures):
    """The one line with which a command line is refused; nothing but empty folders is left behind."""

    def line_of(*words, to=out):
        known = () if words and words[0] in ("list", "new", "check") else ("--out", str(to))
        assert cli.main([*(word.replace("PICTURES", str(pictures)) for word in words), *known]) == 2
        text = capsys.readouterr()
        assert text.out == ""
        assert text.err.startswith("error: ")
        assert text.err.count("\n") == 1, text.err
        left = [path for path in out.rglob("*") if path.is_file() and "datasets" not in path.parts]
        assert left == []
        return text.err

    return line_of


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "sykon"), "unknown strategy 'sykon' (did you mean 'sycon'?)"),
        (("--methods", "finetune-mocco"), "unknown objective 'mocco' (did you mean 'moco'?)"),
        (("--methods", "finetune", "--objective", "bioll"), "unknown objective 'bioll' ("),
        ((*BASE, "--scenario", "class_ill"), "unknown scenario 'class_ill' (did you mean 'class_il'?)"),
        ((*BASE, "--dataset", "fashon_mini"), "unknown dataset 'fashon_mini' (did you mean 'fashion_mini'?)"),
        ((*BASE, "--preset", "quik"), "unknown preset 'quik' (did you mean 'quick'?)"),
        ((*BASE, "--encoder", "resnet9"), "unknown encoder 'resnet9' (did you mean 'resnet"),
        ((*BASE, "--encoder", "timm:resnet18e"), "timm has no model 'resnet18e' (did you mean 'resnet18"),
        ((*BASE, "--vary", "ordr"), "--vary cannot be 'ordr' (did you mean 'order'?)"),
        ((*BASE, "--format", "pgn"), "unknown report format 'pgn' (did you mean 'png'?)"),
        ((*BASE, "--set", "optim.lrr=1"), "--set: unknown key 'optim.lrr' (did you mean 'optim.lr'?)"),
        ((*BASE, "--set", "optim=1"), "--set: unknown key 'optim' (a group: set optim."),
        ((*BASE, "--set", "pnr.wait=1"), "--set: unknown key 'pnr.wait' (did you mean 'pnr.weight'?)"),
        ((*BASE, "--set", "optim.name=larz"), "optim.name cannot be 'larz' (did you mean 'lars'?)"),
        ((*BASE, "--precision", "bf17"), "numerics.precision cannot be 'bf17' (did you mean 'bf16'?)"),
        ((*BASE, "--device", "gpu"), "numerics.device cannot be 'gpu' ("),
        ((*BASE, "--set", "sycon.weight=1"), "no method of this grid reads 'sycon.weight' (methods: finetune-moco)"),
        ((*BASE, "--set", "moco.distill_temperature=1"), "no method of this grid reads 'moco.distill_temperature'"),
        ((*BASE, "--set", "optim.lr"), "--set takes KEY=VALUE, not 'optim.lr'"),
        ((*BASE, "--set", "optim.lr=fast"), "optim.lr takes a number, not 'fast'"),
        ((*BASE, "--set", "optim.lr=-1"), "optim.lr must be a finite number >= 0, not -1"),
        ((*BASE, "--set", "optim.lr=.nan"), "optim.lr takes a number, not nan"),
        ((*BASE, "--set", "optim.lr=.inf"), "optim.lr must be a finite number >= 0, not inf"),
        ((*BASE, "--set", "optim.lr=1e400"), "optim.lr must be a finite number >= 0, not inf"),
        ((*BASE, "--set", "train.epochs=999999999999"), "train.epochs must be at most 1000000000"),
        ((*BASE, "--set", "train.epochs=0x" + "f" * 6000), "train.epochs: '0xfff"),
        ((*BASE, "--set", "train.epochs=2.5"), "train.epochs takes a whole number, not 2.5"),
        ((*SMALL, "--set", "moco.queue=3"), "moco.queue 3 is smaller than train.batch 4"),
        ((*BASE, "--set", "optim.name=a\nb"), "optim.name cannot be 'a b' ("),
        ((*SMALL, "--tasks", "4"), "class_il: 4 tasks, but folder:pictures has 3 classes"),
        ((*BASE, "--tasks", "0"), "--tasks: takes a whole number above 0"),
        ((*BASE, "--tasks", "²"), "--tasks: takes a whole number above 0"),
        ((*BASE, "--epochs", "-3"), "--epochs"),
        ((*BASE, "--batch", "1e3"), "--batch: takes a whole number above 0 (of at most 9 digits), not '1e3'"),
        ((*SMALL, "--batch", "1"), "train.batch must be at least 2"),
        ((*BASE, "--image-size", "100000"), "--image-size: data.image_size must be at most 4096, not 100000"),
        ((*BASE, "--seeds", "one"), "--seeds 'one' does not parse: write 0-2 or 0,3,5"),
        ((*BASE, "--seeds", "3-1"), "--seeds '3-1' does not parse: 3-1 runs backwards"),
        ((*BASE, "--seeds", "0-99999"), "--seeds '0-99999' are more than 10,000 seeds"),
        ((*SMALL, "--scenario", "domain_il", "--domains", "moon"), "unknown domain 'moon' of folder:pictures"),
        ((*SMALL, "--domains", "sketch"), "class_il: a domain order is for domain_il only"),
        ((*BASE, "--jobs", "0"), "--jobs: takes a whole number above 0 or 'auto', not '0'"),
        ((*BASE, "--jobs", "1.5"), "--jobs: takes a whole number above 0 or 'auto', not '1.5'"),
        ((*BASE, "--jobs", "Auto"), "--jobs: takes a whole number above 0 or 'auto', not 'Auto'"),
        ((*BASE, "--save-every", "-1"), "--save-every: "),
        ((*BASE, "--retrain", "all"), "--retrain: takes 'stale', not 'all'"),
        ((*BASE, "--save-every", "nan"), "--save-every: takes seconds, not 'nan'"),
        ((*BASE, "--sedes", "3"), "unknown argument '--sedes' (did you mean '--seeds'?)"),
        ((*BASE, "--sedes=3"), "unknown argument '--sedes' (did you mean '--seeds'?)"),
        ((*BASE, "--seed"), "unknown argument '--seed' (did you mean '--seeds'?)"),
        (("--methods",), "--methods: expected one argument"),
        (("--methods", ","), "--methods: takes one or more names"),
        ((), "--methods is missing: name strategies or pairs"),
        (("--scenario", "class_il"), "--methods is missing"),
        (("rum", *BASE), "unknown command 'rum' (did you mean 'run'?)"),
        (("finetune",), "unknown command 'finetune' (choose from "),
        (("run", *BASE, "stray"), "unknown argument 'stray'"),
        (("plan", *BASE, "--jobs", "2"), "unknown argument '--jobs'"),
        ((*SMALL, "--probes", "kn"), "unknown probe 'kn' (did you mean 'knn'?)"),
        ((*SMALL, "--probes", "knn,ncm"), "probe.headline 'linear' is not among the probes that run: knn, ncm"),
        ((*SMALL, "--transfer", "cifar11"), "unknown dataset 'cifar11' (did you mean 'cifar10'?)"),
        ((*SMALL, "--set", "probe.linear_offline.milestones=[0.5, 1.5]"), "milestones (0.5, 1.5): fractions"),
        ((*SMALL, "--set", "probe.linear_offline.crop_scale=[0.5, 2]"), "crop_scale = (0.5, 2.0): must be at most 1"),
        (("report",), "no records in "),
        (("report", "--format", "doc"), "unknown report format 'doc' (choose from csv, md, pdf, png, tex)"),
        (("eval",), "no records in "),
        (("eval", "--probe", "kn"), "unknown probe 'kn' (did you mean 'knn'?)"),
        (("eval", "--format", "doc"), "unknown report format 'doc'"),
        (("eval", "--set", "probe.knn.kk=3"), "unknown key 'probe.knn.kk' (did you mean 'probe.knn.k'?)"),
        (("eval", "--set", "probe.knn.k=0"), "probe.knn.k must be at least 1, not 0"),
        (("eval", "--probe", "ncm", "--set", "probe.knn.k=3"), "--probe does not name 'knn'"),
        (("list", "method"), "nothing to list as 'method' (did you mean 'methods'?)"),
        (("check", "sykon"), "no method 'sykon' (did you mean 'sycon'?)"),
        (("check", "sycon-mocco"), "unknown objective 'mocco' (did you mean 'moco'?)"),
        (("check",), "required: NAME"),
        (("new", "strategi", "mine"), "cannot write a new 'strategi' (did you mean 'strategy'?)"),
        (("new", "strategy", "pnr"), "the name 'pnr' is taken by the strategy 'sycon'"),
        (("new", "strategy", "moco"), "the name 'moco' is taken by the objective 'moco'"),
        (("new", "strategy", "Mine"), "'Mine' cannot name a method"),
        (("new", "strategy", "../mine"), "'../mine' cannot name a method"),
        (("new", "strategy", "__init__"), "'__init__' cannot name a method"),
        (("new", "objective", "x" * 300), "cannot name a method"),
        (("new", "objective", "optim"), "'optim' cannot name a method: the configuration has a key of this name"),
        (("new", "objective", "all"), "'all' cannot name a method"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value)[-60:],
)
def test_bad_input_is_named_in_one_line(refused, words, message):
    assert message in refused(*words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  lr: 0.1\n  lrr: 0.2\n", ":3: unknown key 'optim.lrr' (did you mean 'optim.lr'?)"),
        ("train:\n  epochs: many\n", ":2: train.epochs takes a whole number, not 'many'"),
        ("- methods\n", ":1: expected `key: value` lines"),
        ("optim: {lr: [}\n", ":1: not valid YAML"),
        ("optim:\n  lr: !!python/object/apply:os.system [ls]\n", ":2: not valid YAML"),
        ("a: &a [1]\nb: [*a, *a]\n", ":2: not valid YAML: aliases (*name) are not taken"),
        ("seeds: [0, one]\n", "does not parse: write 0-2 or 0,3,5"),
        ("methods: 5\n", "methods takes names"),
        ("preset: quik\n", "unknown preset 'quik' (did you mean 'quick'?)"),
        ("jobs: 3\n", ":1: unknown key 'jobs'"),
    ],
)
def test_a_bad_file_is_named_with_its_line(refused, tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    words = ("--config", str(path), *(() if text.startswith("methods") else BASE))
    assert message in refused(*words)


def test_a_missing_file_is_named(refused, tmp_path):
    assert f"cannot read {tmp_path}/none.yaml: No such file" in refused(*BASE, "--config", str(tmp_path / "none.yaml"))


def test_a_folder_that_is_missing_or_holds_nothing_is_named(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/none: no such folder" in refused(*BASE, "--dataset", f"folder:{tmp_path}/none")
    assert f"{tmp_path}/empty: no images" in refused(*BASE, "--dataset", f"folder:{tmp_path}/empty")
    assert "a path is missing, as in folder:PATH" in refused(*BASE, "--dataset", "folder:")


@pytest.mark.parametrize(
    ("kind", "why"), [("empty", "is empty"), ("text", "is not an image"), ("torn", "cannot be read")]
)
def test_an_image_that_cannot_be_read_is_named(refused, tmp_path, kind, why):
    folder = fill(tmp_path / "pictures", count=12)
    damage(folder / "cat" / "03.png", kind)
    line = refused(*BASE, "--dataset", f"folder:{folder}", "--tasks", "2", "--batch", "4")
    assert f"{folder}/cat/03.png: {why}" in line
    assert "--skip-corrupt" in line


def test_skipped_images_are_counted_and_the_rest_is_used(tmp_path, out, capsys, monkeypatch):
    monkeypatch.setattr("bench.speed.step.SECONDS", 0.02)
    folder = fill(tmp_path / "pictures", count=12)
    damage(folder / "cat" / "03.png", "empty")
    damage(folder / "dog" / "05.png", "text")
    words = ("plan", *BASE, "--dataset", f"folder:{folder}", "--tasks", "2", "--batch", "4", "--skip-corrupt")
    assert cli.main([*words, "--out", str(out)]) == 0
    text = capsys.readouterr()
    assert f"{folder}: 2 unreadable images left out, the first cat/03.png" in text.err
    assert "1 runs, 4 stages" in text.out


def test_a_batch_above_the_smallest_task_is_refused_with_its_size(refused, pictures):
    line = refused(*BASE, "--dataset", f"folder:{pictures}", "--tasks", "3", "--batch", "100")
    assert re.search(r"train\.batch 100 is larger than task \d \((ant|bee|cat)\), which has \d+ images", line)


@pytest.mark.parametrize("place", ["file", "below", "kernel"])
def test_a_results_folder_that_cannot_be_written_is_named(refused, tmp_path, place):
    (tmp_path / "file").write_text("")
    out = {"file": tmp_path / "file", "below": tmp_path / "file" / "out", "kernel": "/proc/results"}[place]
    assert f"cannot write to the results folder {out}: " in refused(*BASE, to=out)


def test_out_of_memory_before_any_stage_is_one_line_and_status_1(monkeypatch, capsys, out):
    def greedy(*_):
        raise MemoryError

    monkeypatch.setattr("bench.commands.grid.make_plan", greedy)
    assert cli.main([*BASE, "--out", str(out)]) == 1
    assert capsys.readouterr().err.startswith("error: out of memory: lower --image-size or --jobs")


def test_a_full_disk_is_one_line_and_status_1(monkeypatch, capsys, out):
    def full(*_):
        raise OSError(28, "No space left on device", "results/records/x.jsonl")

    monkeypatch.setattr("bench.commands.grid.build_runs", full)
    assert cli.main([*BASE, "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no space for results/records/x.jsonl: it needs more, and ")
    assert error.endswith(" are free; the same line goes on from here when there is space\n")


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch, out):
    def broken(*_):
        raise KeyError("slip")

    monkeypatch.setattr("bench.commands.grid.build_runs", broken)
    with pytest.raises(KeyError):
        cli.main([*BASE, "--out", str(out)])


# --- help and lists ---------------------------------------------------------------------------------------------------


def text_of(capsys, *words):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", options.COMMANDS)
def test_help_of_a_command_explains_every_option(command, capsys):
    text = text_of(capsys, command, "--help")
    for action in options.subparser(command)._actions:
        assert action.help
        assert all(option in text for option in action.option_strings)
    assert options.COMMANDS[command] in " ".join(text.split()) or command == "run"


@pytest.mark.parametrize("verb", options.VERBS["data"])
def test_help_of_a_verb_explains_every_option(verb, capsys):
    text = " ".join(text_of(capsys, "data", verb, "--help").split())
    assert options.VERBS["data"][verb] in text
    assert all(action.help for action in options.subparser(f"data {verb}")._actions)
    assert f"{verb}: {options.VERBS['data'][verb]}" in " ".join(text_of(capsys, "data", "--help").split())


def test_help_without_a_command_is_that_of_run_and_names_the_others(capsys):
    text = text_of(capsys, "--help")
    assert text == text_of(capsys, "run", "--help")
    for command, summary in options.COMMANDS.items():
        assert f"{command:8} {summary}" in text
    assert text == text_of(capsys, "-h")


def test_examples_in_the_help_are_whole_lines_that_parse():
    lines = [line.split() for line in options.EXAMPLES.splitlines()[1:]]
    assert len(lines) == 9
    for python, script, *words in lines:
        assert (python, script) == ("python", "run_bench.py")
        assert options.subparser(cli._command(words)).parse_args(words)


def test_every_flag_sets_a_key_that_exists():
    assert set(FLAGS.values()) <= {key for key, _ in leaves(Settings)}
    assert all(hasattr(options.build_parser().parse_args([]), flag) for flag in FLAGS)


def test_jobs_are_a_number_or_auto():
    parse = options.build_parser().parse_args
    assert [parse(words).jobs for words in ([], ["--jobs", "12"], ["--jobs", "auto"])] == [1, 12, "auto"]


def test_lists_name_methods_datasets_scenarios_presets_and_probes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["list"]) == 0
    text = capsys.readouterr().out
    for word in ("sycon", "pnr", "moco", "fashion_mini", "folder:PATH", "domain_il", "quick", "optim.lr", "knn"):
        assert word in text
    assert cli.main(["list", "probes"]) == 0
    text = capsys.readouterr().out
    assert "fashion_mini" not in text
    for name, kind in (("linear_10pct", "on cached features"), ("linear_offline", "on images")):
        assert any(name in line and kind in line for line in text.splitlines())


@pytest.mark.parametrize("kind", ["strategy", "objective"])
def test_new_writes_a_method_that_compiles_and_says_what_to_do_next(kind, tmp_path, monkeypatch, capsys):
    for folder in author.registry.FOLDERS.values():
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(author, "ROOT", tmp_path)
    assert cli.main(["new", kind, "my_idea"]) == 0
    path = tmp_path / author.registry.FOLDERS[kind] / "my_idea.py"
    compile(path.read_text(), str(path), "exec")
    assert 'name = "my_idea"' in path.read_text()
    assert "class MyIdea(" in path.read_text()
    assert "check my_idea" in capsys.readouterr().out
