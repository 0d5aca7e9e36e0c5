"""The four jobs: what each finds in its schema, and what must be there when it has ended well.

What must be there is what a run that nobody disturbed has written (``Reference``), and of that in turn the number of
rows and the texts must be those that went in.
"""

from __future__ import annotations

import gzip
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from customer_insights import features, model_versions, promotion, purchase_model
from customer_insights.sample_data import load_written, synthetic_features
from customer_insights.tables import (
    INGESTED_FILES,
    PURCHASE_FEATURES,
    RAW_REVIEWS,
    REJECTED_REVIEWS,
    REVIEW_QUALITY,
    REVIEW_SENTIMENT,
    Table,
)
from rounds.place import END, START, Place

TRAINING_ROWS = 300
OLD_VERSION = "OLD"
# Those that say when and by whom, which differ between two runs that did the same.
_OF_THE_RUN = {"FILE_ARRIVED_AT", "INGESTED_AT", "REJECTED_AT", "SCORED_AT", "RUN_ID", "ARRIVAL_DATE"}
_SCORE_DIGITS = 5


@dataclass
class Found:
    """How what was found differs from what was to be found."""

    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    prefixes: int = 0
    versions_doubled: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        counts = (self.lost, self.doubled, self.wrong, self.prefixes, self.versions_doubled)
        return not any(counts) and not self.notes


@dataclass(frozen=True)
class Data:
    """Review files with doubled UUIDs and bad rows, and what is known of them without reading them again."""

    files: dict[str, bytes]
    texts: dict[str, str]
    rejects: int

    @classmethod
    def make(cls, seed: int) -> Data:
        """30 to 60 reviews of many languages in quickstart texts, CSV, JSON lines, gzip and Parquet."""
        chance = random.Random(seed)
        written = load_written().sample(chance.randint(30, 60), random_state=seed)
        rows = [(str(uuid), str(text)) for uuid, text in zip(written["uuid"], written["review_text"], strict=True)]
        texts, rejects = dict(rows), 0
        files: dict[str, bytes] = {}
        parts = [rows[start : start + 8] for start in range(0, len(rows), 8)]
        for number, part in enumerate(parts):
            lines = list(part)
            if number and chance.random() < 0.5:
                # A UUID of an earlier file, with another text: the first one stays.
                lines.append((parts[number - 1][0][0], "Seen before."))
                rejects += 1
            name, content = _file(number, lines)
            files[name] = content
        files["x-no-reviews.docx"] = b"x"
        files["y-empty.jsonl"] = b""
        files["z-bad.txt"] = b'"z1","Good chair."\nno delimiter here\n"z2","caf\xe9"\n'
        texts["z1"] = "Good chair."
        return cls(files, texts, rejects + 4)


def _file(number: int, rows: Sequence[tuple[str, str]]) -> tuple[str, bytes]:
    frame = pd.DataFrame(rows, columns=["uuid", "review_text"])
    kind = ("csv", "jsonl", "csv.gz", "parquet", "jsonl.gz")[number % 5]
    if kind == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        content = buffer.getvalue()
    elif kind.startswith("csv"):
        content = frame.to_csv(index=False).encode()
    else:
        content = frame.to_json(orient="records", lines=True, force_ascii=False).encode()
    return f"{number:02d}.{kind}", gzip.compress(content, mtime=0) if kind.endswith("gz") else content


