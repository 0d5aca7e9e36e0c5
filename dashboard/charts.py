"""The pictures: each function takes numbers and returns one chart (Vega-Lite) with a title, units and a description.

Colours are Okabe and Ito's or viridis, and never alone: a length, a place, a shape or a number says the same. The table
that stands under each chart is ``parts``' business, the numbers are ``queries``'.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import altair as alt
from altair.utils.schemapi import disable_debug_mode

from customer_insights.wording import amount, percent, signed
from dashboard import queries

if TYPE_CHECKING:
    import pandas as pd

# A chart as Vega-Lite.
Spec = dict[str, Any]
# Comparing every piece of every chart with Vega-Lite's schema takes a third of the time of a page (2.4 of 7.3 s in a
# profile); the tests compare each chart as a whole.
disable_debug_mode()
# Okabe and Ito's colours, told apart by colour-blind readers.
BLUE, ORANGE, GREEN, SKY, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "#8A8F98"
# Text that can be read on a light and on a dark page: at its first run the app is told the wrong one of them (Streamlit
# 1.67, where the machine prefers dark and the page is light).
TEXT, DARK = "#667080", "#1F2933"
# A phone leaves 300 pixels for a chart: names are broken into lines of so many characters.
NAME_CHARACTERS, ACROSS_CHARACTERS = 17, 11
LINE_PIXELS, BAR_PIXELS = 14, 30
# An axis with its title, and the space above it.
AXIS_PIXELS = 66
LEGEND_PIXELS = 40
# A label in as many lines as its name was broken into.
LINES = "split(datum.label, '\\n')"
# Vega centres the first line of a label; this centres them all.
MIDDLE: Any = {
    "condition": [
        {"test": f"length(split(datum.label, '\\n')) == {lines}", "value": -6 * (lines - 1)} for lines in (2, 3)
    ],
    "value": 0,
}
# With fewer a share says too little: it is marked.
FEW_VISITS = 30


def broken(name: object, characters: int = NAME_CHARACTERS) -> str:
    """A name in lines that fit beside a chart."""
    lines = textwrap.wrap(str(name), characters, max_lines=3, placeholder=" …")
    return "\n".join(lines) or "–"


def _rows_pixels(names: Sequence[object], legend: bool = False) -> int:
    """The height of so many rows: the name with the most lines needs the most."""
    lines = max((broken(name).count("\n") + 1 for name in names), default=1)
    return len(set(names)) * max(BAR_PIXELS, LINE_PIXELS * lines + 12) + (LEGEND_PIXELS if legend else 0)


def _names(column: str, order: Sequence[str], title: str | None = None) -> alt.Y:
    return alt.Y(
        f"{column}:N",
        sort=[broken(name) for name in order],
        title=title,
        axis=alt.Axis(labelExpr=LINES, labelOffset=MIDDLE, labelLimit=130, ticks=False, domain=False, labelPadding=6),
    )


def _finished(chart: Any, title: str, description: str, height: int, subtitle: str = "") -> Spec:
    titles, subtitles = textwrap.wrap(title, 42), textwrap.wrap(subtitle, 52)
    heading = alt.TitleParams(titles, subtitle=subtitles, anchor="start")
    # Streamlit's height is that of the whole picture, with its titles and axes.
    around = 20 * len(titles) + 16 * len(subtitles) + AXIS_PIXELS
    return (
        chart.properties(title=heading, description=f"{title}. {description}", height=height + around)
        .configure_view(strokeWidth=0)
        .configure_axis(titleFontWeight="normal", gridOpacity=0.5)
        .configure_title(fontSize=15, fontWeight=600, subtitleFontSize=12, offset=10, subtitleColor=GREY)
        .to_dict(validate=False)
    )


def listed(pairs: Sequence[tuple[object, str]]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in pairs) + "."


def _marked(row: dict[str, Any]) -> str:
    return f"{percent(row['RATE'])}{'*' if row['DECIDED'] < FEW_VISITS else ''}"


def rates(frame: pd.DataFrame, name: str, title: str, whole: float | None, unit: str) -> Spec:
    """Bars of RATE with its interval (LOW, HIGH), one a row of ``frame``, in its order; a line at ``whole``.

    ``unit``: what DECIDED counts.
    """
    data = frame.assign(
        NAME=frame[name].map(broken),
        FULL=frame[name].astype(str),
        LABEL=[f"{_marked(row)}  of {row['DECIDED']:,.0f}" for row in queries.records(frame)],
    )
    order = list(frame[name])
    furthest = float(frame["HIGH"].max())
    base = alt.Chart(data).encode(y=_names("NAME", order))
    scale = alt.Scale(domain=[0, min(1.65, furthest * 1.65)], nice=False)
    axis = alt.Axis(format="%", tickCount=4, values=[value / 5 for value in range(6) if value / 5 <= furthest * 1.1])
    tip = [
        alt.Tooltip("FULL:N", title=" "),
        alt.Tooltip("RATE:Q", format=".1%", title="Purchase rate"),
        alt.Tooltip("LOW:Q", format=".1%", title="95 % from"),
        alt.Tooltip("HIGH:Q", format=".1%", title="to"),
        alt.Tooltip("DECIDED:Q", format=",", title=unit),
    ]
    bars = base.mark_bar(color=BLUE, height={"band": 0.62}, cornerRadiusEnd=2).encode(
        x=alt.X("RATE:Q", scale=scale, axis=axis, title=f"Purchase rate, % of {unit}"), tooltip=tip
    )
    reach = base.encode(x=alt.X("LOW:Q", scale=scale), x2="HIGH:Q")
    # Dark on white is seen on the bar, beside it and on a dark page.
    spread = reach.mark_rule(color="white", strokeWidth=4, opacity=0.75) + reach.mark_rule(color=DARK, strokeWidth=1.5)
    text = base.mark_text(align="left", dx=7, color=TEXT, fontSize=12).encode(
        x=alt.X("HIGH:Q", scale=scale), text="LABEL:N"
    )
    layers = [bars, spread, text]
    if whole is not None:
        line = alt.Chart(alt.Data(values=[{"whole": whole}]))
        layers.insert(0, line.mark_rule(color=GREY, strokeDash=[4, 3], strokeWidth=1.5).encode(x="whole:Q"))
    note = "Line in a bar: 95 % interval" + (f"; dashed: all of the selection, {percent(whole)}" if whole else "")
    return _finished(
        alt.layer(*layers),
        title,
        listed([(row[name], f"{percent(row['RATE'])} of {row['DECIDED']:,.0f}") for _, row in frame.iterrows()]),
        _rows_pixels(order),
        note,
    )


def heat(frame: pd.DataFrame, across: str, down: str, orders: tuple[Sequence[str], Sequence[str]], title: str) -> Spec:
    """RATE of each pair as a shade of viridis with its number in it. ``orders``: of ``across`` and ``down``."""
    middle = (float(frame["RATE"].min()) + float(frame["RATE"].max())) / 2
    data = frame.assign(
        ACROSS=[broken(name, ACROSS_CHARACTERS) for name in frame[across]],
        DOWN=frame[down].map(broken),
        LABEL=[_marked(row) for row in queries.records(frame)],
        FULL=frame[down].astype(str) + " · " + frame[across].astype(str),
    )
    base = alt.Chart(data).encode(
        x=alt.X(
            "ACROSS:N",
            sort=[broken(name, ACROSS_CHARACTERS) for name in orders[0]],
            title=None,
            axis=alt.Axis(labelExpr=LINES, labelAngle=0, labelLimit=110, ticks=False, domain=False),
        ),
        y=_names("DOWN", orders[1]),
    )
    cells = base.mark_rect(cornerRadius=2, stroke="white", strokeWidth=1).encode(
        color=alt.Color(
            "RATE:Q",
            scale=alt.Scale(scheme="viridis"),
            legend=alt.Legend(title="Purchase rate", format="%", orient="bottom", gradientLength=180, tickCount=4),
        ),
        tooltip=[
            alt.Tooltip("FULL:N", title=" "),
            alt.Tooltip("RATE:Q", format=".1%", title="Purchase rate"),
            alt.Tooltip("DECIDED:Q", format=",", title="decided visits"),
        ],
    )
    text = base.mark_text(fontSize=12, fontWeight=600).encode(
        text="LABEL:N",
        # The light end of viridis carries dark letters.
        color=alt.condition(middle < alt.datum.RATE, alt.value("#111111"), alt.value("#FFFFFF")),
    )
    few = bool((frame["DECIDED"] < FEW_VISITS).any())
    return _finished(
        cells + text,
        title,
        listed([(f"{row[down]}, {row[across]}", percent(row["RATE"])) for _, row in frame.iterrows()]),
        _rows_pixels(list(frame[down]), legend=True) + 30,
        f"% of decided visits{f'; * fewer than {FEW_VISITS} visits' if few else ''}",
    )


def over_time(frame: pd.DataFrame, title: str, unit: str) -> Spec:
    """RATE with its interval over DAY, a point for each."""
    base = alt.Chart(frame).encode(
        x=alt.X("DAY:T", title=None, axis=alt.Axis(format="%-d %b", labelOverlap=True, tickCount=6, grid=False))
    )
    top = min(1.0, float(frame["HIGH"].max()) * 1.1)
    rate = alt.Scale(domain=[0, top])
    tip = [
        alt.Tooltip("DAY:T", format="%-d %b %Y", title=unit),
        alt.Tooltip("RATE:Q", format=".1%", title="Purchase rate"),
        alt.Tooltip("VISITS:Q", format=",", title="Visits"),
    ]
    area = base.mark_area(color=BLUE, opacity=0.18).encode(y=alt.Y("LOW:Q", scale=rate), y2="HIGH:Q")
    line = base.mark_line(color=BLUE, point=alt.OverlayMarkDef(color=BLUE, filled=True, size=35)).encode(
        y=alt.Y(
            "RATE:Q", scale=rate, axis=alt.Axis(format="%", tickCount=5), title="Purchase rate, % of decided visits"
        ),
        tooltip=tip,
    )
    first, last = frame.iloc[0], frame.iloc[-1]
    return _finished(
        area + line,
        title,
        f"From {percent(first['RATE'])} on {first['DAY']:%-d %b} to {percent(last['RATE'])} on {last['DAY']:%-d %b}.",
        220,
        "Shaded: 95 % interval",
    )


def counts(frame: pd.DataFrame, title: str, unit: str) -> Spec:
    """VISITS over DAY as bars."""
    bars = (
        alt.Chart(frame)
        .mark_bar(color=SKY, cornerRadiusEnd=2)
        .encode(
            x=alt.X("DAY:T", title=None, axis=alt.Axis(format="%-d %b", labelOverlap=True, tickCount=6, grid=False)),
            y=alt.Y("VISITS:Q", title="Visits with a review", axis=alt.Axis(format="~s", tickCount=4)),
            tooltip=[
                alt.Tooltip("DAY:T", format="%-d %b %Y", title=unit),
                alt.Tooltip("VISITS:Q", format=",", title="Visits"),
            ],
        )
    )
    return _finished(alt.layer(bars), title, f"{frame['VISITS'].sum():,.0f} visits in all.", 180)


def opinions(frame: pd.DataFrame, title: str) -> Spec:
    """Praise to the right, complaint to the left of a middle line, by ASPECT; the words say which is which."""
    import pandas as pd

    data = pd.concat(
        [
            frame.assign(SIDE="praised", AMOUNT=frame["LIKED"], AT=frame["LIKED"]),
            frame.assign(SIDE="complained of", AMOUNT=frame["DISLIKED"], AT=-frame["DISLIKED"]),
        ]
    ).assign(NAME=lambda rows: rows["ASPECT"].map(broken))
    base = alt.Chart(data).encode(y=_names("NAME", list(frame["ASPECT"])))
    furthest = float(data["AMOUNT"].max()) * 1.3 or 1.0
    scale = alt.Scale(domain=[-furthest, furthest])
    bars = base.mark_bar(height={"band": 0.6}).encode(
        x=alt.X(
            "AT:Q", scale=scale, title="← complained of · reviews · praised →", axis=alt.Axis(labels=False, grid=False)
        ),
        color=alt.Color(
            "SIDE:N",
            scale=alt.Scale(domain=["complained of", "praised"], range=[ORANGE, BLUE]),
            legend=alt.Legend(title=None, orient="top"),
        ),
        tooltip=[
            alt.Tooltip("ASPECT:N"),
            alt.Tooltip("SIDE:N", title=" "),
            alt.Tooltip("AMOUNT:Q", format=",", title="Reviews"),
        ],
    )
    right = (
        base.transform_filter("datum.SIDE == 'praised'")
        .mark_text(align="left", dx=4, color=TEXT)
        .encode(x=alt.X("AT:Q", scale=scale), text=alt.Text("AMOUNT:Q", format=","))
    )
    left = (
        base.transform_filter("datum.SIDE != 'praised'")
        .mark_text(align="right", dx=-4, color=TEXT)
        .encode(x=alt.X("AT:Q", scale=scale), text=alt.Text("AMOUNT:Q", format=","))
    )
    said = [
        (row["ASPECT"], f"{row['LIKED']:,.0f} praise, {row['DISLIKED']:,.0f} complain") for _, row in frame.iterrows()
    ]
    return _finished(bars + right + left, title, listed(said), _rows_pixels(list(frame["ASPECT"]), legend=True))


def measures(frame: pd.DataFrame, name: str, title: str, axis_title: str, line: float | None = None) -> Spec:
    """VALUE with its interval as a point and a line, one a row; a dashed line at ``line``."""
    data = frame.assign(NAME=frame[name].map(broken), FULL=frame[name].astype(str))
    base = alt.Chart(data).encode(y=_names("NAME", list(frame[name])))
    low, high = float(frame["LOW"].min()), float(frame["HIGH"].max())
    room = (high - low or 0.1) * 0.15
    bottom = min(low - room, line if line is not None else low)
    scale = alt.Scale(domain=[max(0.0, bottom), high + room * 2.4], zero=False, nice=False)
    spread = base.mark_rule(color=BLUE, strokeWidth=3, opacity=0.45).encode(x=alt.X("LOW:Q", scale=scale), x2="HIGH:Q")
    points = base.mark_point(color=BLUE, filled=True, size=80, opacity=1).encode(
        x=alt.X("VALUE:Q", scale=scale, title=axis_title, axis=alt.Axis(tickCount=4)),
        tooltip=[
            alt.Tooltip("FULL:N", title=" "),
            alt.Tooltip("VALUE:Q", format=".3f", title=axis_title),
            alt.Tooltip("LOW:Q", format=".3f", title="95 % from"),
            alt.Tooltip("HIGH:Q", format=".3f", title="to"),
            alt.Tooltip("VISITS:Q", format=",", title="test visits"),
        ],
    )
    text = base.mark_text(align="left", dx=8, color=TEXT).encode(
        x=alt.X("HIGH:Q", scale=scale), text=alt.Text("VALUE:Q", format=".3f")
    )
    layers = [spread, points, text]
    if line is not None:
        rule = alt.Chart(alt.Data(values=[{"line": line}]))
        layers.append(rule.mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="line:Q"))
    said = [(row[name], f"{row['VALUE']:.3f} ({row['LOW']:.3f} to {row['HIGH']:.3f})") for _, row in frame.iterrows()]
    return _finished(alt.layer(*layers), title, listed(said), _rows_pixels(list(frame[name])), "Line: 95 % interval")


def reliability(frame: pd.DataFrame, title: str) -> Spec:
    """PREDICTED against RATE with its interval; on the diagonal predictions come true as often as they say."""
    top = min(1.0, max(float(frame["HIGH"].max()), float(frame["PREDICTED"].max())) * 1.05)
    scale = alt.Scale(domain=[0, top], nice=False)
    diagonal = (
        alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": top, "y": top}]))
        .mark_line(color=GREY, strokeDash=[5, 4])
        .encode(x="x:Q", y="y:Q")
    )
    base = alt.Chart(frame).encode(
        x=alt.X("PREDICTED:Q", scale=scale, axis=alt.Axis(format="%", tickCount=5), title="Predicted probability, %")
    )
    spread = base.mark_rule(color=BLUE, strokeWidth=2.5, opacity=0.45).encode(
        y=alt.Y("LOW:Q", scale=scale), y2="HIGH:Q"
    )
    points = base.mark_line(color=BLUE, point=alt.OverlayMarkDef(color=BLUE, filled=True, size=70)).encode(
        y=alt.Y("RATE:Q", scale=scale, axis=alt.Axis(format="%", tickCount=5), title="Of these bought, %"),
        tooltip=[
            alt.Tooltip("PREDICTED:Q", format=".1%", title="Predicted"),
            alt.Tooltip("RATE:Q", format=".1%", title="Bought"),
            alt.Tooltip("VISITS:Q", format=",", title="Test visits"),
        ],
    )
    said = [(f"predicted {percent(row['PREDICTED'])}", f"bought {percent(row['RATE'])}") for _, row in frame.iterrows()]
    return _finished(
        diagonal + spread + points,
        title,
        listed(said),
        330,
        "Dashed: perfect. Vertical lines: 95 % interval of a tenth of the test visits",
    )


def signed_bars(
    frame: pd.DataFrame, name: str, value: str, title: str, axis_title: str, words: tuple[str, str], subtitle: str = ""
) -> Spec:
    """Bars to the right (blue, ``words[1]``) and left (vermilion, ``words[0]``) of 0, with their numbers."""
    data = frame.assign(
        NAME=frame[name].map(broken),
        FULL=frame[name].astype(str),
        SIDE=[words[1] if amount_of >= 0 else words[0] for amount_of in frame[value]],
        LABEL=[signed(float(amount_of)) if abs(amount_of) < 10 else f"{amount_of:+,.0f}" for amount_of in frame[value]],
    )
    base = alt.Chart(data).encode(y=_names("NAME", list(frame[name])))
    low, high = min(0.0, float(frame[value].min())), max(0.0, float(frame[value].max()))
    room = (high - low or 1.0) * 0.24
    scale = alt.Scale(domain=[low - (room if low < 0 else 0), high + (room if high > 0 else 0)], nice=False)
    bars = base.mark_bar(height={"band": 0.62}, cornerRadiusEnd=2).encode(
        x=alt.X(f"{value}:Q", scale=scale, title=axis_title, axis=alt.Axis(tickCount=4, format="~s")),
        color=alt.Color(
            "SIDE:N",
            scale=alt.Scale(domain=list(words), range=[ORANGE, BLUE]),
            legend=alt.Legend(title=None, orient="top") if len(set(data["SIDE"])) > 1 else None,
        ),
        tooltip=[alt.Tooltip("FULL:N", title=" "), alt.Tooltip(f"{value}:Q", format=",.2f", title=axis_title)],
    )
    layers = [bars]
    sides: tuple[tuple[str, Literal["left", "right"], int], ...] = ((words[1], "left", 4), (words[0], "right", -4))
    for side, align, dx in sides:
        part = data[data["SIDE"] == side]
        if len(part):
            layers.append(
                alt.Chart(part)
                .mark_text(align=align, dx=dx, color=TEXT)
                .encode(y=_names("NAME", list(frame[name])), x=alt.X(f"{value}:Q", scale=scale), text="LABEL:N")
            )
    said = [(row["FULL"], f"{row['LABEL']} ({row['SIDE']})") for _, row in data.iterrows()]
    return _finished(alt.layer(*layers), title, listed(said), _rows_pixels(list(frame[name]), legend=True), subtitle)


def gain(frame: pd.DataFrame, title: str) -> Spec:
    """EXPECTED_GAIN against the share of visits contacted; the diagonal is contacting at random."""
    import pandas as pd

    shares = frame["VISITS"].cumsum() / frame["VISITS"].sum()
    data = pd.DataFrame({"CONTACTED": [0.0, *shares], "GAIN": [0.0, *frame["EXPECTED_GAIN"]]})
    diagonal = (
        alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}]))
        .mark_line(color=GREY, strokeDash=[5, 4])
        .encode(x="x:Q", y="y:Q")
    )
    line = (
        alt.Chart(data)
        .mark_line(color=BLUE, point=alt.OverlayMarkDef(color=BLUE, filled=True, size=60))
        .encode(
            x=alt.X("CONTACTED:Q", axis=alt.Axis(format="%", tickCount=5), title="Visits contacted, %"),
            y=alt.Y("GAIN:Q", axis=alt.Axis(format="%", tickCount=5), title="Expected purchases, %"),
            tooltip=[
                alt.Tooltip("CONTACTED:Q", format=".0%", title="Contacted"),
                alt.Tooltip("GAIN:Q", format=".1%", title="Expected purchases"),
            ],
        )
    )
    said = [(f"{percent(x)} contacted", f"{percent(y)} of purchases") for x, y in data.itertuples(index=False)]
    return _finished(diagonal + line, title, listed(said[1:]), 300, "Dashed: contacting at random")


def distances(frame: pd.DataFrame, title: str) -> Spec:
    """DISTANCE of each thing measured; what drifted is a filled diamond, the rest a circle."""
    data = frame.assign(
        NAME=frame["NAME"].map(broken),
        FULL=frame["NAME"],
        STATE=["drifted" if drifted else "as before" for drifted in frame["DRIFTED"]],
    )
    order = list(dict.fromkeys(frame["NAME"]))
    base = alt.Chart(data).encode(y=_names("NAME", order))
    # A distance of 0.1 is what an alarm needs by default: smaller ones are to look small.
    scale = alt.Scale(domain=[0, max(0.12, float(frame["DISTANCE"].max()) * 1.1)], nice=False)
    stems = base.mark_rule(color=GREY, opacity=0.6).encode(
        x=alt.X("DISTANCE:Q", scale=scale, title="Distance from the training set, 0 to 1"),
        x2=alt.datum(0),
    )
    points = base.mark_point(filled=True, size=110, opacity=1).encode(
        x="DISTANCE:Q",
        shape=alt.Shape(
            "STATE:N",
            scale=alt.Scale(domain=["as before", "drifted"], range=["circle", "diamond"]),
            legend=alt.Legend(title=None, orient="top"),
        ),
        color=alt.Color(
            "STATE:N",
            scale=alt.Scale(domain=["as before", "drifted"], range=[BLUE, ORANGE]),
            legend=alt.Legend(title=None, orient="top"),
        ),
        tooltip=[
            alt.Tooltip("FULL:N", title=" "),
            alt.Tooltip("DISTANCE:Q", format=".3f", title="Distance"),
            alt.Tooltip("POPULATION_STABILITY:Q", format=".3f", title="PSI"),
            alt.Tooltip("STATE:N", title=" "),
        ],
    )
    said = [(row["FULL"], f"{row['DISTANCE']:.3f}, {row['STATE']}") for _, row in data.iterrows()]
    return _finished(stems + points, title, listed(said), _rows_pixels(order, legend=True))


def amounts(frame: pd.DataFrame, name: str, value: str, title: str, axis_title: str) -> Spec:
    """Bars of amounts above 0 with their numbers."""
    data = frame.assign(
        NAME=frame[name].map(broken),
        FULL=frame[name].astype(str),
        LABEL=[f"{number:.2f}" if number < 10 else amount(float(number)) for number in frame[value]],
    )
    base = alt.Chart(data).encode(y=_names("NAME", list(frame[name])))
    scale = alt.Scale(domain=[0, float(frame[value].max()) * 1.2 or 1.0], nice=False)
    bars = base.mark_bar(color=BLUE, height={"band": 0.62}, cornerRadiusEnd=2).encode(
        x=alt.X(f"{value}:Q", scale=scale, title=axis_title, axis=alt.Axis(tickCount=4)),
        tooltip=[alt.Tooltip("FULL:N", title=" "), alt.Tooltip(f"{value}:Q", format=",.3f", title=axis_title)],
    )
    text = base.mark_text(align="left", dx=5, color=TEXT).encode(x=alt.X(f"{value}:Q", scale=scale), text="LABEL:N")
    said = [(row["FULL"], row["LABEL"]) for _, row in data.iterrows()]
    return _finished(bars + text, title, listed(said), _rows_pixels(list(frame[name])))
