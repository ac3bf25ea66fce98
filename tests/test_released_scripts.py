"""The recipes hold what the released scripts resolve to: each value of each script, or a correction in its place."""

import json
from dataclasses import asdict

import pytest

from bench import recipes
from bench.evaluate.offline import published_rate
from bench.recipes import SCRIPTED, case_of, corrections, recipe_layer, recipe_names, recipe_seed, script_rows
from methods import registry

SETTINGS = {
    "epochs_per_task": "train.epochs",
    "gpus": "train.device_groups",
    "global_batch": "train.batch",
    "online_classifier": "online.run",
    "optimizer.momentum": "optim.momentum",
    "optimizer.lr_effective": "optim.lr",
    "optimizer.weight_decay": "optim.weight_decay",
    "optimizer.classifier_lr": "online.lr",
    "optimizer.lars.eta": "optim.eta",
    "optimizer.lars.clip": "optim.clip",
    "optimizer.lars.exclude_bias_n_norm": "optim.exclude_bias_and_norm",
    "scheduler.min_lr": "optim.min_lr",
    "scheduler.warmup_epochs": "optim.warmup_epochs",
    "scheduler.warmup_start_lr": "optim.warmup_start_lr",
    "ssl.proj_hidden_dim": "{objective}.hidden",
    "ssl.output_dim": "{objective}.output",
    "ssl.pred_hidden_dim": "byol.predictor_hidden",
    "ssl.temperature": "{objective}.temperature",
    "ssl.queue_size": "{objective}.queue",
    "ssl.base_tau_momentum": "{objective}.tau_start",
    "ssl.final_tau_momentum": "{objective}.tau_end",
    "ssl.lamb": "barlow.off_diagonal",
    "ssl.scale_loss": "barlow.scale",
    "ssl.sim_loss_weight": "vicreg.invariance",
    "ssl.var_loss_weight": "vicreg.variance",
    "ssl.cov_loss_weight": "vicreg.covariance",
    "ssl.num_prototypes": "swav.prototypes",
    "ssl.sk_epsilon": "swav.epsilon",
    "ssl.sk_iters": "swav.iterations",
    "distill.distill_lamb": "{strategy}.weight",
    "distill.temperature": "{objective}.distill_temperature",
    "distill.negative_lamb": "sycon.repel",
    "distill.predictor_hidden_dim": "{strategy}.hidden",
    "distill.barlow_lamb": "barlow.off_diagonal",
    "distill.scale_loss": "barlow.scale",
    "distill.queue2_size": "moco.queue",
}
VIEW = {"grayscale_prob": "gray_prob", "hflip_prob": "flip_prob"}
VIEW |= {n: n for n in ("crop_scale", "jitter_prob", "brightness", "contrast", "saturation", "hue", "blur_prob")}
VIEW |= {"solarize_prob": "solarize_prob"}
SETTINGS |= {
    f"augment.{v}.{theirs}": f"augment.{v}.{ours}" for v in ("view1", "view2") for theirs, ours in VIEW.items()
}

CONSTANT = {  # what every run here does
    "optimizer.name": "sgd",
    "optimizer.nesterov": False,
    "optimizer.classifier_weight_decay": 0.0,
    "optimizer.lars.eps": 1e-8,
    "save_checkpoint": True,
    "ssl.supervised": False,
    "distill.replaces_base_loss": True,
}
NO_SETTING = {
    "id": "a name",
    "script": "a name",
    "dataset": "what the recipe is asked for",
    "scenario": "what the recipe is asked for",
    "ssl_method": "what the recipe is asked for",
    "precision": "runs have bf16 or fp32",
    "sync_batchnorm": "BatchNorm sees the whole batch",
    "data_path": "one augmentation for all, in the order and with the kernels of PIL",
    "check_val_every_n_epoch": "evaluation changes no state; what it did to the frozen model is train.teacher_bn",
    "knn_eval": "kNN runs on cached features",
    "optimizer.lr_arg": "lr_effective is lr_arg * global_batch / 256",
    "ssl.momentum_classifier": "a classifier on the momentum encoder reaches no other part",
    "distill.distill_lamb_unused": "the released loss does not read it",
    "distill.loss_alpha_unused": "the released loss does not read it",
}
CODE = {  # what the released code does, not its scripts
    "encoder.stem": {"cifar100": "cifar", "imagenet100": "imagenet", "domainnet": "imagenet"},
    "train.teacher_bn": {"cifar100": "reference", "imagenet100": "eval", "domainnet": "eval"},
}
DISTILLERS = {"moco": "contrastive", "simclr": "contrastive", "byol": "predictive", "barlow": "decorrelative"}
DISTILLERS |= {"vicreg": "predictive_mse", "swav": "knowledge"}
SIDES, TASKS = {"cifar100": 32}, {"domainnet": 6}  # of the datasets, where the recipe leaves it to them

