"""Images decoded by a source: pixels as OpenCV gives them, and all that can be wrong with a file."""

import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import ClassFoldersConfig, ImageForm, ImagesConfig
from feedline_server.sources.images.captured_stderr import captured
from feedline_server.sources.images.decoding import Decoder, reduction
from feedline_server.sources.images.header import ImageHeader, read_image_header
from feedline_wire.errors import BadSample, DataError
from feedline_wire.extras import pip_install
from feedline_wire.tensors import Array

SIZE = (24, 16)
"""Width and height of the pictures here."""


def picture(seed: int, size: tuple[int, int] = SIZE) -> Array:
    """Smooth colours, so that JPEG has something to do; BGR."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)


def encoded(suffix: str, image: Array, *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, image, options)[1].tobytes())


def saved(folder: Path, **files: bytes | Array) -> Path:
    """One class `a`; names end in the suffix: `one_png`."""
    (folder / "a").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        stem, _, suffix = name.rpartition("_")
        data = content if isinstance(content, bytes) else encoded(f".{suffix}", content)
        (folder / "a" / f"{stem}.{suffix}").write_bytes(data)
    return folder


def opened(folder: Path, **declared: Any) -> Dataset:
    return open_dataset("d", ClassFoldersConfig.declare(path=folder, **declared))


def gathered(dataset: Dataset, *ids: int) -> Array:
    (column,) = [column for column in dataset.source.columns if column.name == "x"]
    out = {"x": np.full((len(ids), *column.shape), 77, column.dtype)}
    dataset.source.gather(np.array(ids, np.int64), out)
    return out["x"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, colours: int, bits: int, rows: bytes, *before: bytes) -> bytes:
    """A PNG written by hand: `rows` have a filter byte each."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def turned(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF orientation."""
    entry = struct.pack("<HHII", 0x0112, 3, 1, orientation)
    exif = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


