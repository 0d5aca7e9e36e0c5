r"""Review files: what is read, and what is rejected with a line and a reason. No Snowflake, no Ray, no models here.

Every record of a file becomes one ``Review`` or one ``Reject``, in the file's order, and reading goes on after a bad
one. Memory is bounded by the longest review allowed, whatever the file's size.

==================================  ==================================================================================
``.txt``, the quickstart's          ``"<uuid>","<review text>"``, one review or many a file
``.csv``                            RFC 4180 with commas. A header with UUID and REVIEW_TEXT (any case and order; others
                                    are ignored), or no header and two columns
``.jsonl``, ``.ndjson``, ``.json``  one object a line with the keys UUID and REVIEW_TEXT in any case, both text
``.parquet``                        columns UUID and REVIEW_TEXT in any case, both strings
==================================  ==================================================================================

Each may be packed by gzip once (``.csv.gz``). Text is UTF-8, with or without byte order mark; UTF-16 and UTF-32 are
rejected with the advice to save as UTF-8. Lines end in LF or CRLF, also mixed; a line end inside a text is part of it
and kept.

Every file becomes at least one record. A file without a review in it (zero bytes, blank lines, a header alone) is one
reject; so is the rest of a file that cannot be read on, with the line it was read to, or the line where the record
began that was cut. What a few bytes unpack to is bounded (``Limits``): a bomb is one reject, too.

The rules of ``.txt``, whose texts may hold quotes, commas and line ends that nobody escaped:

* A record begins at a line that begins with ``"<uuid>","``, where the uuid has no quote, comma or blank in it; a byte
  order mark before it is the beginning of another file that was appended. It ends before the next such line or at the
  end of the file. One that would begin after a carriage return without line feed is a reject of the whole record.
* Its text ends at the last quote that is the last character of a line (blanks after it aside). Lines behind that one
  belong to no record: each that is not blank is rejected. Without such a quote the record is rejected.
* If all quotes inside the text come in pairs it is proper CSV, and each pair is one quote; otherwise they are the
  text's own.
* So a text with a line of its own that begins with ``"word","`` is read as two records: such a text needs one of the
  other formats.

In ``.csv``, where quotes are wrong the record's first line is rejected and reading goes on with the next line, so that
a quote that is never closed costs one line, not the rest of the file.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import sys
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

GZIP_MAGIC = b"\x1f\x8b"
UTF8_MARK = b"\xef\xbb\xbf"
# By its mark, or by the zeros beside an ASCII character, with which every format begins.
_UTF32 = re.compile(rb"\xff\xfe\0\0|\0\0\xfe\xff|[^\0]\0\0\0|\0\0\0[^\0]", re.DOTALL)
_UTF16 = re.compile(rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]", re.DOTALL)
EXCERPT_CHARACTERS = 500
PARQUET_BATCH_ROWS = 256
PARQUET_DICTIONARY_ROWS = 4096
PARQUET_VIEW_ROWS = 16
PARQUET_BATCH_BYTES = 32 << 20
# JSON may write one character as \ud83d\ude00; what else is in the object gets this much room.
JSON_BYTES_PER_CHARACTER, JSON_BYTES_BESIDE = 12, 1 << 16
# In UTF-8 a character takes four bytes at most: a line of more bytes is longer than the limit for sure.
UTF8_BYTES_PER_CHARACTER = 4
_UTF8_CONTINUATIONS = bytes(range(0x80, 0xC0))


@dataclass(frozen=True)
class Limits:
    """What is too much: characters of a review or a uuid, bytes of a file once it is unpacked, rejects of a file.

    Texts pack to a third or a tenth; a gzip bomb to a thousandth. So a file may unpack to ``unpacked_ratio`` times its
    size, and a small one to ``unpacked_freely`` bytes. ``rejects``: reading stops there when they outnumber the
    reviews; a film named .csv has a million lines.
    """

    review_characters: int = 1_000_000
    uuid_characters: int = 256
    unpacked_bytes: int = 2 << 30
    unpacked_ratio: int = 100
    unpacked_freely: int = 8 << 20
    rejects: int = 100_000

    def unpacked(self, packed_bytes: int) -> int:
        """Bytes that a packed file of this size may unpack to."""
        return min(self.unpacked_bytes, max(self.unpacked_freely, self.unpacked_ratio * packed_bytes))


class Review(NamedTuple):
    """A review as its file has it. ``line``: where it begins, from 1; the number of the row in Parquet."""

    uuid: str
    text: str
    line: int


class Reject(NamedTuple):
    """A record, or with line 0 a whole file, that could not be read."""

    line: int
    reason: str
    excerpt: str


def text_hash(text: str) -> str:
    """SHA-256 of the text in UTF-8, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_reviews(file_name: str, source: bytes | IO[bytes], limits: Limits | None = None) -> Iterator[Review | Reject]:
    """The records of one file.

    Args:
        file_name: decides the format by its extension.
        source: the content, as bytes or as a seekable binary file.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    file = _File(limits or Limits())
    reviews = rejects = 0
    try:
        for record in _records(file_name, stream, file):
            if isinstance(record, Review):
                reviews += 1
            else:
                rejects += 1
            yield record
            if rejects > reviews and rejects >= file.limits.rejects:
                raise _UnreadableError(f"{rejects} records were rejected and {reviews} read: the rest was not read")
        if not reviews and not rejects:
            raise _UnreadableError("a header and no review")
    except _UnreadableError as error:
        yield _reject(file.line if reviews or rejects else 0, str(error), "")


class _UnreadableError(Exception):
    """Nothing more can be read from the file."""


@dataclass
class _File:
    """How far the reading of one file has come. ``line`` is the last line (or row) that was read.

    ``most_lines``: of a packed file; a line that packs to less than a byte holds no review.
    """

    limits: Limits
    line: int = 0
    most_lines: int | None = None


@dataclass(frozen=True, slots=True)
class _Line:
    """One line without its LF. When it is too long its text is cut; ``problem`` says so, or which byte is bad."""

    number: int
    text: str
    characters: int
    problem: str | None = None

    @property
    def blank(self) -> bool:
        return not self.text.strip()


def _records(file_name: str, stream: IO[bytes], file: _File) -> Iterator[Review | Reject]:
    name = file_name.lower()
    packed = name.endswith(".gz")
    name = name.removesuffix(".gz")
    extension = name[name.rfind(".") :] if "." in name.rsplit("/", 1)[-1] else ""
    reader = _READERS.get(extension)
    if not reader:
        known = " ".join(sorted(_READERS))
        what = "gzip inside gzip" if packed and extension == ".gz" else "unknown extension"
        raise _UnreadableError(f"{what}: expected one of {known}, each also with one .gz; found {extension!r}")
    start = _start(stream)
    if not start:
        raise _UnreadableError("the file has zero bytes")
    if start.startswith(GZIP_MAGIC) != packed:
        found, ending = ("gzip data", "without") if not packed else ("no gzip data", "with")
        raise _UnreadableError(f"{found} in a file {ending} .gz at the end of its name")
    if packed:
        size = _size(stream)
        file.most_lines = max(size, file.limits.rejects)
        stream = _unpacked(stream, file.limits.unpacked(size))
        start = _start(stream)
        if start.startswith(GZIP_MAGIC):
            raise _UnreadableError("gzip inside gzip: expected a file that is packed once")
        if not start:
            raise _UnreadableError("the file has zero bytes once it is unpacked")
    if extension != ".parquet":
        for encoding, beginning in (("UTF-32", _UTF32), ("UTF-16", _UTF16)):
            if beginning.match(start):
                raise _UnreadableError(f"{encoding} (by its first bytes): expected UTF-8; save the file as UTF-8")
    yield from reader(stream, file)


def _start(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    start = stream.read(4)
    stream.seek(0)
    return start


def _size(stream: IO[bytes]) -> int:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return size


class _Unpacked(io.RawIOBase):
    """A gzip file as a stream that raises ``_UnreadableError`` where it is broken or grows too large."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._gzip = gzip.GzipFile(fileobj=stream, mode="rb")
        self._limit = limit

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._gzip.seek(offset, whence)

    def tell(self) -> int:
        return self._gzip.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            # Not read(): where the data break off it gives nothing of what it has unpacked already.
            data = self._gzip.read1(len(buffer))
        except EOFError:
            raise _UnreadableError(f"the gzip data end too early, after {self.tell()} unpacked bytes") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise _UnreadableError(f"broken gzip data after {self.tell()} unpacked bytes: {error}") from None
        if self.tell() > self._limit:
            raise _UnreadableError(
                f"more than {self._limit} bytes once it is unpacked; that is the limit for a packed file of its size"
            )
        buffer[: len(data)] = data
        return len(data)


