"""Snowflake functions and syntax that neither fakesnow nor DuckDB has, in words that they have: a rule each.

What changes a statement's semantics (transactions, MERGE, stages) belongs in ``execution``, ``copying`` and
``stage_queries``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlglot import Expr, exp

from embedded_snowflake import sessions, stages
from embedded_snowflake.errors import unsupported

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.server import EmbeddedSnowflake

ACCOUNT = "EMBEDDED"
REGION = "LOCAL"
VERSION = "10.0.0"
PRESIGNED_URL_SECONDS = 3600
_HASH_MODULUS = 2**63 - 1


@dataclass(frozen=True)
class Context:
    """Who asks."""

    server: EmbeddedSnowflake
    connection: FakeSnowflakeConnection


Rule = Callable[[Expr, Context], Expr]


def translate(expression: Expr, context: Context) -> Expr:
    """``expression`` with every rule applied to every node of it."""
    _name_columns(expression)
    return expression.transform(lambda node: _translate_node(node, context), copy=False)


def _translate_node(node: Expr, context: Context) -> Expr:
    for rule in _RULES:
        node = rule(node, context)
    return node


def _name_columns(expression: Expr) -> None:
    """Snowflake names a column without an alias by its text in upper case; DuckDB has names of its own."""
    for select in expression.find_all(exp.Select):
        projections = select.expressions
        for position, projection in enumerate(projections):
            if _needs_name(projection):
                text = projection.sql(dialect="snowflake", comments=False).upper()
                projections[position] = exp.alias_(projection.copy(), exp.to_identifier(text, quoted=True), copy=False)
        select.set("expressions", projections)


def _needs_name(projection: Expr) -> bool:
    named = (exp.Column, exp.Alias, exp.Aliases, exp.Star, exp.Dot, exp.Placeholder, exp.Parameter)
    return not isinstance(projection, named) and not projection.find(exp.Aliases, exp.Parameter)


def _context_function(node: Expr, context: Context) -> Expr:
    session, connection = sessions.of(context.connection), context.connection
    values: dict[type, object] = {
        exp.CurrentWarehouse: session.warehouse,
        exp.CurrentRole: session.role,
        exp.CurrentUser: session.login.user,
        exp.CurrentAccount: ACCOUNT,
        exp.CurrentAccountName: ACCOUNT,
        exp.CurrentOrganizationName: ACCOUNT,
        exp.CurrentRegion: REGION,
        exp.CurrentSession: str(session.number),
        exp.CurrentDatabase: connection.database if connection.database_set else None,
        exp.CurrentSchema: connection.schema if connection.schema_set else None,
        exp.CurrentVersion: VERSION,
        exp.CurrentClient: "",
    }
    if type(node) in values:
        return _literal(values[type(node)])
    if isinstance(node, exp.CurrentAvailableRoles):
        return exp.Literal.string('["' + '", "'.join(sessions.SYSTEM_ROLES) + '"]')
    if not isinstance(node, exp.Anonymous):
        return node
    name = node.name.upper()
    if name == "LAST_QUERY_ID":
        return _literal(last_query_id(node, session))
    named = {"CURRENT_IP_ADDRESS": "127.0.0.1", "CURRENT_SECONDARY_ROLES": ""}
    return _literal(named[name]) if name in named else node


def last_query_id(node: exp.Anonymous, session: sessions.Session) -> str | None:
    """The id that LAST_QUERY_ID([n]) stands for: n counts from the last (-1) or from the first (1) statement."""
    position = int(node.expressions[0].sql()) if node.expressions else -1
    index = position if position < 0 else position - 1
    try:
        return session.query_ids[index]
    except IndexError:
        return None


def _literal(value: object) -> Expr:
    return exp.cast(exp.null(), "VARCHAR") if value is None else exp.Literal.string(str(value))


def _values_column(node: Expr, _: Context) -> Expr:
    """$1 of VALUES or of a query is its first column."""
    if not (isinstance(node, exp.Parameter) and isinstance(node.this, exp.Literal) and node.this.name.isdigit()):
        return node
    select = node.find_ancestor(exp.Select)
    source = select.args["from_"].this if select and select.args.get("from_") else None
    number = int(node.this.name)
    if isinstance(source, exp.Values):
        alias = source.args.get("alias")
        columns = alias.args.get("columns") if alias else None
        return exp.column(columns[number - 1].copy() if columns else exp.to_identifier(f"COLUMN{number}", quoted=True))
    if isinstance(source, exp.Subquery):
        inner = source.this.selects if isinstance(source.this, exp.Query) else []
        if number <= len(inner) and inner[number - 1].alias_or_name not in ("", "*"):
            return exp.column(exp.to_identifier(inner[number - 1].alias_or_name, quoted=_is_quoted(inner[number - 1])))
    return node


def _is_quoted(projection: Expr) -> bool:
    identifier = projection.args.get("alias") or projection.this
    return isinstance(identifier, exp.Identifier) and identifier.quoted


def _date_arithmetic(node: Expr, _: Context) -> Expr:
    """A date plus days is a date; DuckDB makes a timestamp of it."""
    if not isinstance(node, (exp.DateAdd, exp.DateSub, exp.DateTrunc, exp.TimestampTrunc)) or not _is_date(node):
        return node
    unit = str(node.args.get("unit") or "").upper().strip("'")
    if any(word in unit for word in ("HOUR", "MINUTE", "SECOND")):
        return node
    return exp.cast(node.copy(), "DATE")


def _is_date(node: Expr | None) -> bool:
    if isinstance(node, exp.CurrentDate):
        return True
    if isinstance(node, exp.Cast):
        return node.to.is_type("date")
    if isinstance(node, (exp.DateAdd, exp.DateSub, exp.DateTrunc, exp.TimestampTrunc, exp.Paren)):
        return _is_date(node.this)
    return False


def _any_order(node: Expr, _: Context) -> Expr:
    """ROW_NUMBER() OVER (ORDER BY SEQ8()), as Snowpark numbers rows: any order will do. SEQ8 is a window here."""
    order = node.args.get("order") if isinstance(node, exp.Window) else None
    if order and all(re.fullmatch("seq[1248]", key.this.key) for key in order.expressions):
        node.set("order", None)
    return node


def _share(node: Expr, _: Context) -> Expr:
    """RATIO_TO_REPORT(x) OVER (...) is x / SUM(x) OVER (...)"""
    function = node.this if isinstance(node, exp.Window) else None
    if not (isinstance(function, exp.Anonymous) and function.name.upper() == "RATIO_TO_REPORT"):
        return node
    (value,) = function.expressions
    total = node.copy()
    total.set("this", exp.Sum(this=value.copy()))
    return exp.Div(this=exp.cast(value.copy(), "DOUBLE"), expression=total)


def _width_bucket(node: Expr, _: Context) -> Expr:
    if not isinstance(node, exp.WidthBucket):
        return node
    value, low, high, count = (
        f"CAST({part.sql(dialect='snowflake')} AS DOUBLE)"
        for part in (node.this, node.args["min_value"], node.args["max_value"], node.args["num_buckets"])
    )
    sql = (
        f"CASE WHEN {value} IS NULL THEN NULL WHEN {value} < {low} THEN 0 WHEN {value} >= {high} THEN {count} + 1 "
        f"ELSE FLOOR(({value} - {low}) / ({high} - {low}) * {count}) + 1 END"
    )
    return exp.maybe_parse(f"CAST({sql} AS BIGINT)", dialect="snowflake")


def _hash(node: Expr, _: Context) -> Expr:
    """HASH and HASH_AGG: not Snowflake's numbers, but as good a fingerprint. HASH_AGG counts rows that are equal."""
    is_plain = isinstance(node, exp.Anonymous) and node.name.upper() == "HASH"
    if not (is_plain or isinstance(node, exp.HashAgg)):
        return node
    arguments = list(node.expressions) if is_plain else [node.this, *node.expressions]
    if any(isinstance(argument, exp.Star) for argument in arguments):
        arguments = [exp.column(name) for name in _sources(node)]
    hashed = exp.cast(exp.Anonymous(this="HASH", expressions=arguments), "INT128")
    total = hashed if is_plain else exp.Coalesce(this=exp.Sum(this=hashed), expressions=[exp.Literal.number(0)])
    return exp.cast(exp.Mod(this=exp.paren(total), expression=exp.Literal.number(_HASH_MODULUS)), "BIGINT")


