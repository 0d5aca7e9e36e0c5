"""The process in which models run, apart from the server: its imports, memory, GIL and crashes are its own.

Started by ``inference_process``; it imports nothing else of the server. A request is a JSON header and an Arrow stream,
and so is the answer. A registered model is run by the handler that Snowflake's client generated into its package
(``functions/<method>.py``): rows are prepared, scored and encoded by the code that runs in a warehouse. It ends when it
was idle for long and when the server closes the pipe.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
import traceback
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

# Models of this many methods stay loaded; the one used longest ago goes first.
MAX_LOADED = 16


class MissingModel(Exception):
    """What was asked for is not there, or was changed since it was registered."""


def main(descriptor: int, idle_seconds: float) -> None:
    """Answer requests until the server closes its end or ``idle_seconds`` pass without one."""
    connection = Connection(descriptor)
    tasks: dict[str, Callable[[dict[str, Any], pa.Table], pa.Table]] = {"score": _score, "sentiment": _sentiment}
    while connection.poll(idle_seconds):
        try:
            header = json.loads(connection.recv_bytes())
            with pa.ipc.open_stream(connection.recv_bytes()) as reader:
                table = reader.read_all()
        except EOFError:
            return
        try:
            answer = tasks[header["task"]](header, table)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            failure = {"ok": False, "missing": isinstance(error, MissingModel), "error": _described(error)}
            connection.send_bytes(json.dumps(failure).encode())
            continue
        connection.send_bytes(b'{"ok": true}')
        connection.send_bytes(arrow_bytes(answer))


def arrow_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def checksum(directory: Path) -> str:
    """SHA-256 over the relative names and contents of all files below ``directory``."""
    digest = hashlib.sha256()
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        digest.update(file.relative_to(directory).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _described(error: Exception) -> str:
    return str(error) if isinstance(error, MissingModel) else f"{type(error).__name__}: {error}"


# -- registered models --------------------------------------------------------------------------------------------


def _score(header: dict[str, Any], table: pa.Table) -> pa.Table:
    """One JSON text per row: the object that a function returns for it, or the array of a table function's outputs."""
    handler = _HANDLERS.get(header["directory"], header["checksum"], header["handler"])
    frame = table.to_pandas()
    for position in header["structured"]:
        column = frame.columns[position]
        frame[column] = [None if value is None else json.loads(value) for value in frame[column]]
    if handler.flatten:
        import pandas as pd

        first, *others = table.columns
        frame = pd.DataFrame([json.loads(value) for value in first.to_pylist()])
        frame = pd.concat([frame, *(column.to_pandas() for column in others)], axis=1)
    encoded: list[str] = []
    for batch in _batches(frame, handler.max_batch_size):
        encoded += [json.dumps(value, default=_plain) for value in handler.run(batch)]
    if len(encoded) != len(frame):
        raise ValueError(f"the method returned {len(encoded)} rows for {len(frame)}")
    return pa.table({"result": pa.array(encoded, pa.string())})


def _batches(frame: Any, size: int | None) -> Iterator[Any]:
    for start in range(0, len(frame), size or max(len(frame), 1)):
        yield frame.iloc[start : start + (size or len(frame))].reset_index(drop=True)


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value.tolist()


class Handler:
    """A method's handler, as the package of a model version has it."""

    def __init__(self, package: Path, handler: str) -> None:
        module_name, _, attribute = handler.rpartition(".")
        module = _import_handler(package, module_name)
        target: Any = getattr(module, attribute)
        self.run: Callable[[Any], Sequence[Any]] = target
        if inspect.isclass(target):
            process: Any = getattr(target(), "process")  # noqa: B009 - the class is the package's own
            self.run, target = (lambda frame: _records(process(frame))), process
        options = target.vectorized
        self.max_batch_size: int | None = options.get("max_batch_size")
        self.flatten = bool(options.get("flatten_object_input"))


def _records(frame: Any) -> list[list[Any]]:
    import numpy as np
    import pandas as pd

    return frame.replace({pd.NA: None, np.nan: None}).to_numpy(dtype=object).tolist()


