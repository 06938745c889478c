"""How the page looks: on a screen, on a phone, in the dark, on paper."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --quiet: #59636e; --line: #d5dae0; --soft: #f3f5f7;
  --warn: #fff4e5; --warn-ink: #8a3b00; --warn-line: #f0b37e; --accent: #00617a; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14181d; --ink: #e6e9ec; --quiet: #a3adb8; --line: #39414a; --soft: #1e242b;
    --warn: #3a2710; --warn-ink: #ffcf9e; --warn-line: #8a5a24; --accent: #62c4de; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
p, dd, li { max-width: 46rem; overflow-wrap: anywhere; }
nav { font-size: .9rem; margin: 1rem 0 0; }
nav a { margin-right: 1rem; display: inline-block; padding: .2rem 0; }
a { color: var(--accent); }
.headline { font-size: 1.2rem; line-height: 1.45; margin: 0 0 1rem; }
.note { background: var(--warn); color: var(--warn-ink); border: 1px solid var(--warn-line); border-radius: 6px;
  padding: .6rem .9rem; margin: 0 0 1rem; font-weight: 600; max-width: none; }
.findings { max-width: 46rem; margin: 0 0 1rem; }
.caution { border-left: 4px solid var(--warn-line); background: var(--warn); color: var(--warn-ink);
  padding: .5rem .9rem; margin: 0 0 1rem; max-width: none; }
.remark, caption { color: var(--warn-ink); font-size: .8rem; font-weight: 600; text-align: left; margin: 0;
  max-width: none; }
caption { padding: .3rem .5rem; background: var(--warn); position: sticky; left: 0; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; overflow-wrap: anywhere; }
.formula { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .9rem; background: var(--soft);
  padding: .5rem .75rem; border-radius: 6px; max-width: none; }
.quiet { color: var(--quiet); font-size: .9rem; }
figure { margin: 0 0 1rem; }
figcaption { color: var(--quiet); font-size: .9rem; margin-top: .35rem; overflow-wrap: anywhere; max-width: 46rem; }
.drawing { overflow-x: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: .75rem; }
.drawing svg { display: block; width: 100%; height: auto; margin: 0 auto; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1rem;
  align-items: start; }
.panel img { width: 100%; height: auto; display: block; border-radius: 4px; }
.line { display: inline-block; width: 1.4em; height: 3px; vertical-align: middle; margin-right: 2px;
  outline: 1px solid #0006; }
.line.thick { height: 6px; }
.box { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: 0 0 .75rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { background: var(--soft); font-weight: 600; vertical-align: bottom; }
.name, .text { text-align: left; white-space: normal; overflow-wrap: anywhere; font-weight: 400; }
.name { min-width: 12rem; }
.text { min-width: 7rem; }
thead .text { font-weight: 600; white-space: nowrap; }
tbody .name { position: sticky; left: 0; background: var(--page); max-width: 22rem; }
thead .name { position: sticky; left: 0; font-weight: 600; }
tr.ceiling > *, tr.floor > *, tr.upper > *, tr.blind > * { background: var(--soft) !important; }
tr.ceiling .name { font-weight: 600; border-left: 4px solid #000; }
tr.floor .name { font-weight: 600; border-left: 4px solid #888; }
.share { display: inline-block; min-width: 3.4em; color: var(--accent); font-weight: 600; }
.interval { color: var(--quiet); font-size: .8rem; }
.interval.ends { color: var(--accent); }
.dot { float: left; width: .7em; height: .7em; border-radius: 50%; margin: .4em .45em 0 0; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0; }
pre { background: var(--soft); border-radius: 6px; padding: .75rem; overflow-x: auto; font-size: .85rem; }
summary { cursor: pointer; padding: .3rem 0; }
@media (prefers-color-scheme: dark) { tr.ceiling .name { border-left-color: #fff; } }
@media (max-width: 40rem) { tbody .name { max-width: 9.5rem; min-width: 7rem; } .headline { font-size: 1.1rem; }
  .drawing { padding: .25rem; } }
@media print {
  :root { color-scheme: light; --page: #fff; --ink: #000; --quiet: #444; --line: #bbb; --soft: #f3f3f3; --warn: #fff;
    --warn-ink: #000; --warn-line: #000; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  body { font-size: 10pt; }
  h2, h3, dt, summary, .lead, .remark { break-after: avoid; }
  summary { list-style: none; color: var(--quiet); font-size: .9em; }
  details:not([open]) > summary::after { content: " (open it on the screen before printing)"; }
  #reproduce details > summary::after { content: ""; }
  h2 { margin-top: 1.5rem; }
  figure, tr { break-inside: avoid; }
  .box, .drawing, pre { overflow: visible; border: 0; padding: 0; }
  .drawing svg { min-width: 0 !important; max-height: 14cm; }
  .drawing.tall svg { max-height: 22cm; }
  table { font-size: 7pt; }
  th, td { padding: .15rem .25rem; position: static !important; }
  .name, .text { min-width: 5em; overflow-wrap: break-word; }
  .interval { font-size: .85em; }
  pre { white-space: pre-wrap; }
  .panels { grid-template-columns: repeat(3, 1fr); }
  #reproduce details::details-content { content-visibility: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
