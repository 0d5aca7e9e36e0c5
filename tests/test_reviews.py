"""Review files: every format is read as it was written, every bad record is named, and nothing is lost or invented."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from customer_insights.reviews import Limits, Reject, Review, read_reviews, text_hash

SMALL = Limits(review_characters=20, uuid_characters=8, unpacked_bytes=10_000)
EXTENSIONS = (".txt", ".csv", ".jsonl", ".ndjson", ".json", ".parquet")

# What a review's text may be: anything but blanks alone, NUL and halves of surrogate pairs.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1).filter(str.strip)
uuids = st.text(st.sampled_from("abcdef0123456789-"), min_size=1, max_size=36)
reviews = st.lists(st.tuples(uuids, texts), min_size=1, max_size=6)
line_ends = st.sampled_from(["\n", "\r\n"])
RECORD_HEAD = re.compile(r'\ufeff*"[^",\s]*","')


def read(name: str, content: str | bytes, limits: Limits | None = None) -> list[Review | Reject]:
    return list(read_reviews(name, content.encode() if isinstance(content, str) else content, limits))


def pairs(records: list[Review | Reject]) -> list[tuple[str, str]]:
    assert all(isinstance(record, Review) for record in records), records
    return [(record.uuid, record.text) for record in records if isinstance(record, Review)]


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


# -- what is written is read -----------------------------------------------------------------------------------------


def test_a_quickstart_file_with_one_review_keeps_its_quotes_commas_and_lines():
    text = 'He said "five stars", I say\nfour, "maybe" '
    assert pairs(read("0.txt", f'"8f14-e45f","{text}"')) == [("8f14-e45f", text)]


def test_a_quickstart_file_holds_many_reviews():
    content = '\ufeff"u1","first"\r\n"u2","second,\r\nin two lines"\r\n\r\n"u3","third ""quoted"""\r\n'
    assert read("many.txt", content) == [
        Review("u1", "first", 1),
        Review("u2", "second,\r\nin two lines", 2),
        Review("u3", 'third "quoted"', 5),
    ]


@given(reviews, line_ends)
def test_quickstart_reviews_with_doubled_quotes_are_read_as_they_were(written, line_end):
    assume(
        not any(RECORD_HEAD.match(line) for _, text in written for line in re.split("[\n\r]", text.replace('"', '""')))
    )
    content = line_end.join('"{}","{}"'.format(uuid, text.replace('"', '""')) for uuid, text in written)
    assert pairs(read("a.txt", content)) == written


@given(uuids, texts)
def test_a_single_quickstart_review_is_read_as_it_was_whatever_quotes_it_holds(uuid, text):
    assume(not any(RECORD_HEAD.match(line) for line in re.split("[\n\r]", text)[1:]))
    only_pairs = '""' in text and not any(len(run) % 2 for run in re.findall('"+', text))
    assert pairs(read("a.txt", f'"{uuid}","{text}"\n')) == [(uuid, text.replace('""', '"') if only_pairs else text)]


@given(reviews, line_ends, st.permutations(["UUID", "Review_Text", "STARS"]), st.booleans())
def test_csv_is_read_by_the_names_in_its_header(written, line_end, header, mark):
    buffer = io.StringIO(newline="")
    # Python's writer leaves a CR bare when lines end in LF alone, unless it quotes everything.
    quoting = csv.QUOTE_ALL if line_end == "\n" else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(buffer, header, lineterminator=line_end, quoting=quoting)
    writer.writeheader()
    writer.writerows({"UUID": uuid, "Review_Text": text, "STARS": "5"} for uuid, text in written)
    assert pairs(read("a.csv", ("\ufeff" if mark else "") + buffer.getvalue())) == written


@given(reviews)
def test_csv_without_a_header_has_uuid_and_text(written):
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(written)
    assert pairs(read("a.csv", buffer.getvalue())) == written


@given(reviews, st.booleans(), st.sampled_from(["a.jsonl", "a.ndjson", "a.json"]))
def test_json_lines_are_read_whatever_the_case_of_their_keys(written, ascii_only, name):
    lines = (json.dumps({"stars": 5, "Uuid": u, "review_TEXT": t}, ensure_ascii=ascii_only) for u, t in written)
    assert pairs(read(name, "\n".join(lines))) == written


@given(reviews)
def test_parquet_is_read(written):
    content = parquet(stars=[5] * len(written), Review_Text=[t for _, t in written], uuid=[u for u, _ in written])
    assert read("a.parquet", content) == [Review(u, t, row) for row, (u, t) in enumerate(written, 1)]


