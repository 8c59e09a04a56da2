"""Open, decompress and decode files. No other module turns bytes into text.

The content decides compression and encoding, never the name. An undecodable byte becomes U+FFFD and
is counted. A truncated compressed file yields the text before the cut.
"""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SNIFF = 4096
# Longer lines are split, and larger files are only read line by line.
LINE_BYTES = 64 << 20
WHOLE_BYTES = 1 << 30
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
}
_ENDINGS = (".gz", ".zst", ".zstd", ".bz2", ".xz")
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(slots=True)
class Source:
    """A file to read.

    Attributes:
      path: Path of the file.
      head: First bytes of the file, decompressed.
      encoding: Encoding of the text.
      notes: Problems met while reading; the reading methods add them.
    """

    path: Path
    head: bytes
    encoding: str
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The file's name in lower case, without the endings of compressed files."""
        name = self.path.name.lower()
        for ending in _ENDINGS:
            name = name.removesuffix(ending)
        return name

    def lines(self) -> Iterator[str]:
        """Yield the lines without their ends; a carriage return also ends a line."""
        broken = 0
        try:
            with _decompress(self.path) as binary:
                # newline=None: \r alone ends a line too, because progress bars redraw with it.
                text = io.TextIOWrapper(
                    binary, encoding=self.encoding, errors="replace", newline=None
                )
                while line := text.readline(LINE_BYTES):
                    broken += line.count("\ufffd")
                    yield line.rstrip("\n")
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            self.notes.append(f"the compressed file is cut or damaged ({error})")
        if broken:
            self.notes.append(f"{broken} bytes are not {self.encoding} text")

    def text(self) -> str:
        """Return the whole text.

        Raises:
          ValueError: The file is larger than 1 GiB.
        """
        parts, size = [], 0
        for line in self.lines():
            parts.append(line)
            size += len(line) + 1
            if size > WHOLE_BYTES:
                raise ValueError(
                    f"{self.path} is a single document of more than {WHOLE_BYTES >> 30} GiB"
                )
        return "\n".join(parts)

    def bytes(self) -> bytes:
        """Return all bytes, decompressed.

        Raises:
          ValueError: The file is larger than 1 GiB, or its compression is damaged.
        """
        try:
            with _decompress(self.path) as binary:
                data: bytes = binary.read(WHOLE_BYTES + 1)
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise ValueError(
                f"{self.path}: the compressed file is cut or damaged ({error})"
            ) from error
        if len(data) > WHOLE_BYTES:
            raise ValueError(f"{self.path} holds more than {WHOLE_BYTES >> 30} GiB")
        return data


def open_source(path: Path) -> Source:
    """Detect a file's compression and encoding from its first bytes.

    Raises:
      ValueError: The file does not exist, is empty, or cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    head = b""
    try:
        with _decompress(path) as binary:
            while len(head) < _SNIFF and (part := binary.read(256)):
                head += part
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if not head:
            raise ValueError(f"{path} cannot be read: {error}") from error
    if not head.strip():
        raise ValueError(f"{path} is empty")
    return Source(path, head, _encoding(head))


def _decompress(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(6)
    form = next((form for magic, form in _COMPRESSED.items() if start.startswith(magic)), None)
    if form == "gzip":
        return gzip.open(path)
    if form == "bz2":
        return bz2.open(path)
    if form == "xz":
        return lzma.open(path)
    if form == "zstd":
        import pyarrow as pa  # Python itself has the zstd codec only from 3.14 on

        return io.BufferedReader(_Readable(pa.input_stream(str(path), compression="zstd")))
    return path.open("rb")


class _Readable(io.RawIOBase):
    """An Arrow stream wrapped as a stream of `io`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _encoding(head: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    # UTF-16 without a mark: every other byte of plain text is NUL.
    if len(head) >= 16 and b"\x00" in head:
        for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            half = head[start::2]
            if half.count(0) > 0.8 * len(half):
                return encoding
    return "utf-8"


def is_binary(source: Source) -> bool:
    """Return whether the file is not text in any detected encoding."""
    if source.encoding != "utf-8":
        return False
    text = source.head.decode("utf-8", errors="replace")
    strange = sum(c == "\ufffd" or (c < " " and c not in "\t\n\r\x1b\x08\x0c") for c in text)
    return b"\x00" in source.head or strange > 0.1 * len(text)