@dataclass(frozen=True)
class Reference:
    """A schema in which every job ran once and was not disturbed, and what it left there."""

    data: Data
    schema: str
    tables: dict[str, dict[tuple, tuple]]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A job: its module, the tables it writes, what a round needs before it."""

    entrypoint: str
    writes: tuple[Table, ...]
    prepare: Callable[[Place, Reference, random.Random], None]
    extras: Callable[[Place], dict[str, Any]]

    @property
    def trains(self) -> bool:
        return not self.writes


def _window(_: Place) -> dict[str, Any]:
    return {"arrival_start": START, "arrival_end": END}


def put_files(place: Place, data: Data) -> None:
    """In the order of their names, so that they arrive in it."""
    for name in sorted(data.files):
        place.put(f"@{place.settings.review_stage}/{name}", data.files[name])


def _with_files(place: Place, reference: Reference, _: random.Random) -> None:
    put_files(place, reference.data)


def _with_reviews(place: Place, reference: Reference, _: random.Random) -> None:
    place.run(f"INSERT INTO RAW_REVIEWS SELECT * FROM {place.settings.database}.{reference.schema}.RAW_REVIEWS")


def _with_features(place: Place, reference: Reference, chance: random.Random) -> None:
    source = f"{place.settings.database}.{reference.schema}"
    place.run(f"INSERT INTO PURCHASE_FEATURES SELECT * FROM {source}.PURCHASE_FEATURES")
    if chance.random() < 0.5:
        # There is an older version, in service or about to be.
        model = place.settings.model_name
        place.run(f"CREATE MODEL {model} WITH VERSION {OLD_VERSION} FROM MODEL {source}.{model}")
        alias = chance.choice(("CHALLENGER", "CHAMPION"))
        place.run(f"ALTER MODEL {model} VERSION {OLD_VERSION} SET ALIAS = {alias}")


def make_features(place: Place, seed: int) -> None:
    """Rows of PURCHASE_FEATURES to train on."""
    frame = synthetic_features(TRAINING_ROWS, seed=seed)[list(PURCHASE_FEATURES.column_names)]
    place.session.write_pandas(frame, PURCHASE_FEATURES.name)


INGEST = Job("ingest_reviews", (RAW_REVIEWS, REJECTED_REVIEWS, INGESTED_FILES), _with_files, _window)
SENTIMENT = Job("score_sentiment", (REVIEW_SENTIMENT,), _with_reviews, _window)
QUALITY = Job("classify_quality", (REVIEW_QUALITY,), _with_reviews, _window)
TRAINING = Job(
    "train_conversion", (), _with_features, lambda place: {"training_set": features.fingerprint(place.session)}
)
JOBS = {job.entrypoint: job for job in (INGEST, SENTIMENT, QUALITY, TRAINING)}


# -- what was written -------------------------------------------------------------------------------------------------


def written(place: Place, table: Table) -> tuple[dict[tuple, tuple], Counter[tuple]]:
    """Key -> the other values, of which those that belong to a run are left out; and how often each key occurs."""
    values = [name for name in table.column_names if name not in table.key and name not in _OF_THE_RUN]
    rows: dict[tuple, tuple] = {}
    counts: Counter[tuple] = Counter()
    for row in place.run(f"SELECT * FROM {table.name}"):
        key = tuple(row[name] for name in table.key)
        rows[key] = tuple(_comparable(row[name]) for name in values)
        counts[key] += 1
    return rows, counts


def _comparable(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _SCORE_DIGITS)
    if isinstance(value, str) and value.startswith("{"):
        kept = {
            key: round(found, _SCORE_DIGITS - 1) if isinstance(found, float) else found
            for key, found in json.loads(value).items()
        }
        return json.dumps(kept, sort_keys=True)
    return value


def compare(place: Place, job: Job, reference: Reference) -> Found:
    """What the job left in its tables, or in the registry, beside what it should have left."""
    return _compare_versions(place, reference) if job.trains else _compare_rows(place, job, reference)


def _compare_rows(place: Place, job: Job, reference: Reference) -> Found:
    found = Found()
    for table in job.writes:
        rows, counts = written(place, table)
        expected = reference.tables[table.name]
        found.lost += len(expected.keys() - rows.keys())
        found.doubled += sum(count - 1 for count in counts.values())
        wrong = [key for key, values in rows.items() if expected.get(key) != values]
        found.wrong += len(wrong)
        found.notes += [f"{table.name} {key}: {rows[key]} instead of {expected.get(key)}" for key in wrong[:3]]
    return found


def _compare_versions(place: Place, reference: Reference) -> Found:
    settings = place.settings
    known = promotion.versions(place.session, settings)
    made = [version for version in known if version.name != OLD_VERSION]
    if not made:
        return Found(lost=1)
    found = Found(versions_doubled=len(made) - 1)
    training_set, code = features.fingerprint(place.session), purchase_model.code_version(settings)
    named = promotion.trained_on(known, training_set, code)
    if named is None:
        found.lost = 1
        found.notes.append(f"no version says that it was trained on {training_set}: {[v.metrics for v in made]}")
        return found
    measured = _metrics(named.metrics)
    if measured != reference.metrics:
        found.wrong += 1
        different = {
            key for key in measured.keys() | reference.metrics if measured.get(key) != reference.metrics.get(key)
        }
        found.notes.append(f"metrics of {named.name} differ: {sorted(different)}")
    aliases = {alias: version.name for version in known for alias in version.aliases}
    if aliases.get("CHALLENGER") != named.name or aliases.get("CHAMPION") not in (None, OLD_VERSION):
        found.wrong += 1
        found.notes.append(f"the aliases are {aliases}, expected CHALLENGER on {named.name}")
    loaded = model_versions.load(place.session, settings, named.name)
    visits = place.session.table(PURCHASE_FEATURES.name).to_pandas()
    predicted = loaded.predict_proba(purchase_model.model_input(visits))[:, 1]
    if not ((predicted > 0) & (predicted < 1)).all():
        found.wrong += 1
        found.notes.append(f"{named.name} does not predict probabilities")
    return found


def _metrics(measured: dict[str, Any]) -> dict[str, Any]:
    """Those that do not depend on which run it was and whether there was a champion."""
    kept = {name: value for name, value in measured.items() if name != "run_id" and "champion" not in name}
    return {name: round(value, 9) if isinstance(value, float) else value for name, value in kept.items()}


def remember(place: Place, data: Data) -> Reference:
    """What undisturbed runs have left in this place. Raises AssertionError where that is not what went in."""
    tables = {}
    for table in (table for job in JOBS.values() for table in job.writes):
        rows, counts = written(place, table)
        assert max(counts.values()) == 1, f"{table.name} has doubled keys"
        tables[table.name] = rows
    position = [name for name in RAW_REVIEWS.column_names if name not in (*RAW_REVIEWS.key, *_OF_THE_RUN)]
    found = {key[0]: values[position.index("REVIEW_TEXT")] for key, values in tables[RAW_REVIEWS.name].items()}
    assert found == data.texts, "an undisturbed run did not write the texts that went in"
    assert len(tables[REJECTED_REVIEWS.name]) == data.rejects, "an undisturbed run did not reject what is bad"
    assert len(tables[INGESTED_FILES.name]) == len(data.files)
    for table in (REVIEW_SENTIMENT, REVIEW_QUALITY):
        assert tables[table.name].keys() == tables[RAW_REVIEWS.name].keys()
    (version,) = promotion.versions(place.session, place.settings)
    return Reference(data, place.settings.schema_name, tables, _metrics(version.metrics))