def _unpacked(stream: IO[bytes], limit: int) -> IO[bytes]:
    return io.BufferedReader(_Unpacked(stream, limit))  # type: ignore[return-value]


# -- lines -----------------------------------------------------------------------------------------------------------


def _lines(stream: IO[bytes], file: _File, longest: int) -> Iterator[_Line]:
    """The lines of a text file; of one with more than ``longest`` bytes only the beginning is kept."""
    offset = 0
    most = file.most_lines or sys.maxsize
    while raw := stream.readline(longest):
        if file.line >= most:
            raise _UnreadableError(f"more than {most} lines once it is unpacked: expected at most one line a byte")
        size = len(raw)
        whole = raw.endswith(b"\n") or size < longest
        characters = len(raw.translate(None, _UTF8_CONTINUATIONS))
        if not whole:
            rest_size, rest_characters = _skip_line(stream, longest)
            size, characters = size + rest_size, characters + rest_characters
        file.line += 1
        if offset == 0:
            raw = raw.removeprefix(UTF8_MARK)
        if whole:
            yield _line(file.line, raw.removesuffix(b"\n"), characters, offset)
        else:
            problem = f"a line of {characters} characters: expected at most {file.limits.review_characters} in a review"
            yield _Line(file.line, raw.decode(errors="ignore"), characters, problem)
        offset += size


