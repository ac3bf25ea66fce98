"""Batched augmentation on the device of the images: all random numbers are drawn beforehand, on the CPU.

Order: random resized crop, colour jitter, grayscale, blur, solarize, flip, normalise. Crop and resize are PIL's
bicubic, the colour operations torchvision's on float images; values are not rounded to 8 bits in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from bench.data import colour
from bench.errors import UserError

_CROP_TRIES = 10
_CHUNK = 1 << 17  # values of one plane worked on at a time on the CPU, so that a chunk stays in the cache


@dataclass(frozen=True)
class View:
    """The augmentation of one view: probabilities, and torchvision's strengths; raises UserError for bad ranges."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter_prob: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    gray_prob: float = 0.2
    blur_prob: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_prob: float = 0.0
    flip_prob: float = 0.5

    def __post_init__(self) -> None:
        for name in ("jitter_prob", "gray_prob", "blur_prob", "solarize_prob", "flip_prob"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in ("brightness", "contrast", "saturation"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        _check("hue", self.hue, 0 <= self.hue <= 0.5, "in [0, 0.5]")
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            _check(name, (low, high), 0 < low <= high, "two positive numbers, the smaller first")
        _check("crop_scale", self.crop_scale, self.crop_scale[1] <= 1, "at most 1")
        _check("blur_sigma", self.blur_sigma, self.blur_sigma[0] >= 1e-3, "at least 0.001")


def _check(name: str, value: object, valid: bool, wanted: str) -> None:
    if not valid:
        raise UserError(f"augmentation {name} = {value}: must be {wanted}")


class Draw(NamedTuple):
    """The random numbers of N augmented samples, CPU tensors with leading axis N."""

    box: Tensor  # (N, 4) int64: top, left, height, width in pixels
    flip: Tensor  # (N,) bool
    jitter: Tensor  # (N,) bool
    factors: Tensor  # (N, 4) float32: brightness, contrast, saturation, hue (turns)
    order: Tensor  # (N, 4) int64: the four operations in the order of application
    gray: Tensor  # (N,) bool
    blur: Tensor  # (N,) bool
    sigma: Tensor  # (N,) float32, pixels
    solarize: Tensor  # (N,) bool


def take(params: Draw, index: Tensor | slice) -> Draw:
    """The draws of the samples at `index`: a slice or an index tensor."""
    return Draw(*(part[index] for part in params))


def draw(view: View, count: int, height: int, width: int, channels: int, generator: torch.Generator) -> Draw:
    """The numbers of `count` samples of height x width images, from one uniform block of the CPU generator.

    The block has the same size for every view and number of channels: switching an operation on moves no other number.
    """
    if channels not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, not {channels}")
    block = torch.rand(count, 2 * _CROP_TRIES + 16, generator=generator, dtype=torch.float64)
    areas, ratios, corner, strengths, order, chances, sigma = block.split(
        [_CROP_TRIES, _CROP_TRIES, 2, 4, 4, 5, 1], dim=1
    )
    strength = torch.tensor([view.brightness, view.contrast, view.saturation, view.hue], dtype=torch.float64)
    centre = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    lowest = torch.maximum(centre - strength, centre - 1)
    lowest[colour.HUE] = -view.hue
    probabilities = (view.flip_prob, view.jitter_prob, view.gray_prob, view.blur_prob, view.solarize_prob)
    flip, jitter, gray, blur, solarize = (chances < torch.tensor(probabilities, dtype=torch.float64)).unbind(1)
    low, high = view.blur_sigma
    return Draw(
        box=_boxes(view, areas, ratios, corner, height, width),
        flip=flip,
        jitter=jitter,
        factors=(lowest + strengths * (centre + strength - lowest)).float(),
        order=order.argsort(1),
        gray=gray,
        blur=blur,
        sigma=(low + sigma[:, 0] * (high - low)).float(),
        solarize=solarize,
    )


def _boxes(view: View, areas: Tensor, ratios: Tensor, corner: Tensor, height: int, width: int) -> Tensor:
    """torchvision's RandomResizedCrop boxes (N, 4) from uniform areas, ratios (N, tries) and corner (N, 2)."""
    (small, large), (tall, wide) = view.crop_scale, torch.tensor(view.crop_ratio, dtype=torch.float64).log()
    area = height * width * (small + areas * (large - small))
    ratio = (tall + ratios * (wide - tall)).exp()
    heights, widths = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.int().argmax(1, keepdim=True)
    sides = torch.cat((heights.gather(1, first), widths.gather(1, first)), 1)
    whole = torch.tensor([height, width])
    corners = (corner * (whole - sides + 1)).long()
    # No try fits: the largest central crop whose ratio is allowed.
    aspect = min(max(width / height, view.crop_ratio[0]), view.crop_ratio[1])
    central = torch.tensor([min(height, round(width / aspect)), min(width, round(height * aspect))]).clamp(min=1)
    never = ~fits.any(1, keepdim=True)
    sides = torch.where(never, central, sides)
    corners = torch.where(never, (whole - central) // 2, corners)
    return torch.cat((corners, sides), 1)


@torch.no_grad()
def apply(images: Tensor, params: Draw, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The augmented, normalised views (N, C, size, size), float32 contiguous, on the device of the images.

    images: uint8 (N, C, H, W), C = 1 or 3; params: N draws made for H x W. A sample's view depends on its own image and
    numbers only. Nothing waits for the device.
    """
    count, channels = images.shape[:2]
    if channels not in (1, 3) or len(params.flip) != count:
        raise ValueError(f"images {tuple(images.shape)} need 1 or 3 channels and as many draws, not {len(params.flip)}")
    samples, jitter = colour.plan_jitter(params.jitter, params.factors, params.order, channels)
    device = images.device
    if channels == 3:
        params = take(params, samples)
        images = images.index_select(0, _send(samples, device))
    jitter = jitter.each(lambda part: _send(part, device))
    box, flip = _send(params.box, device), _send(params.flip, device)
    x = torch.empty(channels, count, size * size, device=device)
    step = count if device.type != "cpu" else max(1, _CHUNK // (size * size))
    with torch.autocast(device.type, enabled=False):
        for first in range(0, count, step):
            part = slice(first, min(first + step, count))
            planes = x[:, part]
            _crop_(planes, images[part], box[part], flip[part], size)
            colour.jitter_(planes, jitter.chunk(part.start, part.stop))
        _finish_(x, params)
    _normalise_(x, mean, std)
    if channels == 3:  # Row n C + c of the result is sample n's plane c, at its place in the sorted batch.
        rows = samples.argsort().unsqueeze(1) + torch.arange(channels) * count
        x = x.flatten(0, 1).index_select(0, _send(rows.flatten(), device))
    return x.view(count, channels, size, size)


def _finish_(x: Tensor, params: Draw) -> None:
    """Grayscale, blur and solarize, in place on planes x (C, N, P), of the samples that have them."""
    if x.shape[0] == 3 and len(chosen := params.gray.nonzero()[:, 0]):
        colour.gray_(x, _send(chosen, x.device))
    if len(chosen := params.blur.nonzero()[:, 0]):
        colour.blur_(x, _send(chosen, x.device), _send(params.sigma[chosen], x.device))
    if len(chosen := params.solarize.nonzero()[:, 0]):
        colour.solarize_(x, _send(chosen, x.device))


@torch.no_grad()
def resize(images: Tensor, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The evaluation transform of uint8 (N, C, H, W): PIL's bicubic resize if the size differs, then normalise."""
    count, channels, height, width = images.shape
    if (height, width) == (size, size):
        x = images.float().div_(255).flatten(2).transpose(0, 1)
    else:
        box = torch.tensor([0, 0, height, width], device=images.device).expand(count, 4)
        x = torch.empty(count, channels, size * size, device=images.device).transpose(0, 1)
        with torch.autocast(images.device.type, enabled=False):
            _crop_(x, images, box, torch.zeros_like(box[:, 0]), size)
    _normalise_(x, mean, std)
    return x.transpose(0, 1).view(count, channels, size, size)


def _normalise_(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
    for plane, centre, scale in zip(x, mean, std, strict=True):
        plane.sub_(centre).mul_(1 / scale)


def _send(values: Tensor, device: torch.device) -> Tensor:
    """A small CPU tensor on the device; from pinned memory, so that the host does not wait."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def _crop_(x: Tensor, images: Tensor, box: Tensor, flip: Tensor, size: int) -> None:
    """Fill planes x (C, N, size * size), in [0, 1], with the boxes (N, 4) resized as PIL does, mirrored where `flip`.

    PIL resizes along x, clips, then along y: two products per sample with weights that are zero outside the box. The
    mirroring commutes with all that follows. Differs: PIL 13 goes along y first where the height shrinks most.
    """
    count, channels, height, width = images.shape
    across = _resize_weights(width, size, 1 / 255, images.device)
    down = _resize_weights(height, size, 1.0, images.device)
    top, left, high, wide = box.unbind(1)
    across = across.index_select(0, (flip * (width + 1) + wide) * width - left).view(count, width, size)
    down = down.index_select(0, high * height - top).view(count, height, size).transpose(1, 2)
    rows = torch.bmm(images.reshape(count, channels * height, width).float(), across).clamp_(0, 1)
    for plane, lines in zip(x, rows.view(count, channels, height, size).unbind(1), strict=True):
        torch.bmm(down, lines, out=plane.view(count, size, size))
    x.clamp_(0, 1)


@lru_cache(maxsize=16)
def _resize_weights(length: int, size: int, scale: float, device: torch.device) -> Tensor:
    """Row `(flip * (length + 1) + L) * length - start`: weights (length * size) of the pixels [start, start + L).

    The tables (L rows of weights, length - L rows of zeros) of all L stand one after the other behind a gap of zeros,
    first plain, then mirrored: a window of `length` rows that begins `start` rows before table L is its weights moved
    to `start`. The rows returned overlap in memory, which holds about 2 length^2 size values.
    """
    interval = torch.arange(1, length + 1, dtype=torch.float64).view(-1, 1, 1)
    ratio = interval / size
    reach = ratio.clamp(min=1)
    source = torch.arange(length, dtype=torch.float64).view(1, -1, 1) + 0.5
    target = (torch.arange(size, dtype=torch.float64) + 0.5) * ratio
    weights = _cubic((source - target).div_(reach).abs_()).mul_(source < interval)
    weights.mul_(scale / weights.sum(1, keepdim=True))
    gap = torch.zeros(length, size, dtype=torch.float64)
    tables = (gap, weights.reshape(-1, size), gap, weights.flip(2).reshape(-1, size))
    rows = torch.cat(tables).float().to(device)
    return rows.as_strided((len(rows) - length + 1, length * size), (size, 1))


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -1/2, PIL's BICUBIC, of non-negative distances."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, far.mul_(distance < 2))
