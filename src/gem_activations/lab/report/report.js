// Sorting by a click on a heading, and the rows of one arm marked in all tables. The page is whole without it.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], number = (text) => parseFloat(text.replace("< ", "").replace("\u2212", "-"));
  table.querySelectorAll("thead th").forEach((head, column) => {
    head.tabIndex = 0;
    head.setAttribute("aria-sort", "none");
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("thead th").forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].textContent.trim();
      [...body.rows].sort((one, other) => {
        const [a, b] = [number(key(one)), number(key(other))];
        const order = isNaN(a) || isNaN(b) ? isNaN(a) - isNaN(b) || key(one).localeCompare(key(other)) : a - b;
        return up ? order : -order;
      }).forEach((row) => body.append(row));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
const rows = document.querySelectorAll("tr[data-arm]");
for (const row of rows) {
  const same = (other) => other.dataset.arm === row.dataset.arm;
  const mark = (on) => rows.forEach((other) => other.classList.toggle("same", on && same(other)));
  row.addEventListener("mouseenter", () => mark(true));
  row.addEventListener("mouseleave", () => mark(false));
}
