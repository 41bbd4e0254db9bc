"""How a drawn curve is moved in the browser: by dragging its points, or by arrow keys."""

from __future__ import annotations

# Positions are those of the drawing, which its `data-` attributes state. What was moved is sent when the pointer is
# released, or shortly after the last key; until then an answer about an earlier move must not take it back.
MOVE_CURVES = """
const AFTER_KEYS = 350;
const STEPS = {ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10};
let moved = null, timer = 0, dragged = null, shown = null, opened = null;
const line_of = {};

const number = (svg, name) => Number(svg.dataset[name]);
const points = (line) => [...line.querySelectorAll("[role=slider]")];
const value = (point) => Number(point.getAttribute("aria-valuenow"));
const height = (svg, at) => number(svg, "top") + number(svg, "tall")
  * (number(svg, "high") - at) / (number(svg, "high") - number(svg, "low"));

const draw = (line) => {
  const svg = line.closest("svg");
  const places = points(line).map((point) => [point.dataset.x, height(svg, value(point))]);
  points(line).forEach((point, i) => point.setAttribute("transform", `translate(${places[i].join(" ")})`));
  line.querySelector("path").setAttribute("d", "M" + places.map((place) => place.join(" ")).join("L"));
};
const put = (point, at) => {
  const svg = point.closest("svg"), step = number(svg, "step");
  const kept = Math.min(number(svg, "high"), Math.max(number(svg, "low"), Math.round(at / step) * step));
  point.setAttribute("aria-valuenow", String(Number(kept.toFixed(4))));
  point.querySelector("text").textContent = point.getAttribute("aria-valuenow");
};
const follow = (line) => {
  if (line.dataset.line !== "rest") return;
  for (const other of line.closest("svg").querySelectorAll("[data-follows]")) {
    points(other).forEach((point, i) => put(point, value(points(line)[i])));
    draw(other);
  }
};
const move = (point, at) => {
  const line = point.closest("[data-line]");
  put(point, at);
  line.removeAttribute("data-follows");
  draw(line);
  follow(line);
  moved = {curve: line.closest("[data-curve]").dataset.curve, line: line.dataset.line, points: points(line).map(value)};
};
const send = () => {
  clearTimeout(timer);
  timer = 0;
  if (moved) trigger("release", moved);
};

// What the page draws again knows nothing of what is chosen here, nor of moves that were not sent yet.
const restore = () => {
  const curves = [...element.querySelectorAll("[data-curve]")];
  const chosen = curves.find((curve) => curve.dataset.curve === shown) ?? curves[0];
  for (const curve of curves) {
    curve.hidden = curve !== chosen;
    const line = line_of[curve.dataset.curve] ?? "rest";
    for (const one of curve.querySelectorAll("[data-line]")) one.classList.toggle("chosen", one.dataset.line === line);
    for (const one of curve.querySelectorAll("[data-choose]"))
      one.setAttribute("aria-pressed", String(one.dataset.choose === line));
    for (const one of curve.querySelectorAll("[data-alone]")) one.hidden = one.dataset.alone !== line;
  }
  for (const one of element.querySelectorAll("[data-show]"))
    one.setAttribute("aria-pressed", String(one.dataset.show === chosen?.dataset.curve));
  if (opened !== null && element.querySelector("details")) element.querySelector("details").open = opened;
  if (!moved) return;
  if (!timer && !dragged) { moved = null; return; }
  const curve = curves.find((one) => one.dataset.curve === moved.curve);
  const line = curve?.querySelector(`[data-line="${moved.line}"]`);
  if (!line || points(line).length !== moved.points.length) return;
  points(line).forEach((point, i) => put(point, moved.points[i]));
  line.removeAttribute("data-follows");
  draw(line);
  follow(line);
};

element.addEventListener("pointerdown", (event) => {
  const point = event.target.closest("[role=slider]");
  if (!point || event.button) return;
  event.preventDefault();
  point.focus();
  point.setPointerCapture(event.pointerId);
  dragged = point;
});
element.addEventListener("pointermove", (event) => {
  if (!dragged) return;
  const svg = dragged.closest("svg");
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const part = (at.y - number(svg, "top")) / number(svg, "tall");
  move(dragged, number(svg, "high") - part * (number(svg, "high") - number(svg, "low")));
});
for (const end of ["pointerup", "pointercancel"]) {
  element.addEventListener(end, () => {
    if (!dragged) return;
    dragged = null;
    send();
  });
}
element.addEventListener("keydown", (event) => {
  const point = event.target.closest("[role=slider]");
  if (!point || event.ctrlKey || event.altKey || event.metaKey) return;
  const svg = point.closest("svg");
  if (event.key in STEPS) move(point, value(point) + STEPS[event.key] * number(svg, "step"));
  else if (event.key === "Home" || event.key === "End") move(point, number(svg, event.key === "End" ? "high" : "low"));
  else return;
  event.preventDefault();
  clearTimeout(timer);
  timer = setTimeout(send, AFTER_KEYS);
});
element.addEventListener("focusout", () => { if (timer) send(); });
element.addEventListener("click", (event) => {
  const pressed = event.target.closest("button, summary");
  if (!pressed) return;
  const curve = pressed.closest("[data-curve]");
  if (pressed.matches("summary")) { opened = !pressed.parentElement.open; return; }
  if (pressed.dataset.show !== undefined) shown = pressed.dataset.show;
  else if (pressed.dataset.choose) line_of[curve.dataset.curve] = pressed.dataset.choose;
  else if (pressed.dataset.alone) {
    trigger("release", {curve: curve.dataset.curve, line: pressed.dataset.alone, points: null});
    return;
  }
  restore();
});
watch("value", restore);
restore();
"""
