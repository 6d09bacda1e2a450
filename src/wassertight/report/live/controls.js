// Builds the controls once and ties them to the state: sliders, buttons, pointers and keys.

function build({ data, norms, classes, state, change, norm, extent, toRadius, toRank }) {
  const preset = (text, parts, place, label) => {
    const button = element("button", { type: "button", "data-set": JSON.stringify(parts), "aria-label": label ?? text }, text);
    const set = { ...parts, ...(parts.p === undefined ? {} : { p: toOrder(parts.p) }) };
    button.addEventListener("click", () => change(set));
    place.append(button);
  };
  for (const name of norms.keys()) preset(name, { norm: name }, find("norms"));
  find("norms").hidden = norms.size < 2;
  for (const p of ["1", "2", "inf"]) preset(p === "inf" ? "\u221e" : p, { p }, find("presets"), `order ${p}`);
  for (const known of norms.values()) {
    const radii = [...new Set(data.threats.filter((one) => one.norm === known.name).map((one) => one.radius))];
    for (const radius of radii.slice(0, 6)) preset(named(radius, known.fine), { norm: known.name, radius }, find("radii"), `radius ${short(radius)}`);
  }
  find("class").append(element("option", { value: "all" }, "all"));
  for (const c of classes) find("class").append(element("option", { value: String(c) }, String(c)));
  const here = norm();
  const keys = [];
  if (here.attacked) keys.push(["key bought", "nearest flip, bought"], ["key kept", "not bought"]);
  else keys.push(["key bought", "not excluded"], ["key kept", "safe"]);
  if ([...norms.values()].some((known) => known.attacked?.includes(Infinity))) keys.push(["edge", "at the upper edge: no flip found"]);
  if (here.certified) keys.push(["key certified", "proved radius"]);
  find("samplekeys").replaceChildren(...keys.map(([name, text]) => element("span", { class: name }, text)));
  for (const side of ["attacked", "certified"]) {
    for (const key of document.querySelectorAll(`#live figcaption .key.${side}`)) key.hidden = !here[side];
  }
  document.querySelector(".bandkey").hidden = !(here.attacked && here.certified);

  find("order").addEventListener("input", (event) => {
    const step = Number(event.target.value);
    change({ p: step === STEPS ? Infinity : STEPS / (STEPS - step) });
  });
  find("radius").addEventListener("input", (event) => change({ radius: (extent() * Number(event.target.value)) / FINE }));
  find("exact").addEventListener("input", (event) => {
    const radius = event.target.value === "" ? NaN : Number(event.target.value);
    if (radius >= 0 && radius < Infinity) change({ radius });
  });
  find("whole").addEventListener("change", (event) => change({ whole: event.target.checked }));
  find("class").addEventListener("change", (event) => change({ group: event.target.value }));
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  find("theme").addEventListener("click", () => {
    const all = ["auto", "light", "dark"];
    change({ theme: all[(all.indexOf(state.theme) + 1) % all.length] });
  });

  const across = (svg, event) => event.clientX - svg.getBoundingClientRect().left;
  const curves = find("curves"), samples = find("samples");
  const drag = (event) => {
    if (event.type === "pointerdown") curves.setPointerCapture(event.pointerId);
    if (event.buttons & 1) change({ radius: toRadius(across(curves, event)) });
  };
  for (const type of ["pointerdown", "pointermove"]) curves.addEventListener(type, drag);
  const byRank = (rank) => {
    const order = norm().cheapest, sample = order[Math.min(order.length - 1, Math.max(0, rank))];
    if (sample !== state.sample) change({ sample });
  };
  for (const type of ["pointerdown", "pointermove"]) {
    samples.addEventListener(type, (event) => byRank(toRank(across(samples, event))));
  }
  find("rank").max = data.n - 1;
  find("rank").addEventListener("input", (event) => byRank(Number(event.target.value)));
  const step = (by) => () => byRank(norm().cheapest.indexOf(state.sample) + by);
  find("before").addEventListener("click", step(-1));
  find("after").addEventListener("click", step(1));

  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((fold) => { fold.open = true; }));
  find("live").hidden = false;
  find("theme").hidden = false;
}

const page = JSON.parse(find("data").textContent);
if (page) start(page);
