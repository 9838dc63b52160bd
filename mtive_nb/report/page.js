// The page works without this script; it adds sorting, filters, chosen columns and the copy buttons.
const textOf = (cell) => (cell.dataset.value ?? cell.querySelector("b")?.textContent ?? cell.textContent).trim();
const numberOf = (text) => parseFloat(text.replace(/[,\s]/g, ""));

// Numbers before texts, in both directions: a cell without a number comes last.
function compare(a, b, sign = 1) {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (Number.isNaN(x) && Number.isNaN(y)) return sign * a.localeCompare(b);
  return Number.isNaN(x) ? 1 : Number.isNaN(y) ? -1 : sign * (x - y);
}

for (const table of document.querySelectorAll("table.sort")) {
  // Under two rows of heads, a column's own head is in the second, except the first, which spans both.
  const [top, own] = [...table.tHead.rows].map((row) => [...row.cells]);
  const heads = own ? [top[0], ...own] : top;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => compare(textOf(a.cells[column]), textOf(b.cells[column]), down ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  });
}

function labelled(text, control) {
  const label = document.createElement("label");
  label.append(`${text} `, control);
  return label;
}

for (const table of document.querySelectorAll("table.filter")) {
  const rows = [...table.tBodies[0].rows];
  const bar = document.createElement("div");
  bar.className = "filters";
  const search = document.createElement("input");
  search.type = "search";
  const shown = document.createElement("span");
  shown.setAttribute("role", "status");
  const facets = [...table.tHead.rows[0].cells].flatMap((head, column) => {
    if (!("facet" in head.dataset)) return [];
    const select = document.createElement("select");
    const values = [...new Set(rows.map((row) => textOf(row.cells[column])))].sort(compare);
    select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
    if (values.includes(head.dataset.start)) select.value = head.dataset.start;
    bar.append(labelled(head.textContent.trim(), select));
    return [{ select, column }];
  });
  bar.append(labelled("search", search), shown);
  const apply = () => {
    const words = search.value.toLowerCase();
    for (const row of rows) {
      const fits = facets.every(({ select, column }) => !select.value || textOf(row.cells[column]) === select.value);
      row.hidden = !fits || !row.textContent.toLowerCase().includes(words);
    }
    shown.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} ${table.dataset.noun}`;
  };
  bar.addEventListener("input", apply);
  table.parentElement.before(bar);
  apply();
}

for (const box of document.querySelectorAll("input[data-column]")) {
  const table = box.closest("section").querySelector("table.filter");
  box.addEventListener("change", () => {
    for (const row of table.rows) row.cells[box.dataset.column].hidden = !box.checked;
  });
}

for (const button of document.querySelectorAll("button.copy")) {
  const text = button.parentElement.querySelector("pre");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}

for (const shot of document.querySelectorAll(".shot")) {
  if (shot.scrollWidth > shot.clientWidth) shot.tabIndex = 0; // a figure that scrolls on a phone, by keys too
}

const theirs = document.querySelector("#theirs");
if (theirs) {
  const show = () => document.querySelectorAll("tr.theirs").forEach((row) => (row.hidden = !theirs.checked));
  theirs.checked = false;
  theirs.addEventListener("change", show);
  show();
}

if (matchMedia("(min-width: 70rem)").matches) {
  document.querySelectorAll("nav > details, nav [data-open]").forEach((one) => (one.open = true));
}
