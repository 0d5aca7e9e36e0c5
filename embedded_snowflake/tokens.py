"""SQL as tokens: find calls of functions and replace spans of the text, leaving the rest as it was written.

A statement is not parsed and printed again: what neither the parser nor the printer knows would be lost on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot.errors import TokenError
from sqlglot.tokens import Token, TokenType  # pyright: ignore[reportPrivateImportUsage]

from embedded_snowflake.errors import ProgrammingError

_OPEN = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE}
_CLOSE = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE}
_NOT_NAMES = {TokenType.STRING, TokenType.NUMBER, TokenType.RAW_STRING, TokenType.HEREDOC_STRING}


@dataclass(frozen=True)
class Edit:
    """Replace the text from ``start`` up to, not including, ``end``."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Call:
    """``a.b.c(x, y)``: the parts of its name as written, its arguments' texts, and where it is."""

    path: tuple[str, ...]
    arguments: tuple[str, ...]
    start: int
    name_end: int
    end: int


class Tokens:
    """The tokens of one statement."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        try:
            self.all: list[Token] = sqlglot.tokenize(sql, read="snowflake")
        except TokenError as error:
            raise ProgrammingError(msg=f"SQL compilation error:\n{error}", errno=1003, sqlstate="42000") from error

    def text(self, first: int, last: int) -> str:
        """The statement's text from token ``first`` up to and with token ``last``."""
        return self.sql[self.all[first].start : self.all[last].end + 1] if first <= last else ""

    def is_type(self, position: int, token_type: TokenType) -> bool:
        return 0 <= position < len(self.all) and self.all[position].token_type == token_type

    def is_word(self, position: int, *words: str) -> bool:
        """Whether the token is one of these keywords or names, unquoted."""
        if not 0 <= position < len(self.all):
            return False
        token = self.all[position]
        return token.token_type not in _NOT_NAMES | {TokenType.IDENTIFIER} and token.text.upper() in words

    def is_name(self, position: int) -> bool:
        if not 0 <= position < len(self.all):
            return False
        token = self.all[position]
        if token.token_type == TokenType.IDENTIFIER:
            return True
        return token.token_type not in _NOT_NAMES and (token.text[:1].isalpha() or token.text[:1] == "_")

    def closing(self, opening: int) -> int:
        """The position of the bracket that closes the one at ``opening``."""
        depth = 0
        for position in range(opening, len(self.all)):
            if self.all[position].token_type in _OPEN:
                depth += 1
            elif self.all[position].token_type in _CLOSE:
                depth -= 1
                if depth == 0:
                    return position
        raise ProgrammingError(
            msg="SQL compilation error:\nsyntax error: a bracket is not closed.", errno=1003, sqlstate="42000"
        )

    def opening(self, closing: int) -> int:
        """The position of the bracket that the one at ``closing`` closes."""
        depth = 0
        for position in range(closing, -1, -1):
            if self.all[position].token_type in _CLOSE:
                depth += 1
            elif self.all[position].token_type in _OPEN:
                depth -= 1
                if depth == 0:
                    return position
        raise ProgrammingError(
            msg="SQL compilation error:\nsyntax error: a bracket was not opened.", errno=1003, sqlstate="42000"
        )

    def path_before(self, position: int) -> int:
        """The first token of the dotted name whose last part is at ``position``."""
        while self.is_type(position - 1, TokenType.DOT) and self.is_name(position - 2):
            position -= 2
        return position

    def arguments(self, opening: int, closing: int) -> tuple[str, ...]:
        """The texts between the brackets, split at commas that are in no inner bracket."""
        texts, first, position = [], opening + 1, opening + 1
        while position < closing:
            if self.all[position].token_type in _OPEN:
                position = self.closing(position)
            elif self.all[position].token_type == TokenType.COMMA:
                texts.append(self.text(first, position - 1))
                first = position + 1
            position += 1
        if first < closing:
            texts.append(self.text(first, closing - 1))
        return tuple(texts)

    def calls(self) -> Iterator[Call]:
        """Every call of a function by a plain or dotted name, in the order of the text."""
        for opening, token in enumerate(self.all):
            if token.token_type != TokenType.L_PAREN or not self.is_name(opening - 1):
                continue
            first = self.path_before(opening - 1)
            closing = self.closing(opening)
            yield Call(
                tuple(self.all[position].text for position in range(first, opening, 2)),
                self.arguments(opening, closing),
                self.all[first].start,
                self.all[opening - 1].end + 1,
                self.all[closing].end + 1,
            )

    def edited(self, edits: Sequence[Edit]) -> str:
        """The statement's text with the edits made; they must not overlap."""
        sql = self.sql
        for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
            sql = sql[: edit.start] + edit.text + sql[edit.end :]
        return sql
