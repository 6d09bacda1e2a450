// Drawing: both curves with the band between them, and every sample by its distance, as inline SVG.

const GRID = 200;

function shape(name, attributes, parent, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function short(value) {
  if (value === Infinity) return "inf";
  return value === 0 ? "0" : String(Number(value.toPrecision(3)));
}

// A radius as people write it: 8/255 where it is a multiple of 1/255.
function named(value, fine) {
  const whole = Math.round(255 * value);
  return fine && whole > 0 && Math.abs(255 * value - whole) < 1e-6 ? `${whole}/255` : short(value);
}

// Places and names of the marks of an axis from 0.
function ticks(top, fine) {
  if (fine && top < 0.5) {
    const step = Math.max(1, Math.ceil((255 * top) / 6));
    return Array.from({ length: Math.floor((255 * top) / step) + 1 }, (_, k) => [(k * step) / 255, named((k * step) / 255, true)]);
  }
  const raw = top / 5, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, k) => [k * step, short(k * step)]);
}

// Clears an svg, sizes it to its place, and gives its scales.
function frame(svg, height, top, highest, foot = 40) {
  const width = Math.max(280, svg.parentElement.clientWidth);
  const box = { left: 54, right: width - 12, top: 26, bottom: height - foot, width, height };
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const x = (v) => box.left + (box.right - box.left) * Math.min(1, v / top);
  const y = (v) => box.bottom - (box.bottom - box.top) * Math.min(1, v / highest);
  return { box, x, y };
}

