"""Where a round takes place: a schema of its own with the project's tables and stages."""

from __future__ import annotations

import base64
import http.client
import io
import json
from dataclasses import dataclass
from typing import Any

from customer_insights import query, stage_files
from customer_insights.jobs.pipes_stage_writer import CONTEXT_FILE, LOCATION_KEY
from customer_insights.settings import Settings
from customer_insights.tables import TABLES

START, END = "2020-01-01", "2099-12-31"


@dataclass(frozen=True)
class Window:
    """The routes of ``rounds.server``."""

    port: int
    user: str
    password: str

    def ask(self, path: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
        """GET, or POST where there is a document."""
        credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            body = None if document is None else json.dumps(document)
            connection.request("GET" if body is None else "POST", path, body, {"Authorization": f"Basic {credentials}"})
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(f"{path} answered {response.status}")
            return json.loads(response.read())
        finally:
            connection.close()


@dataclass(frozen=True)
class Place:
    """A schema, by a session that is not the jobs'."""

    session: Any
    settings: Settings

    @classmethod
    def make(cls, session: Any, name: str) -> Place:
        """Create the schema with everything in it, and enter it."""
        settings = Settings(schema_name=name, sentiment_cortex_languages=(), minimum_training_rows=200)
        place = cls(session, settings)
        place.run(f"CREATE OR REPLACE SCHEMA {settings.qualified_schema}")
        session.use_schema(settings.qualified_schema)
        for stage in (settings.review_stage, settings.payload_stage, settings.work_stage):
            place.run(f"CREATE STAGE {stage} ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')")
        for table in TABLES:
            place.run(table.create_ddl())
        return place

    def run(self, sql: str, *binds: object) -> list[dict[str, Any]]:
        return query.rows(self.session, sql, binds)

    def rows(self, sql: str) -> list[tuple]:
        return [tuple(row.values()) for row in self.run(sql)]

    def put(self, location: str, content: bytes) -> None:
        stage_files.write_bytes(self.session, io.BytesIO(content), location)

    def work_files(self) -> list[str]:
        """What lies on the work stage."""
        return stage_files.list_names(self.session, f"@{self.settings.qualified_schema}.{self.settings.work_stage}")

    def pipes_location(self, run_id: str, attempt: int, extras: dict[str, Any]) -> dict[str, str]:
        """Put down what Dagster would tell a job, and return the Pipes parameters that name the place."""
        location = f"@{self.settings.qualified_schema}.{self.settings.payload_stage}/{run_id}/{attempt}"
        context = {
            "asset_keys": ["rounds"],
            "code_version_by_asset_key": {"rounds": None},
            "provenance_by_asset_key": {"rounds": None},
            "partition_key": None,
            "partition_key_range": None,
            "partition_time_window": None,
            "run_id": run_id,
            "job_name": "rounds",
            "retry_number": attempt,
            "extras": {"settings": self.settings.model_dump(mode="json"), **extras},
        }
        self.put(f"{location}/{CONTEXT_FILE}", json.dumps(context).encode())
        return {LOCATION_KEY: location}
