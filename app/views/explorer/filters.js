// The live explorer, part 2 of 4: the filters φ(σ; λ) of the engine as JavaScript, in float64. A filter without a twin
// here comes as a table of its weights at some λ and is interpolated between them.

const EPSILON = 2 ** -52;

// Name of the filter → what weigh() needs beside the spectrum (made once), and φ itself: it fills `out` and returns "",
// or returns why there are no numbers at this λ.
const TWINS = {
  identity: { weigh: weighNothing },
  damped_inverse: { weigh: weighInverse },
  lissa_mean: { weigh: weighLissa },
  krylov: { prepare: prepareKrylov, weigh: weighKrylov },
};
const TABLE = { prepare: prepareTable, weigh: weighTable };

// What weigh() needs of a payload, made once.
export function prepareFilter(payload, eigenvalues) {
  const twin = payload.table ? TABLE : TWINS[payload.filter];
  const spec = { twin, name: payload.filter, eigenvalues, parameters: payload.parameters || {} };
  spec.largest = eigenvalues.reduce((most, sigma) => Math.max(most, sigma), 0);
  return twin?.prepare ? { ...spec, ...twin.prepare(payload, spec) } : spec;
}

// Fills `out` with φ(σ; λ) and returns "", or returns why there are no numbers at this λ.
export function weigh(spec, lambda, out) {
  return spec.twin ? spec.twin.weigh(spec, lambda, out) : `This page does not know the filter ${spec.name}: reload it.`;
}

function weighNothing(spec, lambda, out) {
  out.fill(1);
  return "";
}

// λ = 0: no coordinate lies at or below the cutoff of the pseudo-inverse, so each σ > 0 counts.
function weighInverse({ eigenvalues, parameters }, lambda, out) {
  if (lambda === 0 && parameters.refuses_zero) return "λ = 0 asks for the inverse of a singular curvature: choose λ > 0.";
  for (let j = 0; j < out.length; j++) {
    const sigma = eigenvalues[j];
    out[j] = lambda > 0 ? 1 / (sigma + lambda) : sigma > 0 ? 1 / sigma : 0;
  }
  return "";
}

function prepareTable(payload) {
  return { grid: payload.table.regularizations, rows: decode(Float32Array, payload.table.weights) };
}

// Linear in log λ between the two computed values around λ; a row of NaN says that the method has no scores there.
function weighTable({ grid, rows }, lambda, out) {
  const width = out.length, above = grid.findIndex((value) => value >= lambda);
  const exact = above >= 0 && grid[above] === lambda;
  if (!exact && (above <= 0 || grid[above - 1] <= 0)) {
    const positive = grid.filter((value) => value > 0);
    return `λ lies outside the computed values: choose ${formatLambda(positive[0])} to ${formatLambda(positive[positive.length - 1])}.`;
  }
  const below = exact ? above : above - 1;
  const share = exact ? 0 : Math.log(lambda / grid[below]) / Math.log(grid[above] / grid[below]);
  for (let j = 0; j < width; j++) {
    const first = rows[below * width + j];
    out[j] = exact ? first : first + share * (rows[above * width + j] - first);
    if (Number.isNaN(out[j])) return "The method has no scores at this λ: choose one farther from where it diverges.";
  }
  return "";
}

// φ = [1−(1−u)^{T+1}]/(s·u) with u = (σ+λ)/s: the mean of LiSSA's recursion.
function weighLissa({ eigenvalues, largest, parameters }, lambda, out) {
  const { scaling, depth } = parameters, count = depth + 1;
  if (largest + lambda >= 2 * scaling) {
    const reached = ((largest + lambda) / scaling).toPrecision(3);
    const remedy = largest < 2 * scaling ? `λ < ${formatLambda(2 * scaling - largest)}, or ` : "";
    return `The scores diverge at this λ: LiSSA needs (σ+λ)/s < 2, and it is ${reached} at the largest eigenvalue (s = ${scaling}). Choose ${remedy}a scaling above ${((largest + lambda) / 2).toPrecision(3)}.`;
  }
  for (let j = 0; j < out.length; j++) {
    const u = (eigenvalues[j] + lambda) / scaling;
    if (u <= 0) out[j] = count / scaling;
    else {
      // 1 − (1−u)^{T+1} without cancellation below u = 1, a signed power beyond it
      const numerator = u <= 1 ? -Math.expm1(count * Math.log1p(-u)) : 1 - (count % 2 ? -1 : 1) * (u - 1) ** count;
      out[j] = numerator / u / scaling;
    }
  }
  return "";
}

