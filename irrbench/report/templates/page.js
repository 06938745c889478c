// What a reader may do with tables. Without it everything can be read; nothing is loaded, no text becomes markup.
const make = (tag, attributes = {}, ...children) => {
  const isShape = /^(svg|g|path|circle|line|text|image|title|a)$/.test(tag) && attributes.svg !== undefined;
  const node = isShape ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (name !== "svg") node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const button = (text, act, more = {}) => {
  const node = make("button", { type: "button", ...more }, text);
  node.addEventListener("click", act);
  return node;
};
const tick = (text, isOn, act, ...before) => {
  const box = make("input", { type: "checkbox" });
  box.checked = isOn;
  box.addEventListener("change", () => act(box.checked));
  return make("label", { class: "tick" }, box, ...before, make("bdi", {}, text));
};

// Tables: sorted by a click on a column's title, filtered by a text, columns of other scores hidden.

const readNumber = (text) => parseFloat(text.replace("\u2212", "-").replace(/^[<>≤≥\s]+/, ""));
const valueOf = (row, column) => {
  const cell = row.cells[column];
  // A number is the first text of its cell; what stands beside and below it is another one.
  if (cell.matches(".text, .name")) return cell.textContent.trim();
  const text = (cell.firstChild?.textContent ?? "").trim(), number = readNumber(text);
  return Number.isNaN(number) ? text : number;
};
const isUnknown = (value) => value === "" || value === "\u2013" || value === "\u2014";
const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b
    : String(a).localeCompare(String(b), undefined, { numeric: true });
// Rows of references (floor, ceiling) stay where they are: models change places among themselves.
const isPinned = (row) => row.className !== "" && !row.classList.contains("model");

const sortRows = (table, column, isDown) => {
  const body = table.tBodies[0], rows = [...body.rows];
  const free = rows.filter((row) => !isPinned(row)).map((row) => [valueOf(row, column), row]);
  free.sort(([a], [b]) => {
    if (isUnknown(a) || isUnknown(b)) return isUnknown(a) - isUnknown(b);
    return isDown ? compare(b, a) : compare(a, b);
  });
  let next = 0;
  body.append(...rows.map((row) => (isPinned(row) ? row : free[next++][1])));
};
const makeSortable = (table) => {
  const titles = [...(table.tHead?.rows[0]?.cells ?? [])];
  titles.forEach((title, column) => {
    if (!title.textContent.trim()) return;
    const press = button("", () => {
      const old = title.getAttribute("aria-sort");
      const isText = title.classList.contains("text") || title.classList.contains("name");
      const isDown = old ? old === "ascending" : !isText && title.textContent.trim() !== "#";
      titles.forEach((other) => other.removeAttribute("aria-sort"));
      title.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      sortRows(table, column, isDown);
    }, { class: "sort" });
    press.append(...title.childNodes);
    title.append(press);
  });
};
const makeFilter = (table) => {
  const count = make("output", { class: "quiet" });
  const field = make("input", { type: "search", placeholder: "filter rows", "aria-label": "filter rows" });
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...table.tBodies[0].rows].filter((row) => !isPinned(row));
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    });
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  });
  return [field, count];
};
const makeColumnSwitches = (table) => {
  const titles = [...table.tHead.rows[0].cells];
  const scores = titles.filter((title) => title.dataset.column === "score").slice(1);
  const isNarrow = matchMedia("(max-width: 40rem)").matches;
  return scores.map((title) => {
    const show = (isOn) => [title, ...[...table.tBodies[0].rows].map((row) => row.cells[title.cellIndex])]
      .forEach((cell) => { cell.hidden = !isOn; });
    if (isNarrow) show(false);
    return tick(title.textContent.trim(), !isNarrow, show);
  });
};
all(".box > table").forEach((table) => {
  const rows = table.tBodies[0].rows.length;
  if (!table.tHead?.rows.length || rows < 3) return;
  const tools = make("div", { class: "tools" }, ...makeColumnSwitches(table), ...(rows > 7 ? makeFilter(table) : []));
  makeSortable(table);
  if (tools.childNodes.length) table.parentNode.before(tools);
});
