"""Review files that somebody might put on the stage by mistake or on purpose, and what each must end as.

``python -m tests.hostile_reviews`` puts them on the stage of an embedded server of its own by Snowflake's client,
ingests them on Ray and prints a table of file, rows, rejects and reasons; ``--empty-files 100000`` puts so many empty
files beside them. The files are built here in code. What must hold of them is in ``test_hostile_reviews``; of single
records, in ``test_reviews``.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import re
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from customer_insights import ingest, query
from customer_insights.settings import Settings
from customer_insights.tables import TABLES

ROOT = Path(__file__).resolve().parent.parent
START, END = "2020-01-01", "2099-12-31"
DEFAULT_EMPTY_FILES = 2000


@dataclass(frozen=True)
class HostileFile:
    """A file and the records it is declared to hold. ``reasons``: what each reject's reason has one of in it."""

    name: str
    content: bytes
    rows: int
    rejects: int
    reasons: tuple[str, ...] = ()


def text(name: str, content: str, rows: int, rejects: int, *reasons: str) -> HostileFile:
    return HostileFile(name, content.encode(), rows, rejects, reasons)


def raw(name: str, content: bytes, rows: int, rejects: int, *reasons: str) -> HostileFile:
    return HostileFile(name, content, rows, rejects, reasons)


def csv_of(stem: str, count: int = 3) -> str:
    return "UUID,REVIEW_TEXT\n" + "".join(f"{stem}-{n},The chair number {n} is good\n" for n in range(count))


def parquet(schema: pa.Schema | None = None, options: dict[str, Any] | None = None, **columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer, **(options or {}))
    return buffer.getvalue()


