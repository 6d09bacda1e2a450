// One side's fractional knapsack at any order and radius: the arithmetic of transport/allocation.py, in float64.

// distances: one a sample, Infinity where nothing flips it; closed: a radius equal to the budget stands at p = inf.
function makeSide(distances, weights, { closed = false, allowance = 0 } = {}) {
  const order = [...distances.keys()].sort((a, b) => distances[a] - distances[b] || a - b);
  return {
    distances, weights, order, closed, allowance,
    d: Float64Array.from(order, (i) => distances[i]),
    w: Float64Array.from(order, (i) => weights[i]),
  };
}

// Buys the cheapest flips with radius ** p and splits at most one sample.
// Gives the mass made wrong, how far bought samples lie at most, and, where asked, the share of every sample.
function allocate(side, p, radius, wanted = false) {
  const { d, w, order } = side;
  const fractions = wanted ? new Float64Array(d.length) : null;
  const buy = (k, share) => {
    if (fractions) fractions[order[k]] = share;
    return w[k] * share;
  };
  let value = 0, paid = 0, k = 0;
  if (p === Infinity || radius === 0) {
    const within = (x) => (radius === 0 ? x === 0 : side.closed ? x < radius : x <= radius);
    for (; k < d.length && within(d[k]); k++) value += buy(k, 1);
    return { value, fractions, threshold: radius };
  }
  for (; k < d.length && d[k] < Infinity; k++) {
    const price = w[k] === 0 ? 0 : w[k] * (d[k] / radius) ** p;
    if (paid + price > 1) {
      value += buy(k, Math.min(1, Math.max(0, (1 - paid) / price)));
      return { value, fractions, threshold: d[k] };
    }
    paid += price;
    value += buy(k, 1);
  }
  return { value, fractions, threshold: Infinity };
}

// Worst-case accuracy over the ball: attacked sides from above, certified sides from below.
function accuracy(side, p, radius) {
  const kept = Math.min(1, Math.max(0, 1 - allocate(side, p, radius).value));
  return Math.max(0, kept - side.allowance);
}

// The same among the samples of one class, were the whole budget spent on it.
function alone(side, members) {
  const mass = members.reduce((sum, i) => sum + side.weights[i], 0);
  const part = makeSide(
    members.map((i) => side.distances[i]), members.map((i) => side.weights[i] / mass),
    { closed: side.closed, allowance: side.allowance / mass },
  );
  return { mass, accuracy: (p, radius) => accuracy(part, p, p === Infinity ? radius : radius / mass ** (1 / p)) };
}
