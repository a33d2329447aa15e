"""Requests in files: lines, a column of CSV, or 64-bit numbers; gzipped or not."""

from __future__ import annotations

import csv
import gzip
import io
import os
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator

from cachebox.cli.errors import CommandError

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Any, BinaryIO

LINES_APART = 20_000                # requests between two calls of `progress`
GZIP_BEGINS = b"\x1f\x8b"


def read(
    path: str, form: str | None, column: str | None, progress: Callable[[float, int], object]
) -> list[Any] | array[int]:
    """All requests. Raises CommandError if they cannot be read, with the number of the line if there is one."""
    if column is not None and form not in (None, "csv"):
        raise CommandError(f"--column is for CSV, not for --format {form}")
    name = path[:-3] if path.endswith(".gz") else path
    if form is None:
        form = "csv" if column is not None else "u64" if name.endswith(".u64") else "lines"
    if form == "csv" and column is None:
        raise CommandError("CSV needs --column: the name of a column, or its number from 1")
    label = "standard input" if path == "-" else path
    try:
        with opened(path) as raw:
            size = 0 if path == "-" else os.path.getsize(path)
            at = Position(raw, size, progress)
            stream = unpacked(at)
            if form == "u64":
                keys: list[Any] | array[int] = numbers(stream.read(), label)
            elif form == "csv":
                keys = list(cells(stream, column or "", label, at))
            else:
                keys = list(lines(stream, label, at))
    except (OSError, EOFError, zlib.error) as error:
        raise CommandError(f"cannot read {label}: {getattr(error, 'strerror', None) or error}") from None
    if not keys:
        raise CommandError(f"{label} holds no requests")
    return keys


class Position(io.RawIOBase):
    """A file that counts the bytes read from it."""

    def __init__(self, raw: BinaryIO, size: int, progress: Callable[[float, int], object]) -> None:
        self.raw, self.size, self.progress = raw, size, progress
        self.done = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.raw.read(len(buffer))
        buffer[: len(data)] = data
        self.done += len(data)
        return len(data)

    def tell_of(self, requests: int) -> None:
        if self.size:
            self.progress(min(self.done / self.size, 1.0), requests)


def opened(path: str) -> BinaryIO:
    if path == "-":
        return open(sys.stdin.fileno(), "rb", closefd=False)
    return open(path, "rb")


def unpacked(at: Position) -> io.BufferedReader:
    """The content, gzipped or not: its first bytes decide, not its name."""
    stream: io.BufferedReader = io.BufferedReader(at, 1 << 16)
    if stream.peek(2)[:2] == GZIP_BEGINS:
        return io.BufferedReader(gzip.GzipFile(fileobj=stream), 1 << 16)
    return stream


def numbers(data: bytes, label: str) -> array[int]:
    if len(data) % 8:
        raise CommandError(f"{label} holds {len(data):,} bytes, which is no row of 64-bit numbers")
    keys = array("Q")
    keys.frombytes(data)
    if sys.byteorder == "big":
        keys.byteswap()
    return keys


def lines(stream: io.BufferedReader, label: str, at: Position) -> Iterator[str]:
    """The lines that are not blank, without surrounding white space."""
    for _, text in decoded(stream, label, at):
        key = text.strip()
        if key:
            yield key


def decoded(stream: io.BufferedReader, label: str, at: Position) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(stream, 1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise CommandError(f"{label}, line {number}: not UTF-8 ({error.reason})") from None
        if number % LINES_APART == 0:
            at.tell_of(number)


def cells(stream: io.BufferedReader, column: str, label: str, at: Position) -> Iterator[str]:
    """The column of each row. A number that is not in the first row counts from 1; that row is data then."""
    rows = csv.reader((text for _, text in decoded(stream, label, at)), strict=True)
    index = -1
    try:
        for row in rows:
            if not row:                         # a blank line
                continue
            if index < 0:
                if column in row:
                    index = row.index(column)
                    continue
                if not column.isdecimal() or int(column) < 1:
                    raise CommandError(f"{label}, line {rows.line_num}: no column {column!r}, but {', '.join(row)}")
                index = int(column) - 1
            if index >= len(row):
                raise CommandError(f"{label}, line {rows.line_num}: no column {column}, it has {len(row)}")
            yield row[index]
    except csv.Error as error:
        raise CommandError(f"{label}, line {rows.line_num}: {error}") from None