def packed_repeatedly(size: int, piece: bytes) -> bytes:
    """``size`` bytes of one repeated piece as gzip members of 16 MiB."""
    return gzip.compress(piece * ((16 << 20) // len(piece)), mtime=0) * (size >> 24)


def encodings() -> Iterator[HostileFile]:
    content = 'UUID,REVIEW_TEXT\n{0}-1,"très bon, 很好, отлично"\n{0}-2,ok\n'
    yield text("utf-8.csv", content.format("utf8"), 2, 0)
    yield text("utf-8-bom.csv", "\ufeff" + content.format("bom"), 2, 0)
    yield text("utf-8-two-boms.csv", "\ufeff\ufeff" + content.format("boms"), 0, 1, "0 columns UUID")
    for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
        yield raw(f"{name}.csv", content.format(name).encode(name), 0, 1, name[:6].upper())
    yield raw("utf-16.txt", '"utf16txt-1","très bon"'.encode("utf-16"), 0, 1, "UTF-16")
    yield raw("latin-1.csv", "UUID,REVIEW_TEXT\nl1-1,très bon\nl1-2,ok\n".encode("latin-1"), 1, 1, "byte 0xE8")
    yield raw("shift-jis.csv", "UUID,REVIEW_TEXT\nsj-1,とても良い\n".encode("shift_jis"), 0, 1, "not UTF-8")
    yield raw("shift-jis.txt", '"sjt-1","とても良い"\n"sjt-2","ok"\n'.encode("shift_jis"), 1, 1, "not UTF-8")
    mixed = b"UUID,REVIEW_TEXT\nmix-1,caf\xc3\xa9\nmix-2,caf\xe9\nmix-3,\x82\xa9\nmix-4,ok\n"
    yield raw("mixed-encodings.csv", mixed, 2, 2, "byte 0xE9", "byte 0x82")
    yield raw("latin-1-header.csv", b"review_text,r\xe9f,uuid\ngood,1,lh-1\n", 0, 1, "a header that cannot be read")
    yield raw("cesu-8.csv", b"UUID,REVIEW_TEXT\ncesu-1,\xed\xa0\xbd\xed\xb8\x80\ncesu-2,ok\n", 1, 1, "byte 0xED")
    yield raw("overlong.csv", b"UUID,REVIEW_TEXT\nol-1,\xc0\xaf\nol-2,ok\n", 1, 1, "byte 0xC0")
    yield raw("nul.csv", b"UUID,REVIEW_TEXT\nnul-1,a\0b\nnul\0-2,ok\nnul-3,ok\n", 1, 2, "NUL", "control character")
    yield text("c1-controls.csv", "UUID,REVIEW_TEXT\nc1-1,a\x85b\x9bc\nc1-2\x9b,x\n", 1, 1, "control character")
    yield text("escapes.txt", '"esc-1","\x1b[31mred\x1b[0m \x07"\nnoise \x1b]0;title\x07', 1, 1, "no delimiter")
    yield text("bom-in-the-middle.txt", '"mid-1","good"\n\ufeff"mid-2","better"\n', 2, 0)
    yield text("bom-in-the-middle.csv", "mic-1,good\n\ufeffmic-2,better\n", 1, 1, "control character")
    yield text("bom-in-the-middle.jsonl", jsonl("mij-1") + "\ufeff" + jsonl("mij-2"), 1, 1, "not JSON")


def jsonl(uuid: str, review: str = "good") -> str:
    return json.dumps({"UUID": uuid, "REVIEW_TEXT": review}, ensure_ascii=False) + "\n"


def texts() -> Iterator[HostileFile]:
    kept = {
        "right-to-left": "רע מאוד — سيئ جدا",
        "bidi-overrides": "\u202eevil\u202c \u2066iso\u2069 \u200f",
        "zalgo": "g" + "\u0301\u0335\u0489" * 200 + "ood",
        "emoji-zwj": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏿",
        "lines-that-are-none": "one\u2028two\u2029three\x0bfour\x0cfive\x85six\x1cseven",
        "noncharacters": "\ufffe\uffff\U0010ffff \ue000 \ufffd",
        "sql": "'; DROP TABLE RAW_REVIEWS; -- $$ \\' ? :1 {{ x }} %s",
        "html": "<script>alert(1)</script><img src=x onerror=alert(1)>&amp;",
        "csv-injection": "=cmd|'/c calc'!A0",
        "zero-width-only": "\u200b\u200d\ufeff",
        "backslashes": "\\N \\n \\ \\x41 \\u0041 NULL null None NaN",
        "delimiters": 'one, "two"; three\tfour | five',
    }
    for name, value in kept.items():
        yield text(f"{name}.jsonl", jsonl(f"text-{name}", value), 1, 0)
    cells = ("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "|x", "%0A")
    rows = "".join(f'inj-{number},"{cell}"\n' for number, cell in enumerate(cells))
    yield text("injection-cells.csv", rows, len(cells), 0)
    yield text("injection-uuids.csv", "=1+1,good\n@x,good\n-1,good\n+1,good\n", 4, 0)
    yield text("sql-uuid.csv", 'UUID,REVIEW_TEXT\n\'; DROP TABLE RAW_REVIEWS; --,x\n"<b>&""",x\n', 2, 0)
    yield text("symlink-like.txt", "../../../../etc/passwd", 0, 1, "no delimiter")
    yield text("huge-line.txt", '"hl-1","' + "x" * 5_000_000 + '"\n"hl-2","good"\n', 1, 1, "expected at most 1000000")
    yield text("huge-line.csv", f"hc-1,{'é' * 1_000_001}\nhc-2,good\n", 1, 1, "a review of 1000001 characters")
    yield text("longest-line.csv", f"lc-1,{'é' * 1_000_000}\nlc-2,good\n", 2, 0)
    yield text("huge-line.jsonl", jsonl("hj-1", "x" * 13_000_000) + jsonl("hj-2"), 1, 1, "expected at most 1000000")
    # Hundreds of thousands, not a million: the corpus runs with every change.
    yield text("many-short-lines.csv", "".join(f"short-{n},x\n" for n in range(20_000)), 20_000, 0)
    yield text("many-bad-lines.csv", "x\n" * 20_000, 0, 20_000, "no delimiter")
    yield text("many-blank-lines.txt", "\n" * 200_000, 0, 1, "only blank lines")
    yield text("lines-in-a-text.txt", '"lit-1","' + "\n" * 100_000 + 'end"\n', 1, 0)


def quotes_and_columns() -> Iterator[HostileFile]:
    yield text("unclosed-quote.csv", 'uq-1,"never closed\nuq-2,good\nuq-3,good\n', 2, 1, "a quote is not closed")
    yield text("unclosed-quote.txt", '"uqt-1","never closed\n"uqt-2","good"\n', 1, 1, "no closing quote")
    yield text("unbalanced-quotes.csv", 'ub-1,"a "b" c"\nub-2,good "really" good\nub-3,"x"y\n', 1, 2, "not CSV")
    yield text("quotes-in-a-text.txt", '"qt-1","He said "wow", twice"\n', 1, 0)
    yield text("only-quotes.txt", '"""""""""\n""\n"\n', 0, 3, "no delimiter")
    yield text("only-quotes.csv", '""""""\n""\n"', 0, 3, "1 columns", "a quote is not closed")
    yield text("wrong-number-of-fields.csv", "UUID,REVIEW_TEXT,STARS\nwf-1,a\nwf-2,a,5\nwf-3,a,b,5\n", 1, 2, "columns")
    yield text("commas-in-a-text.csv", "ct-1,good, really\nct-2,good\n", 1, 1, "needs quotes")
    yield text("semicolons.csv", "uuid;review_text\nsc-1;good\n", 0, 2, "no delimiter")
    yield text("tabs.csv", "uuid\treview_text\ntb-1\tgood\n", 0, 2, "no delimiter")
    yield text("header-twice.csv", csv_of("ht") + csv_of("hu"), 6, 1, "the header again")
    yield text("column-twice.csv", "UUID,uuid,REVIEW_TEXT\nc2-1,c2-2,x\n", 0, 1, "2 columns UUID")
    yield text("no-text-column.csv", "uuid,text\nnt-1,x\n", 0, 1, "0 columns REVIEW_TEXT")
    yield text("columns-swapped.csv", "Review_Text , UuId\ngood,cs-1\n", 1, 0)
    yield text("line-ends.csv", "le-1,a\nle-2,b\r\nle-3,c\rle-4,d\nle-5,e", 3, 1, "a carriage return")
    yield text("old-mac.csv", "om-1,a\rom-2,b\r", 0, 1, "a carriage return")
    yield text("old-mac.txt", '"omt-1","a"\r"omt-2","b"\r', 0, 1, "a carriage return")
    yield text("line-ends.txt", '"lt-1","a"\r\n"lt-2","b"\n\n"lt-3","c\u2028d\x0be"', 3, 0)
    uuids = {
        "too long": ("u" * 257, 0), "longest": ("v" * 256, 1), "empty": ("", 0), "blank": ("  ", 0),
        "lower": ("ff-aa", 1), "upper": ("FF-AA", 1), "full-width": ("ｆｆ－ａａ", 1), "accent": ("é", 1),
        "decomposed accent": ("e\u0301", 1), "override": ("\u202eab", 0), "zero-width": ("a\u200bb", 0),
        "line": ("a\nb", 0), "blank inside": ("a b", 1), "zero": ("0", 1), "markup": ("<i>", 1), "null": ("NULL", 1),
    }  # fmt: skip
    good = sum(accepted for _, accepted in uuids.values())
    rows = "".join(f'"{uuid}",{name}\n' for name, (uuid, _) in uuids.items())
    reasons = ("a uuid of 257 characters", "missing uuid", "control character")
    yield text("uuids-of-any-form.csv", rows, good, len(uuids) - good, *reasons)
    yield text("uuid-twice.csv", "tw-1,first\ntw-1,second\n", 1, 1, "duplicate UUID: first seen in uuid-twice.csv")
    yield text("uuids-that-blanks-tell-apart.csv", "bl-1,first\n bl-1 ,second\n", 1, 1, "duplicate UUID")


def json_lines() -> Iterator[HostileFile]:
    bad = {
        "array.jsonl": ('["x", "y"]\n', "a list"),
        "number.jsonl": ("42\n", "a number"),
        "null.jsonl": ("null\n", "null: expected an object"),
        "string.jsonl": ('"x"\n', "str: expected an object"),
        "keys-twice.jsonl": ('{"UUID": "k2-1", "UUID": "k2-2", "REVIEW_TEXT": "x"}\n', "2 columns UUID"),
        "number-as-uuid.jsonl": ('{"UUID": 1, "REVIEW_TEXT": "x"}\n', "the uuid is a number"),
        "nan.jsonl": ('{"UUID": NaN, "REVIEW_TEXT": "x"}\n', "the uuid is a number"),
        "object-as-text.jsonl": ('{"UUID": "x", "REVIEW_TEXT": {"a": 1}}\n', "the review text is an object"),
        "deep-lists.jsonl": ("[" * 100_000 + "\n", "JSON that cannot be read"),
        "deep-objects.jsonl": ('{"a":' * 100_000 + "\n", "JSON that cannot be read"),
        "huge-integer.jsonl": ('{"UUID": "x", "REVIEW_TEXT": ' + "9" * 50_000 + "}\n", "JSON that cannot be read"),
        "surrogate-in-text.jsonl": (r'{"UUID": "x", "REVIEW_TEXT": "\ud800"}' + "\n", "half a surrogate pair"),
        "surrogate-in-uuid.jsonl": (r'{"UUID": "\udfff", "REVIEW_TEXT": "x"}' + "\n", "control character"),
        "surrogate-in-key.jsonl": (r'{"\ud800": 1, "\u0000": 2}' + "\n", "0 columns UUID"),
        "surrogates-turned.jsonl": (r'{"UUID": "x", "REVIEW_TEXT": "\ude00\ud83d"}' + "\n", "half a surrogate pair"),
        "nul-escape.jsonl": (r'{"UUID": "x", "REVIEW_TEXT": "a\u0000b"}' + "\n", "a NUL character"),
        "two-on-a-line.jsonl": (jsonl("x").strip() + jsonl("y"), "Extra data"),
        "single-quotes.jsonl": ("{'UUID': 'x', 'REVIEW_TEXT': 'y'}\n", "not JSON"),
        "no-end.jsonl": ('{"UUID": "x", "REVIEW_TEXT": "y\n', "not JSON"),
        "empty-object.jsonl": ("{}\n", "0 columns UUID"),
    }
    for name, (line, reason) in bad.items():
        yield text(name, line + jsonl(f"json-{name}"), 1, 1, reason)
    yield text("pair-of-escapes.jsonl", r'{"UUID": "pair-1", "REVIEW_TEXT": "\ud83d\ude00"}', 1, 0)
    yield text("one-array.json", json.dumps([{"UUID": "oa-1", "REVIEW_TEXT": "x"}]), 0, 1, "a list: expected an object")
    yield text("wide.jsonl", '{"x": [' + "[]," * 1_000_000 + "0]}\n" + jsonl("wide-1"), 1, 1, "0 columns UUID")


def packed() -> Iterator[HostileFile]:
    whole = gzip.compress(csv_of("gz").encode(), mtime=0)
    lines = gzip.compress(csv_of("cut", 2000).encode(), mtime=0)
    cut = len(zlib.decompressobj(31).decompress(lines[:2000]).decode().splitlines()) - 2
    twice = gzip.compress(csv_of("nest").encode())
    yield raw("good.csv.gz", whole, 3, 0)
    yield raw("gzip-named.csv", whole, 0, 1, "gzip data in a file without .gz")
    yield text("plain-named.csv.gz", csv_of("plain"), 0, 1, "no gzip data")
    yield raw("nested.csv.gz", gzip.compress(twice), 0, 1, "gzip inside gzip")
    yield raw("nested.csv.gz.gz", gzip.compress(twice), 0, 1, "gzip inside gzip")
    yield raw("truncated.csv.gz", lines[:2000], cut, 1, "end too early")
    yield raw("truncated-header.csv.gz", whole[:5], 0, 1, "end too early")
    without_checksum = gzip.compress(csv_of("nochk").encode())[:-8]
    yield raw("without-checksum.csv.gz", without_checksum, 3, 1, "end too early")
    wrong = bytearray(gzip.compress(csv_of("wrong").encode()))
    wrong[-6] ^= 0xFF
    yield raw("wrong-checksum.csv.gz", bytes(wrong), 3, 1, "CRC check failed")
    members = gzip.compress(csv_of("mem-a").encode()) + gzip.compress(b"mem-b,good\n")
    yield raw("several-members.csv.gz", members, 4, 0)
    yield raw("trailing-garbage.csv.gz", gzip.compress(csv_of("trail").encode()) + b"garbage", 3, 1, "Not a gzipped")
    yield raw("trailing-zeros.csv.gz", gzip.compress(csv_of("zeros").encode()) + b"\0" * 512, 3, 0)
    cut_text = gzip.compress(b'"ct-a","good"\n"ct-b","better"\n')[:-8]
    yield raw("truncated.txt.gz", cut_text, 1, 1, "end too early")
    yield raw("empty.csv.gz", gzip.compress(b""), 0, 1, "zero bytes once it is unpacked")
    yield raw("bomb.csv.gz", packed_repeatedly(1 << 30, b"0"), 0, 1, "that is the limit")
    yield raw("bomb.parquet.gz", packed_repeatedly(1 << 30, b"\0"), 0, 1, "that is the limit")
    yield raw("bomb-of-line-ends.txt.gz", packed_repeatedly(1 << 30, b"\n"), 0, 1, "at most one line a byte")
    # Reading stops where rejects outnumber the reviews; the last reject says so.
    yield raw(
        "bomb-of-bad-lines.csv.gz",
        packed_repeatedly(1 << 30, b"x\n"),
        0,
        100_001,
        "no delimiter",
        "the rest was not read",
    )


def parquets() -> Iterator[HostileFile]:
    good = parquet(UUID=["pq-1", "pq-2"], REVIEW_TEXT=["good", "better"])
    columns: dict[str, tuple[bytes, str]] = {
        "truncated": (good[:-20], "broken or truncated Parquet"),
        "no-footer": (good[:40], "broken or truncated Parquet"),
        "magic-only": (b"PAR1PAR1", "broken or truncated Parquet"),
        "magic-once": (b"PAR1", "broken or truncated Parquet"),
        "encrypted-footer": (good[:-4] + b"PARE", "broken or truncated Parquet"),
        "text-named": (csv_of("pqcsv").encode(), "broken or truncated Parquet"),
        "numbers": (parquet(UUID=["x"], REVIEW_TEXT=[1]), "REVIEW_TEXT is int64"),
        "bytes": (parquet(UUID=[b"x"], REVIEW_TEXT=["y"]), "UUID is binary"),
        "missing-column": (parquet(UUID=["x"], BODY=["y"]), "0 columns REVIEW_TEXT"),
        "column-twice": (parquet(UUID=["x"], uuid=["x"], REVIEW_TEXT=["y"]), "2 columns UUID"),
        "nested": (parquet(UUID=["x"], REVIEW_TEXT=[{"text": "y"}]), "REVIEW_TEXT is struct"),
        "lists": (parquet(UUID=["x"], REVIEW_TEXT=[["y"]]), "REVIEW_TEXT is list"),
        "only-nulls": (parquet(UUID=["x"], REVIEW_TEXT=pa.nulls(1)), "REVIEW_TEXT is null"),
        "no-rows": (parquet(UUID=pa.array([], "string"), REVIEW_TEXT=pa.array([], "string")), "no review"),
        "no-columns": (parquet(), "0 columns UUID"),
        "uuid-bytes": (
            parquet(UUID=pa.array([b"x" * 16], pa.binary(16)), REVIEW_TEXT=["y"]),
            "UUID is fixed_size_binary",
        ),
    }
    for name, (content, reason) in columns.items():
        yield raw(f"{name}.parquet", content, 0, 1, reason)
    nulls = parquet(UUID=["pn-1", None, "pn-3"], REVIEW_TEXT=["good", "x", None])
    yield raw("nulls.parquet", nulls, 1, 2, "missing uuid", "empty text")
    yield raw("times-as-text.parquet", parquet(UUID=["pt-1"], REVIEW_TEXT=["2026-01-01T00:00:00Z"]), 1, 0)
    not_text = pa.array([b"good", b"caf\xe9", b"\xed\xa0\x80"], pa.binary()).cast(pa.string(), safe=False)
    yield raw("not-utf-8.parquet", parquet(UUID=["pu-1", "pu-2", "pu-3"], REVIEW_TEXT=not_text), 1, 2, "not UTF-8")
    other = parquet(UUID=["po-1"], REVIEW_TEXT=["x"], times=[pa.scalar(0, pa.timestamp("ns", "UTC"))], deep=[[[[1]]]])
    yield raw("other-columns.parquet", other, 1, 0)
    dictionary = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 500, pa.int32()), pa.array(["x" * 4_000_000, "fine"]))
    uuids = [f"pd-{n}" for n in range(1000)]
    repeated = parquet(options={"compression": "zstd"}, UUID=uuids, REVIEW_TEXT=dictionary)
    yield raw("huge-dictionary.parquet", repeated, 500, 500, "expected at most 1000000")
    alike = parquet(options={"compression": "zstd"}, UUID=["x"] * 3, REVIEW_TEXT=["x" * 10_000_000] * 3)
    yield raw("bomb.parquet", alike, 0, 1, "bytes once it is unpacked")
    billions = pa.table({"UUID": ["x"] * 2_000_000, "REVIEW_TEXT": ["y"] * 2_000_000})
    buffer = io.BytesIO()
    pq.write_table(billions, buffer, compression="zstd")
    yield raw("two-million-rows-in-a-kilobyte.parquet", buffer.getvalue(), 0, 1, "expected at most one row a byte")
    groups = parquet(options={"row_group_size": 1}, UUID=uuids[:0] or ["pg-1", "pg-2"], REVIEW_TEXT=["a", "b"])
    yield raw("a-row-a-group.parquet", groups, 2, 0)


def other_files() -> Iterator[HostileFile]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr(zipfile.ZipInfo("a.csv"), csv_of("zip"))
    yield raw("zip-named.csv", b"PK\x03\x04\xff\xfe\0\0" + b"\x80\n" * 3, 0, 3, "not UTF-8")
    yield raw("zip.zip", archive.getvalue(), 0, 1, "unknown extension")
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1"
    yield raw("png-named.csv", png, 0, 3, "not UTF-8", "1 columns", "a carriage return")
    pdf = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"
    yield raw("pdf-named.txt", pdf, 0, 5, "no delimiter", "not UTF-8")
    yield raw("zero-bytes.csv", b"", 0, 1, "zero bytes")
    yield raw("only-a-bom.csv", b"\xef\xbb\xbf", 0, 1, "only blank lines")
    yield text("only-a-header.csv", "UUID,REVIEW_TEXT\n", 0, 1, "a header and no review")
    yield text("only-line-ends.csv", "\r\n\n\r\n", 0, 1, "only blank lines")
    yield raw("one-nul.txt", b"\0", 0, 1, "no delimiter")
    yield raw("no-extension", b"x", 0, 1, "unknown extension")
    yield raw("page.html", b"<html></html>", 0, 1, "unknown extension")


# Names that Snowflake's client puts as they are. Each file has one good review.
NAMES = (
    "a file with blanks.csv", "'; DROP TABLE RAW_REVIEWS; --.csv", "<script>alert(1)</script>.csv",
    'with "quotes".csv', "100%25 %2e%2e%2f%00.csv", "ключ 评论 🙂.csv", "\u202egpj.csv", "e\u0301 and \u00e9.csv",
    "..hidden.csv", "...csv", "-rf.csv", "$(touch x).csv", "`id`.csv", "a;b&c|d.csv", "~.csv", "a#b?c=d&e.csv",
    "=cmd.csv", "star*[a-z]?.csv", "{brace,s}.csv", "UPPER.CSV", "deep/er/and/deep/er.csv",
    "back\\slash.csv", "NUL.csv", "n" * 200 + ".csv", "%s %d {0} {{x}}.csv", "folder.csv/inner.csv",
)  # fmt: skip
# Places outside of the stage: the server refuses them.
TRAVERSALS = ("../outside.csv", "a/../../outside.csv", "..", "a/..")


def named() -> Iterator[HostileFile]:
    for number, name in enumerate(NAMES):
        yield text(name, f"named-{number},good\n", 1, 0)


@functools.cache
def corpus() -> tuple[HostileFile, ...]:
    """Every file; about 20 MB in all."""
    parts = (encodings, texts, quotes_and_columns, json_lines, packed, parquets, other_files, named)
    return tuple(file for part in parts for file in part())


# -- on the stage and through Ray ------------------------------------------------------------------------------------


@contextlib.contextmanager
def ray_node(home: Path) -> Iterator[None]:
    """A Ray node with one CPU whose workers find the embedded server as those of a job do: by their environment."""
    import ray

    connection = tomllib.loads((home / "connections.toml").read_text())["embedded"]
    names = ("account", "user", "password", "host", "port", "protocol", "database", "schema", "warehouse")
    environment = {f"SNOWFLAKE_{name.upper()}": str(connection[name]) for name in names}
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        runtime_env={"env_vars": {**environment, "PYTHONPATH": str(ROOT)}},
    )
    try:
        yield
    finally:
        ray.shutdown()


