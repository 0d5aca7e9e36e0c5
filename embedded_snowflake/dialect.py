"""What sqlglot reads otherwise than Snowflake does. Functions are rewritten in ``sql_functions``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot.dialects.snowflake import Snowflake

from embedded_snowflake.statements import at_start

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake


@at_start
def read_casts_of_placeholders(_: EmbeddedSnowflake) -> None:
    """Read ``?::DATE`` as the cast of a placeholder; sqlglot has ``?::`` as an operator of another engine."""
    tokenizer = Snowflake.Tokenizer
    tokenizer.KEYWORDS = {word: token for word, token in tokenizer.KEYWORDS.items() if word != "?::"}
    # Makes the tokenizer's tables from its words anew, as the definition of the class did.
    tokenizer.__init_subclass__()
