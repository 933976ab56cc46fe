// The live explorer, part 1 of 4: numbers. Pure functions; the formulas are those of the Python side.

const STEPS = 1000; // positions of the slider
const NOTCH = 60; // positions below NOTCH/2 mean λ = 0, the logarithmic axis starts at NOTCH
const GLIDE_MS = 150; // inputs closer together than this count as dragging
const REST_MS = 250; // quiet time after which Python hears of a new λ

// Numbers that Python wrote as little-endian bytes in base64.
export function decode(Kind, base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Kind(bytes.buffer);
}

export function multiply(products, weights, out) {
  const width = weights.length;
  for (let i = 0, row = 0; i < out.length; i++, row += width) {
    let a = 0, b = 0, c = 0, d = 0, j = 0;
    for (; j + 3 < width; j += 4) {
      a += products[row + j] * weights[j];
      b += products[row + j + 1] * weights[j + 1];
      c += products[row + j + 2] * weights[j + 2];
      d += products[row + j + 3] * weights[j + 3];
    }
    for (; j < width; j++) a += products[row + j] * weights[j];
    out[i] = a + b + c + d;
  }
  return out;
}

export function formatLambda(value) {
  if (!(value > 0)) return "0";
  const [mantissa, exponent] = value.toExponential(2).split("e");
  const digits = String(Number(mantissa));
  const power = Number(exponent);
  return power >= -2 && power <= 3 ? String(Number(value.toPrecision(3))) : `${digits}e${power}`;
}

function formatScore(value) {
  const size = Math.abs(value);
  if (size >= 100 && size < 1e6) return String(Math.round(value)).replace("-", "−");
  if (size === 0 || (size >= 0.01 && size < 100)) return value.toPrecision(3).replace("-", "−");
  return value.toExponential(2).replace("-", "−").replace("e+", "e").replace("e-", "e−");
}

const powerOfTen = (power) => "10" + String(power).replace("-", "⁻").replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
const signed = (value, digits) => value.toFixed(digits).replace("-", "−");

// Where λ stands on the shared horizontal axis (0…1), and back.
const fractionOf = (lambda, axis) => {
  if (!(lambda > 0)) return 0;
  const t = (Math.log10(lambda) - axis.low) / (axis.high - axis.low);
  return (NOTCH + Math.min(1, Math.max(0, t)) * (STEPS - NOTCH)) / STEPS;
};
const lambdaAt = (step, axis) => {
  if (step < NOTCH / 2) return 0;
  const t = Math.max(0, step - NOTCH) / (STEPS - NOTCH);
  return Number((10 ** (axis.low + t * (axis.high - axis.low))).toPrecision(3));
};

// One decade up or down; below the axis lies λ = 0.
const decadeFrom = (lambda, direction, axis) => {
  if (!(lambda > 0)) return direction > 0 ? 10 ** axis.low : 0;
  const value = Math.log10(lambda) + direction;
  if (value < axis.low - 1e-9) return 0;
  return Number((10 ** Math.min(value, axis.high)).toPrecision(3));
};

function interpolate(curve, column, lambda) {
  const xs = curve.x, ys = curve[column];
  if (!ys) return NaN;
  if (!(lambda > 0)) return xs[0] === 0 ? ys[0] : NaN;
  const near = (x) => Math.abs(Math.log(x / lambda)) < 1e-5; // an address rounds λ to six digits
  const k = xs.findIndex((x) => x >= lambda || (x > 0 && near(x)));
  if (k < 0) return NaN;
  if (near(xs[k])) return ys[k];
  if (k === 0 || xs[k - 1] === 0) return NaN; // below the smallest λ > 0 that was computed
  const t = Math.log(lambda / xs[k - 1]) / Math.log(xs[k] / xs[k - 1]);
  return ys[k - 1] + t * (ys[k] - ys[k - 1]);
}

// Which row of the rank intervals stands for λ: the nearest of their grid; −1 where there are none.
export function rankRow({ numbers, hasLambda }, lambda) {
  if (!numbers.ranks) return -1;
  const { grid } = numbers.ranks;
  if (!hasLambda || grid.length < 2) return 0;
  if (!(lambda > 0)) return grid[0] === 0 ? 0 : -1;
  let best = -1, distance = Infinity;
  grid.forEach((value, i) => {
    const away = value > 0 ? Math.abs(Math.log(value / lambda)) : Infinity;
    if (away < distance) [best, distance] = [i, away];
  });
  return best;
}