@pytest.mark.parametrize("extension", [".txt", ".csv", ".jsonl", ".parquet"])
def test_a_gzip_file_is_read_like_the_plain_one(extension):
    content = {
        ".txt": b'"u1","good"',
        ".csv": b"u1,good\n",
        ".jsonl": b'{"UUID": "u1", "REVIEW_TEXT": "good"}',
        ".parquet": parquet(UUID=["u1"], REVIEW_TEXT=["good"]),
    }[extension]
    assert pairs(read(f"a{extension}.GZ", gzip.compress(content))) == [("u1", "good")]


def test_a_parquet_column_may_be_a_dictionary_of_strings():
    content = parquet(UUID=["u1", "u2"], REVIEW_TEXT=pa.array(["good", "good"]).dictionary_encode())
    assert pairs(read("a.parquet", content)) == [("u1", "good"), ("u2", "good")]


def test_right_to_left_combining_characters_emoji_and_markup_are_kept():
    text = "רע 👩‍👩‍👧 e\u0301 \u202eevil <script>alert(1)</script> '; DROP TABLE x; -- =cmd|'/c calc'!A0 \u2028 \x85"
    assert pairs(read("a.txt", f'"u1","{text}"')) == [("u1", text)]
    assert pairs(read("a.csv", f'u1,"{text}"')) == [("u1", text)]


def test_the_text_hash_is_sha256_of_utf8():
    assert text_hash("é") == "4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c"


# -- what is wrong is named ------------------------------------------------------------------------------------------

BAD_RECORDS = {
    "a line without a delimiter": ("a.txt", 'just words\n"u1","good"', 1, "no delimiter"),
    "a line after a record": ("a.txt", '"u1","good"\nu2 bad\n', 2, "no delimiter"),
    "no closing quote": ("a.txt", '"u2","bad\n"u1","good"', 1, "no closing quote"),
    "no uuid": ("a.txt", '"","bad"\n"u1","good"', 1, "missing uuid"),
    "no text": ("a.txt", '"u2"," \t"\n"u1","good"', 1, "empty text"),
    "bytes that are not UTF-8": ("a.txt", b'"u2","caf\xe9"\n"u1","good"', 1, "byte 0xE9 at byte 10 of the line"),
    "a NUL": ("a.txt", '"u2","a\0b"\n"u1","good"', 1, "NUL character at character 2"),
    "a long review": ("a.txt", f'"u2","{"x" * 21}"\n"u1","good"', 1, "a review of 21 characters: expected at most 20"),
    "a very long review": ("a.txt", f'"u2","{"x" * 5000}"\n"u1","good"', 1, "a review of about 5003 characters"),
    "a long review of many lines": ("a.txt", '"u2","' + "xx\n" * 99 + '"\n"u1","good"', 1, "expected at most 20"),
    "a long uuid": ("a.txt", f'"{"u" * 9}","bad"\n"u1","good"', 1, "a uuid of 9 characters: expected at most 8"),
    "too few columns": ("a.csv", "uuid,stars,review_text\nu2,5\nu1,5,good", 2, "2 columns: expected 3"),
    "a csv line without a comma": ("a.csv", "u1,good\nbad", 2, "no delimiter"),
    "a comma without quotes": ("a.csv", "u1,good\nu2,bad, really", 2, "needs quotes"),
    "quotes that are not doubled": ("a.csv", 'u1,good\nu2,"a "bad" one"', 2, "expected quotes inside"),
    "a quote that is not closed": ("a.csv", 'u2,"bad\nu1,good', 1, "a quote is not closed"),
    "a bare carriage return": ("a.csv", "u1,good\nu2,bad\rline", 2, "a carriage return without a line feed"),
    "csv that is not UTF-8": ("a.csv", b"u2,\xff\nu1,good", 1, "not UTF-8: byte 0xFF at byte 4"),
    "a csv line that is too long": ("a.csv", f"u2,{'x' * 5000}\nu1,good", 1, "too long"),
    "no json": ("a.jsonl", 'bad\n{"UUID": "u1", "REVIEW_TEXT": "good"}', 1, "not JSON"),
    "a json list": ("a.jsonl", '["u2", "bad"]\n{"UUID": "u1", "REVIEW_TEXT": "good"}', 1, "a list: expected an object"),
    "a json number": (
        "a.jsonl",
        '{"UUID": 2, "REVIEW_TEXT": "bad"}\n{"UUID": "u1", "REVIEW_TEXT": "good"}',
        1,
        "the uuid is a number",
    ),
    "a json null": (
        "a.jsonl",
        '{"UUID": "u2", "REVIEW_TEXT": null}\n{"UUID": "u1", "REVIEW_TEXT": "good"}',
        1,
        "empty text",
    ),
    "a key twice": (
        "a.jsonl",
        '{"UUID": "u2", "uuid": "u3", "REVIEW_TEXT": "x"}\n{"UUID": "u1", "REVIEW_TEXT": "good"}',
        1,
        "2 columns UUID",
    ),
    "half a surrogate pair": (
        "a.jsonl",
        '{"UUID": "u2", "REVIEW_TEXT": "\\ud83d"}\n{"UUID": "u1", "REVIEW_TEXT": "good"}',
        1,
        "half a surrogate pair at character 1",
    ),
    "deeply nested json": (
        "a.jsonl",
        "[" * 9999 + '\n{"UUID": "u1", "REVIEW_TEXT": "good"}',
        1,
        "JSON that cannot be read",
    ),
    "a null in parquet": (
        "a.parquet",
        parquet(UUID=["u1", None], REVIEW_TEXT=["good", "bad"]),
        2,
        "missing uuid",
    ),
}


