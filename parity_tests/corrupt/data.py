"""Malformed files of images, and the error message of each. A picture lies in a folder with an intact one."""

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from parity_tests.corrupt.readers import PIXELS
from parity_tests.corrupt.transforms import Code, Kind, content, marker, npy

DAMAGED = "must be an .npy or .npz file of plain numbers, found one that is damaged or holds Python objects ("
READ = "can't be read ("
SHAPE = "must be of shape [n, height, width], [n, height, width, channels] or [n, 24], without a 0, found"
DTYPE = "must be of uint8, bool or floats in [0, 1], found"


def of(array: np.ndarray) -> Callable[[Path, bytes], Any]:
    return lambda path, whole: path.write_bytes(npy(array))


def head(text: str, numbers: bytes = b"", version: tuple[int, int] = (1, 0)) -> Callable[[Path, bytes], Any]:
    """Write an .npy with this header."""
    start = b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"
    return lambda path, whole: path.write_bytes(start + numbers)


def shaped(shape: str, descr: str = "'|u1'") -> Callable[[Path, bytes], Any]:
    return head(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}", bytes(600))


def objects(path: Path, whole: bytes) -> None:
    """Write an .npy of Python objects that run code when they are read."""
    text = "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"
    head(text, pickle.dumps(np.array([Code(marker(path))], object)))(path, whole)


def packed(contents: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, inside in contents.items():
            made.writestr(zipfile.ZipInfo(name), inside, method)
    return file.getvalue()


def holding(**arrays: np.ndarray) -> Callable[[Path, bytes], Any]:
    return lambda path, whole: path.write_bytes(packed({f"{name}.npy": npy(array) for name, array in arrays.items()}))


def packed_objects(path: Path, whole: bytes) -> None:
    objects(path, whole)
    path.write_bytes(packed({"images.npy": path.read_bytes()}))


def bomb(path: Path, whole: bytes) -> None:
    """Write an archive of 200 kB that unpacks to 200 MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made, made.open("images.npy", "w") as file:
        for _ in range(100):
            file.write(bytes(2 * 10**6))


def directory(place: int, value: bytes) -> Callable[[Path, bytes], Any]:
    """Change a value at an offset of the first file's entry in the archive's directory."""

    def change(whole: bytes) -> bytes:
        start = whole.rindex(b"PK\1\2") + place
        return whole[:start] + value + whole[start + len(value) :]

    return content(change)


def png(width: int, height: int, rest: bytes = b"", kind: bytes = b"\x08\0\0\0\0") -> Callable[[Path, bytes], Any]:
    """Write a PNG whose header declares this size, without pixels."""
    chunk = b"IHDR" + struct.pack(">2I", width, height) + kind
    start = b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + struct.pack(">I", zlib.crc32(chunk))
    return lambda path, whole: path.write_bytes(start + rest)


def exif(path: Path, whole: bytes) -> None:
    """Write a JPEG with invalid EXIF, of another size than the model's images."""
    Image.fromarray(PIXELS[0][:3]).save(path, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40)


def looped(path: Path, whole: bytes) -> None:
    """Make two links to the parent folder, which a naive walk would follow 2^40 times."""
    for name in "ab":
        (path.parent / name).symlink_to(path.parent)


EMPTY = b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))  # an empty chunk of pixels

