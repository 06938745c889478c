// Images: what each model scores on them, a dot for each, and one at a time with its contours. Follows page.js.

const source = document.getElementById("data-of-images");
const data = JSON.parse(source.textContent);
const count = data.ids.length;
const off = new Set(), listeners = [];
let model = 0, other = Math.min(1, data.models.length - 1);
const tell = () => listeners.forEach((listener) => listener());
const show = (value) => (value === null ? "\u2014" : value.toFixed(data.digits).replace("-", "\u2212"));
const scoreOf = (place, of = model) => data.values[of]?.[place] ?? null;
const behind = (place) => {
  const one = scoreOf(place), rater = data.ceiling[place];
  return one === null || rater === null ? null : one - rater;
};

const drawStack = (picture) => {
  const size = `0 0 ${picture.width} ${picture.height}`;
  const lines = make("svg", { svg: "", viewBox: size, "aria-hidden": "true" });
  for (const { kind, number, d, src, colour } of picture.layers) {
    const shape = src
      ? make("image", { svg: "", href: src, width: picture.width, height: picture.height })
      : make("path", { svg: "", d, stroke: colour });
    shape.setAttribute("class", `${kind} ${kind}${number}`);
    lines.append(shape);
  }
  return make("div", { class: "stack" }, make("img", { src: picture.src, alt: "" }), lines);
};
const hrefOf = (place) => `#${encodeURIComponent(data.anchors[place])}`;
const stackOf = (place) => {
  const figure = document.getElementById(`image-${data.ids[place]}`);
  if (figure) return figure.querySelector(".stack").cloneNode(true);
  return data.pictures[place] ? drawStack(data.pictures[place]) : null;
};
// One model's contour at a time: the one that is chosen, where the page has it.
const dress = (root) => all("[class*=rater],[class*=model],.areas", root).forEach((shape) => {
  const [kind, name] = shape.getAttribute("class").split(" ");
  const isOther = kind === "model" && name !== `model${model}`;
  shape.style.display = isOther || off.has(kind === "rater" ? name : kind) ? "none" : "inline";
});
const switches = (root) => data.switches.map(({ key, label, colour }, index) => {
  const line = make("span", { class: `line ${key}`, style: `background:${colour}` });
  const lines = make("span", { class: "lines" }, line);
  const turn = (isOn) => { off[isOn ? "delete" : "add"](key); tell(); };
  const node = tick(label, true, turn, lines);
  listeners.push(() => { node.firstChild.checked = !off.has(key); });
  if (root) node.title = `key ${index + 1}`;
  return node;
});
const chooser = (label, get, set) => {
  const list = make("select", { "aria-label": label }, ...data.models.map((name, i) => make("option", { value: i }, name)));
  list.value = get();
  list.addEventListener("change", () => { set(Number(list.value)); tell(); });
  listeners.push(() => { list.value = get(); });
  return list;
};
const chooseModel = () => chooser("model", () => model, (value) => { model = value; });

// The viewer.

const title = make("strong"), numbers = make("p", { class: "quiet" }), frame = make("div", { class: "frame" });
const slider = make("input", { type: "range", min: 0, max: count - 1, "aria-label": "image" });
const dialog = make("dialog", { class: "viewer", "aria-label": "image with contours" });
let order = data.ids.map((_, place) => place), shown = 0;
const put = (place) => {
  shown = place;
  slider.value = order.indexOf(place);
  const name = make("bdi", {}, data.ids[place]);
  title.replaceChildren(name, ` (${order.indexOf(place) + 1} of ${order.length})`);
  const models = data.models.map((_, i) => scoreOf(place, i)).filter((value) => value !== null);
  numbers.replaceChildren(
    `${data.score}: `, make("bdi", {}, data.models[model] ?? ""), ` ${show(scoreOf(place))}, average rater ` +
    `${show(data.ceiling[place])}, naive rater ${show(data.floor[place])}; agreement ${show(data.agreement[place])}` +
    (models.length > 1 ? `; ${models.length} models ${show(Math.min(...models))} to ${show(Math.max(...models))}` : "") + ".");
  const stack = stackOf(place);
  const none = "This page has no picture of this image: it would be too large with all of them.";
  frame.replaceChildren(stack ?? make("p", { class: "quiet" }, none));
  if (stack && model > 0 && !stack.querySelector(`.model${model}`) && stack.querySelector(".model")) {
    frame.append(make("p", { class: "quiet" }, "The page has no contour of this model here."));
  }
  if (stack?.querySelector(".areas") && model > 0) {
    frame.append(make("p", { class: "quiet" }, "The areas are of ", make("bdi", {}, data.models[0]), "."));
  }
  dress(frame);
};
const step = (by) => put(order[(order.indexOf(shown) + by + order.length) % order.length]);
const open = (place) => {
  if (!order.includes(place)) order = data.ids.map((_, i) => i);
  slider.max = order.length - 1;
  put(place);
  if (!dialog.open) dialog.showModal();
};
slider.addEventListener("input", () => put(order[Number(slider.value)]));
dialog.append(
  make("div", { class: "tools" }, button("\u2039 previous", () => step(-1)), slider, button("next \u203a", () => step(1)),
    button("\u00d7", () => dialog.close(), { "aria-label": "close", class: "close" })),
  title, make("div", { class: "tools" }, chooseModel(), ...switches(true)), frame, numbers,
  make("p", { class: "quiet keys" }, "Keys: left and right for images, 1 to 9 for lines, Escape to close."));