def create_schema(session: Any, settings: Settings) -> None:
    """An empty schema with the stages and tables, which becomes the session's."""
    session.sql(f"CREATE OR REPLACE SCHEMA {settings.qualified_schema}").collect()
    session.use_schema(settings.qualified_schema)
    for stage in (settings.review_stage, settings.work_stage):
        session.sql(f"CREATE OR REPLACE STAGE {stage} ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')").collect()
    for table in TABLES:
        session.sql(table.create_ddl()).collect()


def put(session: Any, settings: Settings, file: HostileFile, home: Path | None = None) -> None:
    """Put a file on the review stage under its very name.

    Snowflake's client cannot put a name with a quote (it looks for it at Google) and drops a backslash: these are
    written into the stage's directory, as by another client.
    """
    if home and set(file.name) & set("'\\"):
        (_directory(settings, home) / file.name).write_bytes(file.content)
        return
    with io.BytesIO(file.content) as stream:
        session.file.put_stream(stream, f"@{settings.review_stage}/{file.name}", auto_compress=False, overwrite=True)


def add_empty_files(settings: Settings, home: Path, count: int) -> None:
    """So many files of zero bytes in the folder ``empty`` of the review stage.

    Written into its directory: the client takes 4 ms a file, and ``zero-bytes.csv`` has been put by it.
    """
    directory = _directory(settings, home) / "empty"
    directory.mkdir()
    for number in range(count):
        (directory / f"{number:06d}.txt").touch()


