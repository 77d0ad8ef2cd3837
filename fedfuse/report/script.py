"""What moves in the pages of reports: tables are sorted, and notes follow the pointer."""

# In Python for the same reason as the style.
SCRIPT = r"""
"use strict";

// Sort a table by one of its columns; the rows whose value is unknown stay last.
function sortTable(table, header) {
  const headers = [...header.parentNode.cells];
  const column = headers.indexOf(header);
  const descending = header.getAttribute("aria-sort") === "ascending";
  const isNumber = header.classList.contains("number");
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => {
    const cell = row.cells[column];
    return { row, key: isNumber ? Number.parseFloat(cell.dataset.value ?? cell.textContent) : cell.textContent };
  });
  const unknown = (key) => (isNumber ? Number.isNaN(key) : key === "-" || key === "");
  const order = (one, other) => (isNumber ? one - other : one.localeCompare(other, "en", { numeric: true }));
  keyed.sort((one, other) => {
    if (unknown(one.key) || unknown(other.key)) return unknown(one.key) - unknown(other.key);
    return descending ? order(other.key, one.key) : order(one.key, other.key);
  });
  body.append(...keyed.map(({ row }) => row));
  for (const other of headers) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) sortTable(table, button.closest("th"));
  });
}

// Show a note beside the pointer: that of the element under it, or the reading of a cell of a matrix.
const note = document.getElementById("note");

function noteOf(target) {
  const cell = target.closest("table.matrix td");
  if (!cell) return target.closest("[data-note]")?.dataset.note;
  const table = cell.closest("table");
  const row = cell.parentNode.cells[0].textContent;
  const column = table.tHead.rows[0].cells[cell.cellIndex].textContent;
  const words = { row, column, value: cell.textContent };
  return table.dataset.reading.replace(/\{(row|column|value)\}/g, (_, name) => words[name]);
}

function showNote(event) {
  const words = event.target instanceof Element ? noteOf(event.target) : undefined;
  note.hidden = words === undefined;
  if (words === undefined) return;
  note.textContent = words;
  const gap = 14;
  const { width, height } = note.getBoundingClientRect();
  const right = event.clientX + gap;
  const below = event.clientY + gap;
  note.style.left = `${right + width > window.innerWidth ? Math.max(0, event.clientX - gap - width) : right}px`;
  note.style.top = `${below + height > window.innerHeight ? Math.max(0, event.clientY - gap - height) : below}px`;
}

function hideNote() {
  note.hidden = true;
}

document.addEventListener("pointermove", showNote);
document.addEventListener("pointerdown", showNote); // a finger does not move first
document.documentElement.addEventListener("pointerleave", hideNote);
document.addEventListener("scroll", hideNote, { capture: true, passive: true });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideNote(); });
"""
