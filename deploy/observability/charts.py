"""Builds Grafana dashboards from rows of charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

WIDTH, HEIGHT, COLUMNS = 8, 8, 24
DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
"""Chosen in the dashboard, since its name differs from one Grafana to the next."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One panel. `number` is its id: unique in its dashboard, and never changed, so that links to it stay."""

    number: int
    title: str
    unit: str
    """One of Grafana's: `s`, `reqps`, `short`, `percentunit`, `bytes`, `currencyUSD`."""
    lines: Mapping[str, str]
    """Expressions by their legend."""
    description: str = ""
    limit: float | None = None
    """What the system promises: drawn as a line."""
    stacked: bool = False


@dataclass(frozen=True, kw_only=True)
class Board:
    """A dashboard. `uid` is in its address and never changes."""

    uid: str
    title: str
    description: str
    rows: Mapping[str, Sequence[Chart]] = field(default_factory=dict)

    @property
    def charts(self) -> list[Chart]:
        return [chart for row in self.rows.values() for chart in row]

    def render(self) -> str:
        """Return the dashboard as Grafana imports it."""
        board = (
            dashboard.Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags(["spotinference"])
            .timezone("utc")
            .time("now-6h", "now")
            .refresh("1m")
            .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
            .with_variable(_namespace_variable())
        )
        for number, (title, row) in enumerate(self.rows.items()):
            board = board.with_row(dashboard.Row(title).id(1000 + number))
            for chart in row:
                board = board.with_panel(_panel(chart))
        return JSONEncoder(sort_keys=True, indent=1).encode(board.build()) + "\n"


def _namespace_variable() -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable("namespace")
        .label("Namespace")
        .datasource(DATASOURCE)
        .query("label_values(spot_build_info, namespace)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _panel(chart: Chart) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .id(chart.number)
        .title(chart.title)
        .description(chart.description)
        .datasource(DATASOURCE)
        .unit(chart.unit)
        .min(0)
        .span(WIDTH)
        .height(HEIGHT)
        .fill_opacity(20 if chart.stacked else 5)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    if chart.stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if chart.limit is not None:
        panel = panel.thresholds(_limit(chart.limit)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
        )
    for letter, (legend, expression) in zip("ABCDEFGH", chart.lines.items(), strict=False):
        panel = panel.with_target(prometheus.Dataquery().ref_id(letter).expr(expression).legend_format(legend))
    return panel


def _limit(value: float) -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=None, color="green"), Threshold(value=value, color="red")]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
