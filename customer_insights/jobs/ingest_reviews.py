"""Ray batch job: the review files that arrived in the window become rows of RAW_REVIEWS."""

from __future__ import annotations

from collections.abc import Mapping

from customer_insights import display, ingest
from customer_insights.jobs.reporting import job


def main() -> None:
    """Ingest the window that Dagster asked for and report what was done."""
    with job() as run:
        report = ingest.ingest(run.session, run.settings, run.window.start, run.window.end, run.run_id)
        run.report(
            {
                "files ingested": report.files,
                "bytes ingested": report.bytes,
                "reviews accepted": report.rows_accepted,
                "records rejected": report.rows_rejected,
                "rejects by reason": _table("reason", report.rejects_by_reason),
                "reviews by day of arrival": _table("day", report.accepted_by_day),
                "ingest tasks": report.tasks,
                "ingest seconds": round(report.seconds, 2),
                "reviews per second": round(report.rows_in / report.seconds, 1) if report.seconds else 0.0,
            },
            markdown=("rejects by reason", "reviews by day of arrival"),
        )


def _table(name: str, counts: Mapping[str, int]) -> str:
    # A reason may quote the file.
    return display.markdown_table((name, "count"), list(counts.items())) if counts else "none"


if __name__ == "__main__":
    main()
