"""Tables of exp/results/benchmark.json."""

from typing import Any

from exp.reproduce.cells import NOTHING, Results, markdown, source


def median_and_range(times: dict[str, float], scale: float = 1) -> str:
    """`median (smallest–largest)` from exp.benchmark.median_of, with two decimals if the median is below 10."""
    middle, low, high = (scale * times[name] for name in ("median", "min", "max"))
    places = 2 if middle < 10 else 0
    return f"{middle:.{places}f} ({low:.{places}f}–{high:.{places}f})"


def gigabytes(way: dict[str, Any]) -> str:
    """The peak memory of a way to compute, in GB."""
    return f"{way['peak_memory'] / 1e9:.2f}" if way.get("peak_memory") else NOTHING


def titles(results: Results) -> list[str]:
    """The name of each comparison, with its frame size."""
    return [f"{table['title']}, {table['size']}x{table['size']}" for table in results["tables"]]


def benchmark(_: str, results: Results) -> list[str]:
    """One row per comparison: this project and the plain way.

    Relative to a matrix product: the floating-point operations per second of ours, divided by those of a product of two
    large matrices. It may exceed 100 %: convolutions can be faster than a matrix product.
    """
    rows = []
    for title, table in zip(titles(results), results["tables"], strict=True):
        plain, ours = table["ways"]["plain"], table["ways"]["ours"]
        share = f"{ours['share_of_product']:.0%}" if "share_of_product" in ours else NOTHING
        times = (
            f"**{median_and_range(ours['times_plain'])}**",
            median_and_range(plain["seconds"], 1000),
            median_and_range(ours["seconds"], 1000),
        )
        rows.append(
            (title, table["clips"], *times, f"{ours['clips_per_second']:.1f}", share, *map(gigabytes, (plain, ours)))
        )
    header = (
        "",
        "clips",
        "times plain",
        "plain, ms",
        "ours, ms",
        "ours, clips per second",
        "ours, relative to a matrix product",
    )
    counts = sorted({table["rounds"] for table in results["tables"]})
    rounds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return [
        *markdown((*header, "plain, GB", "ours, GB"), rows),
        "",
        f"`python -m exp.benchmark`: medians over {rounds} rounds, in each of which all variants take a turn; in"
        f" brackets, the smallest and largest value. {results['date']}, {source(results)}.",
    ]


def benchmark_ways(_: str, results: Results) -> list[str]:
    """One row per variant, one column per comparison: its speed relative to ours."""
    ways = dict.fromkeys(way for table in results["tables"] for way in table["ways"] if way != "ours")

    def cell(table: dict[str, Any], way: str) -> str:
        return median_and_range(table["ways"][way]["times_ours"]) if way in table["ways"] else NOTHING

    rows = [(way, *(cell(table, way) for table in results["tables"])) for way in ways]
    return markdown(("times as fast as ours", *titles(results)), rows)
