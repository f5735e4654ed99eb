"""What does an image file show? RGB pixels the right way up, or a reason why it cannot be used.

Files come from phones, scanners, archives and strangers: whatever a decoder does with one, the answer is a picture or a
``PictureError``.

Legend: C channels, H W pixels.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from bioface_core.quality import Reason

# Longer sides are scaled down to this: half of what a telephone takes, so that a JPEG is decoded at half its size. A
# face that fills a twelfth of it still has the 112 pixels of an aligned face.
LONGEST_PX = 2000
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic"})
_DEEP_GREY = ("I", "F")  # and I;16 in its byte orders: one channel of more than eight bits


class PictureError(Exception):
    """A file that is no picture, or none that can be read.

    Args:
        reason: which of the fixed reasons.
        detail: what was found, for the local report.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def read_picture(file: Path | bytes, longest_px: int = LONGEST_PX) -> Tensor:
    """The pixels of an image file: the first frame, turned as its EXIF says, transparent parts white.

    Args:
        file: where it is, or what is in it: JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or whatever else Pillow reads.
        longest_px: larger pictures are scaled down so that their longer side has so many pixels.

    Returns:
        uint8 (C, H, W), RGB.

    Raises:
        PictureError: not an image, HEIC, damaged, or more pixels than Pillow thinks is safe (90 million).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd EXIF and the like: the pixels are what counts
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file if isinstance(file, Path) else BytesIO(file)) as image:
                return _pixels(image, longest_px)
        except UnidentifiedImageError as error:
            raise _unidentified(file) from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise PictureError(Reason.UNREADABLE, "more than 90 million pixels") from error
        except Exception as error:  # decoders of a dozen formats fail each in its own way
            raise PictureError(Reason.UNREADABLE, f"{type(error).__name__}: {error}") from error


def _pixels(image: Image.Image, longest_px: int) -> Tensor:
    scale = longest_px / max(image.size)
    image.draft(None, (int(image.width * scale), int(image.height * scale)))
    upright = ImageOps.exif_transpose(image)
    if max(upright.size) > longest_px:
        upright = _eight_bits(upright)
        upright.thumbnail((longest_px, longest_px), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return torch.from_numpy(np.array(_eight_bits(upright))).permute(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The same picture as RGB of eight bits a channel."""
    if image.mode in _DEEP_GREY or image.mode.startswith("I;16"):
        return _darkened(image).convert("RGB")
    if image.has_transparency_data:
        painted = image.convert("RGBA")
        paper = Image.new("RGBA", painted.size, "white")
        return Image.alpha_composite(paper, painted).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _darkened(image: Image.Image) -> Image.Image:
    """Deep grey as eight bits, its brightest pixel white: files hold 10, 12 or 16 bits and do not say which."""
    grey_HW = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0).clip(min=0)
    return Image.fromarray((grey_HW * (255 / max(float(grey_HW.max()), 1e-6))).round().astype(np.uint8))


def _unidentified(file: Path | bytes) -> PictureError:
    """What a file is that no decoder knows."""
    start, suffix = (file[:12], "") if isinstance(file, bytes) else (_start_of(file), file.suffix)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS:
        return PictureError(Reason.UNSUPPORTED, "HEIC: export it as JPEG")
    if suffix.lower() in _SUFFIXES:
        return PictureError(Reason.UNREADABLE, "no decoder recognises its content")
    return PictureError(Reason.NOT_AN_IMAGE, f"a {suffix or 'nameless'} file")


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(12)