def _skip_line(stream: IO[bytes], piece: int) -> tuple[int, int]:
    """Read to the end of the line; its bytes and characters."""
    size = characters = 0
    while raw := stream.readline(piece):
        size += len(raw)
        characters += len(raw.translate(None, _UTF8_CONTINUATIONS))
        if raw.endswith(b"\n"):
            break
    return size, characters


def _line(number: int, raw: bytes, characters: int, offset: int) -> _Line:
    try:
        return _Line(number, raw.decode(), characters)
    except UnicodeDecodeError as error:
        position = error.start
        problem = (
            f"not UTF-8: byte 0x{raw[position]:02X} at byte {position + 1} of the line, "
            f"byte {offset + position + 1} of the file"
        )
        return _Line(number, raw.decode(errors="backslashreplace"), characters, problem)


_UUID, _TEXT = _NAMES = ("uuid", "review_text")


# -- what every format checks ----------------------------------------------------------------------------------------


def _checked(uuid: object, text: object, line: int, limits: Limits, found: Callable[[], str]) -> Review | Reject:
    """A review, or what is wrong with it; ``found`` gives the text for the excerpt."""
    reason = _uuid_problem(uuid, limits) or _text_problem(text, limits)
    if reason:
        return _reject(line, reason, found())
    return Review(str(uuid).strip(), str(text), line)


def _uuid_problem(uuid: object, limits: Limits) -> str | None:
    if uuid is None:
        return "missing uuid"
    if not isinstance(uuid, str):
        return f"the uuid is {_kind(uuid)}: expected text"
    uuid = uuid.strip()
    if not uuid:
        return "missing uuid"
    if len(uuid) > limits.uuid_characters:
        return f"a uuid of {len(uuid)} characters: expected at most {limits.uuid_characters}"
    if not uuid.isprintable():
        return "the uuid holds a control character"
    return None


def _text_problem(text: object, limits: Limits) -> str | None:
    if text is None:
        return "empty text"
    if not isinstance(text, str):
        return f"the review text is {_kind(text)}: expected text"
    if not text.strip():
        return "empty text"
    if len(text) > limits.review_characters:
        return f"a review of {len(text)} characters: expected at most {limits.review_characters}"
    if "\0" in text:
        return f"a NUL character at character {text.index(chr(0)) + 1} of the text"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a surrogate pair at character {error.start + 1} of the text"
    return None


def _kind(value: object) -> str:
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        _Object: "an object",
        type(None): "null",
    }
    return kinds.get(type(value), type(value).__name__)


def _reject(line: int, reason: str, found: str) -> Reject:
    # A reason may quote the file, too: the names of its columns, the words of a library about its bytes.
    return Reject(line, _printable(reason), _printable(found[:EXCERPT_CHARACTERS].rstrip("\r\n")))


