"""`data`: datasets before they are used."""

import argparse
import sys
from pathlib import Path

from bench.data.datasets import source_of
from bench.data.folders import How, cache_of, load_source, read_manifest
from bench.errors import UserError
from bench.files import size_text


def build(args: argparse.Namespace) -> int:
    """Decodes a dataset's files to where runs look for them; a killed build goes on where it was.

    Raises UserError for a dataset that is not made of image files, and as `load_source` does.
    """
    data_dir = Path(args.data_dir) if args.data_dir else None
    source = source_of(args.name, data_dir, args.image_size)
    if source is None:
        raise UserError(f"{args.name} is not made of image files: there is nothing to decode")
    there = read_manifest(cache_of(source, args.out), source.key) is not None
    dataset = load_source(source, args.out, How(args.skip_corrupt, args.quiet, announce=True, threads=args.jobs))
    splits = (dataset.train.images, dataset.test.images)
    height, width, channels = splits[0].shape[1:]
    counts = " + ".join(f"{len(images):,}" for images in splits)
    nbytes = size_text(sum(images.nbytes for images in splits))
    state = "was decoded already" if there else "is decoded"
    print(f"{dataset.name} {state}: {counts} images of {height} x {width} x {channels}, {nbytes}, in ", end="")
    print(cache_of(source, args.out))
    print(f"classes {len(dataset.classes)}, domains {len(dataset.domains)}, content {dataset.digest[:16]}")
    if dataset.note and not args.quiet:
        print(f"note: {dataset.note}", file=sys.stderr)
    return 0