function prepareKrylov(payload, { eigenvalues }) {
  const coordinates = decode(Float64Array, payload.coordinates);
  let start = 0;
  const parts = payload.parts.map((size, index) => {
    const range = [start, (start += size)];
    return lanczos(eigenvalues.subarray(...range), coordinates.subarray(...range), payload.outside[index], payload.parameters.max_iter);
  });
  return { parts };
}

// t steps of conjugate gradients on (σ+λ)x = v from x₀ = v stay in the Krylov space of v, which does not know λ: the
// basis is found once, with a diagonal matrix and one more coordinate σ = 0 for what of v lies outside the spectrum;
// each λ is then t steps in t+1 numbers.
function lanczos(sigma, coordinates, outside, steps) {
  const size = sigma.length + 1;
  const values = new Float64Array(size), vector = new Float64Array(size);
  values.set(sigma);
  vector.set(coordinates);
  vector[size - 1] = Math.sqrt(Math.max(0, outside));
  const norm = Math.sqrt(dot(vector, vector));
  const part = { size: sigma.length, largest: values.reduce((a, b) => Math.max(a, b), 0), vector, basis: [], diagonal: [], beside: [] };
  if (!(norm > 0)) return part;
  for (let i = 0; i < size; i++) vector[i] /= norm;
  let next = vector.slice();
  while (part.basis.length <= steps && part.basis.length < size) {
    part.basis.push(next);
    const image = next.map((value, i) => value * values[i]);
    const scale = Math.sqrt(dot(image, image));
    part.diagonal.push(dot(next, image));
    for (let pass = 0; pass < 2; pass++) for (const known of part.basis) subtract(image, dot(known, image), known);
    const length = Math.sqrt(dot(image, image));
    if (!(length > 8 * EPSILON * Math.max(scale, part.largest))) break; // the space is complete
    part.beside.push(length);
    next = image.map((value) => value / length);
  }
  return part;
}

function weighKrylov({ parts, parameters }, lambda, out) {
  let start = 0;
  for (const part of parts) {
    const solved = conjugateGradients(part, lambda, parameters.max_iter);
    if (typeof solved === "string") return solved;
    for (let i = 0; i < part.size; i++) {
      let x = 0;
      for (let j = 0; j < solved.length; j++) x += part.basis[j][i] * solved[j];
      out[start + i] = Math.abs(part.vector[i]) > EPSILON ? x / part.vector[i] : 0;
    }
    start += part.size;
  }
  return "";
}

// x_t in the Lanczos basis, where the matrix is tridiagonal and v is the first unit vector.
function conjugateGradients({ basis, diagonal, beside, largest }, lambda, steps) {
  const size = basis.length;
  if (!size) return new Float64Array(0);
  const times = (x) => x.map((value, i) => diagonal[i] * value + (i ? beside[i - 1] * x[i - 1] : 0) + (i + 1 < size ? beside[i] * x[i + 1] : 0));
  let solution = new Float64Array(size);
  solution[0] = 1;
  const first = solution.slice(), image = times(first);
  let residual = first.map((value, i) => (1 - lambda) * value - image[i]);
  let squares = dot(residual, residual), direction = residual.slice();
  const previous = [];
  for (let step = 0; step < steps && squares > EPSILON ** 2; step++) {
    const moved = times(direction), length = dot(direction, direction);
    const mean = dot(direction, moved) / length;
    if (mean + lambda <= EPSILON * (largest + lambda)) return `Conjugate gradients break down at this λ: the curvature is singular along step ${step + 1}. Choose a larger λ.`;
    const alpha = squares / ((mean + lambda) * length);
    previous.push(residual.map((value) => value / Math.sqrt(squares)));
    if (step === 0) {
      // exact where λ ≫ σ, for v + α·r₀ would cancel all but the last λ⁻¹
      const curved = times(residual);
      solution = first.map((value, i) => alpha * (value * (1 + mean) - image[i]));
      residual = residual.map((value, i) => alpha * (mean * value - curved[i]));
    } else {
      solution = solution.map((value, i) => value + alpha * direction[i]);
      residual = residual.map((value, i) => value - alpha * (moved[i] + lambda * direction[i]));
    }
    for (let pass = 0; pass < 2; pass++) for (const known of previous) subtract(residual, dot(known, residual), known);
    const updated = dot(residual, residual), ratio = updated / squares;
    direction = residual.map((value, i) => value + ratio * direction[i]);
    squares = updated;
  }
  return solution;
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

function subtract(target, factor, vector) {
  for (let i = 0; i < target.length; i++) target[i] -= factor * vector[i];
}