# ---- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "webp"])
def test_images_are_red_green_blue_as_opencv_decodes_them(tmp_path: Path, suffix: str) -> None:
    saved(tmp_path, **{f"1_{suffix}": picture(1), f"2_{suffix}": picture(2)})

    dataset = opened(tmp_path)

    assert [str(column) for column in dataset.columns] == ["x uint8(16, 24, 3)", "y int64()"]
    for row, name in zip(gathered(dataset, 1, 0), ("2", "1"), strict=True):
        plain = cv2.imread(str(tmp_path / "a" / f"{name}.{suffix}"))
        np.testing.assert_array_equal(row, plain[..., ::-1])


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "area", "cubic"])
@pytest.mark.parametrize("color_mode", ["rgb", "bgr", "grayscale", "rgba"])
def test_images_are_resized_to_width_and_height_as_opencv_does(
    tmp_path: Path, interpolation: str, color_mode: str
) -> None:
    saved(tmp_path, **{"1_jpg": picture(1, (40, 30)), "2_png": picture(2, (10, 50))})

    found = gathered(opened(tmp_path, size=[20, 12], interpolation=interpolation, color_mode=color_mode), 0, 1)

    for row, name in zip(found, ("1.jpg", "2.png"), strict=True):
        grey = color_mode == "grayscale"
        plain = cv2.imread(str(tmp_path / "a" / name), cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
        plain = cv2.resize(plain, (20, 12), interpolation=getattr(cv2, f"INTER_{interpolation.upper()}"))
        if color_mode in {"rgb", "rgba"}:
            plain = cv2.cvtColor(plain, cv2.COLOR_BGR2RGB)
        if color_mode == "rgba":
            plain = np.dstack([plain, np.full((12, 20), 255, np.uint8)])
        np.testing.assert_array_equal(row, plain.reshape(row.shape))


@pytest.mark.parametrize("declared", [{}, {"size": [20, 12]}, {"size": [12, 8], "decode": "reduced"}])
def test_colours_are_the_same_where_opencv_decodes_blue_first_only(
    tmp_path: Path, declared: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 4.11."""
    grey = picture(5)[..., 0]
    files = {"1_jpg": picture(1), "2_png": picture(2), "3_bmp": picture(3), "4_webp": picture(4), "5_jpg": grey}
    saved(tmp_path, **files)

    found = gathered(opened(tmp_path, **declared), *range(5))
    monkeypatch.delattr(cv2, "IMREAD_COLOR_RGB", raising=False)

    np.testing.assert_array_equal(found, gathered(opened(tmp_path, **declared), *range(5)))


def test_blue_can_come_first(tmp_path: Path) -> None:
    saved(tmp_path, **{"1_png": np.full((2, 2, 3), (10, 20, 30), np.uint8)})

    assert gathered(opened(tmp_path, color_mode="bgr"), 0)[0, 0, 0].tolist() == [10, 20, 30]
    assert gathered(opened(tmp_path), 0)[0, 0, 0].tolist() == [30, 20, 10]


def test_grey_images_have_one_channel_or_three_alike(tmp_path: Path) -> None:
    saved(tmp_path, **{"1_png": np.array([[7, 200]], np.uint8)})

    assert gathered(opened(tmp_path, color_mode="grayscale"), 0).tolist() == [[[[7], [200]]]]
    assert gathered(opened(tmp_path), 0).tolist() == [[[[7, 7, 7], [200, 200, 200]]]]


def test_transparency_is_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    palette = (chunk(b"PLTE", bytes([1, 2, 3, 4, 5, 6])), chunk(b"tRNS", bytes([0, 200])))
    saved(
        tmp_path,
        **{
            "1_png": png(2, 1, 6, 8, bytes([0, 1, 2, 3, 0, 4, 5, 6, 200])),
            "2_png": png(2, 1, 4, 8, bytes([0, 9, 0, 8, 200])),
            "3_png": png(2, 1, 3, 8, bytes([0, 0, 1]), *palette),
            "4_png": png(2, 1, 2, 8, bytes([0, 1, 2, 3, 4, 5, 6])),
        },
    )

    plain, clear = (gathered(opened(tmp_path, color_mode=mode), 0, 1, 2, 3) for mode in ("rgb", "rgba"))

    assert plain[:, 0].tolist() == [
        [[1, 2, 3], [4, 5, 6]],
        [[9, 9, 9], [8, 8, 8]],
        [[1, 2, 3], [4, 5, 6]],
        [[1, 2, 3], [4, 5, 6]],
    ]
    assert clear[..., 3].reshape(4, 2).tolist() == [[0, 200], [0, 200], [0, 200], [255, 255]]
    np.testing.assert_array_equal(clear[..., :3], plain)


def test_sixteen_bits_are_kept_where_they_are_declared(tmp_path: Path) -> None:
    deep = np.array([[[1, 2, 3], [40_000, 50_000, 65_535]]], np.uint16)
    saved(tmp_path, **{"1_png": deep})

    dataset = opened(tmp_path, bits=16, color_mode="bgr")

    assert str(dataset.columns[0]) == "x uint16(1, 2, 3)"
    assert gathered(dataset, 0)[0].tolist() == deep.tolist()


@pytest.mark.parametrize(
    ("bits", "image", "said"),
    [
        (8, np.zeros((2, 2, 3), np.uint16), "is a PNG of 16 bits a value, and 8 are served"),
        (16, np.zeros((2, 2, 3), np.uint8), "is a PNG of 8 bits a value, and 16 are served"),
    ],
)
def test_bits_are_never_cut_or_filled_up(tmp_path: Path, bits: int, image: Array, said: str) -> None:
    saved(tmp_path, **{"1_png": image})

    with pytest.raises(BadSample, match=rf"sample 0 \(.*1\.png\) {said}"):
        gathered(opened(tmp_path, bits=bits, size=[2, 2]), 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_cameras_that_were_turned_give_upright_images(tmp_path: Path, orientation: int) -> None:
    jpeg = turned(encoded(".jpg", picture(1)), orientation)
    saved(tmp_path, **{"1_jpg": jpeg})

    found = gathered(opened(tmp_path), 0)[0]

    plain = cv2.imread(str(tmp_path / "a" / "1.jpg"))
    assert found.shape == ((24, 16, 3) if orientation > 4 else (16, 24, 3))
    np.testing.assert_array_equal(found, plain[..., ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_compared_as_turned_cameras_meant_them(tmp_path: Path, orientation: int) -> None:
    """A telephone writes all pictures the same way round, and how it was held beside them."""
    upright = encoded(".jpg", picture(1))
    saved(tmp_path, **{"1_jpg": upright, "2_jpg": turned(upright, orientation)})

    if orientation > 4:
        with pytest.raises(
            DataError, match=r"images are of 2 sizes: 24 x 16 \(.*1\.jpg\), 16 x 24 \(.*2\.jpg\); resize"
        ):
            opened(tmp_path)
    else:
        opened(tmp_path)


def test_file_names_may_be_in_any_language(tmp_path: Path) -> None:
    saved(tmp_path, **{"Blätter-葉-🍂_png": picture(3)})

    np.testing.assert_array_equal(gathered(opened(tmp_path), 0)[0], picture(3)[..., ::-1])


def test_what_a_file_is_its_bytes_say_and_not_its_name(tmp_path: Path) -> None:
    saved(tmp_path, **{"1_jpg": encoded(".png", picture(4))})

    np.testing.assert_array_equal(gathered(opened(tmp_path), 0)[0], picture(4)[..., ::-1])


# ---- decoded smaller ------------------------------------------------------------------------------------------------

LARGE = (203, 157)
"""Width and height of a photograph that is decoded smaller; neither is a multiple of a block's eight pixels."""


def photograph(size: tuple[int, int] = LARGE) -> Array:
    """Structure at every scale, as photographs have it; BGR."""
    draw = np.random.default_rng(7)
    image = np.zeros((size[1], size[0], 3), np.float32)
    for octave in range(2, 7):
        noise = draw.standard_normal((2**octave, 2**octave, 3), np.float32)
        image += cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC) / octave
    return np.clip(image * 60 + 128, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("header", "size", "times"),
    [
        (ImageHeader("JPEG", 400, 300), (50, 37), 8),
        (ImageHeader("JPEG", 400, 300), (50, 38), 4),
        (ImageHeader("JPEG", 400, 300), (51, 37), 4),
        (ImageHeader("JPEG", 400, 300), (200, 150), 2),
        (ImageHeader("JPEG", 399, 300), (200, 150), 1),
        (ImageHeader("JPEG", 400, 299), (200, 150), 1),
        (ImageHeader("JPEG", 10_000, 10_000), (1, 1), 8),
        (ImageHeader("JPEG", 10, 10), (20, 20), 1),
        (ImageHeader("JPEG", 300, 400, is_turned=True), (200, 150), 2),
        (ImageHeader("JPEG", 400, 300, is_turned=True), (200, 150), 1),
        (ImageHeader("PNG", 400, 300), (50, 37), 1),
        (ImageHeader("WebP", 400, 300), (50, 37), 1),
        (ImageHeader("BMP", 400, 300), (50, 37), 1),
    ],
)
def test_an_image_is_decoded_as_small_as_it_can_be_without_being_smaller_than_wanted(
    header: ImageHeader, size: tuple[int, int], times: int
) -> None:
    assert reduction(header, size) == times


@pytest.mark.parametrize("color_mode", ["rgb", "bgr", "grayscale", "rgba"])
@pytest.mark.parametrize(("size", "times"), [([100, 70], 2), ([50, 39], 4), ([25, 19], 8)])
def test_a_reduced_jpeg_is_what_opencv_decodes_at_that_size_and_resizes(
    tmp_path: Path, size: list[int], times: int, color_mode: str
) -> None:
    saved(tmp_path, **{"1_jpg": photograph()})

    found = gathered(opened(tmp_path, size=size, decode="reduced", color_mode=color_mode), 0)[0]

    kind = "GRAYSCALE" if color_mode == "grayscale" else "COLOR"
    plain = cv2.imread(str(tmp_path / "a" / "1.jpg"), getattr(cv2, f"IMREAD_REDUCED_{kind}_{times}"))
    assert plain.shape[:2] == (-(-157 // times), -(-203 // times))
    plain = cv2.resize(plain, size)
    if color_mode in {"rgb", "rgba"}:
        plain = cv2.cvtColor(plain, cv2.COLOR_BGR2RGB)
    if color_mode == "rgba":
        plain = np.dstack([plain, np.full(size[::-1], 255, np.uint8)])
    np.testing.assert_array_equal(found, plain.reshape(found.shape))


@pytest.mark.parametrize("size", [[100, 70], [50, 39], [25, 19]])
def test_reduced_pixels_are_near_to_those_of_the_whole_image(tmp_path: Path, size: list[int]) -> None:
    """Up to 4 of 255 on average, of a picture with more of small things in it than photographs have."""
    saved(tmp_path, **{"1_jpg": photograph((208, 160))})

    reduced, whole = (
        gathered(opened(tmp_path, size=size, interpolation="area", **declared), 0)[0].astype(int)
        for declared in ({"decode": "reduced"}, {})
    )

    assert 0 < np.abs(reduced - whole).mean() < 4


@pytest.mark.parametrize("width", range(200, 209))
def test_nothing_in_a_reduced_image_is_moved_by_a_pixel(tmp_path: Path, width: int) -> None:
    """The last column stands for what there is beyond the last whole eight, so what is before it may move a little."""
    ramp = np.repeat(np.linspace(20, 230, width)[np.newaxis], 160, axis=0).astype(np.uint8)
    saved(tmp_path, **{"1_jpg": ramp})

    reduced, whole = (
        gathered(opened(tmp_path, size=[25, 20], color_mode="grayscale", interpolation="area", **declared), 0).astype(
            int
        )[0, :, :, 0]
        for declared in ({"decode": "reduced"}, {})
    )

    assert np.abs(reduced - whole).max() < 210 / 25


def test_reduced_pixels_are_the_same_whenever_they_are_read(tmp_path: Path) -> None:
    saved(tmp_path, **{"1_jpg": photograph(), "2_jpg": photograph((410, 330))})
    declared = {"size": [50, 39], "decode": "reduced"}

    first, again = gathered(opened(tmp_path, **declared), 0, 1), gathered(opened(tmp_path, **declared), 1, 0)

    np.testing.assert_array_equal(first, again[::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_image_of_a_turned_camera_is_upright(tmp_path: Path, orientation: int) -> None:
    saved(tmp_path, **{"1_jpg": turned(encoded(".jpg", photograph()), orientation)})
    size = [70, 100] if orientation > 4 else [100, 70]

    found = gathered(opened(tmp_path, size=size, decode="reduced"), 0)[0]

    plain = cv2.resize(cv2.imread(str(tmp_path / "a" / "1.jpg"), cv2.IMREAD_REDUCED_COLOR_2), size)
    np.testing.assert_array_equal(found, plain[..., ::-1])


def test_what_cannot_be_decoded_smaller_is_exact(tmp_path: Path) -> None:
    """A JPEG that is less than twice as large as wanted, and every other format."""
    saved(tmp_path, **{"1_jpg": photograph(), "2_jpg": picture(2), "3_png": photograph(), "4_webp": photograph()})

    exact, reduced = (
        gathered(opened(tmp_path, size=[100, 70], **more), 1, 2, 3) for more in ({}, {"decode": "reduced"})
    )

    np.testing.assert_array_equal(exact, reduced)


def test_that_pixels_are_approximate_is_said_with_how_many_are(tmp_path: Path) -> None:
    saved(
        tmp_path, **{"1_jpg": photograph(), "2_jpg": photograph((410, 330)), "3_jpg": picture(2), "4_png": picture(3)}
    )

    assert opened(tmp_path, size=[100, 70]).notes == ()
    (note,) = opened(tmp_path, size=[100, 70], decode="reduced").notes

    assert note == (
        'pixels are approximate by decode = "reduced": of 4 images that were looked at, 2 in full, 1 at 1/2, 1 at 1/4 '
        f"of their width and height ({tmp_path}/a/4.png is a PNG)"
    )


def test_images_of_which_none_can_be_decoded_smaller_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, **{"1_png": photograph(), "2_webp": photograph()})

    with pytest.raises(
        DataError, match=r"makes none of 2 images faster: only JPEG .*a/1\.png is a PNG.*; leave decode"
    ):
        opened(tmp_path, size=[50, 39], decode="reduced")


def test_a_damaged_jpeg_is_bad_also_where_it_is_reduced(tmp_path: Path) -> None:
    whole = encoded(".jpg", photograph())
    middle = whole.index(b"\xff\xda") + 60
    saved(tmp_path, **{"1_jpg": whole, "2_jpg": whole[: len(whole) // 2], "3_jpg": whole[:middle] + b"\xff\xd9"})

    with pytest.raises(BadSample) as caught:
        gathered(opened(tmp_path, size=[50, 39], decode="reduced"), 0, 1, 2)

    assert caught.value.samples == (1, 2)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({}, r"no size to decode for; say size = \[width, height\]"),
        ({"size": [50, 39], "bits": 16}, "bits = 16; JPEG has 8, leave one of them out"),
        ({"size": [50, 39], "decode": "half"}, "Input should be 'full' or 'reduced'"),
    ],
)
@pytest.mark.parametrize("kind", [ClassFoldersConfig, ImagesConfig])
def test_what_cannot_be_reduced_is_refused(kind: type[ImageForm], declared: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind.declare(path="/", **{"decode": "reduced", **declared})


def test_who_decodes_smaller_serves_another_dataset(tmp_path: Path) -> None:
    """Also where the first image, which stands for how images are decoded, is not reduced or is not there."""
    saved(tmp_path, **{"1_jpg": picture(1), "2_jpg": photograph()})
    identities = set()
    for more in ({}, {"decode": "full"}, {"decode": "reduced"}):
        config = ClassFoldersConfig.declare(path=tmp_path, size=[50, 39], **more)
        identities.add(fingerprint(open_dataset("d", config), config))

    assert len(identities) == 2


# ---- what is wrong --------------------------------------------------------------------------------------------------

JPEG, PNG, WEBP, BMP = (encoded(suffix, picture(9, (64, 64))) for suffix in (".jpg", ".png", ".webp", ".bmp"))


@pytest.mark.parametrize("whole", [JPEG, PNG, WEBP, BMP], ids=["jpeg", "png", "webp", "bmp"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:7],
        lambda whole: whole[:20],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-20],
        lambda whole: b"<html>404</html>",
    ],
    ids=["empty", "7 bytes", "20 bytes", "half", "all but 20 bytes", "a page"],
)
def test_a_damaged_image_is_a_bad_sample_with_its_name(
    tmp_path: Path, whole: bytes, damage: Callable[[bytes], bytes]
) -> None:
    saved(tmp_path, **{"1_png": whole, "2_png": damage(whole)})
    dataset = opened(tmp_path)

    with pytest.raises(BadSample, match=r"sample 1 \(.*/a/2\.png\) (is|cannot) ") as caught:
        gathered(dataset, 0, 1)

    assert caught.value.samples == (1,)


def test_a_jpeg_that_is_cut_short_and_filled_with_zeros_is_bad(tmp_path: Path) -> None:
    """OpenCV 4 leaves what was in memory before in the rest of such an image, and says nothing."""
    saved(tmp_path, **{"1_jpg": JPEG[: len(JPEG) // 2] + bytes(len(JPEG))})

    with pytest.raises(BadSample, match=r"is cut short: a JPEG of \d+ bytes without its end; copy it again"):
        gathered(opened(tmp_path, size=[4, 4]), 0)


def test_a_png_that_says_that_a_piece_of_it_is_huge_is_bad_at_once(tmp_path: Path) -> None:
    """OpenCV 5 takes the memory, up to 4 GiB, and then finds that the file is shorter."""
    start = PNG.index(b"IDAT") - 4
    saved(tmp_path, **{"1_png": PNG[:start] + b"\xdc\x00\xe2\xb7" + PNG[start + 4 :]})

    with pytest.raises(BadSample, match=r"is cut short: a PNG of \d+ bytes without its end; copy it again"):
        gathered(opened(tmp_path, size=[4, 4]), 0)


def test_a_jpeg_whose_pixels_were_made_up_is_bad(tmp_path: Path) -> None:
    """A marker in the middle of the pixels: libjpeg fills up what is missing, and prints that it did."""
    middle = JPEG.index(b"\xff\xda") + 60
    saved(tmp_path, **{"1_jpg": JPEG[:middle] + b"\xff\xd9" + JPEG[-2:]})

    with pytest.raises(BadSample, match=r"is damaged \((Corrupt JPEG data: premature end|OpenCV cannot decode)"):
        gathered(opened(tmp_path, size=[4, 4]), 0)


@pytest.mark.parametrize("whole", [JPEG, PNG, WEBP, BMP], ids=["jpeg", "png", "webp", "bmp"])
def test_whatever_a_file_holds_it_is_an_image_or_a_data_error(whole: bytes) -> None:
    """In at most a gigabyte more than this process has: what a damaged file says of itself must not be believed."""
    draw = np.random.default_rng(5)
    decoder = Decoder(ClassFoldersConfig.declare(path="/", size=[8, 8], max_pixels=1_000_000))
    out = np.empty((8, 8, 3), np.uint8)
    ends = set()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (1 << 30), before[1]))
    try:
        for _ in range(300):
            data = bytearray(whole)
            for at in draw.integers(min(64, len(data)), size=draw.integers(1, 5)):
                data[at] = draw.integers(256)
            try:
                decoder.decode(bytes(data), out)
                ends.add("image")
            except DataError:
                ends.add("error")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

    assert "error" in ends


def test_all_bad_images_of_a_batch_are_named_at_once(tmp_path: Path) -> None:
    saved(tmp_path, **{f"{number}_png": b"" if number % 2 else PNG for number in range(6)})

    with pytest.raises(BadSample, match=r"sample 3 \(.*\) is empty.*; and 2 more of this batch: sample 1 ") as caught:
        gathered(opened(tmp_path), 3, 0, 1, 5)

    assert caught.value.samples == (3, 1, 5)


def test_an_image_that_is_gone_is_no_bad_sample_that_may_be_left_out(tmp_path: Path) -> None:
    saved(tmp_path, **{"1_png": PNG, "2_png": PNG})
    dataset = opened(tmp_path, on_bad_sample="skip")
    (tmp_path / "a" / "2.png").unlink()

    with pytest.raises(DataError, match=r"sample 1 \(.*2\.png\): changed while served \(it is gone\)") as caught:
        gathered(dataset, 1)

    assert not isinstance(caught.value, BadSample)
    assert caught.value.samples == (1,)


def test_an_image_that_changes_while_served_is_an_error_and_no_bad_sample(tmp_path: Path) -> None:
    dataset = opened(saved(tmp_path, **{"1_png": PNG}))
    gathered(dataset, 0)
    saved(tmp_path, **{"1_png": encoded(".png", picture(1, (64, 64)))})

    with pytest.raises(DataError, match=r"sample 0 \(.*1\.png\): changed while served \(") as caught:
        gathered(dataset, 0)

    assert not isinstance(caught.value, BadSample)


def test_an_image_of_another_size_is_bad_unless_a_size_is_declared(tmp_path: Path) -> None:
    saved(tmp_path, **{"1_png": picture(1, (8, 6)), "2_png": picture(1, (9, 6))})

    with pytest.raises(BadSample, match=r"is an image of 9 x 6 pixels, and the first of 8 x 6; give size = \[8, 6\]"):
        gathered(opened(tmp_path, on_bad_sample="skip"), 1)
    assert gathered(opened(tmp_path, size=[8, 6]), 1).shape == (1, 6, 8, 3)


def test_an_image_that_says_it_is_huge_is_not_decoded(tmp_path: Path) -> None:
    bomb = png(60_000, 60_000, 2, 8, bytes(100))
    saved(tmp_path, **{"1_png": bomb})

    with pytest.raises(BadSample, match=r"is a PNG of 60000 x 60000 pixels, and at most max_pixels = 89478485 are"):
        gathered(opened(tmp_path, size=[8, 8]), 0)


def test_how_large_images_may_be_can_be_declared(tmp_path: Path) -> None:
    saved(tmp_path, **{"1_png": picture(1, (10, 10))})

    assert gathered(opened(tmp_path, size=[2, 2], max_pixels=100), 0).shape == (1, 2, 2, 3)
    with pytest.raises(BadSample, match=r"of 10 x 10 pixels, and at most max_pixels = 99"):
        gathered(opened(tmp_path, size=[2, 2], max_pixels=99), 0)


def test_a_pipe_in_the_place_of_an_image_is_named_when_the_dataset_is_opened(tmp_path: Path) -> None:
    import os

    saved(tmp_path, **{"1_png": PNG})
    os.mkfifo(tmp_path / "a" / "2.png")

    with pytest.raises(DataError, match=r"2\.png: is a named pipe \(FIFO\); wanted the file of a sample"):
        opened(tmp_path)


def test_a_first_image_that_is_damaged_stops_the_start_unless_a_size_is_declared(tmp_path: Path) -> None:
    saved(tmp_path, **{"1_png": b"", "2_png": PNG})

    with pytest.raises(DataError, match=r"sample 0 \(.*1\.png\) is empty .*; or give size = \[width, height\]"):
        opened(tmp_path)
    assert gathered(opened(tmp_path, size=[8, 8]), 1).shape == (1, 8, 8, 3)


def test_nothing_is_printed_about_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path, **{"1_png": PNG, "2_png": PNG[:-20], "3_jpg": JPEG[:-40] + JPEG[-2:]})
    dataset = opened(tmp_path)

    with pytest.raises(BadSample):
        gathered(dataset, 0, 1, 2)

    assert capfd.readouterr() == ("", "")


def test_without_opencv_the_extra_is_named(tmp_path: Path) -> None:
    saved(tmp_path, **{"1_png": PNG})
    script = (
        "import sys; sys.modules['cv2'] = None\n"
        "from pathlib import Path\n"
        "from feedline_server.batches.dataset import open_dataset\n"
        "from feedline_server.declared.datasets import ClassFoldersConfig\n"
        f"open_dataset('d', ClassFoldersConfig.declare(path=Path({str(tmp_path)!r})))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert "InvalidRequest: reading images needs OpenCV" in done.stderr
    assert pip_install("images") in done.stderr


# ---- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (encoded(".png", picture(1)), ImageHeader("PNG", 24, 16)),
        (encoded(".png", np.zeros((3, 5), np.uint16)), ImageHeader("PNG", 5, 3, bits=16)),
        (encoded(".png", np.zeros((3, 5, 4), np.uint8)), ImageHeader("PNG", 5, 3, has_alpha=True)),
        (encoded(".jpg", picture(1)), ImageHeader("JPEG", 24, 16)),
        (encoded(".jpg", picture(1), cv2.IMWRITE_JPEG_PROGRESSIVE, 1), ImageHeader("JPEG", 24, 16)),
        (turned(encoded(".jpg", picture(1)), 6), ImageHeader("JPEG", 24, 16, is_turned=True)),
        (encoded(".bmp", picture(1)), ImageHeader("BMP", 24, 16)),
        (encoded(".webp", picture(1), cv2.IMWRITE_WEBP_QUALITY, 80), ImageHeader("WebP", 24, 16)),
        (encoded(".webp", picture(1), cv2.IMWRITE_WEBP_QUALITY, 101), ImageHeader("WebP", 24, 16)),
    ],
)
def test_headers_say_size_depth_and_transparency(data: bytes, header: ImageHeader) -> None:
    assert read_image_header(data) == header


def test_the_size_of_a_thumbnail_is_not_taken_for_the_images() -> None:
    small = encoded(".jpg", picture(1, (8, 8)))
    large = encoded(".jpg", picture(1))
    both = large[:2] + b"\xff\xe1" + struct.pack(">H", len(small) + 2) + small + large[2:]

    assert read_image_header(both) == ImageHeader("JPEG", 24, 16)
    with pytest.raises(DataError, match="without its end"):
        read_image_header(both[:-200])


@pytest.mark.parametrize("whole", [JPEG, PNG, WEBP, BMP], ids=["jpeg", "png", "webp", "bmp"])
def test_a_file_that_ends_anywhere_in_its_header_is_an_error(whole: bytes) -> None:
    for length in range(25):
        with pytest.raises(DataError):
            read_image_header(whole[:length])


# ---- what is printed ------------------------------------------------------------------------------------------------


def test_what_a_library_prints_is_taken_down_and_stderr_is_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    import os

    def speaks() -> int:
        os.write(2, b"something is wrong\n")
        return 7

    assert captured(speaks) == (7, "something is wrong")
    assert captured(lambda: 8) == (8, "")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"


def test_what_was_printed_before_an_exception_is_not_said_of_the_next_call() -> None:
    import os

    def fails() -> None:
        os.write(2, b"about to fail\n")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        captured(fails)

    assert captured(lambda: 1) == (1, "")


# ---- identity -------------------------------------------------------------------------------------------------------


def identity(folder: Path, **declared: Any) -> bytes:
    config = ClassFoldersConfig.declare(path=folder, **declared)
    return fingerprint(open_dataset("d", config), config)


def test_how_images_come_out_is_part_of_the_identity_and_how_large_they_may_be_is_not(tmp_path: Path) -> None:
    saved(tmp_path, **{"1_jpg": picture(1)})

    found = [
        identity(tmp_path),
        identity(tmp_path, size=[8, 8]),
        identity(tmp_path, size=[8, 8], interpolation="area"),
        identity(tmp_path, color_mode="bgr"),
        identity(tmp_path, color_mode="grayscale"),
    ]

    assert len(set(found)) == 5
    assert identity(tmp_path, max_pixels=1000) == found[0]


def test_an_opencv_that_decodes_otherwise_serves_another_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, **{"1_jpg": picture(1)})
    before = identity(tmp_path)
    original = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: original(data, flags) ^ 1)

    assert identity(tmp_path) != before
