"""Comparisons as a LaTeX document that compiles as it is; it needs booktabs and nothing rarer."""

import re
from collections.abc import Sequence

from pipeline.comparison.formats import cell_text
from pipeline.comparison.formats.grid import grid, texts
from pipeline.comparison.tables import Table

_DOCUMENT = r"""\documentclass[10pt]{article}
\usepackage[utf8]{inputenc}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage[a4paper,landscape,margin=12mm]{geometry}
\setlength{\parindent}{0pt}
\begin{document}
%s\end{document}
"""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    '"': "''",
    "<": "$<$",
    ">": "$>$",
    # an opening bracket after the end of a row would be read as its optional argument
    "[": "{[}",
    "]": "{]}",
}


def render(tables: Sequence[Table]) -> str:
    return _DOCUMENT.replace("%s", "\\clearpage\n".join(_table(table) for table in tables))


def escape(text: str) -> str:
    """Text with LaTeX's special characters made harmless; words and no commands."""
    return re.sub("|".join(map(re.escape, _SPECIAL)), lambda match: _SPECIAL[match[0]], text)


def _table(table: Table) -> str:
    letters = cell_text.letters_of(table)
    groups, rows = grid(table, letters)
    alignment, top, rules, names = "l", ["Network"], [], [""]
    for heading, columns in groups:
        width, at = len(columns), len(names) + 1
        alignment += {1: "r", 2: "rr", 4: "rrrl"}[width]
        top.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(heading)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
        names.extend(map(escape, columns))
    lines = [
        rf"\section*{{{escape(table.title)}}}",
        escape(cell_text.summary(table)) + r"\par\medskip",
        # Wide tables shrink to the line, narrow ones keep their size.
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(top) + r" \\",
        " ".join(rules),
        " & ".join(names) + r" \\",
        r"\midrule",
        *(" & ".join(map(escape, texts(row))) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\medskip\footnotesize",
        *(
            escape(f"{mark} {text}".strip()) + r"\par"
            for _, notes in cell_text.notes(table, letters)
            for mark, text in notes
        ),
        r"\normalsize",
    ]
    return "\n".join(lines) + "\n"