function axes(svg, { box, x, y }, across, up, names) {
  for (const [value, text] of up) {
    shape("line", { x1: box.left, x2: box.right, y1: y(value), y2: y(value), class: "rule" }, svg);
    shape("text", { x: box.left - 7, y: y(value) + 4, class: "tick", "text-anchor": "end" }, svg, text);
  }
  for (const [value, text] of across) {
    shape("line", { x1: x(value), x2: x(value), y1: box.bottom, y2: box.bottom + 4, class: "mark" }, svg);
    shape("text", { x: x(value), y: box.bottom + 17, class: "tick", "text-anchor": "middle" }, svg, text);
  }
  shape("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, class: "mark" }, svg);
  shape("text", { x: (box.left + box.right) / 2, y: box.height - 6, class: "name", "text-anchor": "middle" }, svg, names[0]);
  shape("text", { x: box.left + 4, y: box.top - 8, class: "name" }, svg, names[1]);
}

// Points of one curve; dense near 0, where curves of finite order fall steeply.
function curve(side, p, top) {
  return Array.from({ length: GRID + 1 }, (_, k) => {
    const radius = p === Infinity ? (top * k) / GRID : top * (k / GRID) ** 2;
    return [radius, accuracy(side, p, radius)];
  });
}

function path(points, { x, y }, steps) {
  const line = points.map(([a, b], k) => {
    if (k === 0) return `M${x(a).toFixed(2)} ${y(100 * b).toFixed(2)}`;
    const to = `${x(a).toFixed(2)} ${y(100 * b).toFixed(2)}`;
    return steps ? `H${x(a).toFixed(2)}V${y(100 * b).toFixed(2)}` : `L${to}`;
  });
  return line.join("");
}

// lines: {attacked, certified} as points, or null; dots: results of the run at this order and norm.
function drawCurves(svg, view) {
  const { lines, p, radius, top, clean, dots, fine, values, axis } = view;
  const scales = frame(svg, 320, top, 100);
  const { box, x, y } = scales, steps = p === Infinity;
  axes(svg, scales, ticks(top, fine), [0, 25, 50, 75, 100].map((v) => [v, `${v}`]), [axis, "accuracy (%)"]);
  shape("line", { x1: box.left, x2: box.right, y1: y(100 * clean), y2: y(100 * clean), class: "clean" }, svg);
  const above = clean < 0.93;
  shape("text", { x: box.right, y: y(100 * clean) + (above ? -5 : 14), class: "tick", "text-anchor": "end" }, svg,
    `clean ${(100 * clean).toFixed(1)}`);
  if (lines.attacked && lines.certified) {
    const back = lines.certified.map(([a, b], k) => [a, Math.min(b, lines.attacked[k][1])]);
    let area = path(lines.attacked, scales, steps);
    for (let k = back.length - 1; k >= 0; k--) {
      area += `L${x(back[k][0]).toFixed(2)} ${y(100 * back[k][1]).toFixed(2)}`;
      if (steps && k > 0) area += `V${y(100 * back[k - 1][1]).toFixed(2)}`;
    }
    shape("path", { d: `${area}Z`, class: "band" }, svg);
  }
  for (const side of ["attacked", "certified"]) {
    if (lines[side]) shape("path", { d: path(lines[side], scales, steps), class: `curve ${side}` }, svg);
  }
  for (const dot of dots) {
    for (const side of ["attacked", "certified"]) {
      if (dot[side] === null || dot.radius > top) continue;
      const node = shape("circle", { cx: x(dot.radius), cy: y(100 * dot[side]), r: 3.6, class: `dot ${side}` }, svg);
      shape("title", {}, node, `${dot.threat}: ${side} ${(100 * dot[side]).toFixed(1)} % (of the run)`);
    }
  }
  shape("line", { x1: x(radius), x2: x(radius), y1: box.top, y2: box.bottom, class: "now" }, svg);
  for (const side of ["attacked", "certified"]) {
    if (values[side] === null) continue;
    shape("circle", { cx: x(radius), cy: y(100 * values[side]), r: 5.5, class: `here ${side}` }, svg);
  }
  return (px) => top * Math.min(1, Math.max(0, (px - box.left) / (box.right - box.left)));
}

// One column a sample, cheapest first: from its proved radius up to its nearest flip found.
function drawSamples(svg, view) {
  const { sides, order, fractions, threshold, radius, highest, chosen, fine, main, axis } = view;
  const scales = frame(svg, 340, Math.max(1, order.length), highest, 26);
  const { box, x, y } = scales, n = order.length;
  axes(svg, scales, [], ticks(highest, fine), [axis, "distance"]);
  const at = (k) => x(k + 0.5), size = Math.min(6, Math.max(2.6, (0.8 * (box.right - box.left)) / n));
  const paths = { range: "", certified: "", bought: "", kept: "" };
  order.forEach((i, k) => {
    const place = at(k).toFixed(1), low = sides.certified?.distances[i], high = sides.attacked?.distances[i];
    if (low !== undefined && high !== undefined) paths.range += `M${place} ${y(low).toFixed(1)}V${y(high).toFixed(1)}`;
    if (low !== undefined) paths.certified += `M${place} ${y(low).toFixed(1)}h0`;
    if (high !== undefined) paths[fractions[main][i] > 0 ? "bought" : "kept"] += `M${place} ${y(high).toFixed(1)}h0`;
    else paths[fractions[main][i] > 0 ? "bought" : "kept"] += `M${place} ${box.bottom}V${y(low).toFixed(1)}`;
  });
  for (const [name, d] of Object.entries(paths)) {
    const thin = name === "range" || (sides.attacked === null && name !== "certified");
    shape("path", { d, class: `sample ${name}`, "stroke-width": thin ? Math.max(0.6, size / 3) : size }, svg);
  }
  const level = (value, name, text) => {
    if (!(value > 0) || value >= highest) return;
    shape("line", { x1: box.left, x2: box.right, y1: y(value), y2: y(value), class: name }, svg);
    shape("text", { x: box.right - 4, y: y(value) + 14, class: "tick level", "text-anchor": "end" }, svg, text);
  };
  level(radius, "now", `radius ${named(radius, fine)}`);
  if (y(radius) - y(threshold) > 16) level(threshold, "reach", `${main === "attacked" ? "bought" : "may flip"} up to ${short(threshold)}`);
  const k = order.indexOf(chosen);
  if (k >= 0) shape("line", { x1: at(k), x2: at(k), y1: box.top, y2: box.bottom, class: "chosen" }, svg);
  return (px) => Math.floor((n * Math.max(0, px - box.left)) / (box.right - box.left + 1));
}