def _printable(text: str) -> str:
    """The text as a log and a table can show it: no NUL, no escape sequences, no halves of surrogate pairs."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


# -- the quickstart's text files -------------------------------------------------------------------------------------

_RECORD_HEAD = re.compile(r'\ufeff*"([^",\s]*)","')
_HEAD_AFTER_RETURN = re.compile(r'\r"[^",\s]*","')
_BARE_RETURN = "a carriage return without a line feed: expected lines that end in LF or CRLF"
_NO_DELIMITER = 'no delimiter: expected a line that begins with "<uuid>","'


@dataclass
class _TextRecord:
    """A record of which more lines may come."""

    first: _Line
    uuid: str
    limits: Limits
    lines: list[_Line] = field(default_factory=list)
    # How many of the lines the text has, up to the last that ends in a quote.
    closed: int = 0
    characters: int = 0
    too_long: bool = False
    ended: bool = False

    def add(self, line: _Line) -> Iterator[Review | Reject]:
        """Take one more line; yields records only when the lines kept would become too many."""
        if self.ended:
            yield from _stray(line)
            return
        self.characters += line.characters + 1
        if self.too_long:
            return
        self.lines.append(line)
        if line.text.rstrip().endswith('"'):
            self.closed = len(self.lines)
        if self.characters <= 2 * self.limits.review_characters + 1024:
            # Near the limit it is the finished text that counts: quotes, line ends and blanks after it are in here too.
            return
        if 0 < self.closed < len(self.lines):
            yield from self.finish()
            self.ended = True
            return
        self.too_long = True
        self.lines.clear()

    def finish(self) -> Iterator[Review | Reject]:
        """The record, and what follows it without belonging to it."""
        if self.ended:
            return
        if self.too_long:
            limit = self.limits.review_characters
            reason = f"a review of about {self.characters} characters: expected at most {limit}"
            yield _reject(self.first.number, reason, self.first.text)
            return
        yield self._record()
        for line in self.lines[self.closed or len(self.lines) :]:
            yield from _stray(line)

    def _record(self) -> Review | Reject:
        number, found = self.first.number, self.first.text
        body = self.lines[: self.closed or len(self.lines)]
        if problem := next((line.problem for line in body if line.problem), None):
            return _reject(number, problem, found)
        if not self.closed:
            return _reject(number, 'no closing quote: expected "<uuid>","<review text>" with a quote at the end', found)
        raw = "\n".join(line.text for line in body).rstrip()[:-1]
        if "\r" in raw and _HEAD_AFTER_RETURN.search(raw):
            return _reject(number, f"a record after {_BARE_RETURN}", found)
        return _checked(self.uuid, _undoubled(raw), number, self.limits, lambda: found)


def _undoubled(raw: str) -> str:
    """The text between the outer quotes; pairs of quotes become one when there are only pairs."""
    if '""' not in raw or any(len(run) % 2 for run in re.findall('"+', raw)):
        return raw
    return raw.replace('""', '"')


def _stray(line: _Line) -> Iterator[Reject]:
    if not line.blank or line.problem:
        yield _reject(line.number, line.problem or _NO_DELIMITER, line.text)


def _quickstart(stream: IO[bytes], file: _File) -> Iterator[Review | Reject]:
    limits = file.limits
    record: _TextRecord | None = None
    empty = True
    try:
        for line in _lines(stream, file, _longest_text_line(limits)):
            empty = empty and line.blank
            if head := _RECORD_HEAD.match(line.text):
                if record:
                    yield from record.finish()
                record = _TextRecord(line, head.group(1), limits)
                rest = line.text[head.end() :]
                yield from record.add(_Line(line.number, rest, line.characters - head.end(), line.problem))
            elif record:
                yield from record.add(line)
            else:
                yield from _stray(line)
    except _UnreadableError as error:
        # The record at hand may go on in what cannot be read.
        if not record or record.ended:
            raise
        yield _reject(record.first.number, str(error), record.first.text)
        return
    if record:
        yield from record.finish()
    if empty:
        raise _UnreadableError("only blank lines")


def _longest_text_line(limits: Limits) -> int:
    return UTF8_BYTES_PER_CHARACTER * (limits.review_characters + limits.uuid_characters + 16)


# -- CSV -------------------------------------------------------------------------------------------------------------


class _CsvProblemError(Exception):
    """The record at hand cannot be read."""


class _CsvLines:
    """The lines of a CSV file for ``csv.reader``, which takes as many as a record has; they can be given back."""

    def __init__(self, lines: Iterator[_Line], limit: int) -> None:
        self._lines = lines
        self._returned: deque[_Line] = deque()
        self._limit = limit
        self.taken: list[_Line] = []
        self._characters = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._lines)
        self.taken.append(line)
        self._characters += line.characters
        if self._characters > self._limit:
            raise _CsvProblemError(
                f"a record of more than {self._limit} characters: the text is too long, or a quote is not closed"
            )
        return line.text + "\n"

    def begin(self) -> None:
        self.taken, self._characters = [], 0

    def give_back(self) -> None:
        """All but the first line of the record at hand will be read again."""
        self._returned.extendleft(reversed(self.taken[1:]))


def _csv(stream: IO[bytes], file: _File) -> Iterator[Review | Reject]:
    limits = file.limits
    longest = _longest_text_line(limits)
    csv.field_size_limit(max(csv.field_size_limit(), longest))
    lines = _CsvLines(_lines(stream, file, longest), longest // 2)
    rows = csv.reader(lines, strict=True)
    columns: _CsvColumns | None = None
    empty = True
    while True:
        lines.begin()
        try:
            row = next(rows)
        except StopIteration:
            break
        except _UnreadableError as error:
            if not lines.taken:
                raise
            yield _reject(lines.taken[0].number, str(error), lines.taken[0].text)
            return
        except (csv.Error, _CsvProblemError) as error:
            empty = False
            reason = _csv_reason(error, lines.taken)
            if columns is None:
                _require_no_header(lines.taken[0], reason)
            yield _reject(lines.taken[0].number, reason, lines.taken[0].text)
            lines.give_back()
            rows = csv.reader(lines, strict=True)
            continue
        taken = lines.taken
        if not any(cell.strip() for cell in row) and all(line.blank for line in taken):
            continue
        empty = False
        if problem := next((line.problem for line in taken if line.problem), None):
            if columns is None:
                _require_no_header(taken[0], problem)
            yield _reject(taken[0].number, problem, taken[0].text)
            continue
        if columns is None:
            columns = _csv_columns(row)
            if columns.header:
                continue
        yield columns.review(row, taken[0], limits)
    if empty:
        raise _UnreadableError("only blank lines")


def _require_no_header(first: _Line, problem: str) -> None:
    """Without its header it is not known which of a file's columns is the text."""
    if any(name in first.text.casefold() for name in _NAMES):
        raise _UnreadableError(f"a header that cannot be read: {problem}")


