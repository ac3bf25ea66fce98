"""Suite files for tests: of existing methods, two by two."""

TEXT = """title: Two by two
source: a paper, table 1
recipe: ""
metric: average_accuracy
probe: linear
strategies: [finetune, cassle]
objectives: [moco, barlow]
rows: strategy
columns: objective
parts:
  - {dataset: cifar100, scenario: class_il, tasks: 5, protocols: [cassle-online-probe]}
tiers:
  quick: {preset: quick, dataset: fashion_mini, settings: {train.epochs: 1}}
  paper: {preset: paper}
"""


def write(folder, text=TEXT, name="tiny"):
    """A suite file; the path as text."""
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)
