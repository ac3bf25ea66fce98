"""The layouts of released datasets in small: a handful of tiny images where the release has hundreds of thousands."""

from image_folders import paint


def paint_synsets(root, classes, *, train=2, test=1, suffix=".JPEG"):
    """`train/<synset>` and `val/<synset>`, as in ImageNet."""
    for number, name in enumerate(classes):
        for index in range(train):
            paint(root / "train" / name / f"{name}_{index}{suffix}", value=10 * number + index)
        for index in range(test):
            paint(root / "val" / name / f"val_{number}_{index}{suffix}", value=10 * number + 5 + index)
    return root


def paint_flat_val(root, labels):
    """`val/ILSVRC2012_val_00000001.JPEG` and on, one image for each label."""
    for number, _ in enumerate(labels, 1):
        paint(root / "val" / f"ILSVRC2012_val_{number:08}.JPEG", value=1000 + number)


def paint_tiny(root, classes):
    """`tiny-imagenet-200` with two images a class for training and one for validation."""
    lines = []
    for number, name in enumerate(classes):
        for index in range(2):
            paint(root / "train" / name / "images" / f"{name}_{index}.JPEG", value=10 * number + index)
        (root / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t7\t7\n")
        paint(root / "val" / "images" / f"val_{number}.JPEG", value=10 * number + 5)
        lines.append(f"val_{number}.JPEG\t{name}\t0\t0\t7\t7\n")
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    (root / "wnids.txt").write_text("".join(f"{name}\n" for name in reversed(classes)))
    (root / "words.txt").write_text("".join(f"{name}\tthing {name}\n" for name in classes))
    return root


def paint_domains(root, domains, classes, *, lists=None, train=2, test=1, first_label=0, names=("train", "test")):
    """`<domain>/<class>/*.jpg`; with `lists`, a folder, also <domain>_<name>.txt with lines "path label"."""
    for place, domain in enumerate(domains):
        lines = {name: [] for name in names}
        for label, cls in enumerate(classes, first_label):
            for index in range(train + test):
                path = f"{domain}/{cls}/{domain}_{label:03}_{index:06}.jpg"
                paint(root / path, value=100 * place + 10 * label + index)
                lines[names[0] if index < train else names[1]].append(f"{path} {label}\n")
        for name in names if lists is not None else ():
            lists.mkdir(parents=True, exist_ok=True)
            (lists / f"{domain}_{name}.txt").write_text("".join(lines[name]))
    return root