def _csv_reason(error: Exception, taken: list[_Line]) -> str:
    if isinstance(error, _CsvProblemError):
        return str(error)
    if "unexpected end of data" in str(error):
        return "a quote is not closed: expected a quote at the end of the text"
    if "new-line character" in str(error):
        return f"outside of quotes {_BARE_RETURN}"
    where = f" (read on to line {taken[-1].number})" if len(taken) > 1 else ""
    return f"not CSV: {error}{where}; expected quotes inside a quoted text to be doubled"


@dataclass(frozen=True)
class _CsvColumns:
    """Where uuid and text are, and how many columns a row has."""

    uuid: int
    text: int
    count: int
    header: bool

    def review(self, row: list[str], line: _Line, limits: Limits) -> Review | Reject:
        if len(row) != self.count:
            reason = f"{len(row)} columns: expected {self.count}"
            if len(row) == 1:
                reason += "; no delimiter (comma) in the line"
            elif len(row) > self.count:
                reason += "; a text with commas needs quotes around it"
            return _reject(line.number, reason, line.text)
        if self.header and self._repeats_header(row):
            return _reject(line.number, "the header again: expected it in the first line only", line.text)
        return _checked(row[self.uuid], row[self.text], line.number, limits, lambda: line.text)

    def _repeats_header(self, row: list[str]) -> bool:
        return row[self.uuid].strip(" \ufeff").casefold() == _UUID and row[self.text].strip().casefold() == _TEXT


def _csv_columns(first: list[str]) -> _CsvColumns:
    names = [cell.strip().casefold() for cell in first]
    found = [name for name in _NAMES if name in names]
    if not found:
        return _CsvColumns(0, 1, 2, header=False)
    position = _positions(names, "the header")
    return _CsvColumns(position["uuid"], position["review_text"], len(names), header=True)


