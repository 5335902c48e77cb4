"""What every page has: one HTML file that needs no network, its style in light and dark, and tables.

There is no script in a page. Charts take their colours from the classes below, so that they follow the style.
"""

from collections.abc import Iterable, Sequence
from html import escape

# Blue and orange are told apart also by those who do not see red or green (Okabe and Ito, 2008).
_LIGHT = (
    "--paper:#fff;--ink:#222;--soft:#5c5c5c;--line:#ccc;--faint:#e4e4e4;--main:#0072b2;--warn:#a33b00;--other:#9a9a9a;"
    "--alarm:#d55e00;--shade:rgba(213,94,0,.14)"
)
_DARK = (
    "--paper:#16181b;--ink:#e6e6e6;--soft:#aab0b6;--line:#454a50;--faint:#2d3136;--main:#56b4e9;--warn:#ffa661;"
    "--other:#7d848b;--alarm:#ff9645;--shade:rgba(255,150,69,.2)"
)
# Of `with_style`. A notebook says itself which of both it is in (VS Code, Jupyter, marimo); else the system does.
STYLE = """
.explored{color-scheme:light dark;_LIGHT}
@media(prefers-color-scheme:dark){.explored{_DARK}}
.vscode-dark .explored,[data-jp-theme-light=false] .explored,.dark .explored{color-scheme:dark;_DARK}
.vscode-light .explored,[data-jp-theme-light=true] .explored,.light .explored{color-scheme:light;_LIGHT}
.explored{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1080px}
.explored{margin:0 auto;padding:0 1em 2em}.explored small,.explored .soft{color:var(--soft)}
.explored table{border-collapse:collapse;margin:.6em 0;width:100%}
.explored td,.explored th{padding:.3em .6em;border-bottom:1px solid var(--faint);text-align:left;vertical-align:top}
.explored th{font-weight:600;white-space:nowrap}.explored td.n,.explored th.n{text-align:right;white-space:nowrap}
.explored h1{font-size:1.4em;margin:1em 0 .3em}.explored h2{font-size:1.15em;margin:1.6em 0 .3em}
.explored .facts{display:flex;flex-wrap:wrap;gap:.6em 2.2em;margin:.6em 0}
.explored .facts b{display:block;font-size:1.3em}
.explored .column{border-top:1px solid var(--line);padding:.9em 0;display:grid;gap:0 2em}
.explored .column{grid-template-columns:minmax(0,17em) minmax(0,1fr)}
.explored .column h3{margin:0;font-size:1em;overflow-wrap:anywhere}
.explored svg{max-width:100%;height:auto;display:block;fill:var(--soft)}.explored .warn{color:var(--warn)}
.explored svg .bar{fill:var(--main)}.explored details{margin:.4em 0}.explored summary{cursor:pointer;color:var(--main)}
.explored svg .spark{fill:none;stroke:var(--main);stroke-width:1.5}.explored svg .axis{stroke:var(--other);fill:none}
.explored .wide{overflow-x:auto}.explored td{overflow-wrap:break-word;max-width:32em}
.explored .unbroken{white-space:nowrap}
.explored li{margin:.25em 0;overflow-wrap:anywhere}
@media(max-width:700px){.explored .column{grid-template-columns:1fr}}
""".replace("_LIGHT", _LIGHT).replace("_DARK", _DARK)


def document(title: str, body: str) -> str:
    """A whole HTML file. title: text. body: HTML that brings its style."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f"<style>body{{margin:0}}@media(prefers-color-scheme:dark){{body{{background:#16181b}}}}</style></head>"
        f"<body>{body}</body></html>"
    )


def with_style(body: str, more: str = "") -> str:
    """HTML that shows itself alike in a page and in a notebook. more: style of its own."""
    return f'<div class="explored"><style>{STYLE}{more}</style>{body}</div>'


def unbroken(text: str) -> str:
    """A text, escaped, that stays on one line."""
    return f'<span class="unbroken">{escape(text)}</span>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """heads, rows: HTML already."""
    head = "".join(f'<th scope="col">{one}</th>' for one in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    drawn = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0" role="group" aria-label="Table">{drawn}</div>'
