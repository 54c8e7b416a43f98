() => {
  // Ctrl+Enter asks; gradio itself knows Shift+Enter only.
  const find = selector => document.querySelector(selector);
  document.addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.closest("#ask")) {
      event.preventDefault();
      find("#find").click();
    }
  });

  // Clicks on the answer; gradio itself knows the left button only. The right button removes. Arrow keys move a cross
  // (Shift: faster), Enter clicks there, Delete clicks to remove, Backspace undoes.
  const frame = () => find("#answer img")?.closest("button");
  const cross = Object.assign(document.createElement("div"), { id: "cross", hidden: true });
  document.body.append(cross);
  let place = [0.5, 0.5];
  const area = () => {  // of the image inside its frame, in pixels of the window
    const image = frame().querySelector("img"), { left, top, width, height } = image.getBoundingClientRect();
    const scale = Math.min(width / image.naturalWidth, height / image.naturalHeight, 1);
    const size = [image.naturalWidth * scale, image.naturalHeight * scale];
    return { left: left + (width - size[0]) / 2, top: top + (height - size[1]) / 2, size };
  };
  const spot = () => {
    const { left, top, size } = area();
    return { clientX: left + place[0] * size[0], clientY: top + place[1] * size[1] };
  };
  const show = () => {
    cross.hidden = !(frame() && document.activeElement === frame() && frame().matches(":focus-visible"));
    if (!cross.hidden) {
      const { clientX, clientY } = spot();
      Object.assign(cross.style, { left: `${clientX}px`, top: `${clientY}px` });
    }
  };
  const click = where => frame().dispatchEvent(new MouseEvent("click", { ...where, bubbles: true }));
  const remove = where => {
    const chosen = find("#click-kind input:checked"), other = [...document.querySelectorAll("#click-kind input")][1];
    other.click();
    setTimeout(() => { click(where); setTimeout(() => chosen.click(), 50); }, 50);
  };
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  document.addEventListener("keydown", event => {
    if (!frame() || event.target !== frame() || event.ctrlKey || event.metaKey || event.altKey) return;
    const move = moves[event.key], step = event.shiftKey ? 0.1 : 0.01;
    if (move) place = place.map((old, axis) => Math.min(0.999, Math.max(0, old + step * move[axis])));
    else if (event.key === "Enter" || event.key === " ") click(spot());
    else if (event.key === "Delete") remove(spot());
    else if (event.key === "Backspace") find("#undo").click();
    else return;
    event.preventDefault();
    show();
  }, true);
  document.addEventListener("contextmenu", event => {
    if (!frame()?.contains(event.target)) return;
    event.preventDefault();
    remove({ clientX: event.clientX, clientY: event.clientY });
  });
  for (const kind of ["focusin", "focusout", "scroll", "resize"])
    window.addEventListener(kind, () => requestAnimationFrame(show), true);
}
