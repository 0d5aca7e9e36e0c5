"""What every asset of a table carries, from ``tables``: column schema, column lineage, owners, a sample of rows, links
to its table and its code.

Nothing about a single asset belongs here.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from customer_insights import display, query, tables
from customer_insights.settings import settings
from customer_insights.tables import Table
from resources import snowsight
from resources.compute_pool import ROOT, SLOTS

if TYPE_CHECKING:
    from snowflake.snowpark import Session

OWNERS = ["team:customer-insights"]
# Days are worked on side by side, as many as the compute pool has nodes; an asset without partitions has a pool of its
# own name, with one slot, so that two people who click Materialize get one run after the other.
COMPUTE_POOL = SLOTS
SAMPLE_ROWS = 5

DAILY = dg.DailyPartitionsDefinition(start_date=settings().partition_start, end_offset=1)
FIRST_DAY = DAILY.start.date().isoformat()
# A range of days is one run and one job; of a long one each month is, so that one sees how far it is, and what fails is
# repeated alone.
ONE_RUN = dg.BackfillPolicy.multi_run(max_partitions_per_run=settings().days_per_run)


def table_metadata(table: Table) -> dict[str, Any]:
    """Definition metadata of the asset that is ``table``."""
    return {
        "dagster/column_schema": column_schema(table),
        "dagster/table_name": f"{settings().qualified_schema}.{table.name}",
    }


def column_schema(table: Table) -> dg.TableSchema:
    """Names, types, descriptions and constraints of the columns."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.type,
                description=" ".join([column.description, *_origins(column)]),
                constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=table.key == (column.name,)),
            )
            for column in table.columns
        ]
    )


def _origins(column: tables.Column) -> list[str]:
    """Where a column comes from, a sentence an asset: Dagster's open-source page shows no column lineage, but links."""
    found: dict[str, list[str]] = {}
    for table, _, source in (name.partition(".") for name in column.lineage):
        found.setdefault(tables.named(table).asset, []).append(source)
    return [f"From [{asset}](/assets/{asset}): {', '.join(sources)}." for asset, sources in found.items()]


def column_lineage(table: Table) -> dg.TableColumnLineage:
    """For every column, the columns of other assets that it is computed from."""
    return dg.TableColumnLineage(
        {
            column.name: [
                dg.TableColumnDep(asset_key=dg.AssetKey(tables.named(name).asset), column_name=source)
                for name, _, source in (source.partition(".") for source in column.lineage)
            ]
            for column in table.columns
            if column.lineage
        }
    )


def with_code(asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
    """The asset with a link to its code: in the repository of the settings, or else to the file.

    Dagster's own ``with_source_code_references`` takes the file of the outermost decorator.
    """
    function = inspect.unwrap(asset.op.compute_fn.decorated_fn)
    file, (_, line) = Path(inspect.getfile(function)), inspect.getsourcelines(function)
    if settings().code_url:
        place = f"{settings().code_url}/blob/{settings().code_branch}/{file.relative_to(ROOT).as_posix()}#L{line}"
        reference: Any = dg.UrlCodeReference(url=place)
    else:
        reference = dg.LocalFileCodeReference(file_path=str(file), line_number=line)
    references = {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])}
    return asset.map_asset_specs(lambda spec: spec.merge_attributes(metadata=references))


def materialized(session: Session, table: Table, where: str = "", binds: Sequence[object] = ()) -> dict[str, Any]:
    """Materialization metadata of a table: row count, lineage and a sample, of the rows that ``where`` selects."""
    condition = f" WHERE {where}" if where else ""
    count = query.value(session, f"SELECT COUNT(*) FROM {table.name}{condition}", binds)
    return {
        "dagster/row_count": int(count),
        "dagster/column_lineage": column_lineage(table),
        "sample": sample(session, table, condition, binds),
        **link(session, "view" if table is tables.REVIEWS else "table", table.name),
    }


def link(session: Session, kind: snowsight.Kind, name: str) -> dict[str, dg.UrlMetadataValue]:
    """The object's page in Snowsight, where the server has one."""
    address = snowsight.page(session, kind, f"{settings().qualified_schema}.{name}")
    return {"snowsight": dg.MetadataValue.url(address)} if address else {}


def fingerprint(session: Session, table: Table, where: str = "TRUE", binds: Sequence[object] = ()) -> str:
    """A data version of the rows that ``where`` selects: the same whenever, by whichever run and in whatever order they
    were written."""
    said = [column.name for column in table.columns if column.type != "TIMESTAMP_NTZ" and column.name != "RUN_ID"]
    sql = f"SELECT HASH_AGG({', '.join(said)}) AS F, COUNT(*) AS N FROM {table.name} WHERE {where}"
    row = query.row(session, sql, binds)
    return f"{row['F'] or 0}-{row['N']}"


def sample(session: Session, table: Table, condition: str, binds: Sequence[object]) -> dg.MarkdownMetadataValue:
    """A few rows as a Markdown table, the same ones each time; texts, which customers wrote, are cut and escaped."""
    columns = ", ".join(table.column_names)
    rows = query.rows(
        session,
        f"SELECT {columns} FROM {table.name}{condition} ORDER BY MD5({table.key[0]}::STRING) LIMIT {SAMPLE_ROWS}",
        binds,
    )
    return markdown_table(table.column_names, [tuple(row.values()) for row in rows])


def markdown_table(columns: Iterable[str], rows: Iterable[Sequence[object]]) -> dg.MarkdownMetadataValue:
    """A Markdown table whose cells are plain text."""
    return dg.MetadataValue.md(display.markdown_table(columns, rows))


def counts_table(name: str, counts: Mapping[str, int]) -> dg.MarkdownMetadataValue:
    """Counts by name, the largest first."""
    return markdown_table((name, "rows"), [*Counter(counts).most_common()])


def counts_by(
    session: Session, table: Table, column: str, where: str = "", binds: Sequence[object] = ()
) -> dict[str, int]:
    """Rows by value of one column."""
    name = table.column(column).name
    condition = f" WHERE {where}" if where else ""
    rows = query.rows(session, f"SELECT {name} AS V, COUNT(*) AS N FROM {table.name}{condition} GROUP BY {name}", binds)
    return {str(row["V"]): int(row["N"]) for row in rows}


def arrival_window(context: dg.AssetExecutionContext) -> tuple[str, str]:
    """First and last day of the partitions that this run materializes."""
    span = context.partition_key_range
    return span.start, span.end


IN_WINDOW = "ARRIVAL_DATE BETWEEN ?::DATE AND ?::DATE"