NPY = [
    Kind("nothing", lambda path, whole: None, f"{READ}No such file or directory); give another file by --data"),
    Kind("a folder", lambda path, whole: path.mkdir(), f"{READ}it is a folder)"),
    Kind("a FIFO", lambda path, whole: os.mkfifo(path), f"{READ}it is a FIFO)"),
    Kind("a link to a device", lambda path, whole: path.symlink_to("/dev/zero"), f"{READ}it is a device)"),
    Kind("a link to itself", lambda path, whole: path.symlink_to(path), f"{READ}Too many levels of symbolic links)"),
    Kind("empty", content(lambda w: b""), DAMAGED),
    Kind("text", content(lambda w: b"0 0 255\n"), DAMAGED),
    Kind("a pickle that runs code", lambda path, w: path.write_bytes(pickle.dumps(Code(marker(path)))), DAMAGED),
    Kind("objects that run code", objects, DAMAGED),
    Kind("a header that calls a function", shaped("__import__('os').getpid()"), DAMAGED),
    Kind("a header nested deep", shaped("(" * 5000 + ")" * 5000), DAMAGED),
    Kind("a header of 60,000 bytes", shaped("(4,)" + " " * 60_000), DAMAGED),
    Kind("a header cut", content(lambda w: w[:50]), DAMAGED),
    Kind("cut by a byte", content(lambda w: w[:-1]), DAMAGED),
    Kind("version 9.9", content(lambda w: w[:6] + b"\x09\x09" + w[8:]), DAMAGED),
    Kind("2^60 images of 600 bytes", shaped(f"({2**60}, 4, 6)"), DAMAGED),
    Kind("sizes whose product overflows", shaped(f"({2**33}, {2**33})"), DAMAGED),
    Kind("a negative size", shaped("(-25, 4, 6)"), DAMAGED),
    Kind("a size of 4.0", shaped("(25, 4.0, 6)"), DAMAGED),
    Kind("100 axes", shaped("(" + "1," * 100 + ")"), DAMAGED),
    Kind("an unknown dtype", shaped("(25, 4, 6)", "'|u3'"), DAMAGED),
    Kind("integers", of(PIXELS.astype("i8")), f"{DTYPE} int64; convert it"),
    Kind("big-endian integers", of(PIXELS.astype(">u2")), f"{DTYPE} >u2; convert it"),
    Kind("complex numbers", of(PIXELS.astype("c8")), f"{DTYPE} complex64; convert it"),
    Kind("text in an array", of(np.array([["ab"]])), f"{DTYPE} <U2; convert it"),
    Kind("dates", of(np.zeros((3, 4, 6), "M8[s]")), f"{DTYPE} datetime64[s]; convert it"),
    Kind("fields with names", of(np.zeros((3, 4, 6), [("grey", "u1")])), f"{DTYPE} [('grey', 'u1')]; convert it"),
    Kind("NaN", of(np.where(PIXELS > 250, np.nan, 0.5)), "must be floats in [0, 1], found NaN; remove the images"),
    Kind("infinity", of(np.where(PIXELS > 250, np.inf, 0.5)), "must be floats in [0, 1], found 0.5 to inf; scale"),
    Kind("floats up to 255", of(PIXELS.astype("f4")), "must be floats in [0, 1], found"),
    Kind("one number", of(np.asarray(3, np.uint8)), f"{SHAPE} []; reshape it"),
    Kind("no images", of(PIXELS[:0]), f"{SHAPE} [0, 4, 6]; reshape it"),
    Kind("no pixels", of(PIXELS[:, :, :0]), f"{SHAPE} [12, 4, 0]; reshape it"),
    Kind("five axes", of(PIXELS[..., None, None]), f"{SHAPE} [12, 4, 6, 1, 1]; reshape it"),
    Kind("one image", of(PIXELS[:1]), "has 1 image, but one to train and one to test are needed; add more"),
    Kind("images of another size", of(PIXELS[:, 1:]),
         "has images of 3 6 1, the model's images 4 6 1; give --image 3 6 1"),
    Kind("images in another order", of(PIXELS.transpose(0, 2, 1)),
         "has images of 6 4 1, the model's images 4 6 1; give"),
]  # fmt: skip
NPZ = [
    Kind("cut", content(lambda w: w[: len(w) // 2]), DAMAGED),
    Kind("cut by a byte", content(lambda w: w[:-1]), DAMAGED),
    Kind("a byte of an image changed", content(lambda w: w[:300] + bytes([w[300] ^ 1]) + w[301:]), DAMAGED),
    Kind("an archive of nothing", content(lambda w: packed({})), "of these it has none; save it with such names"),
    Kind("other names", holding(pictures=PIXELS), "of these it has none; save it with such names"),
    Kind("train without test", holding(train=PIXELS), "of these it has train; save it with such names"),
    Kind("text for an array", content(lambda w: packed({"images": b"no array"})), f"{DTYPE} |S8; convert it"),
    Kind("objects that run code", packed_objects, DAMAGED),
    Kind("an array cut", content(lambda w: packed({"images.npy": npy(PIXELS)[:-1]})), DAMAGED),
    Kind("200 MB in 200 kB", bomb, "should unpack to 86,"),
    Kind("4 GB by its directory", directory(24, b"\xfe\xff\xff\xff"),
         "bytes at most, found 4,294,967,294; save it again"),
    Kind("an unknown packing", directory(10, b"\x63"), DAMAGED),
    Kind("labels of another number", holding(images=PIXELS, labels=np.arange(11)),
         "labels must be 12 integers, one for"),
    Kind("labels that are floats", holding(images=PIXELS, labels=np.arange(12.0)),
         "one for each image, found float64 of"),
    Kind("labels of NaN", holding(images=PIXELS, labels=np.full(12, np.nan)),
         "one for each image, found float64 of shape"),
    Kind("labels below 0", holding(images=PIXELS, labels=np.arange(12) - 1),
         "integers from 0 to 255, found -1 to 10; ren"),
    Kind("labels of 2^62", holding(images=PIXELS, labels=np.full(12, 2**62)),
         "must be integers from 0 to 255, found 4611"),
    Kind("labels of one split", holding(train=PIXELS, test=PIXELS, test_labels=np.arange(12)),
         "add the other or leave out"),
]  # fmt: skip
PICTURES = [
    Kind("empty", content(lambda w: b""), f"{READ}UnidentifiedImageError: cannot identify image file"),
    Kind("text", content(lambda w: b"no picture"), f"{READ}UnidentifiedImageError: cannot identify image file"),
    Kind("PostScript, which would be run", content(lambda w: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n"),
         f"{READ}UnidentifiedImageError"),
    Kind("a vector picture", content(lambda w: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
         f"{READ}UnidentifiedImage"),
    Kind("cut in its header", content(lambda w: w[:20]), READ),
    Kind("cut in half", content(lambda w: w[: len(w) // 2]), READ),
    Kind("a byte changed", content(lambda w: w[:45] + bytes([w[45] ^ 1]) + w[46:]), READ),
    Kind("a header and no more", png(6, 4), READ),
    Kind("no width", png(0, 4, EMPTY), READ),
    Kind("100 million pixels by its header", png(10_000, 10_000, EMPTY),
         f"{READ}DecompressionBombWarning: Image size (100000000"),
    Kind("10^18 pixels by its header", png(10**9, 10**9, EMPTY),
         f"{READ}DecompressionBombError: Image size (100000000000000000"),
    Kind("an unknown colour type", png(6, 4, EMPTY, kind=b"\x08\x09\0\0\0"), READ),
    Kind("of another size", lambda path, w: Image.fromarray(PIXELS[0][:3]).save(path),
         "is 3 6 1, the model's images 4 6 1; "),
    Kind("in colour", lambda path, w: Image.fromarray(PIXELS[:3].transpose(1, 2, 0)).save(path),
         "is 4 6 3, the model's im"),
    Kind("EXIF of nonsense", exif, "is 3 6 1, the model's images 4 6 1; give --image 3 6 1 or --resize"),
    Kind("a FIFO", lambda path, whole: os.mkfifo(path), "is a FIFO; remove it"),
    Kind("a link to a device", lambda path, whole: path.symlink_to("/dev/zero"), "is a device; remove it"),
    Kind("a link to nothing", lambda path, whole: path.symlink_to("gone"), f"{READ}No such file or directory)"),
    Kind("a link to itself", lambda path, whole: path.symlink_to(path), f"{READ}Too many levels of symbolic links)"),
    Kind("a folder", lambda path, whole: path.mkdir(),
         "has 1 image, but one to train and one to test are needed; add more"),
    Kind("links back to their folder", looped, "is a link back to"),
]  # fmt: skip
