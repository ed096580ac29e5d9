// Turns the heads of a table's columns into buttons that sort its rows; without it the table is just not sorted.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("th[data-column]")];
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    if (text === "\u2013") return NaN;
    if (text === "\u221e") return Infinity;
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
