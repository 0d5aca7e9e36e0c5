"""Messages to people: by e-mail (SMTP) and to a Slack-compatible webhook, each set up by environment variables alone.

These settings are a class of their own, and no ``.env`` line of the project's settings: ``settings()`` travels with
every job, and these hold secrets. No error of a delivery names the webhook's address or a password. What is worth a
message is decided in ``schedules.incidents``.

Apprise was considered: it knows a hundred services by URLs that hold their secrets, which its log shows.
"""

from __future__ import annotations

import html
import json
import logging
import re
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from http.client import HTTPException
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from customer_insights.errors import RetryableError

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10
# More at once are one message that lists so many of them.
MOST_SINGLE = 10
MOST_LISTED = 50
# Slack's own limits are 150 for a header and 3000 for a section.
TITLE_CHARACTERS = 140
REASON_CHARACTERS = 1000


def _addresses(value: object) -> object:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


class AlertSettings(BaseSettings):
    """Where messages go, by variables ``CUSTOMER_INSIGHTS_ALERT_...`` and ``CUSTOMER_INSIGHTS_SMTP_...``."""

    model_config = SettingsConfigDict(
        env_prefix="CUSTOMER_INSIGHTS_", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    alert_webhook_url: SecretStr | None = Field(default=None, description="incoming webhook, as Slack gives it")
    alert_email_to: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_addresses)] = ()
    alert_email_from: str = "customer-insights@localhost"
    smtp_host: str | None = None
    smtp_port: int = Field(default=587, ge=1, le=65535)
    smtp_starttls: bool = True
    smtp_user: str | None = None
    smtp_password: SecretStr | None = None
    alert_reminder_days: float = Field(
        default=0, ge=0, description="days after which what lasts is said again; 0: it is said once"
    )

    @model_validator(mode="after")
    def _complete(self) -> AlertSettings:
        if self.alert_webhook_url and not re.match(r"https?://[^/\s]+", self.alert_webhook_url.get_secret_value()):
            raise ValueError("CUSTOMER_INSIGHTS_ALERT_WEBHOOK_URL: an address that begins with https:// was expected")
        if bool(self.alert_email_to) != bool(self.smtp_host):
            raise ValueError("e-mail needs both CUSTOMER_INSIGHTS_ALERT_EMAIL_TO and CUSTOMER_INSIGHTS_SMTP_HOST")
        if self.smtp_user and not self.smtp_starttls:
            raise ValueError(
                "CUSTOMER_INSIGHTS_SMTP_USER: a password is sent over TLS only; set CUSTOMER_INSIGHTS_SMTP_STARTTLS "
                "to true, or log in nowhere"
            )
        if any(
            not re.fullmatch(r"[^@\s,;<>]+@[^@\s,;<>]+", one) for one in (*self.alert_email_to, self.alert_email_from)
        ):
            raise ValueError("an e-mail address as ann@example.com was expected in CUSTOMER_INSIGHTS_ALERT_EMAIL_...")
        return self


Kind = Literal["new", "reminder", "resolved", "test"]
_WORDS: dict[Kind, str] = {"new": "", "reminder": "Still: ", "resolved": "Resolved: ", "test": "Test: "}


