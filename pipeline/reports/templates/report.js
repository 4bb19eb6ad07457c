// Comparison sliders: the range input is the state (and the keyboard's way in); dragging anywhere on the picture moves it too.
for (const stage of document.querySelectorAll(".stage")) {
  const range = stage.querySelector("input");
  const show = () => {
    stage.style.setProperty("--x", range.value);
    range.setAttribute("aria-valuetext", range.value + " % input, " + (100 - range.value) + " % restored");
  };
  const drag = (event) => {
    const box = stage.getBoundingClientRect();
    range.value = ((event.clientX - box.left) / box.width) * 100;
    show();
  };
  range.addEventListener("input", show);
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    range.focus({ preventScroll: true, focusVisible: false });
    drag(event);
  });
  stage.addEventListener("mousedown", (event) => event.preventDefault()); // or the focus would leave the range again
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) drag(event);
  });
  show();
}

// One switch for all pairs: flick between the two sides without moving a hand.
const buttons = document.querySelectorAll(".switch button");
for (const button of buttons) {
  button.addEventListener("click", () => {
    for (const other of buttons) other.setAttribute("aria-pressed", other === button);
    for (const range of document.querySelectorAll(".stage input")) {
      range.value = button.value;
      range.dispatchEvent(new Event("input"));
      range.parentElement.classList.toggle("show-truth", button.dataset.show === "truth");
    }
  });
}
