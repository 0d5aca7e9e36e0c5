"""Addresses of Snowflake's own pages (Snowsight) for tables, models and jobs, as links for people.

They are known from the session, on a Snowflake account only: no other server has such pages. The paths are those that
Snowsight shows in the browser's address line; they are no documented interface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from customer_insights import query

if TYPE_CHECKING:
    from snowflake.snowpark import Session

HOSTS = (".snowflakecomputing.com", ".snowflakecomputing.cn")
Kind = Literal["table", "view", "model", "service", "stage"]


def page(session: Session, kind: Kind, qualified_name: str) -> str | None:
    """Address of the page of ``DATABASE.SCHEMA.NAME``; None where the session's server has no Snowsight."""
    if not str(session.connection.host).endswith(HOSTS):
        return None
    row = query.row(session, "SELECT CURRENT_ORGANIZATION_NAME() AS ORGANIZATION, CURRENT_ACCOUNT_NAME() AS ACCOUNT")
    return address(row["ORGANIZATION"], row["ACCOUNT"], kind, qualified_name)


def address(organization: str, account: str, kind: Kind, qualified_name: str) -> str:
    """The page's address, from the names of organization and account."""
    database, schema, name = (quote(part, safe="") for part in qualified_name.replace('"', "").split("."))
    root = f"https://app.snowflake.com/{organization.lower()}/{account.lower()}"
    return f"{root}/#/data/databases/{database}/schemas/{schema}/{kind}/{name}"
