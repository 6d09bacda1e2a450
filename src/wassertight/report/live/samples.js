// One sample: original, moved image and difference on canvases, or the features that moved most, and its price.

function loadSprite(source) {
  const image = new Image();
  image.src = source;
  return image.decode().then(() => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context;
  });
}

// Loads the sprites; gives a function (sample, norm) -> pixels of the original, the moved image and the difference.
async function loadPictures(pictures) {
  const { width, height, colour, columns, rows } = pictures;
  const place = new Map(rows.map((sample, k) => [sample, k]));
  const original = await loadSprite(pictures.original);
  const moved = {};
  for (const [norm, one] of Object.entries(pictures.moved)) {
    moved[norm] = { scale: one.scale, sprite: await loadSprite(one.difference) };
  }
  const cut = (sprite, k) =>
    sprite.getImageData((k % columns) * width, Math.floor(k / columns) * height, width, height).data;
  return (sample, norm) => {
    const k = place.get(sample);
    if (k === undefined) return null;
    const before = cut(original, k), views = { original: new ImageData(before, width, height) };
    const one = moved[norm];
    if (!one || one.scale[k] === 0) return views;
    const code = cut(one.sprite, k), after = new Uint8ClampedArray(before), shown = new Uint8ClampedArray(before);
    for (let j = 0; j < code.length; j += 4) {
      for (let c = 0; c < 3; c++) {
        const step = (code[j + c] - 128) / 127;
        after[j + c] = before[j + c] + 255 * one.scale[k] * step;
        if (colour) shown[j + c] = 128 + 127 * step;
      }
      if (!colour) shown.set(diverging((code[j] - 128) / 127), j);
    }
    views.moved = new ImageData(after, width, height);
    views.difference = new ImageData(shown, width, height);
    return views;
  };
}

// White at 0, orange upwards, blue downwards.
function diverging(step) {
  const end = step > 0 ? [213, 94, 0] : [0, 114, 178], share = Math.abs(step);
  return end.map((channel) => 255 + share * (channel - 255));
}

function element(name, attributes = {}, text) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function canvasOf(pixels, label) {
  const canvas = element("canvas", { role: "img", "aria-label": label });
  [canvas.width, canvas.height] = [pixels.width, pixels.height];
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

const VIEWS = { original: "original", moved: "moved", difference: "difference" };

function drawViews(place, views, sample, colour, largest) {
  const figures = Object.entries(VIEWS).filter(([name]) => views[name]).map(([name, title]) => {
    const figure = element("figure");
    figure.append(canvasOf(views[name], `sample ${sample}, ${title}`), element("figcaption", {}, title));
    return figure;
  });
  const sign = colour ? "grey is no change, channel by channel" : "orange brighter, blue darker";
  const scale = `difference: full colour is ${short(largest)}; ${sign}`;
  place.replaceChildren(...figures, ...(views.difference ? [element("p", { class: "note" }, scale)] : []));
}

function drawFeatures(place, rows, sample) {
  const table = element("table", { "aria-label": `features of sample ${sample} that moved most` });
  table.append(row(["feature", "original", "moved", "difference"], "th"));
  for (const [index, before, after] of rows) {
    table.append(row([String(index), short(before), short(after), short(after - before)]));
  }
  place.replaceChildren(table);
}

function row(cells, kind = "td", data = {}) {
  const line = element("tr");
  cells.forEach((cell, k) => {
    const first = k === 0 && kind === "td";
    const attributes = kind === "th" ? { scope: "col" } : first ? { scope: "row" } : {};
    line.append(element(kind === "th" || first ? "th" : "td", attributes, cell));
  });
  for (const [key, value] of Object.entries(data)) line.dataset[key] = value;
  return line;
}

// What one sample costs and how much of it the adversary buys, in words: pairs of a name and a text.
function factsOf(sample, { data, norm, p, radius, fractions, weights }) {
  const facts = [["label", String(data.labels[sample])]];
  const share = (value) => (value > 0 && value < 1 ? `${(100 * value).toFixed(1)} % of its mass moves` :
    value === 1 ? "all of its mass moves" : "stays where it is");
  for (const [side, name] of [["attacked", "nearest flip"], ["certified", "proved radius"]]) {
    if (!norm[side]) continue;
    const d = norm[side][sample], attacked = side === "attacked";
    const wrong = attacked ? "0: misclassified where it is" : "none";
    facts.push([name, d === 0 ? wrong : d === Infinity ? (attacked ? "none" : "whole space") : short(d)]);
    const taken = fractions[side][sample];
    if (attacked) {
      const price = radius === 0 ? Infinity : weights[sample] * (d / radius) ** p;
      if (d === 0) facts.push(["price", "nothing: counts as an error at every radius"]);
      else if (d === Infinity) facts.push(["price", "not for sale: no flip was found"]);
      else if (p === Infinity) facts.push(["price", d <= radius ? "free: lies within the radius" : "lies beyond the radius"]);
      else facts.push(["price", radius === 0 ? "there is no budget" : `${short(100 * price)} % of the budget`]);
    }
    const title = attacked ? "worst law found" : "not excluded";
    const mass = `${short(100 * weights[sample] * taken)} points of accuracy`;
    const state = d === 0 ? (attacked ? "an error already" : "counts as an error") : attacked ? share(taken) :
      taken === 0 ? "safe" : taken < 1 ? `${(100 * taken).toFixed(1)} % of its mass` : "all of its mass";
    facts.push([title, taken > 0 ? `${state} (${mass})` : state]);
  }
  return facts;
}
