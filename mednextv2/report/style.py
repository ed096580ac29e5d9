"""Look and behaviour of a report: the style sheet and the script, which are part of the page."""

#: Colours of structures on grey images; those of Okabe and Ito, brighter, in an order that keeps neighbours apart.
COLORS = ("#ff9f1c", "#5ec4ff", "#f5e74b", "#12c48b", "#ff8ad1", "#ff6242", "#b7a6ff", "#d9d9d9")

CSS = """
:root { color-scheme: light dark; --page: #ffffff; --panel: #f5f7f9; --text: #1b1f24; --muted: #535c66;
  --line: #d3d9df; --first: #0b5cad; --second: #a04d00; --shade: #0b5cad26; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171a; --panel: #1d2125; --text: #e7e9ec; --muted: #aab2bb; --line: #3b434b;
    --first: #74baff; --second: #ffb067; --shade: #74baff33; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(0.9rem, 3vw, 2.5rem) 3rem; max-width: 84rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: clamp(1.25rem, 5vw, 1.6rem); line-height: 1.25; margin: 0.5rem 0 0.25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 0.4rem; }
h3 { font-size: 1rem; margin: 0 0 0.4rem; overflow-wrap: anywhere; }
p { max-width: 46rem; margin: 0.3rem 0 0.8rem; }
h1 + p { max-width: none; }
p, .note { overflow-wrap: anywhere; }
.note, caption, figcaption { color: var(--muted); font-size: 0.9rem; }
.facts { display: flex; flex-wrap: wrap; gap: 0.6rem; margin: 1rem 0; }
.facts div { background: var(--panel); border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.5rem 0.9rem; }
.facts dt { color: var(--muted); font-size: 0.85rem; }
.facts dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.scroll { overflow: auto; max-width: 100%; max-height: min(80vh, 46rem); border: 1px solid var(--line);
  border-radius: 0.5rem; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 0.92rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0.5rem 0.7rem; }
th, td { padding: 0.3rem 0.7rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead { position: sticky; top: 0; z-index: 2; }
thead th { background: var(--panel); font-weight: 600; vertical-align: bottom; }
thead th[scope=colgroup] { text-align: center; border-left: 1px solid var(--line); }
tbody th, tfoot th { position: sticky; left: 0; z-index: 1; background: var(--page); font-weight: 500; }
tbody th, tfoot th, thead tr:first-child th:first-child { text-align: left; white-space: normal;
  max-width: 15rem; min-width: min(13rem, 34vw); overflow-wrap: anywhere; }
thead tr:first-child th:first-child { position: sticky; left: 0; z-index: 3; }
tbody tr:hover > * { background: var(--panel); }
tfoot tr > * { font-weight: 600; border-top: 2px solid var(--muted); }
th button { all: unset; cursor: pointer; font: inherit; }
th button:focus-visible, .scroll:focus-visible { outline: 2px solid var(--first); outline-offset: 2px; }
th[aria-sort] button::after { content: " ▲"; font-size: 0.7em; }
th[aria-sort=descending] button::after { content: " ▼"; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.45em; border: 1px solid var(--text);
  border-radius: 0.15em; vertical-align: -0.05em; }
.charts { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.charts.two { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); max-width: 64rem; }
figure { margin: 0; min-width: 0; }
.charts .tall { overflow-y: auto; max-height: min(80vh, 46rem); }
svg { display: block; width: 100%; height: auto; }
.chart text { fill: var(--text); font-size: 11.5px; }
.chart .tick { fill: var(--muted); font-size: 10.5px; }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .whisker { stroke: var(--muted); stroke-width: 1; }
.chart .box { fill: var(--shade); stroke: var(--first); stroke-width: 1; }
.chart .median { stroke: var(--first); stroke-width: 2.5; }
.chart .dot { fill: var(--second); fill-opacity: 0.75; }
.chart .dot:hover { fill-opacity: 1; stroke: var(--text); }
.chart .dots { stroke: var(--second); stroke-opacity: 0.35; stroke-width: 3; stroke-linecap: round; fill: none; }
.chart .first, .chart .second { fill: none; stroke: var(--first); stroke-width: 1.8; stroke-linejoin: round; }
.chart .second { stroke: var(--second); stroke-width: 1.3; }
.line { display: inline-block; width: 1.6em; height: 0; margin-right: 0.4em; vertical-align: 0.28em;
  border-top: 3px solid var(--first); }
.line.two { border-top-color: var(--second); border-top-width: 2px; }
.line.solid { border-top: 2px solid var(--text); }
.line.dashed { border-top: 3px dashed var(--text); }
.legend { display: flex; flex-wrap: wrap; gap: 0.15rem 1.1rem; list-style: none; margin: 0.4rem 0 0; padding: 0;
  overflow-wrap: anywhere; font-size: 0.9rem; }
.case { border: 1px solid var(--line); border-radius: 0.5rem; background: var(--panel); padding: 0.8rem;
  margin: 0.9rem 0; }
.slices { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 0.6rem; max-width: 62rem; }
.slices figure { flex: 1 1 0; min-width: min(100%, 9rem); max-width: 30rem; }
.slice { background: #000000; max-height: 30rem; border-radius: 0.3rem; }
.slice image { image-rendering: pixelated; }
.slice path { fill: none; vector-effect: non-scaling-stroke; stroke-width: 1.5px; }
.slice .reference { stroke-width: 3px; stroke-dasharray: 4px 4px; }
.slice text { fill: #ffffff; stroke: #000000; paint-order: stroke; }
@media print { .scroll, .charts .tall { max-height: none; overflow: visible; } }
"""

#: Turns the heads of a table's columns into buttons that sort its rows; without it the table is just not sorted.
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("th[data-column]")];
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    if (text === "\\u2013") return NaN;
    if (text === "\\u221e") return Infinity;
    const found = /^-?[0-9.]+(?= ± |$)/.exec(text);
    return found ? Number(found[0]) : text;
  };
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? (a === b ? 0 : a - b)
    : String(a).localeCompare(String(b), undefined, {numeric: true});
  const sort = (head) => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const column = Number(head.dataset.column), body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [value(row, column), row]);
    rows.sort(([a], [b]) => {
      const missing = Number.isNaN(a) - Number.isNaN(b);
      return missing || Number.isNaN(a) ? missing : sign * compare(a, b);
    });
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    body.append(...rows.map(([, row]) => row));
  };
  for (const head of heads) {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head));
    head.append(button);
  }
}
"""
