"""What the first bytes of an image say about it: PNG, JPEG, BMP and WebP.

Nothing is decoded whose size is not known. A file of a few kilobytes may say that it is a terabyte of pixels.
"""

import struct
from dataclasses import dataclass

from feedline_wire.errors import DataError

FORMATS = frozenset({".png", ".jpg", ".bmp", ".webp"})
"""Of files that can be decoded (arrays/suffixes). What such a file really is, its first bytes say."""

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"

_PNG_ALPHA = {4, 6}  # colour types: grey and colour, both with alpha

_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of frames, which have the size; those between are tables."""

_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""

_JPEG_EXIF = 0xE1
_JPEG_SCAN = 0xDA
_JPEG_END = b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """An image that was not decoded yet."""

    format: str
    width: int
    height: int
    bits: int = 8
    """Of a value: 8 or 16; what has fewer is decoded to 8. JPEG may say 12, which nothing decodes."""
    has_alpha: bool = False
    """There may be transparency in it."""
    is_turned: bool = False
    """The camera was: width and height are swapped when it is decoded. Of a JPEG only."""

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.width * self.height

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as it is decoded."""
        return (self.height, self.width) if self.is_turned else (self.width, self.height)


def read_image_header(data: bytes) -> ImageHeader:
    """The header of a whole file's bytes; DataError, which does not name the file, if it is no whole image."""
    if not data:
        raise DataError("is empty (0 bytes); copy it again")
    try:
        header = _read(data)
    except (struct.error, IndexError):
        raise DataError(f"is cut short, it ends after {len(data)} bytes in its header; copy it again") from None
    if not header.pixels:
        raise DataError(f"is a {header.format} of {header.width} x {header.height} pixels; wanted some")
    return header


def first_header(start: bytes) -> ImageHeader | None:
    """The header by the beginning of a file, which is not checked further; None if that does not tell."""
    try:
        return _read(start, whole=False)
    except (DataError, struct.error, IndexError):
        return None


def _read(data: bytes, *, whole: bool = True) -> ImageHeader:
    if data.startswith(PNG):
        return _png(data, whole=whole)
    if data.startswith(JPEG):
        return _jpeg(data, whole=whole)
    if data.startswith(b"BM"):
        return _bmp(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    raise DataError(f"is no image that is known here, it begins with {data[:8]!r}; wanted PNG, JPEG, BMP or WebP")


def _png(data: bytes, *, whole: bool) -> ImageHeader:
    """Chunk by chunk to the end: OpenCV 5 takes as much memory as a chunk says it has, up to 4 GiB."""
    width, height, bits, colours = struct.unpack_from(">IIBB", data, 16)  # the first chunk's; it is always this one
    has_alpha = colours in _PNG_ALPHA
    if not whole:
        return ImageHeader("PNG", width, height, max(bits, 8), has_alpha)
    at, kind = len(PNG), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise DataError(f"is cut short: a PNG of {len(data)} bytes without its end; copy it again")
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"tRNS":  # which colours are transparent
            has_alpha = True
        at += 12 + length
    if at > len(data):
        raise DataError(f"is cut short: a PNG of {len(data)} bytes without its end; copy it again")
    return ImageHeader("PNG", width, height, max(bits, 8), has_alpha)


def _jpeg(data: bytes, *, whole: bool) -> ImageHeader:
    """Marker by marker to the first scan, so that the size of a thumbnail in between is not taken for the image's."""
    found: ImageHeader | None = None
    is_turned = False
    at = 2
    while True:
        if data[at] != 0xFF:
            raise DataError(f"is damaged: no JPEG marker at byte {at}; copy it again")
        while data[at] == 0xFF:  # any number of them may stand before a marker
            at += 1
        marker = data[at]
        at += 1
        if marker == _JPEG_SCAN:
            break
        if marker in _JPEG_BARE:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _JPEG_SIZES:
            bits, height, width = struct.unpack_from(">BHH", data, at + 2)
            found = ImageHeader("JPEG", width, height, bits, is_turned=is_turned)
            if not whole:
                return found
        if marker == _JPEG_EXIF and data[at + 2 : at + 8] == b"Exif\0\0":
            is_turned = _is_turned(data[at + 8 : at + length])
        at += length
    if found is None:
        raise DataError("is damaged: a JPEG without a size; copy it again")
    # OpenCV up to 4 decodes what is there and leaves in the rest of the image whatever was in memory before.
    if data.rfind(_JPEG_END, at) < 0:
        raise DataError(f"is cut short: a JPEG of {len(data)} bytes without its end; copy it again")
    return found


def _is_turned(exif: bytes) -> bool:
    """By the orientation, tag 0x0112 of the first directory (EXIF 2.3, 4.6.4)."""
    order = "<" if exif.startswith(b"II") else ">"
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(entries):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, at + 2 + 12 * entry)
            if tag == 0x0112:
                return 5 <= int(value) <= 8
    except struct.error:
        pass  # without it, as OpenCV reads it
    return False


def _bmp(data: bytes) -> ImageHeader:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:  # OS/2
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    (bits,) = struct.unpack_from("<H", data, 24 if size == 12 else 28)
    return ImageHeader("BMP", abs(width), abs(height), has_alpha=bits == 32)


def _webp(data: bytes) -> ImageHeader:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        _ = data[29]
        return ImageHeader("WebP", width, height, has_alpha=bool(data[20] & 0x10))
    if kind == b"VP8L":
        (size,) = struct.unpack_from("<I", data, 21)
        return ImageHeader("WebP", 1 + (size & 0x3FFF), 1 + (size >> 14 & 0x3FFF), has_alpha=bool(size >> 28 & 1))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("WebP", width & 0x3FFF, height & 0x3FFF)
    raise DataError(f"is damaged: a WebP that begins with {kind!r}; copy it again")
