"""The public datasets that lie on disk as image files, by name."""

from bench.data.listing import TEST_SHARE
from bench.data.named.base import Counts, Named, NotHere
from bench.data.named.lists import CLEANED, PACS, domainnet, pacs
from bench.data.named.synsets import imagenet, imagenet100, tiny_imagenet

__all__ = ["NAMED", "Counts", "Named", "NotHere"]

_IMAGENET = (
    "imagenet1k",
    "imagenet",
    "ImageNet",
    "ILSVRC2012",
    "imagenet/ILSVRC/Data/CLS-LOC",
    "ILSVRC/Data/CLS-LOC",
    "",
)


def _held_out(images: int) -> tuple[int, int]:
    return images - round(images * TEST_SHARE), round(images * TEST_SHARE)


def _of_domains(classes: int, domains: dict[str, tuple[int, int]], split_known: bool) -> Counts:
    train, test = (sum(pair[index] for pair in domains.values()) for index in (0, 1))
    return Counts(train, test, classes, tuple((name, *pair) for name, pair in domains.items()), split_known)


NAMED: dict[str, Named] = {
    each.name: each
    for each in (
        Named(
            "tiny_imagenet",
            "Tiny ImageNet, 100,000 + 10,000, 64x64 RGB, 200 classes (Le and Yang 2015); DIR/tiny-imagenet-200",
            "wget http://cs231n.stanford.edu/tiny-imagenet-200.zip && unzip -q tiny-imagenet-200.zip -d DIR",
            Counts(100_000, 10_000, 200),
            ("tiny-imagenet-200", "tiny_imagenet", "tiny-imagenet", ""),
            ("wnids.txt", "train", "val"),
            tiny_imagenet,
            side=64,
        ),
        Named(
            "imagenet100",
            "ImageNet-100 of CMC, 126,689 + 5,000, 100 classes (arXiv:1906.05849); DIR/imagenet-100 or an ImageNet-1k",
            "it is 100 classes of ImageNet-1k (bench/data/class_lists/imagenet100_cmc.txt): with that in DIR nothing "
            "else is needed; from https://image-net.org/download-images, after registration",
            Counts(126_689, 5_000, 100),
            ("imagenet-100", "imagenet100", "ImageNet100", *_IMAGENET),
            ("train", "val"),
            imagenet100,
            side=224,
            margin=True,
        ),
        Named(
            "imagenet1k",
            "ImageNet-1k, 1,281,167 + 50,000, 1,000 classes (arXiv:1409.0575); DIR/{train,val}/<synset>",
            "get ILSVRC2012_img_{train,val}.tar from https://image-net.org/download-images, after registration, and "
            "unpack each nXXXXXXXX.tar of the first into DIR/train/nXXXXXXXX and the second into DIR/val",
            Counts(1_281_167, 50_000, 1_000),
            _IMAGENET,
            ("train", "val"),
            imagenet,
            side=224,
            margin=True,
        ),
        Named(
            "domainnet",
            "DomainNet, 409,832 + 176,743 by its cleaned lists, 345 classes, 6 domains (arXiv:1812.01754)",
            "get the archives of the six domains and the lists {domain}_{train,test}.txt of the cleaned version from "
            "http://ai.bu.edu/M3SDA/ and unpack them side by side into DIR/domainnet",
            _of_domains(345, CLEANED, split_known=True),
            ("domainnet", "DomainNet", "domain_net", ""),
            tuple(CLEANED),
            domainnet,
            side=224,
            margin=True,
            domain_order=tuple(CLEANED),
        ),
        Named(
            "pacs",
            "PACS, 9,991 images, 7 classes, 4 domains (arXiv:1710.03077); DIR/pacs",
            "get pacs_data from https://dali-dl.github.io/project_iccv2017.html and unpack it into DIR/pacs",
            _of_domains(7, {name: _held_out(images) for name, images in PACS.items()}, split_known=False),
            ("pacs", "PACS", "pacs_data", "kfold", "pacs/pacs_data", "pacs/kfold", "PACS/pacs_data", "PACS/kfold", ""),
            tuple(PACS),
            pacs,
        ),
    )
}
