-- Presigned URLs, by which jobs read, open the files of stages that Snowflake encrypts, not the client.
{%- for stage in stages %}
CREATE STAGE IF NOT EXISTS {{ stage }} DIRECTORY = (ENABLE = TRUE) ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE');
{%- endfor %}