def _directory(settings: Settings, home: Path) -> Path:
    return home / "data" / "stages" / settings.database / settings.schema_name / settings.review_stage


@dataclass(frozen=True)
class Ended:
    """What one file has become, by the tables."""

    in_ledger: int
    rows: int
    rejects: int
    ledger_rows: int
    ledger_rejects: int
    lines: tuple[int, int]
    reasons: tuple[str, ...]


def ended(session: Any) -> dict[str, Ended]:
    """By the tables: every file that the ledger, the reviews or the rejects name."""
    counts = query.rows(
        session,
        "SELECT N.SOURCE_FILE AS NAME, COALESCE(L.N, 0) AS LEDGER, COALESCE(A.N, 0) AS ACCEPTED,\n"
        "  COALESCE(R.N, 0) AS REJECTED, COALESCE(L.ACCEPTED, 0) AS LEDGER_ACCEPTED,\n"
        "  COALESCE(L.REJECTED, 0) AS LEDGER_REJECTED, COALESCE(R.FIRST, 0) AS FIRST, COALESCE(R.LAST, 0) AS LAST\n"
        "FROM (SELECT SOURCE_FILE FROM INGESTED_FILES UNION SELECT SOURCE_FILE FROM RAW_REVIEWS\n"
        "  UNION SELECT SOURCE_FILE FROM REJECTED_REVIEWS) AS N\n"
        "LEFT JOIN (SELECT SOURCE_FILE, COUNT(*) AS N, SUM(ROWS_ACCEPTED) AS ACCEPTED, SUM(ROWS_REJECTED) AS REJECTED\n"
        "  FROM INGESTED_FILES GROUP BY SOURCE_FILE) AS L ON L.SOURCE_FILE = N.SOURCE_FILE\n"
        "LEFT JOIN (SELECT SOURCE_FILE, COUNT(*) AS N FROM RAW_REVIEWS GROUP BY SOURCE_FILE) AS A\n"
        "  ON A.SOURCE_FILE = N.SOURCE_FILE\n"
        "LEFT JOIN (SELECT SOURCE_FILE, COUNT(*) AS N, MIN(SOURCE_LINE) AS FIRST, MAX(SOURCE_LINE) AS LAST\n"
        "  FROM REJECTED_REVIEWS GROUP BY SOURCE_FILE) AS R ON R.SOURCE_FILE = N.SOURCE_FILE",
    )
    reasons: dict[str, list[str]] = {}
    for row in query.rows(
        session, "SELECT SOURCE_FILE, REASON FROM REJECTED_REVIEWS GROUP BY SOURCE_FILE, REASON ORDER BY 1, 2"
    ):
        reasons.setdefault(str(row["SOURCE_FILE"]), []).append(str(row["REASON"]))
    return {
        str(row["NAME"]): Ended(
            int(row["LEDGER"]),
            int(row["ACCEPTED"]),
            int(row["REJECTED"]),
            int(row["LEDGER_ACCEPTED"]),
            int(row["LEDGER_REJECTED"]),
            (int(row["FIRST"]), int(row["LAST"])),
            tuple(reasons.get(str(row["NAME"]), ())),
        )
        for row in counts
    }