@pytest.mark.parametrize(("name", "content", "line", "reason"), BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_a_bad_record_is_rejected_with_line_and_reason_and_the_others_are_read(name, content, line, reason):
    records = read(name, content, Limits(review_characters=20, uuid_characters=8))
    rejects = [record for record in records if isinstance(record, Reject)]
    assert [record.line for record in rejects] == [line]
    assert reason in rejects[0].reason
    assert pairs([record for record in records if record not in rejects]) == [("u1", "good")]


def utf8_that_is_not() -> bytes:
    """A Parquet file whose second text is not UTF-8 although its column says so."""
    binary = pa.array([b"good", b"caf\xe9"], pa.binary())
    return parquet(UUID=["u1", "u2"], REVIEW_TEXT=binary.cast(pa.string(), safe=False))


def test_a_parquet_value_that_is_not_utf8_is_rejected_alone():
    good, bad = read("a.parquet", utf8_that_is_not())
    assert good == Review("u1", "good", 1)
    assert isinstance(bad, Reject)
    assert bad.reason.startswith("not UTF-8: byte 0xE9 at byte 4")


PACKED = gzip.compress(b"".join(b"u%d,%s\n" % (n, text_hash(str(n)).encode()) for n in range(2000)))
BAD_FILES = {
    "zero bytes": ("a.txt", b"", "the file has zero bytes"),
    "zero bytes packed": ("a.csv.gz", gzip.compress(b""), "zero bytes once it is unpacked"),
    "blank lines": ("a.txt", b"\xef\xbb\xbf\n \r\n", "only blank lines"),
    "unknown extension": ("a.docx", b"x", "unknown extension: expected one of .csv"),
    "no extension": ("folder.txt/a", b"x", "unknown extension"),
    "gzip in gzip by name": ("a.csv.gz.gz", b"x", "gzip inside gzip"),
    "gzip in gzip": ("a.csv.gz", gzip.compress(gzip.compress(b"u1,good")), "gzip inside gzip"),
    "gzip without its ending": ("a.csv", gzip.compress(b"u1,good"), "gzip data in a file without .gz"),
    "gzip by its ending only": ("a.csv.gz", b"u1,good", "no gzip data"),
    "broken gzip": ("a.csv.gz", PACKED[:20] + b"\0\0\0\0" + PACKED[24:], "broken gzip data"),
    "UTF-16": ("a.csv", "u1,good".encode("utf-16"), "UTF-16"),
    "header without a text": ("a.csv", b"uuid,text\nu1,good", "0 columns REVIEW_TEXT: expected 1; found: uuid, text"),
    "header with two uuids": ("a.csv", b"uuid,UUID,review_text\n1,2,3", "2 columns UUID"),
    "no parquet": ("a.parquet", b"PAR1 but not really PAR1", "broken or truncated Parquet"),
    "truncated parquet": ("a.parquet", parquet(UUID=["u1"], REVIEW_TEXT=["good"])[:-30], "broken or truncated Parquet"),
    "parquet without a text": ("a.parquet", parquet(UUID=["u1"], body=["good"]), "0 columns REVIEW_TEXT"),
    "parquet of numbers": ("a.parquet", parquet(UUID=["u1"], REVIEW_TEXT=[1]), "REVIEW_TEXT is int64: expected string"),
    "parquet of bytes": ("a.parquet", parquet(UUID=[b"u1"], REVIEW_TEXT=["good"]), "UUID is binary: expected string"),
}


@pytest.mark.parametrize(("name", "content", "reason"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_one_reject_with_its_reason(name, content, reason):
    (record,) = read(name, content)
    assert isinstance(record, Reject)
    assert record.line == 0
    assert reason in record.reason


def test_a_gzip_file_that_ends_early_gives_what_was_whole_and_one_reject():
    *whole, last = read("a.csv.gz", PACKED[:-2000])
    assert 100 < len(whole) < 2000
    assert pairs(whole) == [(f"u{n}", text_hash(str(n))) for n in range(len(whole))]
    assert isinstance(last, Reject)
    assert "end too early" in last.reason
    assert last.line >= len(whole)


@pytest.mark.parametrize("extension", [".txt", ".csv", ".jsonl", ".parquet"])
def test_a_gzip_bomb_is_rejected_without_unpacking_it(extension):
    bomb = gzip.compress(b"0" * 20_000_000)
    tracemalloc.start()
    records = read(f"bomb{extension}.gz", bomb, SMALL)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [record.line for record in records] == [0]
    assert "more than 10000 bytes" in str(records[0])
    assert peak < 5_000_000


@pytest.mark.parametrize("extension", [".txt", ".csv", ".jsonl"])
def test_memory_does_not_grow_with_a_line(extension, tmp_path):
    file = tmp_path / f"huge{extension}"
    file.write_bytes(b'"u1","' + b"x" * 12_000_000 + b'"\n')
    tracemalloc.start()
    with file.open("rb") as stream:
        (record,) = read_reviews(file.name, stream, SMALL)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(record, Reject)
    assert peak < 3_000_000


# -- nothing is lost, whatever comes ---------------------------------------------------------------------------------


def check(records: list[Review | Reject], limits: Limits) -> None:
    """What holds for the records of any file."""
    assert [record.line for record in records] == sorted(record.line for record in records)
    for record in records:
        if isinstance(record, Review):
            assert record.uuid
            assert len(record.uuid) <= limits.uuid_characters
            assert record.text.strip()
            assert len(record.text) <= limits.review_characters
            assert "\0" not in record.text
            record.text.encode()
        else:
            assert record.reason
            assert len(record.excerpt) <= 500
            record.excerpt.encode()
            assert "\0" not in record.excerpt


hostile = st.lists(
    st.sampled_from(
        [b'"', b'""', b",", b"\n", b"\r\n", b'"u1","', b"\0", b"\xff", b"\xef\xbb\xbf", b"{", b"uuid", b"x"]
    )
    | st.binary(max_size=4)
).map(b"".join)


@given(hostile, st.sampled_from(EXTENSIONS), st.booleans())
def test_any_bytes_become_records_with_line_and_reason(content, extension, packed):
    data = gzip.compress(content) if packed else content
    check(read(f"a{extension}{'.gz' if packed else ''}", data, SMALL), SMALL)


@given(st.data(), st.sampled_from([".csv.gz", ".parquet"]))
def test_a_damaged_file_becomes_records(data, extension):
    whole = PACKED if extension == ".csv.gz" else parquet(UUID=["u1", "u2"], REVIEW_TEXT=["good", "bad"])
    position = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:position] + data.draw(st.binary(max_size=3)) + whole[position + data.draw(st.integers(0, 9)) :]
    check(read(f"a{extension}", damaged), Limits())


@given(st.lists(st.one_of(texts.filter(lambda t: "\n" not in t and '"' not in t), st.none()), min_size=1, max_size=8))
def test_bad_lines_cost_themselves_only(lines):
    """Each None is a line without a delimiter among good ones."""
    lines = [line and line.replace("\r", " ").strip() for line in lines]
    assume(all(line is None or line for line in lines))
    good = [(f"u{number}", line) for number, line in enumerate(lines) if line is not None]
    for name, one, bad in (
        ("a.txt", lambda u, t: f'"{u}","{t}"', "bad"),
        ("a.csv", lambda u, t: f'{u},"{t}"', "bad"),
        ("a.jsonl", lambda u, t: json.dumps({"UUID": u, "REVIEW_TEXT": t}), "bad"),
    ):
        content = "\n".join(bad if line is None else one(f"u{n}", line) for n, line in enumerate(lines))
        records = read(name, content)
        assert pairs([record for record in records if isinstance(record, Review)]) == good
        assert [r.line for r in records if isinstance(r, Reject)] == [n for n, x in enumerate(lines, 1) if x is None]
