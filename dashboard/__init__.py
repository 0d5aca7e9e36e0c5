"""The dashboard: a Streamlit app that reads the tables, on a laptop and in Snowflake with the same code.

Every number is aggregated in the warehouse (``queries``); what people choose reaches it as bound parameters
(``selection``). It writes nothing, and imports neither Dagster nor anything of ``assets``, ``resources`` or
``schedules``: Streamlit in Snowflake has none of them.
"""
