"""The parsers of review files under Hypothesis: whatever comes, only reviews and rejects, and as many as went in.

A few hundred examples each in CI; with ``REVIEW_FUZZING_EXAMPLES=100000`` as many as one has patience for.
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from customer_insights.language import detect
from customer_insights.reviews import EXTENSIONS, Limits, Reject, Review, read_reviews, text_hash

EXAMPLES = int(os.environ.get("REVIEW_FUZZING_EXAMPLES", "150"))
fuzzing = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

LIMITS = Limits(review_characters=60, uuid_characters=20, unpacked_bytes=200_000, unpacked_freely=20_000, rejects=500)
endings = st.sampled_from([*EXTENSIONS, *(f"{name}.gz" for name in EXTENSIONS)])
any_text = st.text(st.characters(exclude_categories=()), max_size=80) | st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\ud800",
        "\udc00\ud800",
        "\ufeff",
        '"',
        '""',
        ",",
        "\r",
        "\n",
        "\r\n",
        "\u2028",
        "\x85",
        "=1",
        "UUID",
    ]
)
quoting = [b'"', b'""', b",", b'"u1","', b'"\n"u2","', b"UUID,REVIEW_TEXT\n", b"review_text", b"good", b"x" * 70]
line_ends = [b"\n", b"\r\n", b"\r", b"\n" * 40, b"\xe2\x80\xa8"]
bad_bytes = [b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"PAR1", b"\x1f\x8b\x08\0"]
braces = [b"{", b"}", b"[", b'{"UUID": "', b'", "REVIEW_TEXT": "', b"\\ud800"]
tokens = st.sampled_from([*quoting, *line_ends, *bad_bytes, *braces])
loose = st.lists(tokens | st.binary(max_size=6), max_size=60).map(b"".join)


def checked(name: str, content: bytes) -> list[Review | Reject]:
    """The records, of which everything holds that must hold for every file."""
    records = list(read_reviews(name, content, LIMITS))
    assert records
    assert [record.line for record in records] == sorted(record.line for record in records)
    for record in records:
        if isinstance(record, Review):
            assert record.line >= 1
            assert record.uuid.isprintable()
            assert 0 < len(record.uuid) <= LIMITS.uuid_characters
            assert record.text.strip()
            assert "\0" not in record.text
            assert len(record.text) <= LIMITS.review_characters
            text_hash(record.text)
        else:
            assert record.line >= 0
            assert record.reason.strip()
            assert len(record.excerpt) <= 500
            for shown in (record.reason, record.excerpt):
                assert "\0" not in shown
                shown.encode()
    stored = [tuple(record) for record in records if isinstance(record, Review)]
    pa.table({"UUID": [row[0] for row in stored], "TEXT": [row[1] for row in stored]})
    return records


@fuzzing
@given(endings, loose, st.booleans())
def test_any_bytes_become_reviews_and_rejects(ending: str, content: bytes, packed: bool):
    checked(f"a{ending}", gzip.compress(content) if packed else content)


@functools.cache
def valid() -> dict[str, bytes]:
    rows = [(f"u{number}", f"text {number}, café") for number in range(12)]
    table = pa.table({"UUID": [uuid for uuid, _ in rows], "REVIEW_TEXT": [text for _, text in rows]})
    files = {
        "a.csv": "UUID,REVIEW_TEXT\n" + "".join(f'{uuid},"{text}"\n' for uuid, text in rows),
        "a.txt": "".join(f'"{uuid}","{text}"\n' for uuid, text in rows),
        "a.jsonl": "".join(json.dumps({"UUID": uuid, "REVIEW_TEXT": text}) + "\n" for uuid, text in rows),
    }
    contents = {name: text.encode() for name, text in files.items()}
    for codec in ("none", "snappy", "zstd", "gzip"):
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression=codec, row_group_size=5, write_page_checksum=codec == "snappy")
        contents[f"{codec}.parquet"] = buffer.getvalue()
    return contents | {f"{name}.gz": gzip.compress(content) for name, content in contents.items()}


@fuzzing
@given(st.data())
def test_damaged_files_become_reviews_and_rejects(data: st.DataObject):
    name = data.draw(st.sampled_from(sorted(valid())))
    content = bytearray(valid()[name])
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, max(0, len(content) - 1)))
        content[position : position + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    checked(name, bytes(content))


@fuzzing
@given(st.lists(st.tuples(any_text, any_text), min_size=1, max_size=6), st.booleans())
def test_a_json_object_is_one_record_whatever_its_values(written: list[tuple[str, str]], ascii_only: bool):
    lines = [json.dumps({"UUID": uuid, "REVIEW_TEXT": text}, ensure_ascii=ascii_only) for uuid, text in written]
    content = "\n".join(lines).encode(errors="surrogatepass")
    assert len(checked("a.jsonl", content)) == len(written)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
json_keys = st.sampled_from(["UUID", "uuid", " Uuid", "REVIEW_TEXT", "review_text", "other"]) | any_text


@fuzzing
@given(st.lists(json_values | st.dictionaries(json_keys, json_values, max_size=4), min_size=1, max_size=6))
def test_any_json_value_is_one_record(values: list[object]):
    assert len(checked("a.json", "\n".join(json.dumps(value) for value in values).encode())) == len(values)


@fuzzing
@given(st.lists(st.tuples(any_text, any_text), min_size=1, max_size=6))
def test_a_csv_row_is_one_record_whatever_its_cells(written: list[tuple[str, str]]):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(("UUID", "REVIEW_TEXT"))
    writer.writerows(written)
    # Cells with halves of surrogate pairs are bytes that are not UTF-8; one too long for a record is read as lines.
    content = buffer.getvalue().encode(errors="surrogatepass")
    assert len(checked("a.csv", content)) == len(written)


@fuzzing
@given(
    st.lists(st.tuples(st.none() | any_text, st.none() | any_text), min_size=1, max_size=20),
    st.sampled_from([pa.string(), pa.large_string(), pa.string_view()]),
    st.sampled_from([1, 3, 100]),
    st.booleans(),
)
def test_a_parquet_row_is_one_record_whatever_its_values(
    written: list[tuple[str | None, str | None]], kind: pa.DataType, group: int, dictionary: bool
):
    def column(values: list[str | None]) -> pa.Array:
        data = [None if value is None else value.encode(errors="surrogatepass") for value in values]
        array = pa.array(data, pa.binary()).cast(pa.string(), safe=False)
        return array.cast(kind)

    table = pa.table({"UUID": column([u for u, _ in written]), "REVIEW_TEXT": column([t for _, t in written])})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=group, use_dictionary=dictionary)
    assert len(checked("a.parquet", buffer.getvalue())) == len(written)


@fuzzing
@given(any_text)
def test_any_text_has_a_language_and_a_confidence(text: str):
    ((code, confidence),) = detect([text])
    assert 2 <= len(code) <= 3
    assert 0 <= confidence <= 1.001