dialog.addEventListener("keydown", (event) => {
  const field = event.target;
  if (field.tagName === "SELECT" || event.ctrlKey || event.altKey || event.metaKey) return;
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const key = data.switches[Number(event.key) - 1]?.key;
  if (!move && !key) return;
  event.preventDefault();
  if (move) step(move);
  if (key) { off[off.has(key) ? "delete" : "add"](key); tell(); }
});
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
document.body.append(dialog);
listeners.push(() => { if (dialog.open) put(shown); });
const section = document.getElementById("images");
listeners.push(() => dress(section));
const placeOf = (address) => {
  try { return data.anchors.indexOf(decodeURIComponent((address ?? "").slice(1))); } catch { return -1; }
};
document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  const place = placeOf(link?.getAttribute("href") ?? link?.getAttributeNS("http://www.w3.org/1999/xlink", "href"));
  if (place < 0) return;
  event.preventDefault();
  open(place);
});
all(".stack", section).forEach((stack) => {
  const link = make("a", { href: `#${encodeURIComponent(stack.closest("figure").id)}` });
  stack.replaceWith(link);
  link.append(stack);
});

// A dot for each image.

const MOST_DOTS = 1500; // more are slow, and lie on each other
const dots = make("div", { class: "drawing dots" });
const drawDots = (byRank) => {
  const sorted = data.ids.map((_, place) => place).filter((place) => scoreOf(place) !== null);
  sorted.sort((a, b) => (scoreOf(a) - scoreOf(b)) * (data.lower ? -1 : 1));
  const xs = byRank ? new Map(sorted.map((place, rank) => [place, rank])) : new Map(sorted.map((p) => [p, data.agreement[p]]));
  const step = Math.ceil(sorted.length / MOST_DOTS);
  const known = sorted.filter((place, rank) => xs.get(place) !== null && rank % step === 0);
  const ys = known.flatMap((place) => [scoreOf(place), data.ceiling[place] ?? scoreOf(place)]);
  const [low, high] = [Math.min(...ys), Math.max(...ys)], values = known.map((place) => xs.get(place));
  const [left, right] = [Math.min(...values), Math.max(...values)];
  const x = (value) => 46 + (540 * (value - left)) / (right - left || 1);
  const y = (value) => 210 - (190 * (value - low)) / (high - low || 1);
  const words = (text, at) => make("text", { svg: "", ...at }, text);
  const line = (x1, y1, x2, y2) => make("line", { svg: "", x1, y1, x2, y2, class: "axis" });
  const label = byRank ? "images, worst first" : data.axis;
  const picture = make("svg", { svg: "", viewBox: "0 0 600 250", role: "group", "aria-label": `${data.score} of each image` },
    line(40, 20, 40, 216), line(40, 216, 592, 216),
    words(data.score, { x: 4, y: 11 }), words(show(high), { x: 36, y: 25, "text-anchor": "end" }),
    words(show(low), { x: 36, y: 214, "text-anchor": "end" }), words(label, { x: 316, y: 232, "text-anchor": "middle" }),
    ...(byRank || !known.length ? [] : [words(show(left), { x: 46, y: 232, "text-anchor": "middle" }),
      words(show(right), { x: 596, y: 232, "text-anchor": "end" })]));
  const circle = (place, value, look) => make("circle", { svg: "", cx: x(xs.get(place)).toFixed(1), cy: y(value).toFixed(1), ...look });
  picture.append(...known.filter((place) => data.ceiling[place] !== null)
    .map((place) => circle(place, data.ceiling[place], { r: 2.5, class: "rater-dot" })));
  picture.append(...known.map((place) => {
    const mark = make("a", { svg: "", href: hrefOf(place) },
      make("title", { svg: "" }, `${data.ids[place]}: ${show(scoreOf(place))}`),
      circle(place, scoreOf(place), { r: 4.5, fill: data.colours[model] }));
    return mark;
  }));
  dots.replaceChildren(picture);
};

