"""How the pages of reports look: wide or narrow, light or dark, on a screen or on paper."""

# In Python, not in a file of its own, so that it is wherever the package is, also in a Flower app bundle.
STYLE = r"""
:root {
  --paper: #ffffff; --panel: #f6f7f9; --ink: #1c2126; --quiet: #59626b; --rule: #d9dde2;
  --accent: #004488; --second: #bb5566; --grey: #666666; --good: #1d6b34; --bad: #a33b4d;
  --shade-0: #f7fbff; --shade-1: #e3eef8; --shade-2: #d0e1f2; --shade-3: #b7d4ea; --shade-4: #94c4df;
  --shade-5: #6aaed6; --shade-6: #4a98c9; --shade-7: #2878b6; --shade-8: #1764ab; --shade-9: #084a91;
  --shade-10: #08306b; --on-high: #ffffff; --on-low: #1c2126;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14181c; --panel: #1c2228; --ink: #e4e8ec; --quiet: #a3adb7; --rule: #363e47;
    --accent: #7db4ea; --second: #ea8c9b; --grey: #a3a3a3; --good: #7fcf95; --bad: #f0909e;
    --shade-0: #171d24; --shade-1: #172838; --shade-2: #17344d; --shade-3: #174163; --shade-4: #1a4f79;
    --shade-5: #215f90; --shade-6: #2c6999; --shade-7: #4f8dbd; --shade-8: #78aad1; --shade-9: #a6c8e3;
    --shade-10: #d9e8f5; --on-high: #14181c; --on-low: #e4e8ec;
  }
}
* { box-sizing: border-box; }
html { background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.01em; }
h2 {
  margin: 3rem 0 0.75rem; padding-top: 0.75rem; border-top: 1px solid var(--rule); font-size: 1.25rem;
  font-weight: 650;
}
h3 { margin: 1.75rem 0 0.5rem; font-size: 1rem; font-weight: 650; }
p { margin: 0.5rem 0; max-width: 44rem; }
.lead { color: var(--quiet); max-width: 52rem; }
a { color: var(--accent); text-underline-offset: 0.15em; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
nav ul {
  display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin: 1rem 0 0; padding: 0; list-style: none;
  font-size: 0.875rem;
}
dl { margin: 0; }
dd { margin: 0; }
.key-numbers {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13.5rem), 1fr)); gap: 1px;
  margin: 1.25rem 1px;
}
.key-numbers > div { padding: 0.8rem 1rem 0.9rem; box-shadow: 0 0 0 1px var(--rule); }
.key-numbers dt { color: var(--quiet); font-size: 0.875rem; }
.key-numbers dd { color: var(--quiet); font-size: 0.8125rem; line-height: 1.4; }
.key-numbers dd.number {
  color: var(--ink); font-size: 1.5rem; line-height: 1.35; font-weight: 600;
  font-variant-numeric: tabular-nums;
}
.key-numbers > div:first-child dd.number { color: var(--accent); }
.facts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 0.2rem 2.5rem; margin: 1rem 0; font-size: 0.9375rem;
}
.facts > div { display: grid; grid-template-columns: 8.5rem minmax(0, 1fr); }
.facts dt { color: var(--quiet); }
.side-by-side {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 0.5rem 2.5rem; align-items: start;
}
.side-by-side > div { min-width: 0; }
figure { margin: 1rem 0; }
figure svg, figure img { display: block; max-width: 100%; height: auto; }
figure img { background: #ffffff; }
figcaption { color: var(--quiet); font-size: 0.875rem; line-height: 1.45; text-align: left; }
figcaption { margin-top: 0.5rem; max-width: 44rem; }
.scroll { position: relative; overflow: auto; max-width: 100%; max-height: 46rem; }
table {
  border-collapse: separate; border-spacing: 0; font-size: 0.875rem; font-variant-numeric: tabular-nums;
}
figure.wide figcaption { margin: 0 0 0.4rem; }
th, td {
  padding: 0.3rem 0.9rem 0.3rem 0.6rem; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: baseline;
}
th { font-weight: 600; }
thead th { position: sticky; top: 0; z-index: 1; background: var(--paper); white-space: nowrap; }
tfoot { position: sticky; bottom: 0; background: var(--paper); }
tfoot td { color: var(--ink); font-weight: 600; border-bottom: 0; }
tfoot tr:first-child td { border-top: 1px solid var(--quiet); }
tbody tr:hover { background: var(--panel); }
td { max-width: 28rem; overflow-wrap: break-word; }
th.number, td.number { text-align: right; white-space: nowrap; }
.sortable button { all: unset; cursor: pointer; }
.sortable button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.sortable button::after {
  content: "\2195"; display: inline-block; width: 0.9em; margin-left: 0.2em; color: var(--quiet);
  font-weight: 400; opacity: 0.65;
}
[aria-sort="ascending"] button::after { content: "\2191"; color: var(--accent); opacity: 1; }
[aria-sort="descending"] button::after { content: "\2193"; color: var(--accent); opacity: 1; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.legend {
  display: flex; flex-wrap: wrap; gap: 0.1rem 1.1rem; margin: 0 0 0.4rem; padding: 0; list-style: none;
  color: var(--quiet); font-size: 0.8125rem;
}
.legend li { display: flex; align-items: center; gap: 0.45rem; }
figure svg.chart { width: 100%; max-width: 36rem; }
figure svg.chart.unscaled { width: auto; max-width: none; }
svg text { fill: var(--quiet); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .accent { stroke: var(--accent); }
svg .second { stroke: var(--second); }
svg .grey { stroke: var(--grey); }
svg g[data-note] rect { fill: transparent; }
svg g[data-note] line { stroke: var(--quiet); stroke-width: 1; visibility: hidden; }
svg g[data-note] circle { fill: var(--paper); stroke-width: 2; visibility: hidden; }
svg g[data-note]:hover :is(line, circle), svg g.only circle { visibility: visible; }
.bubble { fill: var(--accent); }
.bubble:hover { fill: var(--second); }
.scroll:has(.matrix) { max-height: none; }
.matrix { border-spacing: 1px; }
.matrix th, .matrix td {
  padding: 0; border: 0; text-align: center; vertical-align: middle; font-size: 0.75rem;
}
.matrix thead th { position: static; min-width: 2.6rem; }
.matrix tbody th { padding: 0 0.5rem; text-align: right; }
.matrix thead td { padding-right: 0.5rem; color: var(--quiet); }
.matrix tbody td { height: 2.1rem; color: var(--on-low); }
.matrix tbody td:hover { outline: 2px solid var(--second); outline-offset: -1px; }
.matrix tbody tr:hover { background: none; }
.matrix.small thead th {
  min-width: 0; width: 0.875rem; padding: 0.15rem 0; font-size: 0.625rem; font-weight: 400;
  writing-mode: vertical-rl; text-align: right;
}
.matrix.small tbody th { font-size: 0.625rem; font-weight: 400; line-height: 1; }
.matrix.small tbody td {
  min-width: 0.875rem; width: 0.875rem; height: 0.875rem; color: transparent; font-size: 1px;
  line-height: 1;
}
.scale {
  display: flex; align-items: center; gap: 0.5rem; color: var(--quiet); font-size: 0.8125rem;
  font-variant-numeric: tabular-nums;
}
.scale > span { display: flex; }
.scale > span > span { width: 1.1rem; height: 0.7rem; }
.matrix td, .scale span { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.s0 { background: var(--shade-0); } .s1 { background: var(--shade-1); } .s2 { background: var(--shade-2); }
.s3 { background: var(--shade-3); } .s4 { background: var(--shade-4); } .s5 { background: var(--shade-5); }
.s6 { background: var(--shade-6); } .s7 { background: var(--shade-7); } .s8 { background: var(--shade-8); }
.s9 { background: var(--shade-9); } .s10 { background: var(--shade-10); }
.matrix:not(.small) tbody td:is(.s7, .s8, .s9, .s10) { color: var(--on-high); }
details { margin: 0.75rem 0; }
summary { cursor: pointer; color: var(--accent); }
pre {
  margin: 0.75rem 0; padding: 0.75rem 1rem; overflow: auto; max-height: 40rem; background: var(--panel);
  border-left: 2px solid var(--rule); font-size: 0.8125rem; line-height: 1.5;
}
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
#note {
  position: fixed; z-index: 2; left: 0; top: 0; max-width: min(22rem, 90vw); padding: 0.4rem 0.65rem;
  background: var(--ink); color: var(--paper); border-radius: 3px; font-size: 0.8125rem;
  line-height: 1.45; white-space: pre-line; pointer-events: none; font-variant-numeric: tabular-nums;
}
#note[hidden] { display: none; }
@media print {
  :root {
    --paper: #ffffff; --panel: #ffffff; --ink: #000000; --quiet: #444444; --rule: #bbbbbb;
    --accent: #004488; --second: #bb5566; --grey: #666666; --good: #1d6b34; --bad: #a33b4d;
  }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, #note { display: none; }
  .scroll, pre { overflow: visible; max-height: none; }
  figure, .key-numbers { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  thead th, tfoot { position: static; }
  .sortable button::after { content: none; }
  pre { white-space: pre-wrap; }
}
"""