def table(found: dict[str, Ended]) -> str:
    """The Markdown table of file, rows, rejects, lines and reason."""

    def cell(value: str, width: int) -> str:
        shown = re.sub(r"[^\x20-\uffff\U00010000-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]", "\ufffd", value)
        shown = shown if len(shown) <= width else shown[: width - 1] + "…"
        return "`` " + shown.replace("|", "\\|") + " ``"

    lines = ["| file | rows | rejects | lines | reason |", "|---|---:|---:|---|---|"]
    for file in corpus():
        end = found[file.name]
        where = f"{end.lines[0]}–{end.lines[1]}" if end.lines[0] != end.lines[1] else str(end.lines[0])
        reasons = "; ".join(cell(reason, 90) for reason in end.reasons[:3])
        lines.append(
            f"| {cell(file.name, 50)} | {end.rows} | {end.rejects} | {where if end.rejects else ''} | {reasons} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Put, ingest, print."""
    import argparse

    from tests import conftest

    parser = argparse.ArgumentParser(description="What hostile review files end as")
    parser.add_argument("--empty-files", type=int, default=DEFAULT_EMPTY_FILES)
    empty = parser.parse_args().empty_files
    server = conftest.start_embedded(conftest.HOME)
    try:
        settings = Settings(schema_name="HOSTILE")
        session = server.session()
        session.sql(f"CREATE DATABASE IF NOT EXISTS {settings.database}").collect()
        create_schema(session, settings)
        for file in corpus():
            put(session, settings, file, conftest.HOME)
        add_empty_files(settings, conftest.HOME, empty)
        with ray_node(conftest.HOME):
            report = ingest.ingest(session, settings, START, END, "hostile")
        found = ended(session)
        print("# What hostile review files end as\n")
        print("Made by `python -m tests.hostile_reviews --empty-files 100000 > docs/hostile-reviews.md`; the files are")
        print("in `tests/hostile_reviews.py`. Line 0 is a whole file.\n")
        print(table(found))
        rejected = sum(end.rejects for name, end in found.items() if name.startswith("empty/"))
        print(f"\n{empty} empty files: {rejected} rejects.", end=" ")
        print(f"{len(corpus())} hostile files; {report.files} files were read in {report.seconds:.0f} s.")
    finally:
        conftest.stop_embedded(server)


if __name__ == "__main__":
    main()