// The table of all images.

const body = make("tbody"), heads = make("tr");
const more = make("p", { class: "quiet" });
const field = make("input", { type: "search", placeholder: "filter images", "aria-label": "filter images" });
const MOST = 100;
let sorted = 2, isDown = data.lower, most = MOST, isRanked = false;
const columns = () => [
  ["image", (place) => data.ids[place]],
  ["agreement", (place) => data.agreement[place]],
  [data.models[model], (place) => scoreOf(place)],
  ["minus average rater", behind],
  ...(other === model ? [] : [[data.models[other], (place) => scoreOf(place, other)]]),
  ["average rater", (place) => data.ceiling[place]],
  ["naive rater", (place) => data.floor[place]],
];
const cells = (place, shownColumns) => shownColumns.map(([, value], index) => (index
  ? make("td", {}, show(value(place)))
  : make("th", { class: "name", scope: "row" }, make("a", { href: hrefOf(place) }, make("bdi", {}, value(place))))));
const fill = () => {
  const shownColumns = columns(), value = shownColumns[Math.min(sorted, shownColumns.length - 1)][1];
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  order = data.ids.map((_, place) => place).filter((place) => words.every((word) => data.ids[place].toLowerCase().includes(word)));
  order.sort((a, b) => {
    const [one, two] = [value(a), value(b)];
    if (one === null || two === null) return (one === null) - (two === null);
    return isDown ? compare(two, one) : compare(one, two);
  });
  const focused = heads.contains(document.activeElement) ? document.activeElement.closest("th").cellIndex : -1;
  heads.replaceChildren(...shownColumns.map(([name], index) => {
    const head = make("th", { scope: "col", class: index ? "" : "name" }, button(name, () => {
      isDown = sorted === index ? !isDown : false;
      sorted = index;
      fill();
    }, { class: "sort" }));
    if (index === sorted) head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    return head;
  }));
  if (focused >= 0) heads.cells[focused]?.querySelector("button").focus();
  body.replaceChildren(...order.slice(0, most).map((place) => make("tr", {}, ...cells(place, shownColumns))));
  const rest = order.length - most;
  more.replaceChildren(`${order.length} of ${count} images. `,
    ...(rest > 0 ? [button(`show ${rest} more`, () => { most = order.length; fill(); })] : []));
  drawDots(isRanked);
};
field.addEventListener("input", () => { most = MOST; fill(); });
listeners.push(fill);
if (data.models.length) {
  const root = document.getElementById("all-images");
  root.append(make("div", { class: "paper" }, ...root.childNodes), make("div", { class: "screen" },
    make("div", { class: "tools" },
      ...(data.models.length > 1 ? [make("span", {}, "beside it"), chooser("second model", () => other, (value) => { other = value; })] : []),
      tick("in the order of scores", false, (isOn) => { isRanked = isOn; drawDots(isRanked); }), field),
    dots, make("p", { class: "quiet" }, "A dot for each image, grey for the average rater. A dot opens its image."),
    make("div", { class: "box", role: "region", tabindex: 0, "aria-label": "all images" },
      make("table", {}, make("thead", {}, heads), body)), more));
}
document.getElementById("all-images").before(make("div", { class: "tools key" }, chooseModel(), ...switches(false)));
section.querySelector("p.key")?.classList.add("paper");
tell();
if (placeOf(location.hash) >= 0) open(placeOf(location.hash));