def _sources(node: Expr) -> list[str]:
    select = node.find_ancestor(exp.Select)
    tables = [select.args["from_"].this, *(join.this for join in select.args.get("joins") or [])] if select else []
    return [table.alias_or_name for table in tables]


def _octets(node: Expr, _: Context) -> Expr:
    """OCTET_LENGTH(text): DuckDB's takes binary values only."""
    if not isinstance(node, exp.ByteLength):
        return node
    return exp.Anonymous(this="STRLEN", expressions=[exp.cast(node.this, "VARCHAR")])


def _random(node: Expr, _: Context) -> Expr:
    """RANDOM([seed]): 64 bits; with a seed the same ones again. fakesnow's rule overflows in a query within a query."""
    if not isinstance(node, exp.Rand):
        return node
    number = exp.Window(this=exp.RowNumber())
    source = [number, node.this] if node.this else [exp.Anonymous(this="UUID")]
    hashed = exp.cast(exp.Anonymous(this="HASH", expressions=source), "INT128")
    return exp.cast(exp.paren(exp.Sub(this=hashed, expression=exp.Literal.number(2**63))), "BIGINT")


def _presigned_url(node: Expr, context: Context) -> Expr:
    """GET_PRESIGNED_URL(@stage, path [, seconds])"""
    if not (isinstance(node, exp.Anonymous) and node.name.upper() == "GET_PRESIGNED_URL"):
        return node
    stage, path, *seconds = node.expressions
    spelled = stage.name if isinstance(stage, exp.Literal) else stage.sql(dialect="snowflake")
    if not spelled.startswith("snow://"):
        spelled = f"@{spelled.lstrip('@$')}"
    location = stages.readable(context.server, context.connection, spelled)
    arguments = [
        exp.Literal.string(str(location.local)),
        path,
        exp.cast(seconds[0] if seconds else exp.Literal.number(PRESIGNED_URL_SECONDS), "DOUBLE"),
    ]
    return exp.Anonymous(this="_PRESIGNED_URL", expressions=arguments)


def _system_function(node: Expr, _: Context) -> Expr:
    if (
        isinstance(node, exp.Anonymous)
        and node.name.upper().startswith("SYSTEM$")
        and node.name.upper() != "SYSTEM$TYPEOF"
    ):
        raise unsupported(f"function {node.name.upper()}")
    return node


_RULES: tuple[Rule, ...] = (
    *(_context_function, _values_column, _date_arithmetic, _any_order, _width_bucket, _share, _hash, _octets, _random),
    *(_presigned_url, _system_function),
)