def _positions(names: list[str], where: str) -> dict[str, int]:
    """Where uuid and review_text are among the casefolded names of columns."""
    for name in _NAMES:
        if names.count(name) != 1:
            columns = ", ".join(names)[:EXCERPT_CHARACTERS]
            raise _UnreadableError(
                f"{where} has {names.count(name)} columns {name.upper()}: expected 1; found: {columns}"
            )
    return {name: names.index(name) for name in _NAMES}


# -- JSON Lines ------------------------------------------------------------------------------------------------------


class _Object(list[tuple[str, Any]]):
    """A JSON object as its pairs: a dictionary would keep the last of several values of one key, and not tell."""


_JSON = json.JSONDecoder(object_pairs_hook=_Object)


def _json_lines(stream: IO[bytes], file: _File) -> Iterator[Review | Reject]:
    limits = file.limits
    longest = JSON_BYTES_PER_CHARACTER * limits.review_characters + JSON_BYTES_BESIDE
    empty = True
    for line in _lines(stream, file, longest):
        if line.blank and not line.problem:
            continue
        empty = False
        yield _json_review(line, limits)
    if empty:
        raise _UnreadableError("only blank lines")


def _json_review(line: _Line, limits: Limits) -> Review | Reject:
    if line.problem:
        return _reject(line.number, line.problem, line.text)
    try:
        value = _JSON.decode(line.text)
    except json.JSONDecodeError as error:
        reason = f"not JSON: {error.msg} at character {error.pos + 1}; expected one object a line"
        return _reject(line.number, reason, line.text)
    except (RecursionError, ValueError) as error:
        return _reject(line.number, f"JSON that cannot be read: {str(error)[:100]}", line.text)
    if not isinstance(value, _Object):
        reason = f"{_kind(value)}: expected an object with UUID and REVIEW_TEXT on each line"
        return _reject(line.number, reason, line.text)
    keys = [key.strip().casefold() for key, _ in value]
    try:
        position = _positions(keys, "the object")
    except _UnreadableError as error:
        return _reject(line.number, str(error), line.text)
    values = [item for _, item in value]
    return _checked(values[position["uuid"]], values[position["review_text"]], line.number, limits, lambda: line.text)


# -- Parquet ---------------------------------------------------------------------------------------------------------


def _parquet(stream: IO[bytes], file: _File) -> Iterator[Review | Reject]:
    import pyarrow as pa

    with tempfile.TemporaryFile() as plain:
        if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, _Unpacked):
            # Parquet is read from its end; going back in a gzip file would unpack it again each time.
            while chunk := stream.read(1 << 20):
                plain.write(chunk)
            plain.seek(0)
            stream = plain
        try:
            yield from _parquet_rows(stream, file)
        except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
            raise _UnreadableError(f"broken or truncated Parquet: {str(error)[:200]}") from None


def _parquet_rows(stream: IO[bytes], file: _File) -> Iterator[Review | Reject]:
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(stream, page_checksum_verification=True)
    schema = parquet.schema_arrow
    names = [name.strip().casefold() for name in schema.names]
    position = _positions(names, "the Parquet file")
    for name, index in position.items():
        if not _is_text(schema.field(index).type):
            found = str(schema.field(index).type)[:EXCERPT_CHARACTERS]
            raise _UnreadableError(f"the column {name.upper()} is {found}: expected string")
    _require_no_bomb(parquet.metadata, _size(stream), file.limits)
    wanted = [schema.names[index] for index in position.values()]
    for batch in _batches(stream, parquet, wanted):
        uuids, texts = (batch.column(batch.schema.names.index(name)) for name in wanted)
        for uuid, text in zip(
            _parquet_values(uuids, file.limits.uuid_characters),
            _parquet_values(texts, file.limits.review_characters),
            strict=True,
        ):
            file.line += 1
            yield _parquet_review(uuid, text, file)


