// The instrument: one state (norm, p, radius, sample, class), written to the address, drawn from scratch on every change.

const find = (id) => document.getElementById(id);
const read = (list) => list && list.map((value) => (value === null ? Infinity : value));
const percent = (value) => (100 * value).toFixed(1);
const orderName = (p) => (p === Infinity ? "inf" : String(p));
const toOrder = (text) => (text === "inf" ? Infinity : Number(text));
const SHOWN = 24, STEPS = 120, FINE = 1000;

function start(data) {
  const n = data.n, weights = data.weights ?? new Array(n).fill(1 / n);
  const norms = new Map();
  for (const norm of data.norms) {
    const known = { ...norm, attacked: read(norm.attacked), certified: read(norm.certified), sides: {} };
    for (const side of ["attacked", "certified"]) {
      const rule = side === "certified" ? { closed: norm.closed, allowance: data.allowance } : {};
      known.sides[side] = known[side] ? makeSide(known[side], weights, rule) : null;
    }
    known.main = known.attacked ? "attacked" : "certified";
    known.cheapest = known.sides[known.main].order;
    norms.set(norm.name, known);
  }
  const classes = [...new Set(data.labels)].sort((a, b) => a - b);
  const members = new Map(classes.map((c) => [c, []]));
  data.labels.forEach((label, i) => members.get(label).push(i));
  const state = { norm: data.norms[0].name, p: 1, radius: 0, sample: 0, group: "all", whole: false, theme: "auto", extra: [] };
  let pictures = null, toRadius = null, toRank = null, cached = {};
  const norm = () => norms.get(state.norm);
  const chosenRank = () => norm().cheapest.indexOf(state.sample);
  const firstPaid = () => norm().cheapest.find((i) => norm()[norm().main][i] > 0) ?? norm().cheapest[0];

  function settle(first = false) {
    const asked = new URLSearchParams(location.hash.slice(1));
    const number = (name, least, otherwise) => {
      const value = asked.has(name) && asked.get(name) !== "" ? toOrder(asked.get(name)) : NaN;
      return value >= least ? value : otherwise;
    };
    if (norms.has(asked.get("norm"))) state.norm = asked.get("norm");
    const own = data.threats.find((one) => one.norm === state.norm);
    if (first) Object.assign(state, { p: own ? toOrder(own.p) : 1, radius: own ? own.radius : norm().top / 2 });
    state.p = number("p", 1, state.p);
    const radius = number("radius", 0, state.radius);
    state.radius = radius < Infinity ? radius : state.radius;
    const sample = number("sample", 0, first ? firstPaid() : state.sample);
    state.sample = Number.isInteger(sample) && sample < n ? sample : state.sample;
    if (["auto", "light", "dark"].includes(asked.get("theme"))) state.theme = asked.get("theme");
    if (asked.has("all")) state.whole = asked.get("all") === "1";
    if (classes.some((c) => String(c) === asked.get("class"))) state.group = asked.get("class");
    state.extra = (asked.get("radii") ?? "").split(",").filter((t) => t !== "").map(Number).filter((r) => r >= 0 && r < Infinity);
  }

  let later = 0;
  function remember() {
    clearTimeout(later);
    later = setTimeout(write, 150);
  }

  function write() {
    const parts = { p: orderName(state.p), radius: state.radius, norm: state.norm, sample: state.sample };
    if (state.whole) parts.all = 1;
    if (state.group !== "all") parts.class = state.group;
    if (state.theme !== "auto") parts.theme = state.theme;
    if (state.extra.length) parts.radii = state.extra.join(",");
    try {
      history.replaceState(null, "", `#${new URLSearchParams(parts)}`);
    } catch { /* some viewers forbid it; the page works without */ }
  }

  function change(parts) {
    Object.assign(state, parts);
    remember();
    draw();
  }

  const extent = () => Math.max(state.whole ? norm().whole : norm().top, state.radius);

  function draw() {
    const here = norm(), { p, radius } = state, { sides } = here, top = extent();
    const values = {}, fractions = {}, bought = {};
    for (const side of ["attacked", "certified"]) {
      values[side] = sides[side] ? accuracy(sides[side], p, radius) : null;
      bought[side] = sides[side] ? allocate(sides[side], p, radius, true) : null;
      fractions[side] = bought[side]?.fractions;
    }
    drawBracket(values);
    drawControls(top);
    const key = `${state.norm} ${p} ${top}`;
    if (cached.key !== key) {
      const line = (side) => (sides[side] ? curve(sides[side], p, top) : null);
      cached = { key, lines: { attacked: line("attacked"), certified: line("certified") } };
    }
    const dots = data.threats.filter((one) => one.norm === state.norm && toOrder(one.p) === p);
    toRadius = drawCurves(find("curves"), { lines: cached.lines, p, radius, top, clean: data.clean, dots, fine: here.fine,
      values, axis: `radius (${data.unit})` });
    const order = here.cheapest;
    toRank = drawSamples(find("samples"), { sides, order, fractions, threshold: bought[here.main].threshold, radius,
      highest: Math.max(here.whole, 1e-12), chosen: state.sample, fine: here.fine, main: here.main,
      axis: `${n.toLocaleString("en")} samples, ${here.main === "attacked" ? "nearest flip" : "smallest proved radius"} first` });
    drawOne(here, fractions);
    drawGallery(here);
    drawClasses(here, fractions);
    drawValues(here);
    document.documentElement.dataset.theme = state.theme;
    find("theme").textContent = `Theme: ${state.theme}`;
  }

  function drawBracket(values) {
    const { attacked, certified } = values, gauge = find("bracket"), reach = named(state.radius, norm().fine);
    const ball = state.p === Infinity ? `moving every sample by up to ${reach}` :
      `at order p = ${short(state.p)} and radius ${reach}`;
    let text = `Under ${state.norm}, ${ball}, the worst-case accuracy `;
    if (certified === null) text += `is at most ${percent(attacked)} % (reached by an attack).`;
    else if (attacked === null) text += `is at least ${percent(certified)} % (proved).`;
    else text += `lies between ${percent(certified)} % (proved) and ${percent(attacked)} % (reached by an attack).`;
    find("sentence").textContent = `${text} Clean accuracy: ${percent(data.clean)} %.`.replaceAll(" %", "\u00a0%");
    const low = 100 * (certified ?? 0), high = 100 * (attacked ?? data.clean);
    gauge.setAttribute("aria-label", text);
    gauge.children[0].style.width = `${low}%`;
    Object.assign(gauge.children[1].style, { left: `${low}%`, width: `${Math.max(0, high - low)}%` });
    gauge.children[1].classList.toggle("reached", attacked !== null);
    gauge.children[2].style.left = `${100 * data.clean}%`;
    const wide = certified !== null && attacked !== null;
    find("widthnote").textContent = wide ? `bracket ${(100 * (attacked - certified)).toFixed(1)} points wide` : "";
    Object.assign(gauge.dataset, { p: orderName(state.p), radius: state.radius, norm: state.norm,
      attacked: attacked ?? "", certified: certified ?? "", sample: state.sample });
  }

  function drawControls(top) {
    find("orderis").textContent = state.p === Infinity ? "\u221e" : short(state.p);
    find("order").value = state.p === Infinity ? STEPS : Math.round(STEPS * (1 - 1 / state.p));
    find("order").setAttribute("aria-valuetext", orderName(state.p));
    find("ordernote").textContent = state.p === 1 ? "the mean distance is bounded: few samples may move far" :
      state.p === Infinity ? "every sample has the radius to itself (pointwise)" : "the p-th power mean of the distances is bounded";
    find("radius").value = Math.round((FINE * state.radius) / top);
    find("radius").setAttribute("aria-valuetext", named(state.radius, norm().fine));
    if (document.activeElement !== find("exact")) find("exact").value = Number(state.radius.toPrecision(6));
    find("radiusnote").textContent = `${data.unit}; or drag in the curves`;
    find("whole").checked = state.whole;
    for (const button of document.querySelectorAll("[data-set]")) {
      const wanted = JSON.parse(button.dataset.set);
      const now = { norm: state.norm, p: orderName(state.p), radius: state.radius };
      button.hidden = wanted.norm !== undefined && wanted.radius !== undefined && wanted.norm !== state.norm;
      button.setAttribute("aria-pressed", String(Object.keys(wanted).every((name) => wanted[name] === now[name])));
    }
  }

  function drawOne(here, fractions) {
    const i = state.sample, views = pictures?.(i, state.norm), rows = data.features?.[state.norm]?.[i];
    find("onename").textContent = `Sample ${i}`;
    const place = data.pictures?.rows.indexOf(i);
    if (views) drawViews(find("views"), views, i, data.pictures.colour, (data.pictures.moved[state.norm]?.scale[place] ?? 0) * data.pictures.span);
    else if (rows) drawFeatures(find("views"), rows, i);
    else find("views").replaceChildren(element("p", { class: "note" }, data.pictures && pictures ? "Only the hardest samples keep pictures, to bound the size of the page." : ""));
    const facts = factsOf(i, { data, norm: here, p: state.p, radius: state.radius, fractions, weights });
    find("facts").replaceChildren(...facts.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
    find("rank").value = chosenRank();
    find("rank").setAttribute("aria-valuetext", `sample ${i}, rank ${chosenRank() + 1}`);
  }

  function drawGallery(here) {
    const key = `${state.norm} ${state.group} ${Boolean(pictures)}`;
    if (cached.gallery !== key) {
      const d = here[here.main], group = state.group === "all" ? null : state.group;
      const shown = here.cheapest.filter((i) => d[i] > 0 && d[i] < Infinity && (group === null || String(data.labels[i]) === group));
      find("gallery").replaceChildren(...shown.slice(0, SHOWN).map((i) => {
        const button = element("button", { type: "button", "aria-label": `sample ${i}, label ${data.labels[i]}, distance ${short(d[i])}` });
        const views = pictures?.(i, state.norm);
        for (const name of ["original", "moved"]) if (views?.[name]) button.append(canvasOf(views[name], name));
        button.append(element("span", {}, `#${i} \u00b7 label ${data.labels[i]}`), element("span", { class: "note" }, short(d[i])));
        for (const type of ["click", "focus"]) button.addEventListener(type, () => i !== state.sample && change({ sample: i }));
        button.dataset.sample = i;
        return button;
      }));
      const wrong = here.cheapest.filter((i) => d[i] === 0).length;
      const what = here.main === "attacked" ? "Smallest distance to a flip" : "Smallest proved radius above 0";
      const none = here.main === "attacked" ? ["misclassified where it is", "misclassified where they are"] : ["without a proved radius", "without a proved radius"];
      find("hardnote").textContent = `${what} first. ${wrong} ${wrong === 1 ? "sample is" : "samples are"} ${none[wrong === 1 ? 0 : 1]}. Press one to see it above.`;
    }
    cached.gallery = key;
    for (const button of find("gallery").children) button.setAttribute("aria-pressed", String(Number(button.dataset.sample) === state.sample));
    find("class").value = state.group;
  }

  function drawClasses(here, fractions) {
    const { p, radius } = state, head = ["class", "samples", "clean"], sides = ["certified", "attacked"].filter((s) => here[s]);
    if (here.attacked) head.push("in the worst law found");
    const lines = [row([...head, ...sides.map((side) => `alone: ${side === "certified" ? "proved" : "attacked"}`)], "th")];
    for (const c of classes) {
      const own = members.get(c), mass = own.reduce((sum, i) => sum + weights[i], 0);
      if (!(mass > 0)) continue;
      const left = (lost) => percent(Math.max(0, 1 - own.reduce((sum, i) => sum + weights[i] * lost(i), 0) / mass));
      const cells = [String(c), String(own.length), here.attacked ? left((i) => (here.attacked[i] === 0 ? 1 : 0)) : "-"];
      if (here.attacked) cells.push(left((i) => fractions.attacked[i]));
      here.alone ??= new Map();
      for (const side of sides) {
        const name = `${side} ${c}`;
        if (!here.alone.has(name)) here.alone.set(name, alone(here.sides[side], own));
        cells.push(percent(here.alone.get(name).accuracy(p, radius)));
      }
      lines.push(row(cells, "td", { class: c }));
    }
    find("classes").replaceChildren(...lines);
  }

  function drawValues(here) {
    const own = data.threats.filter((one) => one.norm === state.norm).map((one) => one.radius);
    const radii = [...new Set([...own, ...state.extra])].sort((a, b) => a - b);
    const lines = [row(["radius", "certified", "attacked", "gap"], "th")];
    for (const radius of radii) {
      const [low, high] = ["certified", "attacked"].map((side) => (here.sides[side] ? accuracy(here.sides[side], state.p, radius) : null));
      const cell = (value) => (value === null ? "-" : percent(value));
      lines.push(row([named(radius, here.fine), cell(low), cell(high), cell(low === null || high === null ? null : high - low)], "td",
        { radius, certified: low ?? "", attacked: high ?? "" }));
    }
    find("values").replaceChildren(...lines);
  }

  build({ data, norms, classes, state, change, norm, extent, toRadius: (px) => toRadius(px), toRank: (px) => toRank(px) });
  settle(true);
  draw();
  if (data.pictures) {
    loadPictures(data.pictures).then((found) => {
      pictures = found;
      draw();
      document.documentElement.dataset.pictures = "ready";
    });
  }
  window.addEventListener("hashchange", () => { settle(); draw(); });
  new ResizeObserver(() => draw()).observe(find("curves").parentElement);
}