@dataclass(frozen=True)
class Notice:
    """One thing to say, in plain text; ``since`` is a time as people read it, ``link`` a page of Dagster."""

    kind: Kind
    title: str
    reason: str
    since: str
    todo: str
    link: str

    @property
    def headline(self) -> str:
        """One line without control characters: it becomes an e-mail's subject."""
        return _line(_WORDS[self.kind] + self.title, TITLE_CHARACTERS)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Name and text of what is said, in order."""
        said = [("Reason", self.reason[:REASON_CHARACTERS]), ("Since", self.since), ("What to do", self.todo)]
        return [(name, _plain(text)) for name, text in said if text]


class DeliveryError(RetryableError):
    """A message did not get to its channel; it is kept and sent again."""


class Channel(Protocol):
    """A way to people."""

    @property
    def name(self) -> str: ...

    def send(self, notices: Sequence[Notice]) -> str | None:
        """Say one thing, or several in one message; returns who did not get it, None when everybody did.

        Raises:
            DeliveryError: nobody got it.
        """


def channels(alerts: AlertSettings | None = None) -> list[Channel]:
    """The channels that the environment sets up; none is an empty list."""
    alerts = alerts or AlertSettings()
    found: list[Channel] = []
    if alerts.alert_webhook_url:
        found.append(Webhook(alerts.alert_webhook_url))
    if alerts.smtp_host:
        found.append(Email(alerts))
    return found


def send_test(alerts: AlertSettings | None = None) -> dict[str, str | None]:
    """Send a message that says it is a test to every channel: channel -> what went wrong, None when nothing did."""
    notice = Notice(
        kind="test",
        title="alerts of customer_insights get here",
        reason="Somebody asked for this message.",
        since="",
        todo="Nothing.",
        link="",
    )
    outcome: dict[str, str | None] = {}
    for channel in channels(alerts):
        try:
            outcome[channel.name] = channel.send([notice])
        except DeliveryError as error:
            outcome[channel.name] = str(error)
    return outcome


# -- a webhook ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Webhook:
    """An incoming webhook of Slack, or of what understands the same JSON (Mattermost, Rocket.Chat)."""

    url: SecretStr
    name: str = "webhook"

    def send(self, notices: Sequence[Notice]) -> None:
        """POST one message.

        By http.client: urllib3, below requests, logs the path of every request, and the path is the secret.
        """
        body = json.dumps(_slack(notices)).encode()
        request = urllib.request.Request(  # noqa: S310 - its scheme is checked by the settings
            self.url.get_secret_value(), body, {"Content-Type": "application/json"}
        )
        try:
            _opener().open(request, timeout=TIMEOUT_SECONDS).close()
        except urllib.error.HTTPError as error:
            raise DeliveryError(
                f"the webhook answered {error.code}: check CUSTOMER_INSIGHTS_ALERT_WEBHOOK_URL and whether its app may "
                "still post"
            ) from None
        except (OSError, HTTPException, ValueError) as error:
            # The error's own text may hold the address.
            raise DeliveryError(f"the webhook cannot be reached: {type(error).__name__}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the message elsewhere; it is an error as any other answer."""

    def redirect_request(self, *_: object) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect())


