"""Parts of expressions: everything is of the namespaces that the viewer has chosen."""

HERE = 'namespace=~"$namespace"'
RATE = "$__rate_interval"


def rate(metric: str, by: str = "", *matchers: str) -> str:
    selector = ", ".join([HERE, *matchers])
    return f"sum by ({by}) (rate({metric}{{{selector}}}[{RATE}]))"


def quantile(q: str, histogram: str, by: str = "") -> str:
    labels = ", ".join(filter(None, (by, "le")))
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', labels)})"


def gauge(metric: str, by: str = "", *matchers: str, aggregate: str = "max") -> str:
    selector = ", ".join([HERE, *matchers])
    return f"{aggregate} by ({by}) ({metric}{{{selector}}})"