LINEAR = {f"probe.linear_offline.{name}": name for name in ("momentum", "epochs", "batch")}
LINEAR_CONSTANT = {"optimizer": "sgd", "scheduler": "multistep", "gamma": 0.1, "warmup": 0, "weight_decay": 0.0}
LINEAR_CONSTANT |= {"lr_scaled_by_batch": False, "gpus": 1}
LINEAR_NO_SETTING = {
    "script": "a name",
    "repo": "what the recipe is asked for",
    "dataset": "what the recipe is asked for",
    "scenario": "what the recipe is asked for",
    "ssl_method": "what the recipe is asked for",
    "logged_split_strategy": "names of what is logged",
    "runs": "probes of all data and of one domain",
    "precision": "runs have bf16 or fp32",
}
ROWS, LINEAR_ROWS = script_rows(), script_rows("linear_scripts.csv")
LEFT_OUT = {"supcon"}


def parse(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def values(name, case):
    layer = recipe_layer(name, case.family, case.scenario, case.objective)
    return {key: given.value for key, given in layer.items()}


def computed(name, case, row, found):
    """What a run has, in the terms of columns that are no setting by themselves."""
    twin = row["script"].endswith("_load_task0.sh")
    method = row["cl_method"].partition(":")[0]
    distiller = {"pnr": f"pnr:{row['ssl_method'].removesuffix('_twins')}_pnr", "finetune": "finetune"}
    side = found["data.image_size"] or SIDES[case.family]
    epochs = found["train.epochs"]
    result = {
        "repo": {"pnr": "PNR", "cassle": "cassle"}[found["data.order"]],
        "encoder": found["encoder.name"] if found["encoder.width"] == 64 else "another width",
        "num_tasks": found["data.tasks"] or TASKS[case.family],
        "start_task": int(method == "cassle" or twin),  # task 0 is trained once, for all strategies
        "seed": recipe_seed(name),
        "batch_per_gpu": found["train.batch"] // found["train.device_groups"],
        "cl_method": distiller.get(method, f"cassle:{DISTILLERS[case.objective]}"),
        "optimizer.lars": {"lars": True, "sgd": False}[found["optim.name"]],
        "scheduler.name": "warmup_cosine" if found["optim.warmup_epochs"] else "cosine",
        "augment.view1.crop_size": side,
        "augment.view2.crop_size": side,
        "augment.asymmetric": [found[f"augment.view1.{n}"] for n in VIEW.values()]
        != [found[f"augment.view2.{n}"] for n in VIEW.values()],
        "ssl.epoch_queue_starts": round(found.get("swav.queue_start", 0) * epochs, 6),
        "ssl.freeze_prototypes_epochs": round(found.get("swav.freeze", 0) * epochs, 6),
    }
    return result


def differences(row):
    """(script, column, released, used) wherever a script and the recipe for it differ."""
    name, case = case_of(row)
    found = values(name, case)
    strategy = {"pnr": "sycon", "cassle": "cassle"}.get(row["cl_method"].partition(":")[0], "")
    used = computed(name, case, row, found) | CONSTANT
    for column, key in SETTINGS.items():
        key = key.format(objective=case.objective, strategy=strategy)
        if row[column]:
            used[column] = found[key]
    return [
        (row["script"], column, parse(row[column]), value)
        for column, value in used.items()
        if row[column] and parse(row[column]) != value
    ]


def linear_differences(row):
    name, case = case_of(row)
    found = values(name, case)
    used = LINEAR_CONSTANT | {column: found[key] for key, column in LINEAR.items()}
    used["lr"] = published_rate(case.objective)  # the probe's own where a recipe gives none
    epochs = found["probe.linear_offline.epochs"]
    used["milestones"] = [round(part * epochs, 6) for part in found["probe.linear_offline.milestones"]]
    return [
        (row["script"], column, parse(row[column]), value)
        for column, value in used.items()
        if parse(row[column]) != value
    ]


def cases():
    objectives = [*DISTILLERS, "simsiam"]
    return [recipes.Case(f, s, o) for f, scenarios in SCRIPTED.items() for s in scenarios for o in objectives]


def below(found, *prefixes):
    return {key: value for key, value in found.items() if key.startswith(prefixes)}


def unexplained(name, fits=lambda case: True):
    """All that is wrong with a recipe in the cases that fit: differences without a correction, code not followed,
    stand-ins unlike what they stand for."""
    listed = {(c.script, c.field, parse(c.released)): parse(c.used) for c in corrections()}
    for found, compare in ((ROWS, differences), (LINEAR_ROWS, linear_differences)):
        for row in found:
            of, case = case_of(row)
            if of == name and case.objective not in LEFT_OUT and fits(case):
                yield from (d for d in compare(row) if listed.get(d[:3], d) != d[3])
    for case in filter(fits, cases()):
        yield from ((case, ours, wanted) for ours, wanted in pairs(name, case) if ours != wanted)


def pairs(name, case):
    """What a recipe says beside its scripts, and what it has to be."""
    other = {"pnr": "cassle", "cassle": "pnr"}[name]
    found, theirs = values(name, case), values(other, case)
    code = {key: by_family[case.family] for key, by_family in CODE.items()}
    code |= {"train.teacher_bn": "train"} if name == "cassle" else {}
    yield below(found, *code), code
    if found["optim.name"] == "sgd":  # torch's own decays all it is given
        yield found["optim.exclude_bias_and_norm"], False
    yield below(found, "cassle.", "sycon."), below(theirs, "cassle.", "sycon.")
    if case.objective == "simsiam":
        by_byol = values(name, case._replace(objective="byol"))
        shared = ("optim.", "augment.", "online.", "sycon.", "train.")
        yield below(found, *shared), below(by_byol, *shared)
        heads = asdict(registry.get("objective", "simsiam").Hparams())
        yield below(found, "simsiam."), {f"simsiam.{key}": value for key, value in heads.items()}
    if case.objective == "swav" or (case.objective == "moco" and case.family == "cifar100"):
        parts = ("optim.", "augment.", "online.", f"{case.objective}.")
        yield below(found, *parts), below(theirs, *parts)


@pytest.mark.parametrize("name", recipe_names())
def test_each_value_of_each_script_is_in_its_recipe_or_corrected(name):
    assert list(unexplained(name)) == []


def test_no_correction_is_without_use():
    found = [d for row in ROWS if row["ssl_method"] not in LEFT_OUT for d in differences(row)]
    listed = [(c.script, c.field, parse(c.released), parse(c.used)) for c in corrections()]
    assert len(set(listed)) == len(listed)
    assert set(listed) == set(found)


def test_every_column_is_a_setting_or_named_with_a_reason():
    (row, *_), (linear, *_) = ROWS, LINEAR_ROWS
    name, case = case_of(row)
    known = [*SETTINGS, *CONSTANT, *NO_SETTING, *computed(name, case, row, values(name, case))]
    assert sorted(known) == sorted(row)
    assert sorted([*LINEAR.values(), "lr", "milestones", *LINEAR_CONSTANT, *LINEAR_NO_SETTING]) == sorted(linear)


def test_the_tables_hold_all_scripts_and_agree_with_themselves():
    assert len({row["script"] for row in ROWS}) == len(ROWS) == 76
    assert len({row["script"] for row in LINEAR_ROWS}) == len(LINEAR_ROWS) == 38
    for row in ROWS:
        number = {column: parse(value) for column, value in row.items()}
        assert number["batch_per_gpu"] * number["gpus"] == number["global_batch"]
        assert number["optimizer.lr_effective"] == pytest.approx(
            number["optimizer.lr_arg"] * number["global_batch"] / 256
        )


def test_scripts_left_out_are_named_with_a_reason():
    named = {c for c in recipes.not_covered() if recipes.not_covered()[c]}
    known = {*DISTILLERS, "simsiam"}
    assert named == LEFT_OUT == {case_of(row)[1].objective for row in (*ROWS, *LINEAR_ROWS)} - known


def changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [value[0] + 0.01, *value[1:]]
    return f"{value}x" if isinstance(value, str) else (value or 0) + 1


@pytest.mark.parametrize("name", recipe_names())
def test_no_value_of_a_recipe_can_change_unnoticed(name, monkeypatch):
    whole = recipes.sections(name)
    for index, section in enumerate(whole):
        for key, given in section.layer.items():
            layer = section.layer | {key: recipes.Given(changed(given.value), given.where)}
            altered = [*whole[:index], section._replace(layer=layer), *whole[index + 1 :]]
            others = {other: recipes.sections(other) for other in recipe_names()} | {name: altered}
            with monkeypatch.context() as patch:
                patch.setattr(recipes, "sections", others.__getitem__)
                try:
                    noticed = next(unexplained(name, section.fits), None) is not None
                except (KeyError, TypeError, ValueError):
                    noticed = True
            assert noticed, f"{section.name}: {key}"