def _batches(stream: IO[bytes], parquet: Any, wanted: list[str]) -> Iterator[Any]:
    """A few rows at a time, so few that what their texts take is bounded.

    Parquet keeps a text that is repeated once, in a dictionary. Long ones stay there: repeated for every row of a
    batch, the texts of a file of 15 KB took 5 GB. Short ones do not: Arrow makes the dictionary again for each batch.
    """
    import pyarrow.parquet as pq
    import pyarrow.types as types

    # Arrow has no dictionaries of string views.
    views = any(types.is_string_view(parquet.schema_arrow.field(name).type) for name in wanted)
    compact = pq.ParquetFile(stream, page_checksum_verification=True, read_dictionary=[] if views else wanted)
    most = PARQUET_VIEW_ROWS if views else PARQUET_BATCH_ROWS
    for number in range(parquet.metadata.num_row_groups):
        group = parquet.metadata.row_group(number)
        rows = PARQUET_BATCH_BYTES // max(1, group.total_byte_size // max(1, group.num_rows))
        if _repeats_long_values(compact, number, wanted):
            reader, rows = compact, PARQUET_DICTIONARY_ROWS
        else:
            reader, rows = parquet, max(1, min(most, rows))
        yield from reader.iter_batches(batch_size=rows, row_groups=[number], columns=wanted)


def _repeats_long_values(compact: Any, row_group: int, wanted: list[str]) -> bool:
    """Whether a dictionary of the row group, all of which comes with the first row, has a long value."""
    import pyarrow as pa

    long = PARQUET_BATCH_BYTES // PARQUET_BATCH_ROWS
    for first in compact.iter_batches(batch_size=1, row_groups=[row_group], columns=wanted):
        dictionaries = [column.dictionary for column in first.columns if isinstance(column, pa.DictionaryArray)]
        return any(_longest(values) > long for values in dictionaries)
    return False


def _require_no_bomb(metadata: Any, size: int, limits: Limits) -> None:
    """Bytes are packed by a codec, rows by run-length encoding: a few bytes may be a billion rows."""
    unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if unpacked > limits.unpacked(size):
        raise _UnreadableError(
            f"{unpacked} bytes once it is unpacked: at most {limits.unpacked(size)} are read of a file of its size"
        )
    if metadata.num_rows > max(size, limits.rejects):
        raise _UnreadableError(f"{metadata.num_rows} rows in {size} bytes: expected at most one row a byte")


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


@dataclass(frozen=True, slots=True)
class _BadValue:
    """A value that cannot become a string."""

    reason: str
    beginning: str


def _parquet_values(column: Any, characters: int) -> list[Any]:
    """The values of a column of a batch; those of a dictionary are decoded once, however many rows have them."""
    import pyarrow as pa

    if isinstance(column, pa.DictionaryArray):
        used = column.indices.drop_null().unique()
        decoded = dict(zip(used.to_pylist(), _decoded(column.dictionary.take(used), characters), strict=True))
        return [decoded.get(index) for index in column.indices.to_pylist()]
    return _decoded(column, characters)


def _longest(values: Any) -> int:
    """Bytes of the longest of an array's strings."""
    import pyarrow.compute as pc

    return pc.call_function("max", [pc.call_function("binary_length", [values])]).as_py() or 0


def _decoded(column: Any, characters: int) -> list[Any]:
    import pyarrow as pa

    longest = UTF8_BYTES_PER_CHARACTER * characters
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    if _longest(column) <= longest:
        try:
            return column.to_pylist()
        except UnicodeDecodeError:
            # Which one, is found below.
            pass
    return [_decoded_scalar(scalar, longest, characters) for scalar in column]


def _decoded_scalar(scalar: Any, longest: int, characters: int) -> str | _BadValue | None:
    if not scalar.is_valid:
        return None
    data = scalar.as_buffer()
    beginning = data[:EXCERPT_CHARACTERS].to_pybytes().decode(errors="backslashreplace")
    if data.size > longest:
        return _BadValue(f"a value of {data.size} bytes: expected at most {characters} characters", beginning)
    try:
        return data.to_pybytes().decode()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02X} at byte {error.start + 1} of the value"
        return _BadValue(f"not UTF-8: {byte}", beginning)


def _parquet_review(uuid: Any, text: Any, file: _File) -> Review | Reject:
    for value in (uuid, text):
        if isinstance(value, _BadValue):
            return _reject(file.line, value.reason, value.beginning)
    return _checked(uuid, text, file.line, file.limits, lambda: f"{uuid}, {text and text[:EXCERPT_CHARACTERS]}")


_READERS: dict[str, Callable[[IO[bytes], _File], Iterator[Review | Reject]]] = {
    ".txt": _quickstart,
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
    ".parquet": _parquet,
}

EXTENSIONS = tuple(sorted(_READERS))


def is_review_file(name: str) -> bool:
    """Whether the file's name says that it holds reviews in one of the formats, packed or not."""
    return name.lower().removesuffix(".gz").endswith(EXTENSIONS)