def _import_handler(package: Path, module_name: str) -> types.ModuleType:
    # The handlers find their model where a warehouse puts it, and import _snowflake, which only a warehouse has.
    sys._xoptions["snowflake_import_directory"] = str(package)
    sys.modules["_snowflake"] = _warehouse_module()
    file = package.joinpath(*module_name.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"{package.name}.{module_name}", file)
    if spec is None or spec.loader is None or not file.exists():
        raise MissingModel(f"the model's package has no {file.relative_to(package)}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _warehouse_module() -> types.ModuleType:
    module = types.ModuleType("_snowflake")

    def vectorized(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def mark(function: Callable[..., Any]) -> Callable[..., Any]:
            function.vectorized = options  # pyright: ignore[reportFunctionMemberAccess]
            return function

        return mark

    def udf_init_once(function: Callable[[], None]) -> Callable[[], None]:
        return functools.cache(function)

    module.vectorized = vectorized  # pyright: ignore[reportAttributeAccessIssue]
    module.udf_init_once = udf_init_once  # pyright: ignore[reportAttributeAccessIssue]
    return module


class _Handlers:
    """Loaded handlers; a package is unpickled only where its files are those that were registered."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[tuple[str, str], Handler] = OrderedDict()

    def get(self, directory: str, expected: str, handler: str) -> Handler:
        key = (directory, handler)
        if key not in self._loaded:
            package = Path(directory)
            if not package.is_dir() or checksum(package) != expected:
                raise MissingModel("the files of the model version are missing or are not those that were registered")
            self._loaded[key] = Handler(package, handler)
            if len(self._loaded) > MAX_LOADED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return self._loaded[key]


_HANDLERS = _Handlers()


# -- sentiment ----------------------------------------------------------------------------------------------------


def _sentiment(header: dict[str, Any], table: pa.Table) -> pa.Table:
    """The column asked for, ``score`` (-1..1), ``label`` or ``aspects``, of every text of the column ``text``."""
    column, texts = header["column"], tuple(table.column("text").to_pylist())
    answer = _aspects if column == "aspects" else _predicted
    return answer(header["source"], texts).select([column])


# A query that asks for both columns sends each batch of rows twice, a thread of the engine at a time.
@functools.lru_cache(maxsize=4)
def _predicted(source: str, texts: tuple[str, ...]) -> pa.Table:
    """Score and label of every text, in one pass of the model."""
    model = _sentiment_model(source)
    if hasattr(model, "predict"):
        predicted = model.predict(list(texts))
        scores, labels = predicted.scores, predicted.labels
    else:
        scores = model.score(list(texts))
        labels = [_label(score) for score in scores]
    return pa.table(
        {
            "score": pa.array([float(score) for score in scores], pa.float64()),
            # AI_SENTIMENT answers NULL where it failed: so does a model that gives no label.
            "label": pa.array([None if label is None else str(label) for label in labels], pa.string()),
        }
    )


@functools.lru_cache(maxsize=4)
def _aspects(source: str, texts: tuple[str, ...]) -> pa.Table:
    """Every aspect that the model knows with its class in each text, as a JSON object; ``unknown``: not spoken of.

    A model says what it knows by ``aspect_names`` and ``aspects(texts)``; one without them knows no aspects.
    """
    model = _sentiment_model(source)
    names = tuple(getattr(model, "aspect_names", ()))
    found = model.aspects(list(texts)) if names else [{} for _ in texts]
    objects = [json.dumps({name: str(said.get(name, "unknown")) for name in names}) for said in found]
    return pa.table({"aspects": pa.array(objects, pa.string())})


@functools.cache
def _sentiment_model(source: str) -> Any:
    module, _, attribute = source.partition(":")
    try:
        build = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise MissingModel(f"{source}: {error}") from error
    return build()


def _label(score: float) -> str:
    # A model that only scores: its middle third is neither positive nor negative.
    return "positive" if score > 1 / 3 else "negative" if score < -1 / 3 else "neutral"


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