def _slack(notices: Sequence[Notice]) -> dict[str, Any]:
    """https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks"""
    headline = _headline(notices)
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": headline, "emoji": False}}
    ]
    if len(notices) == 1:
        said = [f"*{name}*\n{_preformatted(text)}" for name, text in notices[0].facts]
        said += [f"<{notices[0].link}|Open in Dagster>"] if notices[0].link else []
    else:
        lines = [f"• {_mrkdwn(one.headline)}" + (f" <{one.link}|open>" if one.link else "") for one in notices]
        # A section holds 3000 characters.
        said = ["\n".join(lines[at : at + 5]) for at in range(0, len(lines), 5)]
    blocks += [{"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}} for text in said]
    return {"text": _mrkdwn(headline), "blocks": blocks}


def _mrkdwn(text: str) -> str:
    """Text that Slack shows as it is: no link, no mention, and no markup but what two of its marks may make."""
    return html.escape(text, quote=False).replace("`", "'").replace("*", "∗").replace("~", "∼")


def _preformatted(text: str) -> str:
    return f"```{html.escape(text, quote=False).replace('`', chr(39))}```"


# -- e-mail ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Email:
    """Mail by an SMTP server."""

    settings: AlertSettings
    name: str = "email"

    def send(self, notices: Sequence[Notice]) -> str | None:
        """Send one mail to everybody. It is not sent again for the sake of some: the others would get it twice."""
        message = EmailMessage()
        message["Subject"] = _headline(notices)
        message["From"] = self.settings.alert_email_from
        message["To"] = ", ".join(self.settings.alert_email_to)
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid(domain="customer-insights")
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(_text(notices))
        message.add_alternative(_html(notices), subtype="html")
        with self._explained(), smtplib.SMTP(self.settings.smtp_host or "", self.settings.smtp_port,
                                             timeout=TIMEOUT_SECONDS) as server:  # fmt: skip
            if self.settings.smtp_starttls:
                server.starttls(context=ssl.create_default_context())
            if self.settings.smtp_user:
                password = self.settings.smtp_password
                server.login(self.settings.smtp_user, password.get_secret_value() if password else "")
            refused = server.send_message(message)
        if not refused:
            return None
        said = f"the mail server {self._place} takes no mail for {', '.join(refused)}; the others got it"
        logger.warning(said)
        return said

    @property
    def _place(self) -> str:
        return f"{self.settings.smtp_host}:{self.settings.smtp_port}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        place = self._place
        try:
            yield
        except smtplib.SMTPAuthenticationError as error:
            raise DeliveryError(
                f"the mail server {place} refused the login ({error.smtp_code}): check CUSTOMER_INSIGHTS_SMTP_USER and "
                "CUSTOMER_INSIGHTS_SMTP_PASSWORD"
            ) from None
        except smtplib.SMTPNotSupportedError:
            raise DeliveryError(
                f"the mail server {place} knows no STARTTLS or no login: set CUSTOMER_INSIGHTS_SMTP_STARTTLS=false for "
                "a server of your own network, and no user"
            ) from None
        except smtplib.SMTPResponseException as error:
            raise DeliveryError(f"the mail server {place} answered {error.smtp_code}") from None
        except smtplib.SMTPRecipientsRefused as error:
            raise DeliveryError(f"the mail server {place} takes no mail for {', '.join(error.recipients)}") from None
        except ssl.SSLError as error:
            raise DeliveryError(
                f"the certificate of the mail server {place} does not hold ({error.reason}): use the name that is in it"
            ) from None
        except (smtplib.SMTPException, OSError) as error:
            raise DeliveryError(f"the mail server {place} cannot be reached: {type(error).__name__}") from None


def _text(notices: Sequence[Notice]) -> str:
    if len(notices) == 1:
        said = [f"{name}: {text}" for name, text in notices[0].facts]
        return "\n\n".join([notices[0].headline, *said, *([notices[0].link] if notices[0].link else [])]) + "\n"
    return "\n\n".join([*(f"{one.headline}\n{one.link}" for one in notices)]) + "\n"


def _html(notices: Sequence[Notice]) -> str:
    if len(notices) == 1:
        facts = "".join(f"<dt><b>{name}</b></dt><dd>{html.escape(text)}</dd>" for name, text in notices[0].facts)
        body = f"<dl>{facts}</dl>{_anchor(notices[0].link, 'Open in Dagster')}"
    else:
        lines = "".join(f"<li>{html.escape(one.headline)} {_anchor(one.link, 'open')}</li>" for one in notices)
        body = f"<ul>{lines}</ul>"
    return f"<html><body><h3>{html.escape(_headline(notices))}</h3>{body}</body></html>"


def _anchor(link: str, words: str) -> str:
    return f'<a href="{html.escape(link)}">{words}</a>' if link else ""


# -- both --------------------------------------------------------------------------------------------------------------


def _headline(notices: Sequence[Notice]) -> str:
    if len(notices) == 1:
        return notices[0].headline
    counts = {kind: sum(one.kind == kind for one in notices) for kind in ("new", "reminder", "resolved")}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) + " incidents of customer_insights"


def _plain(text: str) -> str:
    """Text without control characters; its lines stay."""
    return "".join(sign for sign in text if sign.isprintable() or sign == "\n")


def _line(text: str, characters: int) -> str:
    one = " ".join(_plain(text.replace("\r", "\n")).split())
    return one if len(one) <= characters else one[: characters - 1] + "…"
