"""Markdown tables of exp/results/*.json. Pages hold them between `<!-- table: NAME -->` and `<!-- end -->`.

NAME is the name of a plan (its main results), <plan>/PART with a part of PARTS, a table over several plans (claims,
sizes, compute), benchmark (ours compared with the plain way) or benchmark/ways (the effect of each optimisation).
`python -m exp.reproduce --tables` writes all of them again; a test compares the pages with the results.
"""

import re
from pathlib import Path

from exp.reproduce import claims, detail_tables, plan_tables, speed_tables
from exp.reproduce.cells import command, read_results
from exp.reproduce.plans import PLANS
from utils import InputError, write_text

PAGES = (Path(__file__).parents[2] / "README.md", Path(__file__).parents[1] / "README.md")
BLOCK = re.compile(r"(<!-- table: (?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
PARTS = {
    "": plan_tables.summary,
    "front": plan_tables.front,
    "comparisons": plan_tables.comparisons,
    "baselines": plan_tables.baselines_table,
    "protocols": detail_tables.protocols_table,
    "pixels": detail_tables.pixels_table,
    "lesions": detail_tables.lesions_table,
    "evaluations": plan_tables.evaluations,
    "videos": plan_tables.videos,
    "runs": plan_tables.runs,
}
BENCHMARK_PARTS = {"": speed_tables.benchmark, "ways": speed_tables.benchmark_ways}
OVER_PLANS = {"claims": claims.claims, "sizes": claims.sizes, "compute": claims.compute}


def make(name: str) -> list[str]:
    """The lines of a table. Raises InputError when there is no table of this name."""
    if name in OVER_PLANS:
        return OVER_PLANS[name]({plan: read_results(plan) for plan in PLANS})
    stem, _, part = name.partition("/")
    parts = BENCHMARK_PARTS if stem == "benchmark" else PARTS if stem in PLANS else {}
    if part not in parts:
        there = [f"{stem}/{part}".rstrip("/") for stem in PLANS for part in PARTS]
        raise InputError(
            f"no table {name}: there are {', '.join([*OVER_PLANS, 'benchmark', 'benchmark/ways', *there])}"
        )
    results = read_results(stem)
    if results and results.get("runs", True):
        return parts[part](stem, results)
    if stem == "benchmark":
        return ["Not run. `python -m exp.benchmark`."]
    return [f"Not run. {command(stem)}.", *([] if part else plan_tables.cost(stem))]


def filled(text: str) -> str:
    """The text of a page with new tables. Raises InputError for a table that does not exist."""
    return BLOCK.sub(lambda block: "\n".join((block[1], *make(block["name"]), "", block[3])), text)


def write_pages() -> None:
    """Write the tables of all pages again."""
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            write_text(page, after)
