"""One file at a time: each defect and colour by its name, whole and in a hurry."""

import numpy as np
import pytest
from PIL import Image

from bench.data.doctor.files import cut_short, look


def picture(side=12, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.fixture(params=[False, True], ids=["whole", "quick"])
def quick(request):
    return request.param


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp"])
def test_a_whole_file_has_no_defect(tmp_path, quick, suffix):
    picture().save(tmp_path / f"x.{suffix}")
    assert look(tmp_path / f"x.{suffix}", None, quick).defect == ""


@pytest.mark.parametrize(
    ("data", "defect"),
    [(b"", "empty"), (b"<html>not found</html>", "unreadable"), (None, "absent")],
)
def test_an_empty_a_foreign_and_an_absent_file_are_told_apart(tmp_path, quick, data, defect):
    if data is not None:
        (tmp_path / "x.jpg").write_bytes(data)
    assert look(tmp_path / "x.jpg", None, quick).defect == defect


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_file_that_ends_early_is_truncated_wherever_it_ends(tmp_path, quick, suffix, share):
    path = tmp_path / f"x.{suffix}"
    picture(64).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    seen = look(path, None, quick)
    assert seen.defect == "truncated"
    assert seen.pixels is None


def test_a_jpeg_with_a_little_behind_its_end_is_whole(tmp_path, quick):
    path = tmp_path / "x.jpg"
    picture().save(path)
    path.write_bytes(path.read_bytes() + b"\0" * 500)
    assert look(path, None, quick).defect == ""


def test_only_jpeg_and_png_are_judged_by_their_end():
    assert cut_short(b"\xff\xd8\xff\xe0", b"no mark")
    assert not cut_short(b"\xff\xd8\xff\xe0", b"x\xff\xd9")
    assert not cut_short(b"GIF8", b"no mark")


@pytest.mark.parametrize(
    ("mode", "suffix", "colour"),
    [
        ("RGB", "jpg", ""),
        ("L", "jpg", "grey"),
        ("1", "png", "grey"),
        ("CMYK", "jpg", "cmyk"),
        ("P", "png", "palette"),
        ("RGBA", "png", "alpha"),
        ("LA", "png", "alpha"),
        ("I;16", "png", "deep"),
        ("LAB", "tif", "other"),
    ],
)
def test_how_a_file_stores_colour_is_named(tmp_path, quick, mode, suffix, colour):
    path = tmp_path / f"x.{suffix}"
    if mode == "I;16":
        Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(path)
    elif mode == "LAB":
        Image.new("LAB", (8, 8)).save(path)
    else:
        picture().convert(mode).save(path)
    assert look(path, None, quick).colour == colour


def test_equal_pixels_are_recognised_in_another_format_and_other_pixels_are_not(tmp_path):
    picture().save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as shown:
        shown.save(tmp_path / "b.png")
    picture(seed=1).save(tmp_path / "c.png")
    a, b, c = (look(tmp_path / name, None, False) for name in ("a.jpg", "b.png", "c.png"))
    assert a.pixels == b.pixels != c.pixels
    assert a.content != b.content


def test_a_grey_file_equals_the_same_picture_saved_in_colour(tmp_path):
    picture().convert("L").save(tmp_path / "a.png")
    picture().convert("L").convert("RGB").save(tmp_path / "b.png")
    assert look(tmp_path / "a.png", None, False).pixels == look(tmp_path / "b.png", None, False).pixels


def test_the_same_bytes_in_another_shape_are_another_image(tmp_path):
    pixels = np.arange(96, dtype=np.uint8).reshape(4, 8, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels.reshape(8, 4, 3)).save(tmp_path / "b.png")
    assert look(tmp_path / "a.png", None, False).pixels != look(tmp_path / "b.png", None, False).pixels


def test_with_a_side_pixels_are_compared_as_they_are_stored(tmp_path):
    picture(8).save(tmp_path / "a.png")
    wide = Image.new("RGB", (12, 8))
    wide.paste(picture(8), (2, 0))
    wide.save(tmp_path / "c.png")
    a, c = (look(tmp_path / name, 8, False).pixels for name in ("a.png", "c.png"))
    assert a == c
    assert look(tmp_path / "a.png", None, False).pixels != look(tmp_path / "c.png", None, False).pixels
