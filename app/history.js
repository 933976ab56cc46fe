// What counts as a step of the browser's history: a choice does, completing an address does not.
//
// Streamlit's browser side adds a step for every address that the server writes. But the server also completes what a
// visitor asked for: a bare address gets its study, method, epoch and lambda, and one that asks for what does not exist gets
// what is shown instead. Going back to the address before that would only be completed again. And what comes after Back or
// Forward, until the visitor chooses anew, may be late news of a page that was passed: as a step of its own it would end the
// way forward.
(() => {
  const WHOLE = ["study", "method", "set", "epoch", "k", "lam", "query"]; // a completed address has them, where they exist
  const push = history.pushState.bind(history);
  let touched = false; // until then nothing is a choice: the address is that of a link, or of Back and Forward
  for (const kind of ["pointerdown", "keydown", "click"]) addEventListener(kind, () => (touched = true), { capture: true });
  addEventListener("popstate", () => (touched = false), { capture: true });

  const completes = (before, after) => {
    if (!before.has("study")) return true;
    const kept = [...before].every(([name, value]) => after.get(name) === value);
    return kept && WHOLE.some((name) => after.has(name) && !before.has(name));
  };

  history.pushState = (state, title, url) => {
    const there = new URL(url ?? location.href, location.href);
    const isHere = there.pathname === location.pathname;
    const before = new URLSearchParams(location.search);
    if (isHere && before.has("study") && !there.searchParams.has("study")) return; // the page is being left: its own step stays
    const isStep = touched && !(isHere && completes(before, there.searchParams));
    return isStep ? push(state, title, url) : history.replaceState(state, title, url);
  };
})();
